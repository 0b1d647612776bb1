r"""A vocabulary of words as a `tokenizer.json` of Hugging Face `tokenizers`, which serving reads.

The tokenizer takes raw text. It gives web text (`<br />`, entities, curly quotes, accents) and the spelling of the Penn
Treebank (`-lrb-`, `\/`, ``) the same tokens, so that all review corpora and the texts of users share one vocabulary:
`It doesn't work.<br />` and `it does n't work .` are both `it does n't work .`. As in Kim (2014), contractions are
split. Of the punctuation, only `. ... , ! ?` are tokens, since they carry sentiment; the rest separates words.
"""

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from contract.spec import TextInput
from training.data.schema import Text
from training.errors import DataError

PADDING, UNKNOWN = "[PAD]", "[UNK]"
"""Ids 0 and 1. No text contains them, since the tokenizer lower-cases words and drops brackets."""

_MARKUP = (
    r"<br ?/?>|</?(?:p|i|b|em|hr|strong) ?/?>"
    r"|&(?:amp|quot|lt|gt|nbsp|#[0-9]{1,5});"
    r"|-[lr][rsc]b-"  # brackets in the Penn Treebank
)
_INVISIBLE = r"[\u00ad\u200b-\u200d\ufeff]"  # soft hyphens and zero-width characters
_APOSTROPHE = r"[\u2018\u2019\u201b\u2032\u00b4\u0091\u0092`]"

_WORD = (
    r"n't(?!\p{L})"
    r"|'(?:s|re|ve|d|ll|m)(?!\p{L})"
    r"|[0-9]+(?:[.,][0-9]+)+"
    r"|\p{L}+?(?=n't(?!\p{L}))"  # the do of don't
    r"|[\p{L}\p{N}]+"
    r"|\.\.\."
    r"|[.,!?]"
)

_BATCH = 1000  # texts encoded at a time; bounds the memory of their encodings


def build(texts: Iterable[str], spec: Text) -> str:
    """The tokenizer of the most frequent words of `texts`, as the content of a tokenizer.json.

    Ids are [PAD], [UNK], then words by falling frequency, ties in alphabetical order, so that the order of the texts
    does not matter. Words that occur fewer than `spec.min_count` times, or do not fit into `spec.vocabulary` ids, are
    [UNK].

    Raises:
        DataError: no word occurs `spec.min_count` times.
    """
    counter = _tokenizer({PADDING: 0, UNKNOWN: 1})
    counter.train_from_iterator(
        texts,
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
    return _tokenizer(vocabulary).to_str(pretty=True)


def encode(texts: list[str], tokenizer_json: str, spec: Text | TextInput) -> Tensor:
    """The ids of the first `spec.length` tokens of each text, padded with 0 to the longest: int32 (N, L).

    The ids are those of `contract.text.text_to_tokens`, which serving uses.

    Raises:
        DataError: a text has no word.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.enable_truncation(spec.length)
    rows: list[Tensor] = []
    for start in range(0, len(texts), _BATCH):
        encodings = tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False)
        rows += [torch.tensor(encoding.ids, dtype=torch.int32) for encoding in encodings]
    for text, row in zip(texts, rows, strict=True):
        if not len(row):
            raise DataError(f"a text has no word: {text[:60]!r}")
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # N x (L) -> (N, longest L)


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            _replace(_MARKUP, " "),
            _replace(_INVISIBLE, ""),
            _replace(_APOSTROPHE, "'"),  # before NFKD, which turns a lone acute accent into a space
            _replace(r"\bcannot\b", "can not"),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            _replace(r"\.(?: ?\.)+", "..."),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    return tokenizer


def _replace(pattern: str, content: str) -> normalizers.Replace:
    return normalizers.Replace(Regex(pattern), content)
