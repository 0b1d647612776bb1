"""An ONNX classifier that was made elsewhere -> a version in `models/`.

The graph is wrapped, so that the version keeps the contract of all others: decoded pixels or token ids in, calibrated
probabilities out. What the graph does not say comes from options, or from labelled examples, on which every plausible
way to feed it is tried. The range of pixel values is never guessed: a network that reads 98 % of digits from 0 to 255
reads 10 % of them from 0 to 1, as surely.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from tokenizers import Tokenizer

from contract import batches, processors
from contract.errors import ConvokeError
from contract.inputs import ImagePreprocessor, Preprocessor, TextPreprocessor
from contract.manifest import (
    GOLDEN,
    GRAPH,
    MAX_BATCH_VALUES,
    PREPROCESSING_VERSION,
    Manifest,
    Metrics,
    sha256,
)
from contract.reference import MIN_ITEMS
from contract.session import Session
from contract.spec import MAX_CHARACTERS, MAX_PIXELS, TOKENIZER, ImageInput, TextInput
from training.errors import PublishError
from training.release import adopted_card, foreign, plausible, probe, reference, trial
from training.release.foreign import Foreign
from training.release.plausible import Options, Way
from training.release.version import building, numbers, open_version, place, provenance
from training.release.wrap import Ids, Pixels, Scores, describe, spec_of, wrap

MAX_BATCH = 256
MODEL_NAME = re.compile(r"[^\W_][\w.-]{0,99}")
"""As in a manifest."""
_GOLDEN = 16
_LENGTH = 512
_PADS = "[PAD]", "<pad>", "<PAD>", "[pad]", "<|pad|>"

Say = Callable[[str], object]


@dataclass(frozen=True)
class Decided:
    """Everything that was decided about a graph."""

    foreign: Foreign
    model: onnx.ModelProto
    spec: ImageInput | TextInput
    inputs: Pixels | Ids
    scores: Scores
    labels: list[str]
    preprocessor: Preprocessor
    tokenizer: str | None
    notes: list[str]
    """What was guessed or measured, in sentences."""
    examples: trial.Examples | None = None
    metrics: Metrics | None = None
    is_held_out: bool = False
    """Whether the metrics are of other examples than the choices."""


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
        f"{path}: by {source.producer}, {source.parameters:,} parameters; takes "
        f"{', '.join(map(str, source.inputs))}; gives "
        f"{', '.join(map(str, source.outputs))}"
    )
    if options.tokenizer is None:
        decided = _image(source, options, examples, notes, note, say, force=force)
    else:
        decided = _text(source, options, examples, notes, note, force=force)
    return _publish(decided, name, models, examples, say, force=force)


def _image(
    source: Foreign, options: Options, folder: Path | None, notes: list[str], note: Say, say: Say, *, force: bool
) -> Decided:
    _refuse_token_ids(source)
    ways = plausible.pixels(source, options, note)
    output = foreign.scores_of(source, options.output, None if options.labels is None else len(options.labels))
    model = foreign.prepare(source, output)
    stated = [way for way in ways if way.is_stated]
    open_settings = _open_settings(stated)
    if folder is None and open_settings:
        raise PublishError(_must_state(source, open_settings))
    if folder is None and len(stated) > 1:
        note("mode: RGB, as most networks of three channels take; --mode BGR for the others")
    found = None if folder is None else trial.labelled(folder, is_text=False)
    model, ways, values = _settled(model, ways, note)
    stated = [way for way in ways if way.is_stated]
    scores = probe.scores_kind(model, output, values, options, note)
    labels = _labels(source, options, scores, found, note)
    spec = spec_of(stated[0].pixels, options.framing)
    if options.framing == "squash" and spec.height == spec.width:
        note("framing: squash, both sides are resized to the square; --framing pad or crop keeps the aspect")
    preprocessor = ImagePreprocessor(spec, MAX_PIXELS)
    decided = Decided(source, model, spec, stated[0].pixels, scores, labels, preprocessor, None, notes)
    if found is None or folder is None:
        return decided
    examples = trial.decode(found, labels, preprocessor, folder)
    return _measured(_chosen(decided, ways, examples, note, say, force=force), examples)


def _chosen(
    decided: Decided, ways: Sequence[Way], examples: trial.Examples, note: Say, say: Say, *, force: bool
) -> Decided:
    """Try every plausible way on half of the examples, or on all if they are few, and take the best."""
    part = examples.part(0, 2) if len(examples) >= trial.MIN_HALVES else examples
    tried = trial.compare(decided.model, ways, decided.scores, part, decided.preprocessor)
    for line in trial.table(tried):
        say(f"  {line}")
    fault, doubts = trial.doubts(tried, decided.labels, part)
    for doubt in doubts:
        note(doubt)
    if fault is not None and not force:
        raise PublishError(f"{fault}. Nothing was published; --force publishes it nevertheless")
    if len(tried) > 1:
        note(
            f"pixels: {tried[0].title}, the best of {len(tried)} settings on {len(part):,} examples "
            f"({tried[0].accuracy:.2%} right)"
        )
    return replace(decided, inputs=tried[0].inputs)


def _measured(decided: Decided, examples: trial.Examples) -> Decided:
    """The calibration from half of the examples, and the metrics from the other half; from all, if they are few."""
    scores, has_halves = decided.scores, len(examples) >= trial.MIN_HALVES
    for each in examples.left_out[:3]:
        decided.notes.append(f"left out: {each}")

    def run(part: trial.Examples) -> npt.NDArray[np.float32]:
        return trial.probabilities(decided.model, decided.inputs, scores, part.items, decided.preprocessor)

    if has_halves:
        fitted = examples.part(0, 2)
        scores = replace(scores, temperature=trial.calibrate(run(fitted), fitted.places))
        examples = replace(examples.part(1, 2), left_out=examples.left_out)
    metrics = trial.measure(run(examples), examples.places)
    return replace(decided, scores=scores, examples=examples, metrics=metrics, is_held_out=has_halves)


def _settled(model: onnx.ModelProto, ways: Sequence[Way], note: Say) -> tuple[onnx.ModelProto, list[Way], Any]:
    """The ways that ONNX Runtime can run, with the batch that the graph takes, and scores of generated images.

    Raises:
        PublishError: it can run none.
    """
    faults: dict[str, PublishError] = {}
    settled: dict[str, tuple[onnx.ModelProto, Pixels, Any]] = {}
    for way in ways:
        layout = way.pixels.layout
        if layout in faults or layout in settled:
            continue
        try:
            changed, inputs, values = probe.settle(model, way.pixels, probe.random_images(way.pixels), note)
        except PublishError as error:
            faults[layout] = error
            continue
        assert isinstance(inputs, Pixels)
        settled[layout] = changed, inputs, values
    kept = [way for way in ways if way.pixels.layout in settled]
    if not any(way.is_stated for way in kept):
        raise next(iter(faults.values()))
    first = next(way for way in kept if way.is_stated)
    model, inputs, values = settled[first.pixels.layout]
    return (
        model,
        [replace(way, pixels=replace(way.pixels, batch=inputs.batch)) for way in kept],
        values,
    )


def _open_settings(stated: Sequence[Way]) -> list[str]:
    """The options that must be given, since several values of what they state are plausible."""
    opened = []
    if len({(way.pixels.scale, way.pixels.mean, way.pixels.std) for way in stated if way.pixels.mode != "BGR"}) > 1:
        opened.append("--scale")
    if len({way.pixels.layout for way in stated}) > 1:
        opened.append("--layout")
    return opened


def _must_state(source: Foreign, opened: Sequence[str]) -> str:
    scale = (
        " Its input is float, and nothing in the file says what range of values it was trained on; the same network "
        "gives "
        "confident nonsense on another. --scale 1/255 means from 0 to 1, --scale 1 from 0 to 255, --scale 1/127.5 "
        "--mean 1 from -1 "
        "to 1; --scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 is usual for ImageNet."
    )
    return (
        f"{source.path}: {' and '.join(opened)} must be given.{scale if '--scale' in opened else ''} Or give "
        "labelled examples, "
        "--examples FOLDER with a subfolder for each label: every plausible setting is tried on them"
    )


def _refuse_token_ids(source: Foreign) -> None:
    named = [end for end in source.inputs if re.search("input_ids|token|attention_mask", end.name, re.IGNORECASE)]
    if named and all(end.is_integer for end in named):
        raise PublishError(
            f"{source.path}: takes token ids: {', '.join(map(str, source.inputs))}; give the tokenizer that it was "
            "trained with: "
            "--tokenizer tokenizer.json"
        )


def _labels(
    source: Foreign, options: Options, scores: Scores, found: Sequence[tuple[Any, str, str]] | None, note: Say
) -> list[str]:
    """The labels in the order of the scores.

    Raises:
        PublishError: they are unknown, repeated, or not as many as the scores.
    """
    folders = sorted({label for _, label, _ in found or []})
    if options.labels is not None:
        labels = options.labels
    elif source.labels is not None and len(source.labels) == scores.classes:
        labels = source.labels
        note(f"labels: {trial.listed(labels)}; {source.labels_from}")
    elif len(folders) == scores.classes:
        labels = folders
        note(
            f"labels: {trial.listed(labels)}; the names of the folders in the order of the alphabet, as torchvision "
            "and Keras number them; --labels decides"
        )
    else:
        raise PublishError(
            f"{source.path}: gives {scores.classes} scores and does not name its labels; give them in the order of "
            "the scores: "
            "--labels cat,dog or --labels FILE, one on each line"
        )
    labels = [unicodedata.normalize("NFC", label.strip()) for label in labels]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated or not all(labels):
        raise PublishError(
            f"--labels: {', '.join(repeated[:5]) or 'an empty label'} must not be repeated or empty; number the labels"
        )
    if len(labels) != scores.classes:
        hint = ""
        if len(labels) + 1 == scores.classes:
            hint = "; networks of TensorFlow often have a class `background` before the others"
        raise PublishError(f"--labels: {len(labels)} labels, but the graph gives {scores.classes} scores{hint}")
    return labels


def _text(
    source: Foreign, options: Options, folder: Path | None, notes: list[str], note: Say, *, force: bool
) -> Decided:
    ids = plausible.ids(source, options, note)
    output = foreign.scores_of(source, options.output, None if options.labels is None else len(options.labels))
    model = foreign.prepare(source, output)
    ids, spec, tokenizer = _tokens(ids, options, note)
    items = batches.random(spec, probe.ITEMS)
    items[0, -1] = spec.vocabulary - 1
    model, settled, values = probe.settle(model, ids, items[:1], note)
    assert isinstance(settled, Ids)
    ids = settled
    if ids.length is None and not _ignores_padding(model, ids, items):
        ids = replace(ids, length=spec.length)
        note(f"padding: it changes the scores, so all texts are padded to {spec.length} tokens; --length decides")
    longest = batches.example(spec, 1, spec.length)
    values = np.concatenate([values, probe.run(model, ids, longest)])
    scores = probe.scores_kind(model, output, values, options, note)
    found = None if folder is None else trial.labelled(folder, is_text=True)
    labels = _labels(source, options, scores, found, note)
    preprocessor = TextPreprocessor(spec, tokenizer, MAX_CHARACTERS)
    decided = Decided(source, model, spec, ids, scores, labels, preprocessor, tokenizer.to_str(), notes)
    if found is None or folder is None:
        return decided
    decided = _measured(decided, trial.decode(found, labels, preprocessor, folder))
    assert decided.examples is not None
    assert decided.metrics is not None
    majority = int(np.bincount(decided.examples.places).max()) / len(decided.examples)
    if decided.metrics.accuracy <= majority < 1 and not force:
        raise PublishError(
            f"{decided.metrics.accuracy:.2%} of {len(decided.examples):,} examples are right, no more than with "
            "always the largest "
            f"class, {majority:.2%}: check --tokenizer, --inputs and the order of --labels. --force publishes it "
            "nevertheless"
        )
    return decided


def _tokens(ids: Ids, options: Options, note: Say) -> tuple[Ids, TextInput, Tokenizer]:
    """The tokenizer without padding and truncation, and how its ids become those of the graph.

    Raises:
        PublishError: it cannot be read.
    """
    assert options.tokenizer is not None
    try:
        tokenizer = Tokenizer.from_file(str(options.tokenizer))
    except Exception as error:  # the library raises bare exceptions
        raise PublishError(
            f"--tokenizer {options.tokenizer}: cannot be read: {error}; expected a tokenizer.json of Hugging Face "
            "tokenizers"
        ) from error
    pad_id, length = options.pad_id, options.length or ids.length
    if ids.length is not None and length != ids.length:
        raise PublishError(f"--length {length}: the graph takes {ids.length} tokens")
    if tokenizer.truncation is not None and length is None:
        length = int(tokenizer.truncation["max_length"])
        note(f"length: {length} tokens, to which the tokenizer truncates")
    if length is None:
        length = _LENGTH
        note(f"length: {length} tokens, as nothing says how many the graph was trained with; --length decides")
    if pad_id is None and tokenizer.padding is not None:
        pad_id = int(tokenizer.padding["pad_id"])
    if pad_id is None:
        pad_id = next((number for pad in _PADS if (number := tokenizer.token_to_id(pad)) is not None), None)
    first = tokenizer.id_to_token(0)
    shift = int(pad_id != 0 and first is not None)
    if pad_id is None:
        pad_id = 0
        note("padding: id 0, since the tokenizer names no other; --pad-id decides")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=1)
    special = tokenizer.num_special_tokens_to_add(is_pair=False) > 0
    if special:
        note("special tokens: those that the tokenizer adds")
    try:
        spec = TextInput.model_validate(
            {"length": length, "vocabulary": highest + 1 + shift, "special_tokens": special, "shift": shift}
        )
    except ValueError as error:
        raise PublishError(
            f"--length {length}: expected 1 to 1048576 tokens, of a tokenizer with 2 words at least"
        ) from error
    return replace(ids, pad_id=pad_id, shift=shift), spec, tokenizer


def _ignores_padding(model: onnx.ModelProto, ids: Ids, items: npt.NDArray[Any]) -> bool:
    """Whether the scores of a text stay as they are when padding follows it."""
    padded = np.pad(items[:1], ((0, 0), (0, 9)))
    alone, longer = (probe.run(model, ids, each) for each in (items[:1], padded))
    return bool(np.abs(alone - longer).max() <= 1e-3 * max(float(np.abs(alone).max()), 1e-3))


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
            dataset="unknown",
            dataset_fingerprint="unknown" if decided.examples is None else decided.examples.fingerprint,
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
    """A sentence about the version before this one, which must have the same labels and not be better on the examples.

    Raises:
        PublishError: it has others, or is significantly better, without `force`.
    """
    earlier = numbers(home)
    if not earlier:
        return "It is the first version of this model."
    folder = home / str(earlier[-1])
    other = open_version(folder)
    fault, sentence = None, f"It was not compared with version {other.version}."
    if {*other.labels} != {*draft.labels}:
        fault = f"version {other.version} of {draft.model} has other labels: {', '.join(other.labels[:8])}"
    elif decided.examples is None or examples is None:
        fault = f"without --examples the model cannot be compared with version {other.version} of {draft.model}"
    else:
        ours, theirs = _both(decided, examples, draft, session, other, folder)
        p_value = trial.p_value(int((theirs & ~ours).sum()), int((ours & ~theirs).sum()))
        sentence = (
            f"On the same {len(ours):,} examples version {other.version} is right on {theirs.mean():.2%}, and this "
            "one on "
            f"{ours.mean():.2%} (p = {p_value:.2g})."
        )
        if p_value < trial.SIGNIFICANCE:
            fault = f"the model is significantly worse than version {other.version}: {sentence}"
    if fault is not None and not force:
        raise PublishError(
            f"{fault}. Nothing was published; --force publishes it nevertheless, --name gives it another name"
        )
    return sentence if fault is None else f"Published with --force, although {fault}."


def _both(
    decided: Decided, path: Path, draft: Manifest, session: Session, other: Manifest, folder: Path
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which examples that both versions can decode each of them has right: two of bool (N)."""
    from contract.inputs import load_preprocessor  # noqa: PLC0415

    found = trial.labelled(path, is_text=decided.spec.is_text)
    theirs = load_preprocessor(folder, other.input)
    their_session = Session(folder / GRAPH, other, provider="cpu", threads=processors.count())
    right = []
    for preprocessor, run, labels in (
        (decided.preprocessor, session, draft.labels),
        (theirs, their_session, other.labels),
    ):
        examples = trial.decode(found, labels, preprocessor, path)
        rows = preprocessor.run(run.run, examples.items)
        right.append(rows.argmax(axis=1) == examples.places)
    if len(right[0]) != len(right[1]):
        raise PublishError(
            f"version {other.version} cannot decode the same examples; --force publishes the model nevertheless"
        )
    return right[0], right[1]
