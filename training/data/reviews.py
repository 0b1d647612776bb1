"""Film reviews, negative or positive: IMDB, MR, SST-2, and `reviews`, which is all three.

IMDB (Maas et al., 2011) has whole reviews. MR (Pang & Lee, 2005) has one snippet on each line and no fixed split; a
tenth, chosen by content, is its test split. SST-2 (Socher et al., 2013) has MR's snippets, cut into sentences and
labelled again, with a fixed split. MR and SST-2 overlap almost completely, with different spelling and cuts. Training
texts are therefore compared with test texts by their letters and digits alone, sentences by their character n-grams.
Letters of all scripts count; a text without any letter or digit, such as one of emoji, is compared as it is.

Test splits are as published. Layout below the data folder: `imdb/aclImdb_v1.tar.gz` or `imdb/aclImdb/`,
`mr/rt-polarity.{pos,neg}`, `sst2/stsa.binary.{train,dev,test}`.
"""

import hashlib
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from contract.spec import TextInput
from training.data import vocabulary
from training.data.dataset import Dataset, Split, check_held_out, lowest
from training.data.folders import data_folder
from training.data.schema import Data, Text
from training.errors import DataError
from training.progress import say

Source = Literal["imdb", "mr", "sst2"]
SOURCES: tuple[Source, ...] = get_args(Source)

NGRAM = 32
"""Sentences that share a run of this many letters and digits hold the same words; shorter phrases are common."""
BLOCK = 150
"""The number of neighbouring reviews of IMDB that are held out together: up to 30 in a row are of one film."""
MAX_REVIEW_BYTES = 1_000_000  # the longest has 14 kB
_ACCENTS = re.compile("[\u0300-\u036f\ufe0f]+")
_TEST_SHARE = 10
"""One in ten texts of MR is held out as its test split."""

_MEMBER = re.compile(r"(?:\./)?aclImdb/(train|test)/(neg|pos)/(\d+)_\d+\.txt")
_MARKUP = re.compile(r"-[lr][rsc]b-|<br ?/?>")
_NOT_ASCII = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Review:
    """One text and the number of its label, 0 for negative and 1 for positive."""

    text: str
    label: int
    source: Source
    key: str = field(init=False)
    """The letters and digits of the text, in lower case and without accents: equal for two spellings of one text."""
    block: str = ""
    """Reviews of one block are neighbours in the published order, most of them of a few films; "" if unknown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _key(self.text))

    def order(self, purpose: str = "") -> str:
        """The sort key of a shuffle that depends on the content of the texts and the purpose of the shuffle alone.

        Texts of one block stay together, so that few films have reviews on both sides of a split. Letters and digits of
        ASCII decide where there are any, so that the splits on which models were published stay the same.
        """
        content = _NOT_ASCII.sub("", _MARKUP.sub(" ", self.text.lower())) or self.key
        block = hashlib.sha256(f"{purpose}{self.block}".encode()).hexdigest() if self.block else ""
        return block + hashlib.sha256(f"{purpose}{content}".encode()).hexdigest()


def _key(text: str) -> str:
    lower = _MARKUP.sub(" ", text.lower())
    if lower.isascii():
        return _NOT_ASCII.sub("", lower) or "".join(text.split())
    decomposed = _ACCENTS.sub("", unicodedata.normalize("NFKD", lower.casefold()))
    # Vowel signs of Indic scripts are marks, which are no letters.
    return "".join(c for c in decomposed if c.isalnum() or unicodedata.category(c)[0] == "M") or "".join(text.split())


@dataclass(frozen=True)
class Corpus:
    """The texts of one source: those to train on and the test split."""

    train: list[Review]
    test: list[Review]


def load(data: Data, spec: Text) -> Dataset:
    """The splits of imdb, mr, sst2, or `reviews`, which is trained on all three and tested on each.

    The validation split has `data.validation` texts, chosen by content, in proportion to the sources. Training texts
    have one label and are in no other split; each occurs once, or as often as `data.repeat` says of its source. The
    vocabulary is that of the training split, with each text counted once.

    Raises:
        DataError: a file is missing or damaged, or too few texts are left to train on.
    """
    corpora = {name: read(name) for name in _sources(data.name)}
    return _dataset(
        [review for corpus in corpora.values() for review in corpus.train],
        {name: corpus.test for name, corpus in corpora.items()},
        data,
        spec,
    )


def tests(name: str, spec: TextInput, tokenizer: str | None) -> dict[str, Split]:
    """The test splits by the name of their source, as token ids of a published model's tokenizer.

    Raises:
        DataError: as `load`.
    """
    assert tokenizer is not None, "texts need a tokenizer"
    return {source: _encode(read(source).test, tokenizer, spec)[0] for source in _sources(name)}


def fold(data: Data, spec: Text, number: int) -> Dataset:
    """Fold `number`, from 0, of a cross-validation over all of MR, as in Kim (2014, section 3), or over training texts.

    The `data.folds` test splits partition the texts into parts of nearly equal size; copies of one text stay together,
    and so do neighbouring reviews of IMDB. Each fold has its own vocabulary and holds out `data.validation` of its
    training texts for early stopping.

    Raises:
        DataError: as `load`.
    """
    assert data.folds is not None, "no cross-validation"
    rest: list[Review] = []
    tests: dict[Source, list[Review]] = {}
    for name in _sources(data.name):
        folds = partition(read_mr() if name == "mr" else read(name).train, data.folds)
        tests[name] = folds.pop(number)
        rest += [review for part in folds for review in part]
    return _dataset(rest, tests, data, spec)


def read(name: Source) -> Corpus:
    """The texts of one source, with the published test split, or the tenth that replaces it for MR.

    Raises:
        DataError: a file is missing or damaged.
    """
    readers: dict[Source, Callable[[], Corpus]] = {"imdb": _imdb, "mr": _mr, "sst2": _sst2}
    return readers[name]()


def _sources(name: str) -> tuple[Source, ...]:
    return SOURCES if name == "reviews" else tuple(source for source in SOURCES if source == name)


def _dataset(train: list[Review], tests: dict[Source, list[Review]], data: Data, spec: Text) -> Dataset:
    tested = [review for test in tests.values() for review in test]
    untested = without(unique(train), tested)
    rest, held_out = hold_out(untested, data.held_out(len(untested)))
    rest = without(rest, held_out)  # sentences that share words with one that was held out
    tokenizer = vocabulary.build([review.text for review in rest], spec)
    encode = partial(_encode, tokenizer=tokenizer, spec=spec.served())
    encoded, kept = encode(rest + held_out)  # together, so that a refit can join the two splits
    first = int(kept[: len(rest)].sum())  # of the held-out texts
    repeats = torch.tensor([data.repeat.get(review.source, 1) for review in rest])[kept[: len(rest)]]
    return Dataset(
        train=encoded.at(torch.arange(first).repeat_interleave(repeats)),
        validation=encoded.at(torch.arange(first, len(encoded))),
        tests={name: encode(test)[0] for name, test in tests.items()},
        fingerprint=_fingerprint(train + tested),
        tokenizer=tokenizer,
    )


def _encode(reviews: list[Review], tokenizer: str, spec: TextInput) -> tuple[Split, Tensor]:
    """The texts that have a word, and which of `reviews` they are, bool (N)."""
    tokens, counts = map(torch.from_numpy, vocabulary.encode([review.text for review in reviews], tokenizer, spec))
    kept = counts > 0
    if not kept.all():
        empty = next(review for review, has_word in zip(reviews, kept.tolist(), strict=True) if not has_word)
        say(f"{int((~kept).sum()):,} of {len(kept):,} texts have no word and are left out, like {empty.text[:60]!r}")
    labels = torch.tensor([review.label for review in reviews])
    return Split(tokens[kept], labels[kept], token_counts=counts[kept]), kept


def _fingerprint(reviews: Iterable[Review]) -> str:
    """SHA-256 over the labels, lengths and texts in order, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for review in reviews:
        text = review.text.encode()
        digest.update(f"{review.label} {len(text)} ".encode() + text)
    return f"sha256:{digest.hexdigest()}"


def unique(reviews: Iterable[Review]) -> list[Review]:
    """The first of equal texts; texts with two labels, and empty ones, are left out."""
    labels: dict[str, set[int]] = {}
    first: dict[str, Review] = {}
    for review in reviews:
        labels.setdefault(review.key, set()).add(review.label)
        first.setdefault(review.key, review)
    return [review for key, review in first.items() if key and len(labels[key]) == 1]


def without(reviews: Iterable[Review], others: Iterable[Review]) -> list[Review]:
    """Those that share no text with `others`: neither the key nor, for sentences, an n-gram of `NGRAM` characters."""
    held = {part for review in others for part in (review.key, *_ngrams(review))}
    return [review for review in reviews if review.key not in held and held.isdisjoint(_ngrams(review))]


def _ngrams(review: Review) -> Iterator[str]:
    """The character n-grams of a sentence's key; none for whole reviews, which share quotations and titles."""
    if review.source != "imdb":
        for start in range(len(review.key) - NGRAM + 1):
            yield review.key[start : start + NGRAM]


def hold_out(reviews: list[Review], count: int) -> tuple[list[Review], list[Review]]:
    """Hold out `count` texts by content, in proportion to sources and labels: (rest, held out), in the order given.

    Raises:
        DataError: there are no more than `count` texts.
    """
    check_held_out(count, len(reviews))
    orders = [review.order("validation") for review in reviews]
    # Blocks of whole reviews stay together, with both labels, so those are drawn in proportion to the sources alone.
    strata = [(review.source, None if review.block else review.label) for review in reviews]
    chosen = lowest(orders, strata, count)
    rest = [review for order, review in zip(orders, reviews, strict=True) if order not in chosen]
    return rest, [review for order, review in zip(orders, reviews, strict=True) if order in chosen]


def partition(reviews: list[Review], count: int) -> list[list[Review]]:
    """Partition texts by content into `count` parts of nearly equal size; copies of one text are in one part."""
    copies = Counter(review.order() for review in reviews)
    part_of: dict[str, int] = {}
    before = 0
    for order in sorted(copies):
        part_of[order] = before * count // len(reviews)
        before += copies[order]
    parts: list[list[Review]] = [[] for _ in range(count)]
    for review in reviews:
        parts[part_of[review.order()]].append(review)
    return parts


def _mr() -> Corpus:
    test, *rest = partition(read_mr(), _TEST_SHARE)
    return Corpus([review for part in rest for review in part], test)


def read_mr() -> list[Review]:
    """All snippets of MR, the negative ones first.

    Raises:
        DataError: as `read`.
    """
    reviews: list[Review] = []
    for label, name in enumerate(("rt-polarity.neg", "rt-polarity.pos")):
        lines = _lines(data_folder() / "mr" / name, "cp1252")
        reviews += [Review(line, label, "mr") for line in lines]
    return reviews


def _sst2() -> Corpus:
    train, dev, test = (
        [_labelled(line, path) for line in _lines(path, "utf-8")]
        for path in (data_folder() / "sst2" / f"stsa.binary.{name}" for name in ("train", "dev", "test"))
    )
    return Corpus(train + dev, test)


def _labelled(line: str, path: Path) -> Review:
    label, _, text = line.partition(" ")
    if label not in {"0", "1"} or not text:
        raise DataError(
            f"{path}: invalid line {line[:60]!r}, expected 0 or 1, a space and a sentence; {_again('sst2')}"
        )
    return Review(text, int(label), "sst2")


def _lines(path: Path, encoding: str) -> list[str]:
    """The lines of a file that are not blank; `splitlines` would also split at other characters, which MR has."""
    try:
        content = path.read_bytes().decode(encoding)
    except OSError as error:
        raise _missing(path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not encoded in {encoding}: {error}; {_again(path.parent.name)}") from error
    lines = [line.strip() for line in content.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; {_again(path.parent.name)}")
    return lines


def _imdb() -> Corpus:
    root = data_folder() / "imdb"
    files = _imdb_folder(root / "aclImdb") if (root / "aclImdb").is_dir() else _imdb_archive(root / "aclImdb_v1.tar.gz")
    splits: dict[str, list[Review]] = {"train": [], "test": []}
    for (split, label, number), content in sorted(files):
        block = f"{split} {number // BLOCK}"  # of both labels, so that they are held out equally often
        try:
            splits[split].append(Review(content.decode(), ("neg", "pos").index(label), "imdb", block=block))
        except UnicodeDecodeError as error:
            raise DataError(f"a review in {root} is not encoded in UTF-8: {error}; {_again('imdb')}") from error
    if any({review.label for review in reviews} != {0, 1} for reviews in splits.values()):
        raise DataError(f"{root} is incomplete: expected aclImdb/{{train,test}}/{{neg,pos}}/*.txt; {_again('imdb')}")
    return Corpus(splits["train"], splits["test"])


_File = tuple[tuple[str, str, int], bytes]
"""(split, neg or pos, number) of a review, and its content."""


def _imdb_archive(path: Path) -> Iterator[_File]:
    """Read the reviews from Stanford's archive, without unpacking it to the disk; other members are skipped."""
    try:
        with tarfile.open(path, "r|gz") as archive:  # a stream is read only once
            for member in archive:
                match = _MEMBER.fullmatch(member.name)
                if match and member.isreg() and member.size <= MAX_REVIEW_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None, member
                    yield (match[1], match[2], int(match[3])), content.read()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{path} is damaged: {error}; remove it, then {_again('imdb')}") from error


def _imdb_folder(root: Path) -> Iterator[_File]:
    for path in root.glob("t*/[np]*/*.txt"):
        match = _MEMBER.fullmatch(f"aclImdb/{path.relative_to(root).as_posix()}")
        if match:
            yield (match[1], match[2], int(match[3])), path.read_bytes()


def _missing(path: Path) -> DataError:
    name = path.parent.name
    return DataError(
        f"{path} cannot be read: download it with `python -m training data {name}`, put it there, or set CONVOKE_DATA "
        f"to the folder that holds {name}/"
    )


def _again(name: str) -> str:
    return f"download it again with `python -m training data {name}`"
