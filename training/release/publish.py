"""From a finished run to models/NAME/VERSION: export, parity, gate, card, manifest, one atomic step into place.

The version is built in a hidden folder beside its place and renamed when it is whole, so that a publication that is
killed leaves no half version; the service looks at folders named by a number only.
"""

import json
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch

from contract import batches
from contract.manifest import CARD, GOLDEN, GRAPH, PREPROCESSING_VERSION, Manifest, Metrics, sha256, verify
from contract.manifest import read as read_manifest
from contract.session import Session
from contract.spec import TOKENIZER
from training.data.dataset import Split
from training.errors import PublishError
from training.evaluation import metrics as evaluate
from training.evaluation.metrics import Probabilities
from training.network.build import Served
from training.recipe.schema import Recipe
from training.recipe.shapes import trace
from training.release import gate
from training.release.card import card
from training.runs import run
from training.runs.result import Result

MAX_BATCH = 256
_GOLDEN = 16
_PARITY = 1e-4  # between torch and ONNX Runtime, both on the CPU


def publish(folder: Path, models: Path, *, force: bool = False) -> Path:
    """Publish a run as the next version of its task's model, and give its folder.

    The test splits are touched here, once, by the exported graph.

    Args:
        folder: the run's.
        models: where versions go.
        force: publish also what is worse than the version in service; the card says so.

    Raises:
        RunError: the run is not finished.
        DataError: the data set is not there, or not the one that the run was trained on.
        PublishError: torch and ONNX Runtime disagree, the model is worse than the one in service, or the version
            cannot be written.
    """
    recipe = run.recipe_of(folder)
    network, result = run.finished(folder)
    data = run.load(recipe)
    if data.fingerprint != result.fingerprint:
        raise PublishError(f"{folder}: was trained on {result.fingerprint}, the data set here is {data.fingerprint}")
    served = Served(recipe, network, result.calibration)
    home = models / recipe.task
    with building(home) as partial:
        export(served, recipe, partial / GRAPH)
        if data.tokenizer is not None:
            (partial / TOKENIZER).write_text(data.tokenizer, encoding="utf-8")
        manifest = _describe(recipe, served, result, data.tests, partial, home, force=force)
        return place(partial, home, manifest)


@contextmanager
def building(home: Path) -> Iterator[Path]:
    """A hidden folder beside the versions in `home` to build the next one in; what stays in it is removed.

    Raises:
        PublishError: something cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".publishing-", dir=home))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise PublishError(f"{home}: the version cannot be written: {error}") from error


def export(served: Served, recipe: Recipe, path: Path) -> None:
    """Write a graph to one ONNX file: `image` uint8 (N, H, W, C) or `tokens` int64 (N, L) -> `probabilities`.

    Raises:
        PublishError: the batch axis, or the length of texts, came out fixed.
    """
    spec = recipe.input.served()
    limits = {"N": None, "L": spec.max_length}
    axes = {
        place: torch.export.Dim(axis, min=1, max=limits[axis])
        for place, axis in enumerate(spec.axes)
        if isinstance(axis, str)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of deprecated torch
        program = torch.onnx.export(
            served,
            (torch.from_numpy(batches.random(spec, 2)),),
            input_names=[spec.tensor],
            output_names=["probabilities"],
            dynamic_shapes={"inputs": axes},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    graph = onnx.load(path)
    _forget_origins(graph)
    onnx.save(graph, path)
    onnx.checker.check_model(graph, full_check=True)
    ends = [(graph.graph.input[0], list(axes)), (graph.graph.output[0], [0])]
    for end, free in ends:
        if not all(end.type.tensor_type.shape.dim[axis].dim_param for axis in free):
            raise PublishError(f"{path}: an axis of {end.name} came out fixed")


def _forget_origins(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes of where each node comes from: source lines, under the paths of this machine."""
    model.graph.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")


def check_parity(served: Served, session: Session, split: Split) -> Probabilities:
    """The exported graph's probabilities over a split, once torch is found to give the same.

    Raises:
        PublishError: a label differs, or a probability by more than 1e-4.
    """
    ours = evaluate.probabilities(session, split)
    with torch.inference_mode():
        torchs = evaluate.in_order(split, served, MAX_BATCH).numpy()
    gap = float(np.abs(ours - torchs).max())
    differing = int((ours.argmax(axis=1) != torchs.argmax(axis=1)).sum())
    if differing or gap > _PARITY:
        raise PublishError(
            f"torch and ONNX Runtime disagree: {differing} of {len(split)} labels differ, probabilities by up to "
            f"{gap:.2g}; allowed are 0 and {_PARITY:g}"
        )
    return ours


def _describe(
    recipe: Recipe,
    served: Served,
    result: Result,
    tests: dict[str, Split],
    partial: Path,
    home: Path,
    *,
    force: bool,
) -> Manifest:
    """Check the exported graph over the test splits and write golden file, card and manifest beside it."""
    files = [GRAPH, *recipe.input.served().files]
    draft = Manifest(
        model=recipe.task,
        version=next_version(home),
        input=recipe.input.served(),
        labels=recipe.labels,
        preprocessing_version=PREPROCESSING_VERSION,
        max_batch=MAX_BATCH,
        temperature=result.temperature,
        length_exponent=result.length_exponent,
        test_metrics=dict.fromkeys(tests, Metrics(n=1, accuracy=0, nll=0, ece=0)),
        dataset=recipe.data.name,
        dataset_fingerprint=result.fingerprint,
        recipe=json.loads(recipe.model_dump_json()),
        parameters=sum(step.parameters for step in trace(recipe)),
        commit=commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files={name: sha256(partial / name) for name in files},
    )
    session = Session(partial / GRAPH, draft, provider="cpu", threads=os.cpu_count() or 1)
    probabilities = {name: check_parity(served, session, split) for name, split in tests.items()}
    metrics = {name: evaluate.metrics(probabilities[name], tests[name].labels) for name in tests}
    answers = {name: gate.right(probabilities[name], tests[name]) for name in tests}
    verdict = pass_gate(answers, draft, home, force=force)
    noise = batches.random(recipe.input.served(), _GOLDEN)
    np.savez_compressed(partial / GOLDEN, inputs=noise, probabilities=session.run(noise))
    measured = draft.model_copy(update={"test_metrics": metrics})
    text = card(measured, recipe, result, verdict)
    (partial / CARD).write_text(text, encoding="utf-8")
    files += [GOLDEN, CARD]
    manifest = measured.model_copy(update={"files": {name: sha256(partial / name) for name in files}})
    manifest.write(partial)
    return manifest


def pass_gate(answers: dict[str, gate.Answers], draft: Manifest, home: Path, *, force: bool) -> str:
    """What the card says of the comparison with the version in service.

    Raises:
        PublishError: the new model is worse, and nobody insists.
    """
    comparisons, verdict = gate.compare(answers, draft, home)
    worse = [str(comparison) for comparison in comparisons if comparison.is_worse]
    if worse and not force:
        raise PublishError(
            f"the model is worse than the one in service, beyond noise: {'; '.join(worse)}. Nothing was published; "
            "--force publishes it all the same"
        )
    return f"Published by force, although worse beyond noise. {verdict}" if worse else verdict


def next_version(home: Path) -> int:
    """The number that comes after the highest in a model's folder."""
    return (
        max((int(path.name) for path in home.iterdir() if path.name.isascii() and path.name.isdigit()), default=0) + 1
    )


def place(partial: Path, home: Path, manifest: Manifest) -> Path:
    """Rename a whole version into its place: its bytes are on the disk before its name is."""
    verify(partial, read_manifest(partial))
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.chmod(0o755)
    place = home / str(manifest.version)
    partial.rename(place)
    return place


def commit() -> str:
    """The commit of the code that publishes, marked `-dirty` where that code has changes; `unknown` outside git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"  # an installed copy may lie inside somebody else's repository
    try:
        head = _git(root, "rev-parse", "HEAD").stdout.strip()
        changed = _git(root, "diff", "--quiet", "HEAD", "--", "contract", "training", "requirements").returncode
    except OSError:
        return "unknown"
    return f"{head}-dirty" if head and changed else head or "unknown"


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed words, no shell
