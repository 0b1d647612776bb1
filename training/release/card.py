"""What people read of a model: its card, and the figures of an evaluation."""

from contract.manifest import Manifest, Metrics, Variant
from training.evaluation.metrics import Mistake
from training.recipe.schema import Recipe
from training.recipe.shapes import table
from training.runs.record import temperature_text
from training.runs.result import Result


def card(manifest: Manifest, recipe: Recipe, result: Result, verdict: str) -> str:
    """A model card (Mitchell et al., 2019) in Markdown, from what was measured; `verdict` is the gate's."""
    tests = [_row(f"test: {name}", metrics) for name, metrics in manifest.test_metrics.items()]
    rows = "\n".join([*tests, _row("validation", result.validation)])
    temperature = temperature_text(manifest.temperature, manifest.length_exponent)
    return f"""# {manifest.model}, version {manifest.version}

{recipe.description}, trained by the recipe `{recipe.name}` on {manifest.dataset}.

| | n | accuracy | negative log-likelihood (nats) | expected calibration error |
| --- | --- | --- | --- | --- |
{rows}

Choices were made on the validation split, whose temperature of {temperature} is inside
the graph; the test splits were looked at once, by this publication.{_refit(recipe)}

{verdict}

Training took {result.seconds:.0f} s on {result.hardware}, seed {recipe.seed}. Measure the test figures again with
`python -m training evaluate models/{manifest.model}/{manifest.version}`.

## Intended use

{_USE.get(manifest.model, "Classifying inputs like those of the data set.")}

## Network

```
{table(recipe)}
```

Commit {manifest.commit}, data {manifest.dataset_fingerprint}.
"""


def variant_section(
    variant: Variant, exact: dict[str, Metrics], speeds: dict[int, list[float]], machine: str, verdict: str
) -> str:
    """What a card says of a variant beside float32.

    Args:
        variant: the variant as it was measured.
        exact: what float32 is worth on the same test splits.
        speeds: by batch size, the seconds of a run in float32 and in the variant; none where it was not timed.
        machine: what they were taken on.
        verdict: the gate's.
    """
    name = variant.precision
    rows = [
        row
        for test, metrics in variant.test_metrics.items()
        for row in (_row(f"{test}, float32", exact[test]), _row(f"{test}, {name}", metrics))
    ]
    worth = "\n".join(rows)
    return f"""## In {name}

`{variant.graph}` is the same network in {name}: {_MADE[name]}. The service runs it
where it measures faster, and float32 elsewhere.

| test split | n | accuracy | negative log-likelihood (nats) | expected calibration error |
| --- | --- | --- | --- | --- |
{worth}

{_speeds(name, speeds, machine)}

{verdict}
"""


def _speeds(name: str, speeds: dict[int, list[float]], machine: str) -> str:
    if not speeds:
        return f"Its speed was not measured at publication: {name} is for other machines than the one it was made on."
    rows = "\n".join(
        f"| {size} | {size / plain_s:,.0f} | {size / variant_s:,.0f} | {plain_s / variant_s:.2f} |"
        for size, (plain_s, variant_s) in speeds.items()
    )
    return (
        f"| batch | float32, items/s | {name}, items/s | times as many |\n| --- | --- | --- | --- |\n{rows}\n\n"
        f"In seconds of processor time, medians of runs in turns, on {machine}."
    )


_MADE = {
    "int8": "convolutions, and what passes between them, in 8 bits, their ranges from training examples",
    "float16": "weights, and what passes between layers, in 16 bits",
}

_USE = {
    "digits": """\
Reading one handwritten digit a picture. Pictures are searched for ink, fitted and centred as MNIST was. Several digits
in one picture, printed digits and letters are outside of what it was trained on, and it names a digit for them all the
same. Its writers were American census employees and students, in 1992.""",
    "cats-vs-dogs": """\
Telling a cat from a dog in a photo that shows one of them. Other animals, people, drawings and photos of both are
outside of what it was trained on, and it answers `cat` or `dog` for them all the same. The photo is squashed to a
square, so a small animal in a wide scene is seen in few pixels.""",
    "reviews": """\
Telling whether a review of a film, in English, is positive or negative: a sentence or a whole review. Neutral texts,
other languages and other subjects are outside of what it was trained on, and it answers all the same. Irony, and words
that its training texts do not hold, mislead it.""",
}


def _row(title: str, metrics: Metrics) -> str:
    return f"| {title} | {metrics.n:,} | {metrics.accuracy:.2%} | {metrics.nll:.4f} | {metrics.ece:.4f} |"


def _refit(recipe: Recipe) -> str:
    if not recipe.data.refit:
        return ""
    return (
        " After the choices the\nnetwork was trained once more on training and validation split together; the"
        " validation row is of the first training."
    )


def evaluation(
    manifest: Manifest,
    test: str,
    metrics: Metrics,
    chance: tuple[float, float],
    mistakes: list[Mistake],
    most: int = 10,
) -> str:
    """The figures of an evaluation on one test split, and the most confident mistakes, as a terminal shows them.

    Args:
        manifest: the model's.
        test: what the split is called.
        metrics: the figures.
        chance: the calibration error of a perfectly calibrated model, its mean and bound.
        mistakes: all of them, the most confident first.
        most: how many of them are shown.
    """
    usual, highest = chance
    lines = [
        f"  test split of {test}, n = {metrics.n:,}",
        f"  accuracy                     {metrics.accuracy:.2%}  ({len(mistakes):,} mistakes)",
        f"  negative log-likelihood      {metrics.nll:.4f} nats",
        f"  expected calibration error   {metrics.ece:.4f}  (chance alone: {usual:.4f}, up to {highest:.4f})",
    ]
    if mistakes:
        lines.append(f"  the {min(most, len(mistakes))} most confident mistakes:")
    lines += [
        f"    test example {mistake.index}: is {manifest.labels[mistake.label]}, "
        f"read as {manifest.labels[mistake.prediction]} with {mistake.probability:.3f}"
        for mistake in mistakes[:most]
    ]
    return "\n".join(lines)
