"""Text -> token ids -> batches padded to one length."""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contract.errors import ModelRefused, TooLarge, Unreadable
from contract.manifest import read_text
from contract.normalise import normalise
from contract.spec import TextInput

Tokens = npt.NDArray[np.int64]


class Beginning(np.ndarray[Any, np.dtype[np.int64]]):
    """The token ids of the beginning of a text that is longer than the model reads."""

    total = 0
    """How many tokens the whole text has."""


_PIECE = 4096  # characters that are decomposed at a time
_MOST_LETTERS = 18  # that one character is decomposed to: U+FDFA
_RUN_TOKENS = 32  # how many tokens of padding cost as much as another run


def read_tokenizer(path: Path, spec: TextInput) -> Tokenizer:
    """Read a tokenizer.json, and check that it fits the graph.

    Raises:
        ModelRefused: it cannot be read, has ids that the graph has no embedding for, or truncates or pads by itself.
    """
    try:
        tokenizer = Tokenizer.from_str(read_text(path))
    except BaseException as error:  # the library raises bare exceptions
        if isinstance(error, Exception) or _is_panic(error):
            raise ModelRefused(f"{path}: cannot be read as a tokenizer: {error}") from error
        raise
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + spec.shift
    if highest >= spec.vocabulary:
        raise ModelRefused(f"{path}: has the id {highest}, but the graph only takes ids below {spec.vocabulary}")
    if tokenizer.padding is not None or tokenizer.truncation is not None:
        raise ModelRefused(f"{path}: pads or truncates, which the service does itself; save the tokenizer without both")
    return tokenizer


def unknown_id(tokenizer: Tokenizer, spec: TextInput) -> int | None:
    """The id that the graph takes for tokens outside of the vocabulary; None if the tokenizer knows every text."""
    token = getattr(tokenizer.model, "unk_token", None)
    number = getattr(tokenizer.model, "unk_id", None) if token is None else tokenizer.token_to_id(token)
    return None if number is None else int(number) + spec.shift


def check_length(text: str, max_characters: int) -> None:
    """Refuse a text that is too long, also once its characters are decomposed: one ligature can become 18 letters.

    Raises:
        TooLarge: more than `max_characters`.
    """
    if len(text) > max_characters:
        raise TooLarge(f"the text is too long: {len(text)} characters (maximum {max_characters})")
    if text.isascii() or len(text) * _MOST_LETTERS <= max_characters:
        return
    length = 0
    for start in range(0, len(text), _PIECE):
        length += len(unicodedata.normalize("NFKD", text[start : start + _PIECE]))
        if length > max_characters:
            raise TooLarge(
                f"the text is too long: more than {max_characters} characters once its ligatures are written out"
            )


def text_to_tokens(text: str, tokenizer: Tokenizer, spec: TextInput) -> Tokens:
    """Turn a text into what the graph takes: the ids of its first `spec.length` tokens, int64 (L), L from 1.

    They are a `Beginning` if the text has more.

    Raises:
        Unreadable: the text has no word or holds half of a surrogate pair, or the tokenizer gives up on it.
    """
    if spec.normalisation:
        text = normalise(text)
    try:  # `encode` alone would hold the interpreter's lock; for a batch the library releases it
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    except TypeError as error:
        raise Unreadable("the text holds half of a surrogate pair, which is not a character") from error
    except BaseException as error:
        if _is_panic(error):
            raise Unreadable("the tokenizer gave up on this text") from error
        raise
    total = len(encoding.ids)
    if not total:
        raise Unreadable("the text has no word")
    if spec.special_tokens:
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        total += special
        encoding.truncate(max(spec.length - special, 1))
        encoding = tokenizer.post_process(encoding, add_special_tokens=True)
    tokens = np.array(encoding.ids[: spec.length], np.int64)
    if spec.shift:
        tokens += spec.shift
    if total > spec.length:
        beginning = tokens.view(Beginning)
        beginning.total = total
        return beginning
    return tokens


def pad(texts: Sequence[Tokens]) -> Tokens:
    """Pad the ids of several texts to one length with id 0 at their ends: N x (L) -> (N, longest L)."""
    padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, ids in zip(padded, texts, strict=True):
        row[: len(ids)] = ids
    return padded


def group_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The positions of texts in groups of similar length, the shortest first.

    A longer text starts another group where padding the shorter ones to its length would cost more than another run.
    """
    group: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (lengths[position] - lengths[group[-1]]) * len(group) > _RUN_TOKENS:
            yield group
            group = []
        group.append(position)
    yield group


def _is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library in Rust, which no `except Exception` catches.

    `tokenizers` panics if a pattern needs too many steps on a text.
    """
    return type(error).__name__ == "PanicException"
