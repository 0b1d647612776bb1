"""How a foreign graph takes texts: its tokenizer, its padding, and what labelled examples say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from tokenizers import Tokenizer

from contract import batches
from contract.inputs import TextPreprocessor
from contract.spec import MAX_CHARACTERS, TextInput
from training.errors import PublishError
from training.release import foreign, plausible, probe, trial
from training.release.decided import Decided, Say, labels_of, measured
from training.release.foreign import Foreign
from training.release.plausible import Options
from training.release.wrap import Ids

_LENGTH = 512
_PADS = "[PAD]", "<pad>", "<PAD>", "[pad]", "<|pad|>"


def decide(
    source: Foreign, options: Options, folder: Path | None, notes: list[str], note: Say, *, force: bool
) -> Decided:
    ids = plausible.ids(source, options, note)
    output = foreign.scores_of(source, options.output, None if options.labels is None else len(options.labels))
    model = foreign.prepare(source, output)
    ids, spec, tokenizer, tokenizer_side = _tokens(ids, options, note)
    items = batches.random(spec, probe.ITEMS)
    items[0, -1] = spec.vocabulary - 1
    model, settled, values = probe.settle(model, ids, items[:1], note)
    assert isinstance(settled, Ids)
    ids = settled
    if ids.length is None and not _ignores_padding(model, ids, items):
        ids = replace(ids, length=spec.length)
        note(f"padding: it changes the scores, so all texts are padded to {spec.length} tokens; --length decides")
    ids, is_open = _padding_side(model, ids, items, options, tokenizer_side, note)
    longest = batches.example(spec, 1, spec.length)
    values = np.concatenate([values, probe.run(model, ids, longest)])
    scores = probe.scores_kind(model, output, values, options, note)
    found = None if folder is None else trial.labelled(folder, is_text=True)
    labels = labels_of(source, options, scores, found, note)
    preprocessor = TextPreprocessor(spec, tokenizer, MAX_CHARACTERS)
    decided = Decided(source, model, spec, ids, scores, labels, preprocessor, tokenizer.to_str(), notes)
    if found is None or folder is None:
        return decided
    examples = trial.decode(found, labels, preprocessor, folder)
    if is_open:
        decided = _better_side(decided, examples, note)
    decided = measured(decided, examples)
    assert decided.examples is not None
    assert decided.metrics is not None
    majority = int(np.bincount(decided.examples.places).max()) / len(decided.examples)
    if decided.metrics.accuracy <= majority < 1 and not force:
        raise PublishError(
            f"{decided.metrics.accuracy:.2%} of {len(decided.examples):,} examples are right, no more than with always "
            f"the largest class, {majority:.2%}: check --tokenizer, --inputs and the order of --labels. --force "
            "publishes it nevertheless"
        )
    return decided


def _tokens(ids: Ids, options: Options, note: Say) -> tuple[Ids, TextInput, Tokenizer, str | None]:
    """How ids of the tokenizer become those of the graph, the tokenizer without padding, and the side of its padding.

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
    side = None if tokenizer.padding is None else str(tokenizer.padding["direction"]).lower()
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
    return replace(ids, pad_id=pad_id, shift=shift), spec, tokenizer, side


def _ignores_padding(model: onnx.ModelProto, ids: Ids, items: npt.NDArray[Any]) -> bool:
    """Whether the scores of a text stay as they are when padding follows it."""
    padded = np.pad(items[:1], ((0, 0), (0, 9)))
    alone, longer = (probe.run(model, ids, each) for each in (items[:1], padded))
    return bool(np.abs(alone - longer).max() <= 1e-3 * max(float(np.abs(alone).max()), 1e-3))


def _padding_side(
    model: onnx.ModelProto, ids: Ids, items: npt.NDArray[Any], options: Options, tokenizer_side: str | None, note: Say
) -> tuple[Ids, bool]:
    """The ids with the side of the padding, and whether it matters and nothing says which it is."""
    side = options.padding or tokenizer_side
    if side is not None:
        if options.padding is None and side == "left":
            note("padding: on the left, as the tokenizer says; --padding decides")
        return replace(ids, left=side == "left"), False
    padded = np.pad(items[:1, : max(items.shape[1] // 2, 1)], ((0, 0), (0, items.shape[1] // 2 + 1)))
    if ids.length is not None:
        padded = padded[:, : ids.length]
    right, left = (probe.run(model, replace(ids, left=each), padded) for each in (False, True))
    if np.abs(right - left).max() <= 1e-3 * max(float(np.abs(right).max()), 1e-3):
        return ids, False
    note(
        "padding: on the right, which nothing states and which changes the scores; --padding left is for networks "
        "whose texts were padded by Keras's pad_sequences"
    )
    return ids, True


def _better_side(decided: Decided, examples: trial.Examples, note: Say) -> Decided:
    """The side of the padding that is right on more examples."""
    assert isinstance(decided.inputs, Ids)
    part = examples.part(0, 2) if len(examples) >= trial.MIN_HALVES else examples
    ways = {side: replace(decided.inputs, left=side == "left") for side in ("right", "left")}
    correct = {}
    for side, ids in ways.items():
        rows = trial.probabilities(decided.model, ids, decided.scores, part.items, decided.preprocessor)
        correct[side] = float((rows.argmax(axis=1) == part.places).mean())
    best = max(correct, key=correct.__getitem__)  # the right side, if both are as good
    note(f"padding: on the {best}; right {correct['right']:.2%}, left {correct['left']:.2%} of {len(part):,} examples")
    return replace(decided, inputs=ways[best])
