"""From a finished run to models/NAME/VERSION: export, parity, card, manifest, and one atomic step into place.

The version is built in a hidden folder beside its place and renamed when it is whole, so that a publication that is
killed leaves no half version; the service looks at folders named by a number only.
"""

import json
import os
import shutil
import subprocess
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch

from service import manifest as contract
from service.manifest import ImageInput, Manifest, Metrics
from service.session import Session
from training import evaluate, run
from training.data import Split
from training.errors import PublishError
from training.evaluate import Probabilities
from training.network import Served
from training.recipe import Recipe
from training.report import card
from training.shapes import trace

MAX_BATCH = 256
_GOLDEN = 16
_PARITY = 1e-4  # between torch and ONNX Runtime, both on the CPU


def publish(folder: Path, models: Path) -> Path:
    """Publish a run as the next version of its task's model, and give its folder.

    The test split is touched here, once, by the exported graph.

    Raises:
        RunError: the run is not finished.
        DataError: the data set is not there, or not the one that the run was trained on.
        PublishError: torch and ONNX Runtime disagree, or the version cannot be written.
    """
    recipe = run.recipe_of(folder)
    network, result = run.finished(folder)
    data = run.load(recipe)
    if data.fingerprint != result.fingerprint:
        raise PublishError(f"{folder}: was trained on {result.fingerprint}, the data set here is {data.fingerprint}")
    served = Served(recipe, network, result.temperature)
    home = models / recipe.task
    try:
        home.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".publishing-", dir=home))
        try:
            export(served, recipe, partial / contract.GRAPH)
            manifest = _describe(recipe, served, result, data.test, partial, _next_version(home))
            return _place(partial, home, manifest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise PublishError(f"{home}: the version cannot be written: {error}") from error


def export(served: Served, recipe: Recipe, path: Path) -> None:
    """Write a graph, `image` uint8 (N, H, W, C) -> `probabilities` float32 (N, classes), to one ONNX file.

    Raises:
        PublishError: the batch axis came out fixed.
    """
    example = torch.zeros(2, recipe.input.height, recipe.input.width, recipe.input.channels, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of deprecated torch
        program = torch.onnx.export(
            served,
            (example,),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes={"image": {0: torch.export.Dim("N", min=1)}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    for end in (*graph.graph.input, *graph.graph.output):
        if not end.type.tensor_type.shape.dim[0].dim_param:
            raise PublishError(f"{path}: the batch axis of {end.name} came out fixed")


def check_parity(served: Served, session: Session, split: Split) -> Probabilities:
    """The exported graph's probabilities over a split, once torch is found to give the same.

    Raises:
        PublishError: a label differs, or a probability by more than 1e-4.
    """
    ours = evaluate.probabilities(session, split)
    with torch.inference_mode():
        torchs = torch.cat([served(batch) for batch in split.batches(MAX_BATCH)]).numpy()
    gap = float(np.abs(ours - torchs).max())
    differing = int((ours.argmax(axis=1) != torchs.argmax(axis=1)).sum())
    if differing or gap > _PARITY:
        raise PublishError(
            f"torch and ONNX Runtime disagree: {differing} of {len(split)} labels differ, probabilities by up to "
            f"{gap:.2g}; allowed are 0 and {_PARITY:g}"
        )
    return ours


def _describe(recipe: Recipe, served: Served, result: run.Result, test: Split, partial: Path, version: int) -> Manifest:
    """Check the exported graph over the test split and write golden file, card and manifest beside it."""
    spec = recipe.input
    draft = Manifest(
        model=recipe.task,
        version=version,
        input=ImageInput(height=spec.height, width=spec.width, mode=spec.mode, framing=spec.framing),
        labels=recipe.labels,
        preprocessing_version=contract.PREPROCESSING_VERSION,
        max_batch=MAX_BATCH,
        temperature=result.temperature,
        test_metrics=Metrics(n=1, accuracy=0, nll=0, ece=0),
        dataset=recipe.data.name,
        dataset_fingerprint=result.fingerprint,
        recipe=json.loads(recipe.model_dump_json()),
        parameters=sum(step.parameters for step in trace(recipe)),
        commit=_commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files={contract.GRAPH: contract.sha256(partial / contract.GRAPH)},
    )
    session = Session(partial / contract.GRAPH, draft, provider="cpu", threads=os.cpu_count() or 1)
    probabilities = check_parity(served, session, test)
    metrics = evaluate.metrics(probabilities, test.labels)
    _golden(session, spec.height, spec.width, spec.channels, partial / contract.GOLDEN)
    measured = draft.model_copy(update={"test_metrics": metrics})
    (partial / contract.CARD).write_text(card(measured, recipe, result.validation, result.seconds), encoding="utf-8")
    files = {name: contract.sha256(partial / name) for name in (contract.GRAPH, contract.GOLDEN, contract.CARD)}
    manifest = measured.model_copy(update={"files": files})
    manifest.write(partial)
    return manifest


def _golden(session: Session, height: int, width: int, channels: int, path: Path) -> None:
    """Store generated inputs, never examples of a data set, with what the graph makes of them."""
    noise = np.random.default_rng(0).integers(0, 256, (_GOLDEN, height, width, channels), dtype=np.uint8)
    np.savez_compressed(path, inputs=noise, probabilities=session.run(noise))


def _next_version(home: Path) -> int:
    return (
        max((int(path.name) for path in home.iterdir() if path.name.isascii() and path.name.isdigit()), default=0) + 1
    )


def _place(partial: Path, home: Path, manifest: Manifest) -> Path:
    """Rename a whole version into its place: its bytes are on the disk before its name is."""
    contract.verify(partial, contract.read(partial))
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.chmod(0o755)
    place = home / str(manifest.version)
    partial.rename(place)
    return place


def _commit() -> str:
    """The commit of the code that publishes, marked `-dirty` where that code has changes; `unknown` outside git."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "unknown"  # an installed copy may lie inside somebody else's repository
    try:
        head = _git(root, "rev-parse", "HEAD").stdout.strip()
        changed = _git(root, "diff", "--quiet", "HEAD", "--", "service", "training", "requirements").returncode
    except OSError:
        return "unknown"
    return f"{head}-dirty" if head and changed else head or "unknown"


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed words, no shell
