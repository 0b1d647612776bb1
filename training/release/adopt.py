"""An ONNX classifier that was made elsewhere -> a version in `models/`.

The graph is wrapped, so that the version keeps the contract of all others: decoded pixels or token ids in, calibrated
probabilities out. What the graph does not say comes from options, or from labelled examples, on which every plausible
way to feed it is tried. The range of pixel values is never guessed: a network that reads 98 % of digits from 0 to 255
reads 10 % of them from 0 to 1, as surely.
"""

import re
from math import prod
from pathlib import Path

import numpy as np
import onnx

from contract import batches, processors
from contract.errors import ConvokeError
from contract.inputs import load_preprocessor
from contract.manifest import (
    GOLDEN,
    GRAPH,
    MAX_BATCH_VALUES,
    PREPROCESSING_VERSION,
    Manifest,
    sha256,
)
from contract.reference import MIN_ITEMS
from contract.session import Session
from contract.spec import TOKENIZER
from training.errors import PublishError
from training.release import adopted_card, foreign, gate, image_graph, reference, text_graph, trial
from training.release.decided import Decided, Say
from training.release.plausible import Options
from training.release.version import building, place, provenance
from training.release.wrap import describe, wrap

MAX_BATCH = 256
MODEL_NAME = re.compile(r"[^\W_][\w.-]{0,99}")
"""As in a manifest."""
_GOLDEN = 16


def adopt(
    path: Path,
    options: Options,
    *,
    name: str,
    models: Path,
    examples: Path | None = None,
    force: bool = False,
    say: Say = lambda _line: None,
) -> Path:
    """Publish a foreign ONNX classifier as the next version of a model, and return the version's folder.

    Args:
        path: the ONNX file.
        options: what the user stated about it.
        name: of the model.
        models: the folder of all models.
        examples: labelled examples: a folder with a subfolder for each label, or a table of texts.
        force: publish also a model that is no better than a constant, or worse than the version in service.
        say: called with each line about what was found, guessed and measured.

    Raises:
        PublishError: the file cannot be adopted, or something that it does not say was not stated.
    """
    if not MODEL_NAME.fullmatch(name):
        raise PublishError(
            f"--name {name!r}: expected up to 100 letters, digits, '-', '_' and '.'; the first is a letter or a digit"
        )
    notes: list[str] = []

    def note(line: str) -> None:
        if line not in notes:
            notes.append(line)
            say(line)

    source = foreign.read(path)
    say(
        f"{path}: by {source.producer}, {source.parameters:,} parameters; takes {', '.join(map(str, source.inputs))}; "
        f"gives {', '.join(map(str, source.outputs))}"
    )
    if options.tokenizer is None:
        decided = image_graph.decide(source, options, examples, notes, note, say, force=force)
    else:
        decided = text_graph.decide(source, options, examples, notes, note, force=force)
    return _publish(decided, name, models, examples, say, force=force)


def _publish(decided: Decided, name: str, models: Path, examples: Path | None, say: Say, *, force: bool) -> Path:
    home = models / name
    with building(home) as partial:
        onnx.save(wrap(decided.model, decided.inputs, decided.scores), partial / GRAPH)
        if decided.tokenizer is not None:
            (partial / TOKENIZER).write_text(decided.tokenizer, encoding="utf-8")
        draft = _draft(decided, name, partial, home)
        try:
            session = Session(partial / GRAPH, draft, provider="cpu", threads=processors.count())
            inputs = batches.random(decided.spec, _GOLDEN)
            np.savez_compressed(partial / GOLDEN, inputs=inputs, probabilities=session.run(inputs))
            session.replay(partial)
            session.warm_up()
        except ConvokeError as error:
            raise PublishError(f"the service would refuse the wrapped graph: {error}") from error
        if decided.examples is not None and len(decided.examples) >= MIN_ITEMS:
            reference.write_for_examples(partial, draft, session, decided.preprocessor, decided.examples.items)
        comparison = _compare(decided, home, draft, session, examples, force=force)
        card = adopted_card.card(draft, decided, comparison)
        if decided.metrics is not None:
            say(f"{decided.metrics.accuracy:.2%} of {decided.metrics.n:,} examples are right")
        return place(partial, home, draft, card)


def _draft(decided: Decided, name: str, partial: Path, home: Path) -> Manifest:
    spec, source = decided.spec, decided.foreign
    most = decided.inputs.batch or MAX_BATCH
    fields = provenance(partial, home)
    try:
        return Manifest(
            model=name,
            input=spec,
            labels=decided.labels,
            preprocessing_version=PREPROCESSING_VERSION,
            max_batch=max(min(most, MAX_BATCH_VALUES // prod(spec.shape(1, spec.max_length))), 1),
            temperature=decided.scores.temperature,
            test_metrics={} if decided.metrics is None else {"examples": decided.metrics},
            dataset=gate.UNKNOWN,
            dataset_fingerprint=gate.UNKNOWN if decided.examples is None else decided.examples.fingerprint,
            recipe={
                "name": "adopted",
                "file": source.path.name,
                "sha256": sha256(source.path),
                "producer": source.producer,
                **describe(decided.inputs, decided.scores),
            },
            parameters=source.parameters,
            **fields,
        )
    except ValueError as error:
        raise PublishError(f"the manifest cannot be written: {error}") from error


def _compare(
    decided: Decided, home: Path, draft: Manifest, session: Session, examples: Path | None, *, force: bool
) -> str:
    """A sentence about the version in service, which must have the same labels and not be better on the examples.

    They are compared by the metric of its gate, since the adopted version takes over what it is used for.

    Raises:
        PublishError: it has other labels, or is significantly better, without `force`.
    """
    serving = gate.serving_of(gate.versions_of(home))
    if serving is None:
        return "Not compared: no version was in service."
    other = serving[1]
    fault, sentence = None, f"It was not compared with version {other.version}."
    if {*other.labels} != {*draft.labels}:
        fault = f"version {other.version} of {draft.model} has other labels: {', '.join(other.labels[:8])}"
    elif decided.examples is None or examples is None:
        fault = f"without --examples the model cannot be compared with version {other.version} of {draft.model}"
    else:
        measure = gate.measure_of(other)
        ours, theirs = _both(decided, examples, draft, session, serving)
        if not measure.is_defined(ours.truth):
            fault = f"the examples have none for the {measure.gate.title}, by which version {other.version} is judged"
        else:
            compared = gate.comparison("all examples", other.version, measure, ours, theirs)
            sentence = f"Compared with version {other.version}, in service. {compared}."
            fault = f"the model is significantly worse: {compared}" if compared.is_worse else None
    if fault is not None and not force:
        raise PublishError(
            f"{fault}. Nothing was published; --force publishes it nevertheless, --name gives it another name"
        )
    return sentence if fault is None else f"Published with --force, although {fault}."


def _both(
    decided: Decided, path: Path, draft: Manifest, session: Session, serving: tuple[Path, Manifest, Session]
) -> tuple[gate.Answers, gate.Answers]:
    """The answers of the adopted version and of the one in service to all examples, with labels in the draft's order.

    Raises:
        PublishError: one of them cannot decode an example that the other can.
    """
    folder, other, their_session = serving
    found, theirs = trial.labelled(path, is_text=decided.spec.is_text), load_preprocessor(folder, other.input)
    mine, its = (trial.decode(found, draft.labels, each, path) for each in (decided.preprocessor, theirs))
    if len(mine) != len(its):
        raise PublishError(
            f"{path}: the model can decode {len(mine):,} examples, but version {other.version} {len(its):,}; leave out "
            "those that only one of them can"
        )
    places = [other.labels.index(label) for label in draft.labels]
    return (
        gate.Answers(decided.preprocessor.run(session.run, mine.items), mine.places),
        gate.Answers(theirs.run(their_session.run, its.items)[:, places], its.places),
    )
