r"""A vocabulary of whole words, in the form that serving reads: a `tokenizer.json` of Hugging Face `tokenizers`.

The tokenizer takes raw text. It brings web text (`<br />`, entities, curly quotes, accents) and the Penn Treebank's
spelling of it (`-lrb-`, `\/`, ``) to the same tokens, so that all review corpora, and what people type, share
one vocabulary: `It doesn't work.<br />` and `it does n't work .` are both `it does n't work .`. As Kim (2014) does,
contractions are split; of the marks only `. ... , ! ?` are kept, which tell of mood; all other marks only part words.
"""

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from contract.spec import TextInput
from training.data.schema import Text
from training.errors import DataError

PADDING, UNKNOWN = "[PAD]", "[UNK]"
"""Ids 0 and 1. No text can spell them: the tokenizer lower-cases words and drops brackets."""

_MARKUP = (
    r"<br ?/?>|</?(?:p|i|b|em|hr|strong) ?/?>"
    r"|&(?:amp|quot|lt|gt|nbsp|#[0-9]{1,5});"
    r"|-[lr][rsc]b-"  # brackets, in the Penn Treebank
)
_INVISIBLE = r"[\u00ad\u200b-\u200d\ufeff]"  # soft hyphens and marks of no width
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

_BATCH = 1000  # texts encoded at a time, which bounds what their encodings take of memory


def build(texts: Iterable[str], spec: Text) -> str:
    """The tokenizer of the most frequent words of `texts`, as the content of a tokenizer.json.

    Ids are [PAD], [UNK], then words by falling frequency, ties in alphabetical order: the same texts in any order give
    the same bytes. Words that occur fewer than `spec.min_count` times and those past `spec.vocabulary` ids are left
    to [UNK].

    Raises:
        DataError: not one word occurs `spec.min_count` times.
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
    """The ids of each text's first `spec.length` tokens: int32 (N, L), L that of the longest, 0 behind the ends.

    They are the ids that `contract.inputs.text_to_tokens` gives in serving.

    Raises:
        DataError: a text holds no word.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.enable_truncation(spec.length)
    rows: list[Tensor] = []
    for start in range(0, len(texts), _BATCH):
        encodings = tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False)
        rows += [torch.tensor(encoding.ids, dtype=torch.int32) for encoding in encodings]
    for text, row in zip(texts, rows, strict=True):
        if not len(row):
            raise DataError(f"a text holds no word: {text[:60]!r}")
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # N x (L) -> (N, longest L)


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            _replace(_MARKUP, " "),
            _replace(_INVISIBLE, ""),
            _replace(_APOSTROPHE, "'"),  # before NFKD, which makes a space of an acute accent that stands alone
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
