"""The three review corpora: reading small files, disjoint splits, and the real corpora."""

import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from contract.normalise import normalise
from tests.training.data import layouts
from training.data import reviews
from training.data.dataset import Dataset, Split
from training.data.folders import data_folder
from training.data.reviews import Review
from training.data.schema import Data, Text
from training.errors import DataError

SPEC = Text(kind="text", length=40, vocabulary=5000)
VERBS = ("bores", "moves", "charms", "tires", "thrills")


def sentence(number: int, words: int = 12) -> str:
    """A sentence that shares no run of 32 letters with those of other numbers."""
    return " ".join(f"{VERBS[(number + place) % 5]}{number}" for place in range(words)) + " ."


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with small corpora that share no text: IMDB 200 / 20, MR 400, SST-2 150 / 20 / 30."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path))
    layouts.imdb(tmp_path, {f"{split}/{kind}/{n}_5.txt": sentence(n + start) + "<br />é" for split, kind, n, start in (
        *(("train", "neg", n, 10_000) for n in range(100)), *(("train", "pos", n, 11_000) for n in range(100)),
        *(("test", "neg", n, 12_000) for n in range(10)), *(("test", "pos", n, 13_000) for n in range(10)),
    )})  # fmt: skip
    layouts.mr(tmp_path, [sentence(n) for n in range(200)], [sentence(n) for n in range(200, 400)])
    layouts.sst2(tmp_path, {"train": numbered(2000, 150), "dev": numbered(3000, 20), "test": numbered(4000, 30)})
    return tmp_path


def numbered(start: int, count: int) -> list[tuple[int, str]]:
    return [(number % 2, sentence(start + number)) for number in range(count)]


def load(name: str, validation: int = 100) -> Dataset:
    return reviews.load(Data.model_validate({"name": name, "validation": validation}), SPEC)


def texts(split: Split, tokenizer: str | None) -> list[str]:
    """The words of the texts that the vocabulary has."""
    assert tokenizer is not None
    decoder = Tokenizer.from_str(tokenizer)
    return [" ".join(filter(None, map(decoder.id_to_token, row[row > 0].tolist()))) for row in split.inputs]


@pytest.mark.parametrize(
    ("name", "train", "tests"),
    [
        ("imdb", 100, {"imdb": 20}),
        ("mr", 260, {"mr": 40}),
        ("sst2", 70, {"sst2": 30}),
        ("reviews", 200 + 360 + 170 - 100, {"imdb": 20, "mr": 40, "sst2": 30}),
    ],
)
@pytest.mark.usefixtures("corpora")
def test_every_text_is_in_one_split(name: str, train: int, tests: dict[str, int]) -> None:
    """If no text is shared, the splits are as published, with 100 training texts held out."""
    data = load(name)
    assert (len(data.train), len(data.validation)) == (train, 100)
    assert {key: len(split) for key, split in data.tests.items()} == tests
    assert set(texts(data.train, data.tokenizer)).isdisjoint(texts(data.validation, data.tokenizer))
    assert data.train.inputs.dtype == torch.int32
    assert set(data.train.labels.tolist()) == {0, 1}


def test_neighbouring_reviews_are_held_out_together(corpora: Path) -> None:
    """At most one of 8 blocks of 150 numbers, whose reviews share films, is on both sides of the split."""
    numbers = range(0, 8 * reviews.BLOCK, 5)
    kinds = ("neg", "pos")
    layouts.imdb(corpora, {
        f"{split}/{kind}/{n}_5.txt": sentence(n + 20_000 * (1 + kinds.index(kind)) + 50_000 * (split == "test"))
        for split in ("train", "test") for kind in kinds for n in numbers
    })  # fmt: skip
    rest, held_out = reviews.hold_out(reviews.read("imdb").train, 150)
    assert len(held_out) == 150
    shared = {review.block for review in held_out} & {review.block for review in rest}
    assert len(shared) <= 1
    assert len({review.block for review in held_out}) == 3  # of 60 reviews each
    assert {review.label for review in held_out} == {0, 1}


@pytest.mark.usefixtures("corpora")
def test_labels_are_those_of_the_files() -> None:
    """Negative is 0, positive 1; IMDB has the order of split, label and number."""
    imdb, mr, sst2 = (reviews.read(name) for name in reviews.SOURCES)
    assert [review.label for review in imdb.test] == [0] * 10 + [1] * 10
    assert imdb.test[0].text == sentence(12_000) + "<br />é"
    assert imdb.test[11].text.startswith(sentence(13_001))
    by_text = {review.text: review.label for review in mr.train + mr.test}
    assert [by_text[sentence(n)] for n in (0, 199, 200, 399)] == [0, 0, 1, 1]
    assert [review.label for review in sst2.test[:3]] == [0, 1, 0]


def test_the_unpacked_folder_is_read_like_the_archive(corpora: Path) -> None:
    """The unpacked aclImdb/ gives the same data as the archive; other folders in it are skipped."""
    packed = load("imdb")
    with tarfile.open(corpora / "imdb" / "aclImdb_v1.tar.gz") as archive:
        archive.extractall(corpora / "imdb", filter="data")
    (corpora / "imdb" / "aclImdb_v1.tar.gz").unlink()
    (corpora / "imdb" / "aclImdb" / "train" / "unsup").mkdir()
    (corpora / "imdb" / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("a review without a label")
    unpacked = load("imdb")
    assert unpacked.fingerprint == packed.fingerprint
    assert torch.equal(unpacked.train.inputs, packed.train.inputs)


@pytest.mark.usefixtures("corpora")
def test_copies_are_trained_on_once_and_contradictions_never() -> None:
    """The first of equal texts stays, whatever their spelling; texts with both labels and empty ones go."""
    same = [Review("It's fine !", 1, "mr"), Review("it 's FINE", 1, "sst2"), Review("odd", 0, "mr")]
    assert reviews.unique([*same, Review("Odd.", 1, "mr"), Review(" \n", 1, "mr")]) == same[:1]


@pytest.mark.parametrize(
    ("text", "same", "other"),
    [
        ("Schöne Grüße", "SCHONE  gru\u0308sse!", "Schöne Träume"),
        ("Хороший фильм", "хороший ФИЛЬМ...", "Плохой фильм"),
        ("Μέτρια ταινία", "μετρια ταινια...", "Καλή ταινία"),
        ("很好的电影", "很好的电影。", "很差的电影"),
        ("की बात", "की  बात!", "कि बात"),
        ("\U0001f44d\U0001f600", " \U0001f44d \U0001f600 ", "\U0001f44e\U0001f600"),
    ],
)
def test_texts_of_any_script_are_compared(text: str, same: str, other: str) -> None:
    """Accents, case and punctuation make no difference; letters of any script, and emoji without a letter, do."""
    assert Review(text, 0, "mr").key == Review(same, 0, "mr").key
    assert Review(text, 0, "mr").key != Review(other, 0, "mr").key
    assert len(reviews.unique([Review(text, 0, "mr"), Review(same, 0, "mr"), Review(other, 1, "mr")])) == 2


def test_texts_without_a_word_are_left_out_and_named(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text of emoji is trained on; a text of punctuation, which the service refuses, does not end the training."""
    layouts.sst2(corpora, {"train": [*numbered(2000, 150), (1, "\U0001f44d\U0001f389"), (0, "--")]})
    data = load("sst2")
    assert data.tokenizer is not None
    assert "\U0001f389" in Tokenizer.from_str(data.tokenizer).get_vocab()
    assert len(data.train) + len(data.validation) == 171
    assert "1 of 172 texts have no word and are left out, like '--'" in capsys.readouterr().err


def test_texts_that_are_cut_are_counted(corpora: Path) -> None:
    """Each split with texts of more tokens than the network reads has a line, with the longest."""
    layouts.mr(corpora, [sentence(n) for n in range(200)], [sentence(n, 60) for n in range(200, 400)])
    lines = {line.partition(":")[0]: line for line in load("mr").cut_texts()}
    assert set(lines) == {"training split", "validation split", "test split mr"}
    assert "have more than 40 tokens (the longest 61)" in lines["training split"]
    assert list(load("sst2").cut_texts()) == []


def test_test_texts_are_not_trained_on(corpora: Path) -> None:
    """A test text in another spelling, within a longer sentence, or a part of it is removed from training."""
    test = reviews.read("sst2").test
    negative = [sentence(n) for n in range(197)]
    spelt = test[0].text.upper().replace(" .", "!")
    longer = f"as they say , {test[1].text} and so on"
    part = " ".join(test[2].text.split()[2:9])
    layouts.mr(corpora, [*negative, spelt, longer, part], [sentence(n) for n in range(200, 400)])
    tenth = {review.text for review in reviews.read("mr").test}
    leaks = sum(text not in tenth for text in (spelt, longer, part))
    data = load("reviews")
    assert leaks > 0
    assert len(data.train) + len(data.validation) == 200 + 360 + 170 - leaks
    assert {key: len(split) for key, split in data.tests.items()} == {"imdb": 20, "mr": 40, "sst2": 30}


def test_a_test_text_of_one_source_is_kept_out_of_the_others(corpora: Path) -> None:
    """A text of MR's test split is removed from SST-2's training texts, and MR's test split stays complete."""
    tenth = reviews.read("mr").test
    layouts.sst2(corpora, {"train": numbered(2000, 150)}, "".join(f"1 {review.text}\n" for review in tenth[:7]))
    data = load("reviews")
    assert len(data.train) + len(data.validation) == 200 + 360 + 170
    assert len(data.tests["mr"]) == 40


def test_reviews_are_compared_as_a_unit() -> None:
    """A review that quotes another stays; one that equals another goes."""
    quoted = Review(sentence(1) + " " + sentence(2), 0, "imdb")
    other = Review("He wrote : " + sentence(1), 1, "imdb")
    assert reviews.without([other], [quoted]) == [other]
    assert reviews.without([Review(quoted.text.upper(), 0, "imdb")], [quoted]) == []
    assert reviews.without([Review(other.text, 1, "mr")], [Review(quoted.text, 0, "mr")]) == []


def test_the_validation_split_has_each_source_in_proportion() -> None:
    """Of 900 and 100 texts, 90 and 10 are held out; their order does not matter."""
    many = [Review(sentence(n), n % 2, "imdb") for n in range(900)]
    few = [Review(sentence(n), n % 2, "mr") for n in range(900, 1000)]
    rest, held_out = reviews.hold_out(many + few, 100)
    assert len(rest) == 900
    assert sum(review.source == "mr" for review in held_out) == 10
    _, reversed_ = reviews.hold_out((many + few)[::-1], 100)
    assert {review.key for review in reversed_} == {review.key for review in held_out}


@pytest.mark.usefixtures("corpora")
def test_the_vocabulary_is_that_of_the_training_split() -> None:
    """Every word of these corpora is in one text: the vocabulary has no word of the other splits."""
    data = load("mr")
    assert data.tokenizer is not None
    learnt = set(Tokenizer.from_str(data.tokenizer).get_vocab())
    assert all((row > 1).all() for row in (row[row > 0] for row in data.train.inputs))
    for split in (data.validation, data.tests["mr"]):
        known = {token for text in texts(split, data.tokenizer) for token in text.split()}
        assert known == {".", "[UNK]"}
    assert learnt == {"[PAD]", "[UNK]"} | {
        token for text in texts(data.train, data.tokenizer) for token in text.split()
    }


@pytest.mark.usefixtures("corpora")
def test_a_source_is_repeated_as_often_as_the_recipe_says() -> None:
    """`repeat` multiplies the training texts of that source; vocabulary and other splits do not change."""
    plain = reviews.load(Data(name="reviews", validation=100), SPEC)
    twice = reviews.load(Data(name="reviews", validation=100, repeat={"mr": 2}), SPEC)
    assert twice.tokenizer == plain.tokenizer
    assert torch.equal(twice.validation.inputs, plain.validation.inputs)
    mr = reviews.load(Data(name="mr", validation=100), SPEC)
    texts, counts = torch.unique(twice.train.inputs, dim=0, return_counts=True)
    assert len(texts) == len(plain.train)
    assert set(counts.tolist()) == {1, 2}
    assert int((counts == 2).sum()) == pytest.approx(len(mr.train) + len(mr.validation), abs=100)
    with pytest.raises(ValueError, match="'imdb'"):
        Data(name="imdb", validation=100, repeat={"imdb": 2})


@pytest.mark.usefixtures("corpora")
def test_folds_partition_the_corpus() -> None:
    """Each text is in the test split of one fold, and in the training or validation split of all others."""
    data = Data(name="mr", validation=100, folds=5)
    folds = [reviews.fold(data, SPEC, number) for number in range(5)]
    assert [len(fold.tests["mr"]) for fold in folds] == [80] * 5
    assert {(len(fold.train), len(fold.validation)) for fold in folds} == {(220, 100)}
    assert len({fold.tokenizer for fold in folds}) == 5, "each fold has its own vocabulary"
    tested = [review.key for part in reviews.partition(reviews.read_mr(), 5) for review in part]
    assert sorted(tested) == sorted(review.key for review in reviews.read_mr())


def test_copies_of_a_text_are_in_one_fold(corpora: Path) -> None:
    """No fold trains on a copy of a test text, and no text is lost."""
    twice = [sentence(n) for n in range(100)]
    layouts.mr(corpora, twice + twice, [sentence(n) for n in range(200, 400)])
    folds = reviews.partition(reviews.read_mr(), 10)
    assert sum(map(len, folds)) == 400
    keys = [{review.key for review in part} for part in folds]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 300


@pytest.mark.usefixtures("corpora")
def test_other_sources_are_folded_without_their_test_splits() -> None:
    """The test parts of the folds of sst2 are disjoint, and together they are its training texts."""
    data, train = Data(name="sst2", validation=20, folds=2), reviews.read("sst2").train
    folds = [reviews.fold(data, SPEC, number) for number in range(2)]
    assert sum(len(fold.tests["sst2"]) for fold in folds) == len(train)
    parts = reviews.partition(train, 2)
    assert sorted(review.text for part in parts for review in part) == sorted(review.text for review in train)
    for fold, part in zip(folds, parts, strict=True):
        assert fold.tests["sst2"].labels.tolist() == [review.label for review in part]


def test_loading_is_deterministic_and_the_fingerprint_is_of_texts_and_labels(corpora: Path) -> None:
    """The same files give the same tensors; the fingerprint depends on the labels, not on the validation split."""
    first, second = load("mr"), load("mr")
    assert first.tokenizer == second.tokenizer
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert load("mr", 120).fingerprint == first.fingerprint
    layouts.mr(corpora, [sentence(n) for n in range(201)], [sentence(n) for n in range(201, 400)])
    assert load("mr").fingerprint != first.fingerprint


@pytest.mark.usefixtures("corpora")
def test_test_splits_in_a_published_tokenizer_s_ids() -> None:
    """A published model is measured on the same test splits as after its training."""
    data = load("reviews")
    assert data.tokenizer is not None
    for name, split in reviews.tests("reviews", SPEC.served(), data.tokenizer).items():
        assert torch.equal(split.inputs, data.tests[name].inputs)
        assert torch.equal(split.labels, data.tests[name].labels)


@pytest.mark.usefixtures("corpora")
def test_training_and_validation_split_can_be_joined() -> None:
    """Both have one length, so that a refit can train on both."""
    data = load("reviews")
    assert data.train.inputs.shape[1] == data.validation.inputs.shape[1]


@pytest.mark.usefixtures("corpora")
def test_holding_out_every_text_is_refused() -> None:
    """At least one text must be left to train on."""
    with pytest.raises(DataError, match=r"data\.validation: .* 360 of 360 "):
        load("mr", 360)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("imdb", lambda root: (root / "imdb/aclImdb_v1.tar.gz").unlink(), "python -m training data imdb"),
        ("mr", lambda root: (root / "mr/rt-polarity.pos").unlink(), r"rt-polarity\.pos .*python -m training data mr"),
        ("sst2", lambda root: (root / "sst2/stsa.binary.dev").unlink(), "CONVOKE_DATA"),
        ("mr", lambda root: (root / "mr/rt-polarity.pos").write_bytes(b" \n"), "is empty"),
        ("mr", lambda root: (root / "mr/rt-polarity.pos").write_bytes(b"a\x81b\n"), "cp1252"),
        ("sst2", lambda root: (root / "sst2/stsa.binary.dev").write_bytes(b"2 so so\n"), "'2 so so'"),
        ("sst2", lambda root: (root / "sst2/stsa.binary.dev").write_bytes(b"1 caf\xe9\n"), "utf-8"),
        (
            "imdb",
            lambda root: (root / "imdb/aclImdb_v1.tar.gz").write_bytes(
                (root / "imdb/aclImdb_v1.tar.gz").read_bytes()[:-200]
            ),
            r"aclImdb_v1\.tar\.gz is damaged",
        ),
        (
            "imdb",
            lambda root: (root / "imdb/aclImdb_v1.tar.gz").write_bytes(b"<html>"),
            r"aclImdb_v1\.tar\.gz is damaged",
        ),
        ("imdb", lambda root: layouts.imdb(root, {"train/neg/0_1.txt": "only one"}), "incomplete"),
        ("imdb", lambda root: (root / "imdb/aclImdb").mkdir(), "incomplete"),
    ],
)
def test_missing_or_damaged_files_are_named(
    corpora: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    """A file that is missing, empty, truncated or of another format is a DataError that says what to do."""
    spoil(corpora)
    with pytest.raises(DataError, match=message):
        load(name)


def test_only_reviews_are_read_from_the_archive(corpora: Path) -> None:
    """Links, unsafe names and reviews above a megabyte are skipped, and nothing is written beside the archive."""
    path = corpora / "imdb" / "aclImdb_v1.tar.gz"
    before = load("imdb").fingerprint
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive]
        contents = [(member, file.read()) for member, file in members if file]
    link = tarfile.TarInfo("aclImdb/train/pos/9000_1.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    huge = tarfile.TarInfo("aclImdb/train/pos/9001_1.txt")
    huge.size = reviews.MAX_REVIEW_BYTES + 1
    odd = tarfile.TarInfo("aclImdb/train/pos/../../../9002_1.txt")
    with tarfile.open(path, "w:gz") as archive:
        for member, content in contents:
            archive.addfile(member, io.BytesIO(content))
        archive.addfile(link)
        archive.addfile(huge, io.BytesIO(b"a" * huge.size))
        archive.addfile(odd)
    assert load("imdb").fingerprint == before
    assert sorted(entry.name for entry in corpora.rglob("*9002*")) == []


@pytest.fixture
def real() -> None:
    """Skips if one of the real corpora is missing."""
    paths = ("imdb", "mr/rt-polarity.pos", "sst2/stsa.binary.test")
    missing = [str(data_folder() / path) for path in paths if not (data_folder() / path).exists()]
    if missing:
        pytest.skip(f"missing {', '.join(missing)}: set CONVOKE_DATA to the data folder")


@pytest.mark.data
@pytest.mark.usefixtures("real")
def test_the_real_sentences_have_their_published_counts() -> None:
    """MR: 10,662 in tenths of 1,066 or 1,067; SST-2: 7,792 and 1,821, balanced as published."""
    mr, sst2 = reviews.read("mr"), reviews.read("sst2")
    assert (len(mr.train), len(mr.test)) == (9595, 1067)
    assert (len(sst2.train), len(sst2.test)) == (7792, 1821)
    assert sum(review.label for review in sst2.test) == 909
    assert {len(part) for part in reviews.partition(reviews.read_mr(), 10)} == {1066, 1067}


@pytest.mark.data
@pytest.mark.usefixtures("real")
def test_real_sentences_of_both_corpora_are_the_same_tokens() -> None:
    """99 % of SST-2's sentences that are also snippets of MR have the same tokens in both spellings."""
    mr, sst2 = reviews.read("mr"), reviews.read("sst2")
    snippets = {review.key: review.text for review in mr.train + mr.test}
    pairs = [(review.text, snippets[review.key]) for review in sst2.train + sst2.test if review.key in snippets]
    tokenizer = Tokenizer.from_str(load("mr", 1000).tokenizer or "")
    tokenizer.no_truncation()
    same = sum(
        [word for _, word in cut(tokenizer, ours)] == [word for _, word in cut(tokenizer, theirs)]
        for ours, theirs in pairs
    )
    assert len(pairs) > 7000
    assert same / len(pairs) > 0.99


def cut(tokenizer: Tokenizer, text: str) -> list[tuple[int, str]]:
    return [(0, word) for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalise(text))]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("real")
def test_the_real_corpora_are_trained_on_without_leaks() -> None:
    """No training text is in a test split; IMDB's 25,000, MR's tenth and SST-2's 1,821 stay complete."""
    corpora = {name: reviews.read(name) for name in reviews.SOURCES}
    tested = [review for corpus in corpora.values() for review in corpus.test]
    learnt = reviews.without(reviews.unique(review for corpus in corpora.values() for review in corpus.train), tested)
    keys = {review.key for review in tested}
    assert not [review for review in learnt if review.key in keys]
    inside = "\n".join(review.key for review in learnt if review.source != "imdb")
    long_ones = [review.key for review in corpora["sst2"].test if len(review.key) >= reviews.NGRAM]
    assert not [key for key in long_ones if key in inside]
    assert [len(corpora[name].test) for name in ("imdb", "mr", "sst2")] == [25_000, 1067, 1821]
    assert len(learnt) > 33_000


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("real")
def test_the_real_imdb_is_read_in_seconds() -> None:
    """50,000 files from the archive take at most 30 s of processor time."""
    start = time.process_time()
    corpus = reviews.read("imdb")
    assert time.process_time() - start < 30
    assert (len(corpus.train), len(corpus.test)) == (25_000, 25_000)
