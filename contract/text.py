"""Text -> token ids."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contract.errors import Unreadable
from contract.spec import TextInput

Tokens = npt.NDArray[np.int64]


def text_to_tokens(text: str, tokenizer: Tokenizer, spec: TextInput) -> Tokens:
    """Turn a text into what the graph takes: the ids of its first `spec.length` tokens, int64 (L), L from 1.

    Raises:
        Unreadable: there is no word in it, it holds half of a surrogate pair, or the tokenizer gives up on it.
    """
    try:  # `encode` alone would hold the interpreter's lock; for a batch it is let go
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    except TypeError as error:
        raise Unreadable("the text holds half of a surrogate pair, which is no character") from error
    except BaseException as error:
        if is_panic(error):
            raise Unreadable("the tokenizer gave up on this text") from error
        raise
    ids = encoding.ids[: spec.length]
    if not ids:
        raise Unreadable("the text holds no word")
    return np.array(ids, np.int64)


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library in Rust, which no `except Exception` catches.

    `tokenizers` panics where a pattern needs too many steps on a text.
    """
    return type(error).__name__ == "PanicException"


def pad(texts: Sequence[Tokens]) -> Tokens:
    """Bring the ids of several texts to one length with padding, id 0, at their ends: N x (L) -> (N, longest L)."""
    padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, ids in zip(padded, texts, strict=True):
        row[: len(ids)] = ids
    return padded
