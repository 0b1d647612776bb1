"""From a published version to the next: the same network, with a variant that computes in fewer bits.

int8 is for processors: weights, and the values between convolutions, in 8 bits (Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018), in ranges taken from training
examples, never from the test splits. float16 is for GPUs. A variant that loses more than 0.3 percentage points of
accuracy on a test split is refused. The service measures on its own machine whether it uses a variant.
"""

import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from contract import golden, processors
from contract.errors import ConvokeError
from contract.manifest import CARD, GOLDEN, GRAPH, Manifest, Metrics, Variant
from contract.session import Session, race
from training.data import catalogue
from training.data.dataset import Split
from training.errors import PublishError, RecipeError
from training.evaluation import metrics as evaluate
from training.recipe.schema import parse
from training.release.card import variant_section
from training.release.gate import answers_of, pass_gate, tests_of
from training.release.version import building, open_version, place, provenance

Bits = Literal["int8", "float16"]

EXAMPLES = 500
"""Training examples that ranges are taken from."""

MAX_LOSS = 0.003
"""How much less accuracy than float32 a variant may have on a test split, as a share of 1."""

_BATCH = 50
_TIMED = (1, 8, 32)  # items in a run


def quantise(folder: Path, precision: Bits, *, force: bool = False) -> Path:
    """Publish the next version of a model, the version in `folder` with a variant, and return the new folder.

    Args:
        folder: models/NAME/VERSION; it does not change.
        precision: the precision of the variant.
        force: publish also if the network is worse than the version in service.

    Raises:
        DataError: the data set is missing or damaged.
        PublishError: the version cannot be used, the data set has changed since the training, the variant is too
            inaccurate, or a file cannot be written.
    """
    old, home = open_version(folder), folder.resolve().parent
    if old.variant(precision) is not None:
        raise PublishError(f"{folder}: this version already has a variant in {precision}")
    layers: Any = old.recipe.get("layers", [])
    if precision == "float16" and any("ngrams" in layer for layer in layers):
        raise PublishError(f"{folder}: the network has an `ngrams` layer, whose fingerprints do not fit into float16")
    graph = f"model.{precision}.onnx"
    with building(home) as partial:
        for name in old.files:
            shutil.copyfile(folder / name, partial / name)
        if precision == "int8":
            write_int8(partial / GRAPH, partial / graph, examples_of(old, folder))
        else:
            write_float16(partial / GRAPH, partial / graph)
        draft = _with_variant(old, precision, old.test_metrics).model_copy(update=provenance(partial, home))
        manifest, section = _measure(draft, precision, partial, home, force=force)
        return place(partial, home, manifest, _card(folder, old, manifest, section))


def write_int8(source: Path, target: Path, examples: Split) -> None:
    """Quantise the convolutions of a graph, and the layers between them, to 8 bits.

    Each filter has its own scale, and weights use 7 of the 8 bits: processors without VNNI multiply with an instruction
    that overflows at 8 bits, so with 7 the results are the same on all processors.
    """
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        target,
        _Reader(examples),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["Conv", "Relu", "MaxPool"],
    )
    prepared.unlink()
    _remove_unused_opsets(target)


def write_float16(source: Path, target: Path) -> None:
    """Convert a graph to float16; its inputs and outputs keep their types."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    _remove_unused_opsets(target)


def _remove_unused_opsets(path: Path) -> None:
    """Remove the operator sets that ONNX Runtime's tools add but no node uses: the service refuses them."""
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives the examples to the calibration, one batch at a time."""

    def __init__(self, examples: Split) -> None:
        self._batches = feeds(examples)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._batches, None)


def feeds(examples: Split) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Inputs of the graph: images in batches, uint8 (n, H, W, C); each text alone without padding, int64 (1, L)."""
    if examples.lengths is None:
        for batch in examples.batches(_BATCH):
            yield {"image": batch.numpy()}
    else:
        for row, length in zip(examples.inputs, examples.lengths.tolist(), strict=True):
            yield {"tokens": row[None, : max(length, 1)].long().numpy()}


def examples_of(manifest: Manifest, folder: Path) -> Split:
    """Examples of the training split of a model, as its graph takes them.

    Raises:
        PublishError: the recipe is no longer valid, or the data set has changed since the training.
        DataError: the data set is missing or damaged.
    """
    try:
        recipe = parse(manifest.recipe)
    except RecipeError as error:
        raise PublishError(f"{folder}: the recipe in the manifest is no longer valid: {error}") from error
    examples, fingerprint = catalogue.sample(recipe.data, recipe.input, manifest.input, manifest.labels, EXAMPLES)
    if fingerprint != manifest.dataset_fingerprint:
        raise PublishError(
            f"{folder}: the data set is {fingerprint}, but the model was trained on {manifest.dataset_fingerprint}"
        )
    return examples


def _with_variant(manifest: Manifest, precision: Bits, metrics: dict[str, Metrics]) -> Manifest:
    variant = Variant(precision=precision, graph=f"model.{precision}.onnx", test_metrics=metrics)
    others = [other for other in manifest.variants if other.precision != precision]
    return manifest.model_copy(update={"variants": [*others, variant]})


def _measure(draft: Manifest, precision: Bits, partial: Path, home: Path, *, force: bool) -> tuple[Manifest, str]:
    """The manifest with the variant's metrics on the test splits, and the section of the card about the variant."""
    plain, variant = _sessions(partial, draft, precision)
    tests = tests_of(draft, partial)
    exact = {name: evaluate.probabilities(plain, split) for name, split in tests.items()}
    verdict = pass_gate({name: answers_of(exact[name], tests[name]) for name in tests}, draft, home, force=force)
    exact_metrics = {name: evaluate.metrics(exact[name], split.labels) for name, split in tests.items()}
    metrics = {
        name: evaluate.metrics(evaluate.probabilities(variant, split), split.labels) for name, split in tests.items()
    }
    _check_accuracy(exact_metrics, metrics, precision)
    _add_golden(partial / GOLDEN, variant)
    manifest = _with_variant(draft, precision, metrics)
    speeds = {} if precision == "float16" else {size: race([plain, variant], size) for size in _TIMED}
    machine = f"one of {processors.count()} cores ({platform.machine()})"
    return manifest, variant_section(manifest.variants[-1], exact_metrics, speeds, machine, verdict)


def _sessions(partial: Path, draft: Manifest, precision: Bits) -> tuple[Session, Session]:
    """The network in float32, checked with the golden file, and the variant; on one thread each, as in the service.

    Raises:
        PublishError: a graph cannot be loaded, or float32 does not give the golden outputs.
    """
    try:
        plain = Session(partial / GRAPH, draft, provider="cpu")
        plain.replay(partial)
        return plain, Session(partial / draft.graph(precision), draft, provider="cpu", precision=precision)
    except ConvokeError as error:
        raise PublishError(str(error)) from error


def _check_accuracy(exact: Mapping[str, Metrics], metrics: Mapping[str, Metrics], precision: Bits) -> None:
    for name in metrics:
        loss = exact[name].accuracy - metrics[name].accuracy
        if loss > MAX_LOSS:
            raise PublishError(
                f"the variant in {precision} is too inaccurate on {name}: {metrics[name].accuracy:.2%}, float32 has "
                f"{exact[name].accuracy:.2%} (maximum loss {MAX_LOSS:.1%}). Nothing was published"
            )


def _add_golden(path: Path, variant: Session) -> None:
    """Add the variant's outputs for the golden inputs to the golden file."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays[golden.key(variant.precision)] = variant.run(arrays["inputs"])
    np.savez_compressed(path, **arrays)


def _card(folder: Path, old: Manifest, new: Manifest, section: str) -> str:
    """The old version's card under the new number, with the variant's section at the end."""
    text = (folder / CARD).read_text(encoding="utf-8")
    for form in (f"# {new.model}, version {{}}\n", f"models/{new.model}/{{}}`", f"models/{new.model}/{{}}\n"):
        text = text.replace(form.format(old.version), form.format(new.version))
    return f"{text}\n{section}"
