"""Texts to token ids."""

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers, processors

from contract.errors import Unreadable
from contract.spec import TextInput
from contract.text import Beginning, group_by_length, pad, text_to_tokens
from tests import reviews

SPEC = TextInput(length=4, vocabulary=len(reviews.WEIGHTS))


def test_a_text_becomes_the_ids_of_its_first_words() -> None:
    """The ids are int64 and in order; unknown words share an id; the text is cut at the model's length."""
    tokens = text_to_tokens("Film strange GOOD", reviews.tokenizer(), SPEC)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [2, 1, 3]
    assert text_to_tokens("bad " * 9, reviews.tokenizer(), SPEC).tolist() == [5] * 4


@pytest.mark.parametrize(("text", "fact"), [("", "no word"), (" \n", "no word"), ("a \ud83d", "surrogate")])
def test_a_text_without_words_is_unreadable(text: str, fact: str) -> None:
    """A text without words, or with half of a surrogate pair, is refused, and the message says why."""
    with pytest.raises(Unreadable, match=fact):
        text_to_tokens(text, reviews.tokenizer(), SPEC)


def test_a_pattern_that_backtracks_forever_makes_the_text_unreadable() -> None:
    """The panic inside of the tokenizers library becomes an error of the text, and the worker lives on."""
    tokenizer = reviews.tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), behavior="removed", invert=True)
    with pytest.raises(Unreadable, match="gave up"):
        text_to_tokens("a" * 40 + "!", tokenizer, SPEC)


def test_shorter_texts_are_padded_at_their_ends() -> None:
    """All rows have the length of the longest text, with zeros at the ends."""
    padded = pad([np.array([3]), np.array([4, 5, 6]), np.array([1, 2])])
    assert padded.dtype == np.int64
    assert padded.tolist() == [[3, 0, 0], [4, 5, 6], [1, 2, 0]]


def test_groups_have_similar_lengths() -> None:
    """The shortest texts come first, every text is in one group, and padding costs at most 32 tokens a step."""
    lengths = [300, 5, 12, 14, 200, 240, 15, 232]
    assert list(group_by_length(lengths)) == [[1, 2, 3, 6], [4, 7, 5], [0]]
    assert list(group_by_length([10, 10, 10, 10, 20])) == [[0, 1, 2, 3], [4]]
    assert list(group_by_length([7])) == [[0]]


def test_special_tokens_stay_when_a_text_is_cut() -> None:
    """They count as a part of the length and surround the first words; `shift` is added to every id."""
    tokenizer = reviews.tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="film $A good", special_tokens=[("film", 2), ("good", 3)]
    )
    spec = TextInput(length=5, vocabulary=9, special_tokens=True, shift=1)
    assert text_to_tokens("bad", tokenizer, spec).tolist() == [3, 6, 4]
    cut = text_to_tokens("bad " * 9, tokenizer, spec)
    assert cut.tolist() == [3, 6, 6, 6, 4]
    assert isinstance(cut, Beginning)
    assert cut.total == 11
    with pytest.raises(Unreadable, match="no word"):
        text_to_tokens("", tokenizer, spec)
