"""What lies in a folder: a run, or a published version of a model, told to a person at a terminal.

`describe` changes nothing, and needs no data set.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from contract.errors import ManifestError, ModelRefused
from contract.manifest import GRAPH, MANIFEST, Manifest, verify
from contract.manifest import read as read_manifest
from training.errors import PublishError, RunError
from training.runs import record
from training.runs.record import Record

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Weights:
    """One stored tensor of a graph and its statistics; `zeros` is the share of exact zeros."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    minimum: float
    maximum: float
    zeros: float


def describe(path: Path) -> str:
    """Everything that a run's folder (runs/RECIPE/TIME) or a version's (models/NAME/VERSION) says of itself.

    Raises:
        RunError: the folder is neither, or a file of the run is damaged.
        PublishError: the version's manifest cannot be read.
    """
    if (path / MANIFEST).is_file():
        return "\n".join(_version(path))
    if (path / record.RECIPE).is_file():
        return "\n".join(_run(record.read(path)))
    raise RunError(f"{path}: {_what_else(path)}; expected a run, runs/RECIPE/TIME, or a version, models/NAME/VERSION")


def weights(graph: onnx.ModelProto) -> list[Weights]:
    """Statistics of a graph's stored tensors of floats, scalars left out, in the graph's order."""
    found = []
    for tensor in graph.graph.initializer:
        if tensor.data_type in _FLOATS and tensor.dims:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            if values.size:
                found.append(_statistics(tensor.name, values))
    return found


def _statistics(name: str, values: np.ndarray[Any, np.dtype[np.float64]]) -> Weights:
    return Weights(
        name=name,
        shape=values.shape,
        mean=float(values.mean()),
        std=float(values.std()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        zeros=float((values == 0).mean()),
    )


def _what_else(path: Path) -> str:
    if not path.exists():
        return "there is no such folder"
    if not path.is_dir():
        return "this is a file"
    inside = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    return f"this folder holds {', '.join(inside[:10])}" if inside else "this folder is neither run nor version"


def _run(found: Record) -> Iterator[str]:
    recipe = found.recipe
    yield f"run {found.folder}: recipe {recipe['name']}, seed {recipe.get('seed', '-')}"
    yield f"  {recipe.get('description', '')}".rstrip()
    yield from _section("progress", _progress(found))
    if found.result is not None:
        yield from _section("result", [_fact(key, value) for key, value in _flat(found.result)])
    yield from _section("recipe", [_fact(key, value) for key, value in _flat(recipe) if key != "description"])
    yield from _section("files", _files(found.folder))


def _progress(found: Record) -> Iterator[str]:
    state = "finished" if found.result is not None else "not finished"
    yield f"{state}: {found.epochs_done} of {found.epochs_planned or '?'} epochs in {found.seconds:,.0f} s"
    for stage, history in found.histories.items():
        yield f"{stage}: {_epoch(history[-1])}"
        scored = [epoch for epoch in history if epoch.get("validation_loss") is not None]
        if scored:
            yield f"{stage}, lowest validation loss: {_epoch(min(scored, key=lambda epoch: epoch['validation_loss']))}"
    for path in sorted(found.folder.glob("*.pt")):
        yield f"checkpoint {path.name}: {_checkpoint(path)}"
    if found.result is None:
        yield f"go on with: python -m training train --resume {found.folder}"


def _epoch(epoch: dict[str, Any]) -> str:
    parts = [f"epoch {epoch.get('epoch')}"]
    for title, prefix in (("", ""), ("validation ", "validation_")):
        loss, accuracy = epoch.get(f"{prefix}loss"), epoch.get(f"{prefix}accuracy")
        parts += [f"{title}loss {loss:.4f}"] if loss is not None else []
        parts += [f"{title}accuracy {accuracy:.2%}"] if accuracy is not None else []
    return ", ".join(parts)


def _checkpoint(path: Path) -> str:
    from training.fit import checkpoint  # noqa: PLC0415 -- torch, which versions are looked at without

    try:
        state = checkpoint.load(path)
    except RunError as error:
        return str(error)
    epochs = len(state.get("history", ())) if state else 0
    return f"{epochs} epochs, {_size(path)}"


def _version(folder: Path) -> Iterator[str]:
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        raise PublishError(str(error)) from error
    yield f"version {folder}: {manifest.model}, version {manifest.version}"
    yield from _section("manifest", _facts(manifest))
    yield from _section("files", [_hashes(folder, manifest), *_files(folder)])
    yield from _graph(folder / GRAPH)


def _facts(manifest: Manifest) -> Iterator[str]:
    yield _fact("input", str(manifest.input))
    yield _fact("labels", ", ".join(manifest.labels))
    for split, metrics in manifest.test_metrics.items():
        yield _fact(
            f"test on {split}",
            f"accuracy {metrics.accuracy:.2%}, NLL {metrics.nll:.4f} nats, ECE {metrics.ece:.4f}, n = {metrics.n:,}",
        )
    for variant in manifest.variants:
        for split, metrics in variant.test_metrics.items():
            yield _fact(f"{variant.precision} on {split}", f"accuracy {metrics.accuracy:.2%}, {variant.graph}")
    yield _fact("recipe", manifest.recipe.get("name", "-"))
    yield _fact("parameters", f"{manifest.parameters:,}")
    yield _fact("temperature", f"{manifest.temperature:.4f}")
    if manifest.length_exponent:
        yield _fact("temperature times (tokens / 64) to the power of", f"{manifest.length_exponent:.4f}")
    yield _fact("largest batch", manifest.max_batch)
    yield _fact("preprocessing", f"version {manifest.preprocessing_version}")
    yield _fact("data", f"{manifest.dataset}, {manifest.dataset_fingerprint}")
    yield _fact("commit", manifest.commit)
    yield _fact("created", manifest.created)


def _hashes(folder: Path, manifest: Manifest) -> str:
    try:
        verify(folder, manifest)
    except ModelRefused as error:
        return f"SHA-256: REFUSED: {error}"
    return f"SHA-256: all {len(manifest.files)} files are as the manifest says"


def _graph(path: Path) -> Iterator[str]:
    try:
        graph = onnx.load(path)
        onnx.checker.check_model(graph)
        found = weights(graph)
    except Exception as error:  # noqa: BLE001 -- onnx lets through protobuf's errors, which share no base with its own
        yield from _section("graph", [f"cannot be read: {type(error).__name__}: {error}"])
        return
    yield from _section("graph", _graph_facts(graph, path))
    yield from _section("weights", _weight_lines(found))


def _graph_facts(graph: onnx.ModelProto, path: Path) -> Iterator[str]:
    stored = {tensor.name for tensor in graph.graph.initializer}
    for title, ends in (("input", graph.graph.input), ("output", graph.graph.output)):
        for end in ends:
            if end.name not in stored:
                yield _fact(title, _end(end))
    opsets = (f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in graph.opset_import)
    yield _fact("opset", ", ".join(opsets))
    yield _fact("made by", f"{graph.producer_name} {graph.producer_version}".strip() or "-")
    operations = Counter(node.op_type for node in graph.graph.node).most_common()
    yield _fact("operations", ", ".join(f"{count} {name}" for name, count in operations) or "none")
    yield _fact("size", _size(path))


def _end(end: onnx.ValueInfoProto) -> str:
    kind = end.type.tensor_type
    shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in kind.shape.dim)
    return f"{end.name} {TensorProto.DataType.Name(kind.elem_type).lower()} ({shape})"


def _weight_lines(found: list[Weights]) -> Iterator[str]:
    names = max((len(layer.name) for layer in found), default=4)
    shapes = [" x ".join(map(str, layer.shape)) for layer in found]
    wide = max(map(len, shapes), default=5)
    figures = f"{'mean':>10} {'std':>10} {'min':>10} {'max':>10} {'zeros':>7}"
    yield f"{'name':<{names}}  {'shape':<{wide}} {figures}"
    for layer, shape in zip(found, shapes, strict=True):
        yield (
            f"{layer.name:<{names}}  {shape:<{wide}} {layer.mean:>10.4g} {layer.std:>10.4g} {layer.minimum:>10.4g} "
            f"{layer.maximum:>10.4g} {layer.zeros:>7.1%}"
        )


def _files(folder: Path) -> list[str]:
    return [f"{path.name:<20} {_size(path):>12}" for path in sorted(folder.iterdir()) if path.is_file()]


def _size(path: Path) -> str:
    try:
        size = float(path.stat().st_size)
    except OSError:
        return "missing"
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 -- of the next smaller unit
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _flat(table: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """A table's keys, those of tables inside it joined by dots, and of lists of tables numbered from 1."""
    for key, value in table.items():
        name = f"{where}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value, start=1):
                yield f"{name}[{number}]", item
        elif value is not None:
            yield name, value


def _fact(title: str, value: Any) -> str:
    return f"{title:<24} {record.text(value)}"


def _section(title: str, lines: list[str] | Iterator[str]) -> Iterator[str]:
    yield ""
    yield title
    yield from (f"  {line}" for line in lines)
