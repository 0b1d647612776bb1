"""Films reviewed in text, negative (0) or positive (1): IMDB, MR, SST-2, and `reviews`, which is all three.

IMDB (Maas et al., 2011): whole reviews. MR (Pang & Lee, 2005): one snippet a line, no fixed split, so a tenth, chosen
by content, is its test split here. SST-2 (Socher et al., 2013): MR's snippets cut into sentences and judged anew, with
a fixed split. So MR and SST-2 overlap nearly wholly, under different spellings and cuts: what is learnt from is
compared with what is tested on by its letters and digits alone, and sentences by every run of 32 of them.

Test splits stay as they were published. Layout below the data folder: `imdb/aclImdb_v1.tar.gz` or `imdb/aclImdb/`,
`mr/rt-polarity.{pos,neg}`, `sst2/stsa.binary.{train,dev,test}`.
"""

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal, get_args

import torch

from contract.spec import TextInput
from training.data import vocabulary
from training.data.dataset import Dataset, Split, folder
from training.data.schema import Data, Text
from training.errors import DataError

Source = Literal["imdb", "mr", "sst2"]
SOURCES: tuple[Source, ...] = get_args(Source)
KIND: Literal["image", "text"] = "text"
LABELS: tuple[str, ...] = ("negative", "positive")

RUN = 32
"""Sentences that share a run of so many letters and digits hold the same words; shorter phrases are everyone's."""
TENTHS = 10
BLOCK = 150
"""Neighbouring reviews of IMDB, of either kind, that are held out together: up to 30 of a film follow each other."""
MAX_REVIEW_BYTES = 1_000_000  # the longest has 14 kB

_MEMBER = re.compile(r"(?:\./)?aclImdb/(train|test)/(neg|pos)/(\d+)_\d+\.txt")
_MARKUP = re.compile(r"-[lr][rsc]b-|<br ?/?>")
_NO_LETTER = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Review:
    """One text and the number of its label in `LABELS`."""

    text: str
    label: int
    source: Source
    key: str = field(init=False)
    """The text's letters and digits, in lower case: equal for one text spelt in two ways."""
    block: str = ""
    """Reviews of one block stand side by side as published, most of them of the same few films; "" where unknown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _NO_LETTER.sub("", _MARKUP.sub(" ", self.text.lower())))

    def order(self, purpose: str = "") -> str:
        """Where the text comes in a shuffle that depends on its content, and on what the shuffle is for, alone.

        Texts of one block stay together, so that few films have reviews on both sides of a split.
        """
        together = hashlib.sha256(f"{purpose}{self.block}".encode()).hexdigest() if self.block else ""
        return together + hashlib.sha256(f"{purpose}{self.key}".encode()).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """What was published of one source: what may be learnt from, and what is tested on."""

    train: list[Review]
    test: list[Review]


def load(data: Data, spec: Text) -> Dataset:
    """The splits of imdb, mr, sst2, or of `reviews`: all three together, tested on each alone.

    `data.validation` texts are held out of those to learn from, of each source its share, chosen by content. Texts to
    learn from stand under one label, and neither in the validation split nor in any test split; they stand once, or
    as often as `data.repeat` has their source. The vocabulary is that of the training split alone, each text once.

    Raises:
        DataError: a file is missing or not what it should be, or too few texts are left to learn from.
    """
    corpora = {name: read(name) for name in _sources(data.name)}
    return _dataset(
        [review for corpus in corpora.values() for review in corpus.train],
        {name: corpus.test for name, corpus in corpora.items()},
        data,
        spec,
    )


def tests(name: str, spec: TextInput, tokenizer: str | None) -> dict[str, Split]:
    """The test splits of a data set in the ids of a published model's tokenizer, each by its source's name.

    Raises:
        DataError: as `load`.
    """
    assert tokenizer is not None, "texts need a tokenizer"
    return {source: _encode(read(source).test, tokenizer, spec) for source in _sources(name)}


def fold(data: Data, spec: Text, number: int) -> Dataset:
    """Fold `number`, from 0, of a cross-validation over the whole of MR, as Kim (2014, section 3) reports it.

    The `data.folds` test splits part MR between them, as equal in size as copies of one text, kept together, allow.
    Each fold has its own vocabulary, and `data.validation` texts of its training part are held out for early stopping.

    Raises:
        DataError: as `load`.
    """
    assert data.name == "mr", data.name
    assert data.folds is not None, "no cross-validation"
    assert 0 <= number < data.folds, (number, data.folds)
    folds = parts(read_mr(), data.folds)
    rest = [review for other, part in enumerate(folds) if other != number for review in part]
    return _dataset(rest, {"mr": folds[number]}, data, spec)


def read(name: Source) -> Corpus:
    """The texts of one source as published; of MR, the tenth that its test split is.

    Raises:
        DataError: a file is missing or not what it should be.
    """
    readers: dict[Source, Callable[[], Corpus]] = {"imdb": _imdb, "mr": _mr, "sst2": _sst2}
    return readers[name]()


def _sources(name: str) -> tuple[Source, ...]:
    names = SOURCES if name == "reviews" else tuple(source for source in SOURCES if source == name)
    assert names, name
    return names


def _dataset(train: list[Review], tests: dict[Source, list[Review]], data: Data, spec: Text) -> Dataset:
    tested = [review for test in tests.values() for review in test]
    kept = without(once(train), tested)
    rest, held_out = hold_out(kept, data.validation)
    rest = without(rest, held_out)
    tokenizer = vocabulary.build([review.text for review in rest], spec)
    encode = partial(_encode, tokenizer=tokenizer, spec=spec)
    learnt = encode(rest + held_out)  # as one, so that both are of one length and can be joined
    seen = torch.tensor([row for row, review in enumerate(rest) for _ in range(data.repeat.get(review.source, 1))])
    return Dataset(
        train=Split(learnt.inputs[seen], learnt.labels[seen]),
        validation=Split(learnt.inputs[len(rest) :], learnt.labels[len(rest) :]),
        tests={name: encode(test) for name, test in tests.items()},
        fingerprint=_fingerprint(train + tested),
        tokenizer=tokenizer,
    )


def _encode(reviews: list[Review], tokenizer: str, spec: Text | TextInput) -> Split:
    return Split(
        vocabulary.encode([review.text for review in reviews], tokenizer, spec),
        torch.tensor([review.label for review in reviews]),
    )


def _fingerprint(reviews: Iterable[Review]) -> str:
    """SHA-256 over texts and labels in order, each text behind its length, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for review in reviews:
        text = review.text.encode()
        digest.update(f"{review.label} {len(text)} ".encode() + text)
    return f"sha256:{digest.hexdigest()}"


def once(reviews: Iterable[Review]) -> list[Review]:
    """The first of equal texts; none of those that stand under both labels, or without a letter or digit."""
    labels: dict[str, set[int]] = {}
    first: dict[str, Review] = {}
    for review in reviews:
        labels.setdefault(review.key, set()).add(review.label)
        first.setdefault(review.key, review)
    return [review for key, review in first.items() if key and len(labels[key]) == 1]


def without(reviews: Iterable[Review], others: Iterable[Review]) -> list[Review]:
    """Those that share no text with `others`: none has the same key, and no two sentences the same run of `RUN`."""
    held = {part for review in others for part in (review.key, *_runs(review))}
    return [review for review in reviews if review.key not in held and held.isdisjoint(_runs(review))]


def _runs(review: Review) -> Iterator[str]:
    """Every `RUN` letters and digits in sequence; none of a whole review, where quotations and titles are common."""
    if review.source != "imdb":
        for start in range(len(review.key) - RUN + 1):
            yield review.key[start : start + RUN]


def hold_out(reviews: list[Review], count: int) -> tuple[list[Review], list[Review]]:
    """Split off `count` by content, of each source in proportion: (rest, held out), both in the order given.

    Raises:
        DataError: there are not more than `count`.
    """
    if not 0 < count < len(reviews):
        raise DataError(f"{count} texts cannot be held out of {len(reviews)}: set data.validation lower")
    of_source: dict[str, list[str]] = {}
    orders = [review.order("validation") for review in reviews]
    for order, review in sorted(zip(orders, reviews, strict=True), key=itemgetter(0)):
        of_source.setdefault(review.source, []).append(order)
    # Rank r of n stands at (r + 1/2) / n of its source: the lowest shares of all sources are taken.
    shares = sorted(
        ((rank + 0.5) / len(ranked), order) for ranked in of_source.values() for rank, order in enumerate(ranked)
    )
    chosen = {order for _share, order in shares[:count]}
    held_out = [review for order, review in zip(orders, reviews, strict=True) if order in chosen]
    return [review for order, review in zip(orders, reviews, strict=True) if order not in chosen], held_out


def parts(reviews: list[Review], count: int) -> list[list[Review]]:
    """Part texts by content into `count` parts of nearly equal size; copies of one text come into one part."""
    copies = Counter(review.order() for review in reviews)
    part_of: dict[str, int] = {}
    before = 0
    for order in sorted(copies):
        part_of[order] = before * count // len(reviews)
        before += copies[order]
    parted: list[list[Review]] = [[] for _ in range(count)]
    for review in reviews:
        parted[part_of[review.order()]].append(review)
    return parted


def _mr() -> Corpus:
    test, *rest = parts(read_mr(), TENTHS)
    return Corpus([review for part in rest for review in part], test)


def read_mr() -> list[Review]:
    """All of MR, the negative snippets first.

    Raises:
        DataError: as `read`.
    """
    reviews: list[Review] = []
    for label, name in enumerate(("rt-polarity.neg", "rt-polarity.pos")):
        lines = _lines(folder() / "mr" / name, "cp1252")
        reviews += [Review(line, label, "mr") for line in lines]
    return reviews


def _sst2() -> Corpus:
    train, dev, test = (
        [_labelled(line, path) for line in _lines(path, "utf-8")]
        for path in (folder() / "sst2" / f"stsa.binary.{name}" for name in ("train", "dev", "test"))
    )
    return Corpus(train + dev, test)


def _labelled(line: str, path: Path) -> Review:
    label, _, text = line.partition(" ")
    if label not in {"0", "1"} or not text:
        raise DataError(f"{path}: {line[:60]!r} is no line of SST-2, which is 0 or 1, a space and a sentence")
    return Review(text, int(label), "sst2")


def _lines(path: Path, encoding: str) -> list[str]:
    """The lines of a file that are not blank. MR's hold characters that `splitlines` would split at."""
    try:
        content = path.read_bytes().decode(encoding)
    except OSError as error:
        raise _missing(path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in {encoding}: {error}; {_again(path.parent.name)}") from error
    lines = [line.strip() for line in content.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; {_again(path.parent.name)}")
    return lines


def _imdb() -> Corpus:
    root = folder() / "imdb"
    files = _imdb_folder(root / "aclImdb") if (root / "aclImdb").is_dir() else _imdb_archive(root / "aclImdb_v1.tar.gz")
    splits: dict[str, list[Review]] = {"train": [], "test": []}
    for (split, kind, number), content in sorted(files):
        block = f"{split} {number // BLOCK}"  # both kinds, so that neither is held out more often than the other
        try:
            splits[split].append(Review(content.decode(), ("neg", "pos").index(kind), "imdb", block=block))
        except UnicodeDecodeError as error:
            raise DataError(f"a review in {root} is not in UTF-8: {error}; {_again('imdb')}") from error
    if any({review.label for review in reviews} != {0, 1} for reviews in splits.values()):
        raise DataError(f"{root} does not hold aclImdb/{{train,test}}/{{neg,pos}}/*.txt; {_again('imdb')}")
    return Corpus(splits["train"], splits["test"])


_File = tuple[tuple[str, str, int], bytes]
"""Split, neg or pos, number; and the content."""


def _imdb_archive(path: Path) -> Iterator[_File]:
    """Read the reviews out of Stanford's archive: nothing is unpacked, and other members are passed over."""
    try:
        with tarfile.open(path, "r|gz") as archive:  # as a stream: no second pass to seek
            for member in archive:
                match = _MEMBER.fullmatch(member.name)
                if match and member.isreg() and member.size <= MAX_REVIEW_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None, member
                    yield (match[1], match[2], int(match[3])), content.read()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{path} is damaged or cut off: {error}; remove it, then {_again('imdb')}") from error


def _imdb_folder(root: Path) -> Iterator[_File]:
    for path in root.glob("t*/[np]*/*.txt"):
        match = _MEMBER.fullmatch(f"aclImdb/{path.relative_to(root).as_posix()}")
        if match:
            yield (match[1], match[2], int(match[3])), path.read_bytes()


def _missing(path: Path) -> DataError:
    name = path.parent.name
    return DataError(
        f"there is no {path} that can be read: download it with `python -m training data {name}`, put it there, or "
        f"name the folder that holds {name}/ in CONVOKE_DATA"
    )


def _again(name: str) -> str:
    return f"download it again with `python -m training data {name}`"
