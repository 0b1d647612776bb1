"""Describes a folder for people at a terminal: a run, or a published version of a model.

`describe` reads the files of the folder alone. It needs no data set, and loads torch only to read checkpoints.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import zip_longest
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
from training.table import columns

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_WIDTH = 90  # characters of a value in a line

Facts = Iterable[tuple[str, Any]]


@dataclass(frozen=True)
class Weights:
    """Statistics of a stored tensor of a graph; `zeros` is the share of values that are exactly 0."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    minimum: float
    maximum: float
    zeros: float


def describe(path: Path) -> str:
    """The contents of a run's folder (runs/RECIPE/TIME) or a version's (models/NAME/VERSION).

    Raises:
        RunError: the folder is neither, or a file of the run is damaged.
        PublishError: the version's manifest cannot be read.
    """
    if (path / MANIFEST).is_file():
        return "\n".join(_version(path))
    if (path / record.RECIPE).is_file():
        return "\n".join(_run(record.read(path)))
    raise RunError(f"{path}: {_contents(path)}; expected a run, runs/RECIPE/TIME, or a version, models/NAME/VERSION")


def weights(graph: onnx.ModelProto) -> list[Weights]:
    """Statistics of a graph's stored tensors of floats, without scalars, in the graph's order."""
    statistics = []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type in _FLOATS and values.ndim and values.size:
            exact = values.astype(np.float64)
            figures = (exact.mean(), exact.std(), exact.min(), exact.max(), (exact == 0).mean())
            statistics.append(Weights(tensor.name, values.shape, *map(float, figures)))
    return statistics


def _contents(path: Path) -> str:
    if not path.is_dir():
        return "this is a file" if path.exists() else "no such folder"
    folders = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    return f"this folder contains {', '.join(folders[:10])}" if folders else "neither a run nor a version"


def _run(run: Record) -> Iterator[str]:
    yield f"run {run.folder}: recipe {run.recipe['name']}, seed {run.recipe.get('seed', '-')}"
    yield f"  {run.recipe.get('description', '')}".rstrip()
    yield from _section("progress", _progress(run))
    if run.result is not None:
        yield from _section("result", _flat(run.result))
    yield from _section("recipe", ((key, value) for key, value in _flat(run.recipe) if key != "description"))
    yield from _files(run.folder)
    if run.result is None and run.epochs_done:
        yield f"\ncontinue this run with: python -m training train --resume {run.folder}"
    elif run.result is not None and not run.result.get("folds"):
        yield f"\npublish this run with: python -m training publish {run.folder}"


def _progress(run: Record) -> Facts:
    yield "state", "not finished" if run.result is None else "finished"
    yield "epochs", f"{run.epochs_done} of {run.epochs_planned or '?'}, in {run.seconds:,.0f} s"
    for stage, history in run.histories.items():
        yield f"{stage}, last epoch", _epoch(history[-1])
        scored = [epoch for epoch in history if epoch.get("validation_loss") is not None]
        best = min(scored, key=lambda epoch: float(epoch["validation_loss"]), default=history[-1])
        if best is not history[-1]:
            yield f"{stage}, lowest validation loss", _epoch(best)
    for path in sorted(run.folder.glob("*.pt")):
        yield f"checkpoint {path.name}", _checkpoint(path)


def _epoch(epoch: dict[str, Any]) -> str:
    formats = {"loss": ".4f", "accuracy": ".2%", "validation_loss": ".4f", "validation_accuracy": ".2%"}
    parts = [
        f"{key.replace('_', ' ')} {epoch[key]:{form}}" for key, form in formats.items() if epoch.get(key) is not None
    ]
    return ", ".join([f"epoch {epoch.get('epoch')}", *parts])


def _checkpoint(path: Path) -> str:
    from training.fit import checkpoint  # noqa: PLC0415 -- imports torch, which versions do not need

    try:
        state = checkpoint.load(path)
    except RunError as error:
        return str(error)
    return f"after epoch {len(state.get('history', ())) if state else 0}"


def _version(folder: Path) -> Iterator[str]:
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        raise PublishError(str(error)) from error
    yield f"version {folder}: {manifest.model}, version {manifest.version}"
    yield from _section("manifest", [*_manifest(manifest), ("SHA-256", _integrity(folder, manifest))])
    yield from _files(folder)
    try:
        graph = onnx.load(folder / GRAPH)
        onnx.checker.check_model(graph)
        statistics = weights(graph)
    except Exception as error:  # noqa: BLE001 -- onnx lets through protobuf's errors, which share no base with its own
        yield from _section("graph", [("cannot be read", f"{type(error).__name__}: {error}")])
        return
    yield from _section("graph", _graph(graph))
    yield from ["", "weights", *_indented(_weights(statistics), left={0, 1})]


def _manifest(manifest: Manifest) -> Facts:
    yield "input", str(manifest.input)
    yield "labels", ", ".join(manifest.labels)
    for precision in manifest.precisions:
        for split, metrics in manifest.metrics(precision).items():
            figures = f"accuracy {metrics.accuracy:.2%}, NLL {metrics.nll:.4f} nats, ECE {metrics.ece:.4f}"
            yield f"test on {split}, {precision}", f"{figures}, n = {metrics.n:,}, {manifest.graph(precision)}"
    yield "recipe", manifest.recipe.get("name", "-")
    yield "parameters", f"{manifest.parameters:,}"
    yield "temperature", record.temperature_text(manifest.temperature, manifest.length_exponent, manifest.length_range)
    yield "largest batch", manifest.max_batch
    yield "preprocessing", f"version {manifest.preprocessing_version}"
    yield "data", f"{manifest.dataset}, {manifest.dataset_fingerprint}"
    yield "commit", manifest.commit
    yield "created", manifest.created


def _integrity(folder: Path, manifest: Manifest) -> str:
    try:
        verify(folder, manifest)
    except ModelRefused as error:
        return f"REFUSED: {error}"
    return f"all {len(manifest.files)} files match the manifest"


def _graph(graph: onnx.ModelProto) -> Facts:
    stored = {tensor.name for tensor in graph.graph.initializer}
    for title, ends in (("input", graph.graph.input), ("output", graph.graph.output)):
        for end in ends:
            if end.name not in stored:
                tensor = end.type.tensor_type
                shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
                yield title, f"{end.name} {TensorProto.DataType.Name(tensor.elem_type).lower()} ({shape})"
    yield "opset", ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in graph.opset_import)
    yield "producer", f"{graph.producer_name} {graph.producer_version}".strip() or "-"
    operations = Counter(node.op_type for node in graph.graph.node).most_common()
    yield "operations", ", ".join(f"{count}\N{NO-BREAK SPACE}{name}" for name, count in operations) or "-"


def _weights(statistics: list[Weights]) -> list[list[str]]:
    rows = [["name", "shape", "mean", "std", "min", "max", "zeros"]]
    for tensor in statistics:
        name, shape, *figures, zeros = astuple(tensor)
        rows.append([name, " x ".join(map(str, shape)), *(f"{figure:.4g}" for figure in figures), f"{zeros:.1%}"])
    return rows


def _files(folder: Path) -> list[str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    rows = [[str(path.relative_to(folder)), f"{path.stat().st_size:,} bytes"] for path in paths]
    return ["", "files", *_indented(rows, left={0})]


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a table, those of nested tables joined by dots, and lists of tables numbered from 1."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            yield from ((f"{name}[{number}]", item) for number, item in enumerate(value, start=1))
        elif value is not None:
            yield name, value


def _section(title: str, facts: Facts) -> list[str]:
    """Names and values in two columns, long values on several lines."""
    rows: list[list[str]] = []
    for name, value in facts:
        lines = textwrap.wrap(record.text(value), _WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
        rows += map(list, zip_longest([name], lines, fillvalue=""))
    return ["", title, *_indented(rows, left={0, 1})]


def _indented(rows: list[list[str]], left: set[int]) -> list[str]:
    return [f"  {line}" for line in columns(rows, left)]
