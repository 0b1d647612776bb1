"""From a finished run to a version: export, parity, gate, card and manifest."""

import json
import warnings
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
import torch

from contract import batches, processors
from contract.manifest import GOLDEN, GRAPH, MAX_BATCH_VALUES, PREPROCESSING_VERSION, Manifest, Metrics
from contract.reference import MIN_ITEMS
from contract.session import Session
from contract.spec import TOKENIZER, InputSpec
from training.data.dataset import Dataset, Split
from training.errors import PublishError
from training.evaluation import metrics as evaluate
from training.evaluation.linear import LinearBaseline
from training.evaluation.metrics import Probabilities
from training.network.build import Served
from training.recipe.schema import Recipe
from training.recipe.shapes import trace
from training.release import reference
from training.release.card import baseline_text, card, class_tables
from training.release.gate import answers_of, pass_gate
from training.release.looks import record
from training.release.version import building, place, provenance
from training.runs import run
from training.runs.result import Result

MAX_BATCH = 256
_GOLDEN = 16
_MAX_GAP = 1e-4  # between the probabilities of torch and ONNX Runtime, both on the CPU


def publish(folder: Path, models: Path, *, force: bool = False) -> Path:
    """Publish a run as the next version of its model, and return the version's folder.

    This is the only use of the test splits, with the exported graph; the card states how often it has happened.

    Args:
        folder: the run's folder.
        models: the folder of all models.
        force: publish also a model that is worse than the version in service; the card says so.

    Raises:
        RunError: the run is not finished.
        DataError: the data set is missing or damaged.
        PublishError: the data set or its token ids have changed since the training, torch and ONNX Runtime disagree,
            the model is worse than the version in service, or a file cannot be written.
    """
    recipe = run.recipe_of(folder)
    network, result = run.finished(folder)
    data = run.load(recipe)
    if data.fingerprint != result.fingerprint:
        raise PublishError(
            f"{folder}: the data set is {data.fingerprint}, but the run was trained on {result.fingerprint}"
        )
    if data.tokenizer_sha256 != result.tokenizer:
        raise PublishError(
            f"{folder}: texts now have other token ids than in the training of this run with another Convoke; "
            "train the recipe again"
        )
    served, spec, home = Served(recipe, network, result.calibration), recipe.input.served(), models / recipe.task
    with building(home) as partial:
        export(served, spec, partial / GRAPH)
        if data.tokenizer is not None:
            (partial / TOKENIZER).write_text(data.tokenizer, encoding="utf-8")
        draft = _draft(recipe, result, data.tests, partial, home)
        session = Session(partial / GRAPH, draft, provider="cpu", threads=processors.count())
        probabilities = {name: check_parity(served, session, split) for name, split in data.tests.items()}
        answers = {name: answers_of(probabilities[name], split) for name, split in data.tests.items()}
        looks = record(home, draft)
        verdict = pass_gate(answers, draft, home, force=force, is_new=True)
        _write_reference(partial, draft, session, data, probabilities)
        inputs = batches.random(spec, _GOLDEN)
        np.savez_compressed(partial / GOLDEN, inputs=inputs, probabilities=session.run(inputs))
        metrics = {name: evaluate.metrics(probabilities[name], split.labels) for name, split in data.tests.items()}
        manifest = draft.model_copy(update={"test_metrics": metrics})
        by_class = class_tables(answers, recipe.labels)
        baselines = {name: evaluate.baseline(split.labels) for name, split in data.tests.items()}
        compared = baseline_text(metrics, baselines, _linear(data))
        return place(partial, home, manifest, card(manifest, recipe, result, verdict, looks, by_class, compared))


def _linear(data: Dataset) -> dict[str, float]:
    """The accuracy of a linear model of the training texts on each test split; of images, nothing."""
    if data.train.lengths is None:
        return {}
    model = LinearBaseline(data.train)
    return {name: model.accuracy(split) for name, split in data.tests.items()}


def _write_reference(
    partial: Path, draft: Manifest, session: Session, data: Dataset, probabilities: Mapping[str, Probabilities]
) -> None:
    """Write the reference, from the test splits, with the validation split if they are small."""
    splits = dict(data.tests)
    if sum(map(len, splits.values())) < MIN_ITEMS:
        splits["validation"] = data.validation
        probabilities = {**probabilities, "validation": evaluate.probabilities(session, data.validation)}
    if sum(map(len, splits.values())) >= MIN_ITEMS:
        reference.write(partial, draft, splits, probabilities)


def _draft(recipe: Recipe, result: Result, tests: Iterable[str], partial: Path, home: Path) -> Manifest:
    """The manifest before the test splits are measured."""
    spec = recipe.input.served()
    return Manifest(
        model=recipe.task,
        input=spec,
        labels=recipe.labels,
        preprocessing_version=PREPROCESSING_VERSION,
        max_batch=max(min(MAX_BATCH, MAX_BATCH_VALUES // prod(spec.shape(1, spec.max_length))), 1),
        temperature=result.temperature,
        length_exponent=result.length_exponent,
        length_range=None if result.length_range is None else list(result.length_range),
        test_metrics=dict.fromkeys(tests, Metrics(n=1, accuracy=0, nll=0, ece=0)),
        dataset=recipe.data.title,
        dataset_fingerprint=result.fingerprint,
        recipe=json.loads(recipe.model_dump_json()),
        parameters=sum(step.parameters for step in trace(recipe)),
        **provenance(partial, home),
    )


def export(served: Served, spec: InputSpec, path: Path) -> None:
    """Write a graph to one ONNX file: `image` uint8 (N, H, W, C) or `tokens` int64 (N, L) -> `probabilities`.

    Raises:
        PublishError: the exporter fixed the size of the batch, or the length of texts.
    """
    limits = {"N": None, "L": spec.max_length}
    axes = {
        place: torch.export.Dim(axis, min=1, max=limits[axis])
        for place, axis in enumerate(spec.axes)
        if isinstance(axis, str)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter itself uses deprecated parts of torch
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
    model = onnx.load(path)
    _remove_origins(model)
    onnx.save(model, path)
    onnx.checker.check_model(model, full_check=True)
    for end, dynamic in ((model.graph.input[0], list(axes)), (model.graph.output[0], [0])):
        if not all(end.type.tensor_type.shape.dim[axis].dim_param for axis in dynamic):
            raise PublishError(f"{path}: the exporter fixed the size of an axis of {end.name}")


def _remove_origins(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on the source lines of each node, which have paths of this machine."""
    model.graph.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")


def check_parity(served: Served, session: Session, split: Split) -> Probabilities:
    """The probabilities of the exported graph over a split, compared with torch's: float32 (N, classes).

    Raises:
        PublishError: a label differs, or a probability by more than 1e-4.
    """
    exported = evaluate.probabilities(session, split)
    with torch.inference_mode():
        expected = evaluate.in_order(split, served, MAX_BATCH).numpy()
    gap = float(np.abs(exported - expected).max())
    differing = int((exported.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if differing or gap > _MAX_GAP:
        raise PublishError(
            f"torch and ONNX Runtime disagree: {differing} of {len(split)} labels differ (maximum 0), probabilities by "
            f"up to {gap:.2g} (maximum {_MAX_GAP:g})"
        )
    return exported
