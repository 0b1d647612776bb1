"""The arithmetic of a recipe: what its layers compute, and whether they fit each other, the input and the labels.

It needs no torch: a recipe that cannot be built is refused at once.
"""

from math import prod

from contract.manifest import MAX_FILE_BYTES
from training.data.schema import Text
from training.errors import RecipeError
from training.recipe.arithmetic import LayerShape, Shape, Texts, layer_shape, times
from training.recipe.layers import Conv, Dense, Embedding, NGrams, Windows
from training.recipe.schema import Recipe

MAX_PARAMETERS = (MAX_FILE_BYTES - (1 << 20)) // 4
"""In float32; the rest of the file is for the graph."""
MAX_VALUES = 1 << 30


def trace(recipe: Recipe) -> list[LayerShape]:
    """Follow one example, an image (C, H, W) or a text of the maximum length, through the layers.

    Raises:
        RecipeError: a layer does not fit its input, or the output is not one logit for each label. The message names
            the layer by its position, counted from 1.
    """
    steps = _trace(recipe, None)
    for side in sorted(set(recipe.resolutions or [])):
        for number, (built, step) in enumerate(zip(steps, _trace(recipe, side), strict=True), start=1):
            if step.weights != built.weights:
                raise RecipeError(
                    f"{recipe.name}: layers[{number}] at resolution {side}: expected {times(built.input)} values, got "
                    f'{times(step.input)}: put {{ pool = "average", size = "global" }} before flatten'
                )
    return steps


def _trace(recipe: Recipe, side: int | None) -> list[LayerShape]:
    """`trace` with images of another side."""
    shape, steps = _start(recipe, side)
    for number, layer in enumerate(recipe.layers[len(steps) :], start=len(steps) + 1):
        try:
            step = layer_shape(layer, shape)
        except RecipeError as error:
            where = f" at resolution {side}" if side else ""
            raise RecipeError(f"{recipe.name}: layers[{number}]{where}: {error}") from error
        steps.append(step)
        shape = step.output
        _check_size(f"{recipe.name}: layers[{number}]", step, sum(each.parameters for each in steps))
    classes = len(recipe.labels)
    if shape != (classes,):
        raise RecipeError(
            f"{recipe.name}: layers[{len(steps)}]: expected an output of {classes} values, one for each label, got "
            f"{times(shape)}: end with flatten = true, dense = {classes}"
        )
    _check_end(recipe)
    return steps


def _check_size(where: str, step: LayerShape, parameters: int) -> None:
    """Refuse a layer that no version can hold, or whose output for one example fits into no memory.

    Raises:
        RecipeError: the message has the number of parameters or values.
    """
    if parameters > MAX_PARAMETERS:
        raise RecipeError(
            f"{where}: {step.parameters:,} parameters make {parameters:,} up to this layer, but the file of a "
            f"published network holds at most {MAX_PARAMETERS:,}"
        )
    if prod(step.output) > MAX_VALUES:
        raise RecipeError(
            f"{where}: an output of {times(step.output)} for one example is {prod(step.output):,} values (maximum "
            f"{MAX_VALUES:,})"
        )


def _start(recipe: Recipe, side: int | None) -> tuple[Shape, list[LayerShape]]:
    """The input of the layers, or for a text the embedding and its output, since it depends on the vocabulary."""
    first, spec = recipe.layers[0], recipe.input
    if not isinstance(spec, Text):
        return (spec.channels, side or spec.height, side or spec.width), []
    if not isinstance(first, Embedding):
        raise RecipeError(f"{recipe.name}: layers[1]: the first layer for a text must be {{ embedding = N }}")
    company = f", by {first.company} words to either side" if first.company else ""
    step = LayerShape(
        title=f"embedding {first.embedding} of {spec.vocabulary:,} tokens{company}",
        input=(spec.length,),
        output=Texts((first.embedding, spec.length)),
        weights=spec.vocabulary * first.embedding,
    )
    return step.output, [step]


def _check_end(recipe: Recipe) -> None:
    """Refuse a network that does not end in logits, or has a softmax or n-grams before them.

    Raises:
        RecipeError: the message names the layer or the key.
    """
    for number, layer in enumerate(recipe.layers[:-1], start=1):
        if isinstance(layer, NGrams):
            raise RecipeError(f"{recipe.name}: layers[{number}]: ngrams must be the last layer")
    logits = len(recipe.layers) - isinstance(recipe.layers[-1], NGrams)
    for number, layer in enumerate(recipe.layers, start=1):
        where = f"{recipe.name}: layers[{number}]"
        activation = getattr(layer, "activation", None) or recipe.activation
        if number == logits:
            if not isinstance(layer, Dense) or layer.norm or activation not in {"none", "softmax"}:
                raise RecipeError(
                    f"{where}: the last layer must be dense, without a norm or another activation than softmax: "
                    f'write {{ dense = {len(recipe.labels)}, activation = "softmax" }}'
                )
        elif isinstance(layer, Conv | Dense | Windows) and activation == "softmax":
            raise RecipeError(f"{where}: activation 'softmax' is for the last layer only")
        if isinstance(layer, Dense) and layer.batch_norm and recipe.batch_size == 1:
            raise RecipeError(f"{recipe.name}: batch_size: must be at least 2 with batch norm in a dense layer")
    _check_activation(recipe)
    _check_ngrams(recipe)


def _check_activation(recipe: Recipe) -> None:
    """Refuse an activation for all layers, other than the default, that every layer replaces by its own.

    Raises:
        RecipeError: the message names the key.
    """
    activated = [layer for layer in recipe.layers if isinstance(layer, Conv | Dense | Windows)]
    default = Recipe.model_fields["activation"].default
    if recipe.activation != default and all(layer.activation for layer in activated):
        raise RecipeError(
            f"{recipe.name}: activation: {recipe.activation!r} has no effect, since every layer names its own"
        )


def _check_ngrams(recipe: Recipe) -> None:
    last = recipe.layers[-1]
    if not isinstance(last, NGrams) or not isinstance(recipe.input, Text):
        return
    if recipe.initialise.name in {"pretrained", "version"}:
        raise RecipeError(f"{recipe.name}: initialise: pretrained weights are not available for ngrams")
    vocabulary = recipe.input.vocabulary
    count = last.ngrams * vocabulary**last.ngrams
    if count >= 1 << 63:
        raise RecipeError(
            f"{recipe.name}: input.vocabulary: {vocabulary:,} words have {count:.0e} n-grams of up to {last.ngrams} "
            "words, more than an int64 can number: set vocabulary or ngrams lower"
        )


def table(recipe: Recipe) -> str:
    """The arithmetic of a recipe as a text table.

    Raises:
        RecipeError: as `trace`.
    """
    steps = trace(recipe)
    counts = [(step.weights, step.biases, step.norms, step.multiply_adds) for step in steps]
    rows: list[tuple[str, ...]] = [
        ("", "layer", "output", "weights", "biases", "norms", "multiply-adds"),
        ("", "input", times(steps[0].input), "", "", "", ""),
    ]
    for number, (step, row) in enumerate(zip(steps, counts, strict=True), start=1):
        rows.append((str(number), step.title, times(step.output), *(f"{count:,}" if count else "" for count in row)))
    rows.append(("", "total", "", *(f"{sum(column):,}" for column in zip(*counts, strict=True))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{recipe.name}: {recipe.description}", ""]
    for cells, formulas in zip(rows, [(), (), *(step.formulas for step in steps), ()], strict=True):
        words = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
        lines.append("  ".join(words + numbers).rstrip())
        lines += [" " * (widths[0] + 4) + formula for formula in formulas]
    return "\n".join([*lines, "", f"{sum(step.parameters for step in steps):,} parameters"])
