"""The tokenizer: the spelling of each corpus, order and limits, and the same ids as in serving."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from contract.errors import Unreadable
from contract.normalise import normalise
from contract.spec import TextInput
from contract.text import text_to_tokens
from training.data import vocabulary
from training.data.schema import Text
from training.errors import DataError

SPEC = Text(kind="text", length=12, vocabulary=50)
TEXTS = ["A good film.", "a bad film!", "A film, a FILM?", "It doesn't bore ...", "zebra", "apple"]


def words(tokenizer_json: str) -> dict[str, int]:
    vocabulary_: dict[str, int] = json.loads(tokenizer_json)["model"]["vocab"]
    return vocabulary_


def tokens(text: str) -> list[str]:
    """The tokens of a text whose words are all in the vocabulary."""
    return Tokenizer.from_str(vocabulary.build([text], SPEC)).encode(normalise(text)).tokens


@pytest.mark.parametrize(
    ("spelt", "otherwise"),
    [
        ("It doesn't work.", "it does n't work ."),
        ("I can\u2019t, WON\u2018T, isn`t", "i ca n't , wo n't , is n't"),
        ("he's we're I've you'd they'll i'm", "he 's we 're i 've you 'd they 'll i 'm"),
        ("One.<br /><br />Two", "one . two"),
        ("(an aside) [another]", "-lrb- an aside -rrb- -lsb- another -rsb-"),
        ("writer/director", "writer\\/director"),
        ('"quoted"', "`` quoted ''"),
        ("“quoted” \u2018once\u2019", "'' quoted '' ` once '"),
        ("Crème brûlée", "creme brulee"),
        ("Cre\u0300me", "crème"),
        ("well . . . yes", "well... yes"),
        ("Wait…", "wait ..."),
        ("coming-of-age", "coming of age"),
        ("cannot", "can not"),
        ("Tom &amp; Jerry &#39;", "tom jerry"),
        ("J.R.R. Tolkien", "j . r . r . tolkien"),
        ("so\u00adft zero\u200bwidth", "soft zerowidth"),
        ("\uff26\uff55\uff4c\uff4c \ufb01ne", "full fine"),
    ],
)
def test_two_spellings_of_a_sentence_are_the_same_tokens(spelt: str, otherwise: str) -> None:
    """IMDB's HTML, MR's text and SST-2's Treebank spelling give one sequence of tokens."""
    assert tokens(spelt) == tokens(otherwise)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't miss it, ever!!! 7.5/10?", ["do", "n't", "miss", "it", ",", "ever", "!", "7.5", "10", "?"]),
        ("the '70s, rock'n'roll; films' end", ["the", "70s", ",", "rock", "n", "roll", "films", "end"]),
        ("don'tt 'twas n'ts", ["don", "tt", "twas", "n", "ts"]),
        ("[PAD] [UNK]", ["pad", "unk"]),
        ("cannot, CANNOT; cannots, scannot", ["can", "not", ",", "can", "not", "cannots", ",", "scannot"]),
        ("\U0001f600\U0001f600 ok\u2764\ufe0f", ["\U0001f600", "ok", "\u2764"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u0444\u0438\u043b\u044c\u043c",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u0444\u0438\u043b\u044c\u043c"],
        ),
    ],
)
def test_contractions_are_split_and_some_punctuation_is_kept(text: str, expected: list[str]) -> None:
    """As in Kim's clean_str: n't and 's are tokens, and . ... , ! ?, and emoji; other punctuation separates words."""
    assert tokens(text) == expected


def test_ids_fall_with_frequency_and_ties_are_alphabetical() -> None:
    """0 is padding, 1 the unknown word; then words by falling frequency, ties in alphabetical order."""
    ids = words(vocabulary.build(TEXTS, SPEC))
    assert (ids["[PAD]"], ids["[UNK]"]) == (0, 1)
    assert (ids["a"], ids["film"]) == (2, 3)
    singles = [",", "...", "?", "apple", "bad", "bore", "does", "good", "it", "n't", "zebra"]
    assert [ids[word] for word in sorted(set(singles))] == sorted(ids[word] for word in singles)
    assert sorted(ids.values()) == list(range(len(ids)))


def test_the_order_of_the_texts_changes_nothing() -> None:
    """The same texts in another order give the same bytes."""
    shuffled = list(TEXTS)
    random.Random(1).shuffle(shuffled)
    assert vocabulary.build(shuffled, SPEC) == vocabulary.build(TEXTS, SPEC)


def test_size_and_count_bound_the_vocabulary() -> None:
    """The most frequent words, up to the size of the vocabulary; no word below the minimum count."""
    small = words(vocabulary.build(TEXTS, SPEC.model_copy(update={"vocabulary": 4})))
    assert list(small) == ["[PAD]", "[UNK]", "a", "film"]
    frequent = words(vocabulary.build(TEXTS, SPEC.model_copy(update={"min_count": 2})))
    assert set(frequent) == {"[PAD]", "[UNK]", "a", "film", "."} - {"."}


def test_no_word_frequent_enough_is_refused() -> None:
    """A vocabulary without a word is a DataError that names the key to change."""
    with pytest.raises(DataError, match="min_count"):
        vocabulary.build(["one two"], SPEC.model_copy(update={"min_count": 2}))


def test_texts_are_truncated_and_padded() -> None:
    """int32 (N, longest L): unknown words are 1, padding is 0, no text is longer than the input; all tokens count."""
    built = vocabulary.build(TEXTS, SPEC)
    ids = words(built)
    encoded, counts = vocabulary.encode(["a zeppelin", "film " * 20], built, SPEC.served())
    assert (encoded.dtype.name, encoded.shape) == ("int32", (2, SPEC.length))
    assert encoded[0].tolist() == [ids["a"], 1, *[0] * (SPEC.length - 2)]
    assert encoded[1].tolist() == [ids["film"]] * SPEC.length
    assert counts.tolist() == [2, 20]
    assert vocabulary.encode(["a", "a film"], built, SPEC.served())[0].shape == (2, 2)


def test_many_texts_keep_their_order() -> None:
    """More texts than one batch keep their order."""
    built = vocabulary.build(["one two three"], SPEC)
    ids = words(built)
    texts = [("one", "two", "three")[index % 3] for index in range(2500)]
    assert vocabulary.encode(texts, built, SPEC.served())[0][:, 0].tolist() == [ids[text] for text in texts]


def test_a_text_without_a_word_has_no_token() -> None:
    """What serving refuses is a row of padding in training."""
    encoded, counts = vocabulary.encode(["a film", "-- <br />"], vocabulary.build(TEXTS, SPEC), SPEC.served())
    assert counts.tolist() == [2, 0]
    assert encoded[1].tolist() == [0, 0]


def test_a_tokenizer_of_raw_text_is_given_raw_text() -> None:
    """For a model of normalisation 0 the text is not touched, in training as in serving."""
    built = vocabulary.build(["film"], SPEC)
    raw = TextInput(length=SPEC.length, vocabulary=SPEC.vocabulary)
    for spec, expected in ((raw, 1), (SPEC.served(), words(built)["film"])):
        assert vocabulary.encode(["FILM"], built, spec)[0].tolist() == [[expected]]
        assert text_to_tokens("FILM", Tokenizer.from_str(built), spec).tolist() == [expected]


@given(st.text(max_size=60) | st.lists(st.sampled_from([*TEXTS, "'", "n't", "<br />", "é", "ß", "\0"])).map("".join))
def test_serving_gives_the_same_ids(text: str) -> None:
    """For any text, `encode` and `text_to_tokens` give the same ids, or none and an error."""
    built = vocabulary.build(TEXTS, SPEC)
    (row,), (count,) = vocabulary.encode([text], built, SPEC.served())
    try:
        expected = text_to_tokens(text, Tokenizer.from_str(built), SPEC.served()).tolist()
    except Unreadable:
        assert count == 0
    else:
        assert row.tolist() == expected
        assert vocabulary.encode([text, "film " * 12], built, SPEC.served())[0][0, : len(expected)].tolist() == expected
        assert min(expected) > 0, "no text can spell padding"
