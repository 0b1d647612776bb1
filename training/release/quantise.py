"""From a published version to the next one: the same network, and beside it a variant that computes in fewer bits.

int8 is for processors: weights, and what passes between convolutions, in 8 bits (Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018), the ranges taken from training
examples, never from the test splits. float16 is for GPUs. A variant that reads 0.3 points fewer of the test examples
right is refused; whether one is served, the service decides by measuring on its own machine.
"""

import os
import platform
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from pydantic import ValidationError

from contract import golden
from contract.errors import ConvokeError
from contract.manifest import CARD, GOLDEN, GRAPH, Manifest, Metrics, Variant, sha256, verify
from contract.manifest import read as read_manifest
from contract.session import Session, race
from training.data import catalogue
from training.data.dataset import Split
from training.errors import PublishError
from training.evaluation import metrics as evaluate
from training.recipe.schema import Recipe
from training.release import gate
from training.release.card import variant_section
from training.release.publish import building, commit, next_version, pass_gate, place

Bits = Literal["int8", "float16"]

EXAMPLES = 500
"""Training examples that ranges are taken from."""

MOST_LOST = 0.003
"""The share of a test split that a variant may read wrong beyond what the network in float32 does."""

_BATCH = 50
_TIMED = (1, 8, 32)  # items in a run


def quantise(folder: Path, precision: Bits, *, force: bool = False) -> Path:
    """Publish the next version of a model: that of `folder`, with a variant beside it. Gives the new folder.

    Args:
        folder: models/NAME/VERSION; it stays as it is.
        precision: what the variant computes in.
        force: publish also where `folder` holds a worse network than the version in service.

    Raises:
        DataError: the data set is not there, or not the one that the model was trained on.
        PublishError: the version cannot be used, the variant loses too much, or the new version cannot be written.
    """
    old = _read(folder)
    if old.variant(precision) is not None:
        raise PublishError(f"{folder}: holds a variant in {precision} already")
    layers: Any = old.recipe.get("layers", [])
    if precision == "float16" and any("ngrams" in layer for layer in layers):
        raise PublishError(f"{folder}: float16 cannot hold the fingerprints of its table of runs of words (ngrams)")
    with building(folder.resolve().parent) as partial:
        for name in old.files:
            shutil.copyfile(folder / name, partial / name)
        graph = partial / f"model.{precision}.onnx"
        if precision == "int8":
            write_int8(partial / GRAPH, graph, examples_of(old, folder))
        else:
            write_float16(partial / GRAPH, graph)
        new = _describe(old, precision, partial, folder.resolve().parent, force=force)
        return place(partial, folder.resolve().parent, new)


def write_int8(source: Path, target: Path, examples: Split) -> None:
    """Quantise a graph's convolutions, and what stands between two of them, to 8 bits.

    Weights have a scale for each filter and use 7 of the 8 bits: processors without VNNI multiply with an instruction
    that overflows at 8, so that the variant gives the same on all of them.
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
    _keep_own_domain(target)


def write_float16(source: Path, target: Path) -> None:
    """The same graph in float16, its ends as they were."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    _keep_own_domain(target)


def _keep_own_domain(path: Path) -> None:
    """Forget the sets of operators that ONNX Runtime's tools name and no node is of: the service takes none of them."""
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Hands examples to the calibration, batch by batch, as the graph takes them."""

    def __init__(self, examples: Split) -> None:
        self._batches = feeds(examples)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._batches, None)


def feeds(examples: Split) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Inputs of the graph: pictures in batches, uint8 (n, H, W, C); texts alone, int64 (1, L), without padding."""
    if examples.lengths is None:
        for batch in examples.batches(_BATCH):
            yield {"image": batch.numpy()}
    else:
        for row, length in zip(examples.inputs, examples.lengths.tolist(), strict=True):
            yield {"tokens": row[None, : max(length, 1)].long().numpy()}


def _read(folder: Path) -> Manifest:
    try:
        manifest = read_manifest(folder)
        verify(folder, manifest)
    except ConvokeError as error:
        raise PublishError(str(error)) from error
    return manifest


def examples_of(manifest: Manifest, folder: Path) -> Split:
    """Examples of the training split that a model learnt from, as its graph takes them.

    Raises:
        PublishError: its recipe is of another time, or the data set is another one.
    """
    try:
        recipe = Recipe.model_validate(manifest.recipe)
    except ValidationError as error:
        raise PublishError(f"{folder}: its recipe cannot be read any more: {error}") from error
    examples, fingerprint = catalogue.sample(recipe.data, recipe.input, manifest.input, manifest.labels, EXAMPLES)
    if fingerprint != manifest.dataset_fingerprint:
        raise PublishError(
            f"{folder}: was trained on {manifest.dataset_fingerprint}, the data set here is {fingerprint}"
        )
    return examples


def _describe(old: Manifest, precision: Bits, partial: Path, home: Path, *, force: bool) -> Manifest:
    """Check both graphs over the test splits and write golden file, card and manifest beside them."""
    graph = f"model.{precision}.onnx"
    draft = old.model_copy(
        update={
            "version": next_version(home),
            "files": {**old.files, graph: sha256(partial / graph)},
            "variants": [*old.variants, Variant(precision=precision, graph=graph, test_metrics=old.test_metrics)],
            "commit": commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    plain, variant = _sessions(partial, draft, precision)
    tests = gate.tests_of(draft, partial)
    found = {
        name: (evaluate.probabilities(plain, test), evaluate.probabilities(variant, test))
        for name, test in tests.items()
    }
    verdict = pass_gate({name: gate.right(found[name][0], tests[name]) for name in tests}, draft, home, force=force)
    exact = {name: evaluate.metrics(found[name][0], tests[name].labels) for name in tests}
    rough = {name: evaluate.metrics(found[name][1], tests[name].labels) for name in tests}
    _insist_on_accuracy(exact, rough, precision)
    _add_golden(partial / GOLDEN, variant)
    described = Variant(precision=precision, graph=graph, test_metrics=rough)
    measured = draft.model_copy(update={"variants": [*old.variants, described]})
    speeds = {} if precision == "float16" else {size: race([plain, variant], size) for size in _TIMED}
    section = variant_section(described, exact, speeds, _machine(), verdict)
    _renumber_card(partial / CARD, old, measured, section)
    manifest = measured.model_copy(update={"files": {name: sha256(partial / name) for name in draft.files}})
    manifest.write(partial)
    return manifest


def _sessions(partial: Path, draft: Manifest, precision: Bits) -> tuple[Session, Session]:
    """The network in float32, once it is found to give what was published, and its variant; a thread each, as served.

    Raises:
        PublishError: one of them cannot be loaded, or float32 gives something else.
    """
    try:
        plain = Session(partial / GRAPH, draft, provider="cpu")
        plain.replay(partial)
        return plain, Session(partial / draft.graph(precision), draft, provider="cpu", precision=precision)
    except ConvokeError as error:
        raise PublishError(str(error)) from error


def _insist_on_accuracy(exact: dict[str, Metrics], rough: dict[str, Metrics], precision: Bits) -> None:
    for name, metrics in rough.items():
        lost = exact[name].accuracy - metrics.accuracy
        if lost > MOST_LOST:
            raise PublishError(
                f"in {precision} the model reads {metrics.accuracy:.2%} of {name} right, in float32 "
                f"{exact[name].accuracy:.2%}; at most {MOST_LOST:.1%} may be lost. Nothing was published"
            )


def _add_golden(path: Path, variant: Session) -> None:
    """Put what a variant gives for the golden inputs beside what the network gives in float32."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays[golden.key(variant.precision)] = variant.run(arrays["inputs"])
    np.savez_compressed(path, **arrays)


def _renumber_card(path: Path, old: Manifest, new: Manifest, section: str) -> None:
    """The old version's card under the new number, with the variant's section at its end."""
    text = path.read_text(encoding="utf-8")
    for form in (f"# {new.model}, version {{}}\n", f"models/{new.model}/{{}}`"):
        text = text.replace(form.format(old.version), form.format(new.version))
    path.write_text(f"{text}\n{section}", encoding="utf-8")


def _machine() -> str:
    return f"one of {os.cpu_count()} cores ({platform.machine()})"
