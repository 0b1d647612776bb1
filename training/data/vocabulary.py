r"""A vocabulary of words as a `tokenizer.json` of Hugging Face `tokenizers`, which serving reads.

Texts pass through `contract.normalise` first. It gives web text (`<br />`, entities, curly quotes, accents) and the
spelling of the Penn Treebank (`-lrb-`, `\/`, ``) one form, so that all review corpora and the texts of users share one
vocabulary. As in Kim (2014), contractions are split: `It doesn't work.<br />` and `it does n't work .` are both
`it does n't work .`. Of the punctuation, only `. ... , ! ?` are tokens, since they carry sentiment; so are emoji. The
rest separates words.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from contract.normalise import normalise
from contract.spec import TextInput
from training.data.schema import Text
from training.errors import DataError

PADDING, UNKNOWN = "[PAD]", "[UNK]"
"""Ids 0 and 1. No text contains them, since the tokenizer lower-cases words and drops brackets."""

_WORD = (
    r"n't(?!\p{L})"
    r"|'(?:s|re|ve|d|ll|m)(?!\p{L})"
    r"|[0-9]+(?:[.,][0-9]+)+"
    r"|\p{L}+?(?=n't(?!\p{L}))"  # the do of don't
    r"|(?<![\p{L}\p{N}])can(?=not(?![\p{L}\p{N}]))"
    r"|[\p{L}\p{N}][\p{L}\p{N}\p{M}]*"
    r"|\.\.\."
    r"|[.,!?]"
    r"|\p{So}"
)

_CHARACTER = r"[\p{L}\p{N}]\p{M}*|[.,!?、。]|\p{So}"
_PATTERNS = {"word": _WORD, "character": _CHARACTER}

_BATCH = 1000  # texts encoded at a time; bounds the memory of their encodings


def build(texts: Iterable[str], spec: Text) -> str:
    """The tokenizer of the most frequent words of `texts`, as the content of a tokenizer.json.

    Ids are [PAD], [UNK], then words by falling frequency, ties in alphabetical order, so that the order of the texts
    does not matter. Words that occur fewer than `spec.min_count` times, or do not fit into `spec.vocabulary` ids, are
    [UNK].

    Raises:
        DataError: no word occurs `spec.min_count` times.
    """
    counter = _tokenizer({PADDING: 0, UNKNOWN: 1}, spec.unit)
    counter.train_from_iterator(
        map(normalise, texts),
        trainers.WordLevelTrainer(
            vocab_size=spec.vocabulary,
            min_frequency=spec.min_count,
            special_tokens=[PADDING, UNKNOWN],
            show_progress=False,
        ),
    )
    vocabulary = counter.get_vocab()
    if len(vocabulary) <= len((PADDING, UNKNOWN)):
        raise DataError(f"no word occurs {spec.min_count} times in the training texts: set input.min_count lower")
    return _tokenizer(vocabulary, spec.unit).to_str(pretty=True)


def encode(
    texts: list[str], tokenizer_json: str, spec: TextInput
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The ids of the first `spec.length` tokens of each text, and how many tokens it has.

    The ids are those of `contract.text.text_to_tokens`, which serving uses.

    Returns:
        The ids, padded with 0 to the longest, int32 (N, L). The numbers of tokens, int64 (N): above L for a text that
        is cut, 0 for one without a word.
    """
    rows: list[list[int]] = []
    counts: list[int] = []
    for ids in _ids(texts, tokenizer_json, normalisation=spec.normalisation):
        rows.append(ids[: spec.length])
        counts.append(len(ids))
    tokens = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens, np.array(counts, np.int64)


def lengths(texts: list[str], tokenizer_json: str, spec: TextInput) -> npt.NDArray[np.int64]:
    """How many tokens each text has, int64 (N)."""
    return np.array([len(ids) for ids in _ids(texts, tokenizer_json, normalisation=spec.normalisation)], np.int64)


def _ids(texts: list[str], tokenizer_json: str, *, normalisation: int) -> Iterator[list[int]]:
    """The ids of all tokens of each text."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        if normalisation:
            batch = list(map(normalise, batch))
        yield from (each.ids for each in tokenizer.encode_batch_fast(batch, add_special_tokens=False))


def _tokenizer(vocabulary: dict[str, int], unit: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PATTERNS[unit]), behavior="removed", invert=True)
    return tokenizer
