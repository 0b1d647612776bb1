"""Photos of noise in every layout: splits, decoding and cache; the counts of the real photos."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contract.inputs import image_to_pixels
from tests.drawing import encode
from tests.training.data import layouts
from tests.training.data.layouts import write
from training.data import photos
from training.data.dataset import Dataset, Split
from training.data.decoded import Photo
from training.data.folders import cache_folder, data_folder
from training.data.schema import Data
from training.data.schema import Image as ImageTable
from training.errors import DataError

SPEC = ImageTable(height=6, width=9, mode="RGB", framing="squash", mean=[0.5] * 3, std=[0.2] * 3)
FRAME = SPEC.served()
CAT, DOG = 0, 1


def noise(seed: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A JPEG of noise, `size` wide and high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "JPEG")


def data_table(name: str = "cats-vs-dogs", validation: int = 5, **more: Any) -> Data:
    """The table [data] of a recipe, with a smaller validation split than recipes may have."""
    return Data.model_construct(name=name, validation=validation, **more)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cats-vs-dogs/ in a temporary data folder, and an empty cache."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data" / "cats-vs-dogs"
    folder.mkdir(parents=True)
    return folder


def as_folders(root: Path) -> None:
    """{train,test}/{cat,dog}: 40 training photos, 6 test photos."""
    examples = [(noise(number), number % 2) for number in range(46)]
    layouts.folders(root.parent, examples[:40], examples[40:])


def as_kaggle(root: Path) -> None:
    layouts.kaggle(root.parent, [(noise(number), number % 2) for number in range(40)])
    write(root / "train" / "bird.0.jpg", noise(99))


def as_microsoft(root: Path) -> None:
    layouts.microsoft(root.parent, [(noise(number), number % 2) for number in range(40)])
    write(root / "PetImages" / "Cat" / "Thumbs.db", b"no photo")


def labels_of(parts: tuple[list[Photo], ...]) -> dict[bytes, int]:
    """The label of each content, over all splits."""
    return {photo.path.read_bytes(): photo.label for part in parts for photo in part}


def digests(part: list[Photo]) -> set[str]:
    return {photo.digest for photo in part}


@pytest.mark.parametrize(
    ("layout", "sizes"), [(as_folders, (35, 5, 6)), (as_kaggle, (31, 5, 4)), (as_microsoft, (31, 5, 4))]
)
def test_each_layout_is_read(layout: Callable[[Path], None], sizes: tuple[int, ...], root: Path) -> None:
    """Every photo is in one split, with its label; a layout without a test split gives a tenth of its photos."""
    layout(root)
    parts = photos.split(data_table())
    assert tuple(map(len, parts)) == sizes
    assert labels_of(parts) == {noise(number): number % 2 for number in range(sum(sizes))}
    assert not any(digests(one) & digests(other) for one in parts for other in parts if one is not other)


@pytest.mark.parametrize("layout", [as_folders, as_kaggle, as_microsoft])
def test_what_is_held_out_depends_on_content_alone(layout: Callable[[Path], None], root: Path) -> None:
    """Other file names, in another order, give the same three sets of photos."""
    layout(root)
    before = [digests(part) for part in photos.split(data_table())]
    paths = [path for path in root.rglob("*.jpg") if not path.name.startswith("bird")]
    for path in paths:
        kind, *_, ending = path.name.split(".") if "cat." in path.name or "dog." in path.name else ("x", "jpg")
        path.rename(path.with_name(f"{kind}.{1000 - int(path.stem.split('.')[-1])}.{ending}"))
    assert [digests(part) for part in photos.split(data_table())] == before


def test_copies_occur_once_in_training(root: Path) -> None:
    """Three copies of a photo with one label are one photo, in one split."""
    as_folders(root)
    for copy in ("a", "z"):
        write(root / "train" / "cat" / f"{copy}.jpg", noise(8))
    parts = photos.split(data_table())
    assert [photo.digest for part in parts for photo in part].count(photo_of(noise(8)).digest) == 1
    assert tuple(map(len, parts)) == (35, 5, 6)


def test_a_test_photo_is_not_trained_on(root: Path) -> None:
    """A photo that is in the training and in the test folder stays in the test split only."""
    as_folders(root)
    write(root / "train" / "cat" / "copy.jpg", noise(40))
    write(root / "train" / "dog" / "copy.jpg", noise(42))  # a cat in the test folder
    train, validation, test = photos.split(data_table())
    assert digests(test) == {photo_of(noise(number)).digest for number in range(40, 46)}
    assert not digests(test) & (digests(train) | digests(validation))
    assert len(train) + len(validation) == 40


def test_a_photo_with_both_labels_is_left_out(root: Path) -> None:
    """No copy of a photo that is labelled cat and dog is trained on."""
    as_folders(root)
    write(root / "train" / "dog" / "cat after all.jpg", noise(8))
    train, validation, _ = photos.split(data_table())
    assert photo_of(noise(8)).digest not in digests(train) | digests(validation)
    assert len(train) + len(validation) == 39


def photo_of(content: bytes, label: int = CAT, place: Path | None = None) -> Photo:
    """A photo with this content, written to `place`."""
    if place is not None:
        write(place, content)
    return Photo(place or Path(), label, hashlib.sha256(content).hexdigest())


def test_without_photos_the_message_names_every_layout(root: Path) -> None:
    """An empty or missing folder is a DataError that names the folder, the layouts and the command."""
    write(root / "readme.txt", b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"cats-vs-dogs.*cat\.N\.jpg.*PetImages.*training data"):
            photos.split(data_table())
        (root / "readme.txt").unlink(missing_ok=True)


@pytest.mark.parametrize("validation", [40, 41])
def test_holding_out_every_photo_is_refused(validation: int, root: Path) -> None:
    """At least one photo must be left to train on."""
    as_folders(root)
    with pytest.raises(DataError, match=rf"data\.validation: .* {validation} of 40 "):
        photos.split(data_table(validation=validation))
    assert len(photos.split(data_table(validation=39))[0]) == 1


def expected(part: list[Photo], spec: Any = FRAME) -> npt.NDArray[np.uint8]:
    return np.stack([image_to_pixels(photo.path.read_bytes(), spec) for photo in part])


def test_pixels_are_those_of_the_service(root: Path) -> None:
    """Each split is the output of contract.inputs, 6 high and 9 wide; training photos have the stored side."""
    as_folders(root)
    train, validation, test = photos.split(data_table())
    data = photos.load(data_table(), SPEC)
    for split, part in ((data.train, train), (data.validation, validation), (data.tests["cats-vs-dogs"], test)):
        assert split.inputs.shape[1:] == (6, 9, 3)
        np.testing.assert_array_equal(split.inputs, expected(part))
        assert split.labels.tolist() == [photo.label for photo in part]
    large = photos.load(data_table(stored_side=11), SPEC)
    np.testing.assert_array_equal(large.train.inputs, expected(train, SPEC.served(11)))
    assert large.train.inputs.shape[1:] == (7, 11, 3)  # the shape of the input, with a longer side of 11
    np.testing.assert_array_equal(large.validation.inputs, data.validation.inputs)
    alone = photos.tests("cats-vs-dogs", FRAME, None)["cats-vs-dogs"]
    np.testing.assert_array_equal(alone.inputs, data.tests["cats-vs-dogs"].inputs)


def test_a_sample_has_training_photos_only(root: Path) -> None:
    """It has the served size and the fingerprint of the data set, and no validation or test photo."""
    as_folders(root)
    sample, fingerprint = photos.sample(data_table(stored_side=12), FRAME, 7)
    train, validation, test = photos.split(data_table())
    assert sample.inputs.shape == (7, 6, 9, 3)
    assert fingerprint == photos.load(data_table(stored_side=12), SPEC).fingerprint
    pixels = {image.numpy().tobytes() for image in sample.inputs}
    assert pixels <= {image.tobytes() for image in expected(train)}
    assert not pixels & {image.tobytes() for image in expected(validation + test)}


def test_height_and_width_are_not_swapped(root: Path) -> None:
    """A photo with a white left and a black right half keeps them there, 6 high and 9 wide."""
    halves = np.zeros((40, 60, 3), np.uint8)
    halves[:, :30] = 255
    content = encode(Image.fromarray(halves), "JPEG")
    split = photos.decode([photo_of(content, place=root / "a.jpg")], FRAME, "test")
    assert split.inputs.shape == (1, 6, 9, 3)
    assert int(split.inputs[0, :, :4].min()) > 240
    assert int(split.inputs[0, :, 5:].max()) < 15


BROKEN = {
    "empty.jpg": b"",
    "text.jpg": b"<html>not found</html>",
    "cut.jpg": noise(200, (90, 90))[:2000],
    "header.jpg": noise(201)[:30],
}


def test_corrupt_photos_are_named_and_skipped(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four damaged photos are skipped, no other: labels stay with their pixels, in a second load as well."""
    as_microsoft(root)
    for number, (name, content) in enumerate(BROKEN.items()):
        write(root / "PetImages" / ("Cat", "Dog")[number % 2] / name, content)
    parts = photos.split(data_table(validation=8))
    for part in parts:
        whole = [photo for photo in part if photo.path.name not in BROKEN]
        for _ in range(2):
            split = photos.decode(part, FRAME, "some")
            np.testing.assert_array_equal(split.inputs, expected(whole))
            assert split.labels.tolist() == [photo.label for photo in whole]
    said = capsys.readouterr().err
    assert sorted(line.split(":")[0].rsplit("/", 1)[1] for line in said.splitlines()) == sorted(BROKEN)
    assert sorted(line.split(":")[0].rsplit("/", 1)[1] for part in parts for line in photos.faults(part, FRAME)) == (
        sorted(BROKEN)
    )


def test_only_corrupt_photos_are_a_data_error(root: Path) -> None:
    """If no photo of a split can be decoded, that is an error, the second time as well."""
    part = [photo_of(content, place=root / name) for name, content in BROKEN.items()]
    for _ in range(2):
        with pytest.raises(DataError, match="4 training photos"):
            photos.decode(part, FRAME, "training")


@pytest.fixture
def few(root: Path) -> list[Photo]:
    """Four photos, one of them corrupt."""
    whole = [photo_of(noise(number), number % 2, root / f"{number}.jpg") for number in range(3)]
    return [*whole, photo_of(b"", DOG, root / "empty.jpg")]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents that are decoded, in order."""
    seen: list[bytes] = []

    def recorded(content: bytes, spec: Any) -> npt.NDArray[np.uint8]:
        seen.append(content)
        return image_to_pixels(content, spec)

    monkeypatch.setattr("training.data.decoded.image_to_pixels", recorded)
    return seen


def equal(one: Split, other: Split) -> bool:
    return bool((one.inputs == other.inputs).all()) and bool((one.labels == other.labels).all())


def test_a_second_load_decodes_nothing(few: list[Photo], decoded: list[bytes]) -> None:
    """Decoded photos are read from the cache even if the files have moved; labels are not part of it."""
    first = photos.decode(few, FRAME, "some")
    assert len(decoded) == 4
    moved = [Photo(Path("elsewhere"), 1 - photo.label, photo.digest) for photo in few]
    second = photos.decode(moved, FRAME, "some")
    assert len(decoded) == 4
    assert equal(Split(second.inputs, 1 - second.labels), first)


def test_a_change_of_pixels_is_decoded_again(
    few: list[Photo], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another size, mode, preprocessing version, set or order of photos has a cache of its own."""
    photos.decode(few, FRAME, "some")
    decoded.clear()
    for change in ({"width": 8}, {"height": 9, "width": 6}, {"mode": "L"}):
        photos.decode(few, FRAME.model_copy(update=change), "some")
    photos.decode(few[:2], FRAME, "some")
    photos.decode(few[::-1], FRAME, "some")
    assert len(decoded) == 3 * 4 + 2 + 4
    decoded.clear()
    monkeypatch.setattr("training.data.decoded.PREPROCESSING_VERSION", 2)
    photos.decode(few, FRAME, "some")
    assert len(decoded) == 4


def test_writing_to_a_split_does_not_change_the_cache(few: list[Photo]) -> None:
    """The memory of a split is writable, as torch expects; the cache keeps its content."""
    first = photos.decode(few, FRAME, "some")
    before = first.inputs.clone()
    first.inputs.zero_()
    assert bool((photos.decode(few, FRAME, "some").inputs == before).all())


def cached_files() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir())


@pytest.mark.parametrize("place", [0, 2])
def test_an_interruption_while_decoding_leaves_no_incomplete_cache(
    place: int, few: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C at any photo the cache is empty, and the next run decodes all photos."""

    def interrupted(content: bytes, spec: Any) -> npt.NDArray[np.uint8]:
        if content == few[place].path.read_bytes():
            raise KeyboardInterrupt
        return image_to_pixels(content, spec)

    with monkeypatch.context() as patch:
        patch.setattr("training.data.decoded.image_to_pixels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            photos.decode(few, FRAME, "some")
    assert cached_files() == []
    np.testing.assert_array_equal(photos.decode(few, FRAME, "some").inputs, expected(few[:3]))


@pytest.mark.parametrize("name", ["np.save", "json.dumps", "Path.replace"])
def test_a_failure_after_decoding_leaves_no_incomplete_cache(
    name: str, few: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at any later step is a DataError that names the variable; the next run starts again."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"training.data.decoded.{name}", full)
        with pytest.raises(DataError, match=r"No space left on device.*CONVOKE_CACHE"):
            photos.decode(few, FRAME, "some")
    assert [path for path in cached_files() if path.endswith(".json") or path.startswith(".")] == []
    np.testing.assert_array_equal(photos.decode(few, FRAME, "some").inputs, expected(few[:3]))


def test_a_disk_without_space_is_refused_before_decoding(
    few: list[Photo], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four photos of 6 x 9 x 3 bytes need 648: a memory-mapped file on a full disk would kill the process."""
    monkeypatch.setattr("training.data.decoded.shutil.disk_usage", lambda _place: SimpleNamespace(free=647))
    with pytest.raises(DataError, match=r"No space left on device.*CONVOKE_CACHE"):
        photos.decode(few, FRAME, "some")
    assert decoded == []
    monkeypatch.setattr("training.data.decoded.shutil.disk_usage", lambda _place: SimpleNamespace(free=648))
    assert len(photos.decode(few, FRAME, "some")) == 3


def test_a_cache_that_cannot_be_created_is_a_data_error(
    few: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a file has the name of the folder, the message names the variable that sets another folder."""
    write(tmp_path / "in the way", b"")
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "in the way" / "cache"))
    with pytest.raises(DataError, match=r"Not a directory.*CONVOKE_CACHE"):
        photos.decode(few, FRAME, "some")


@pytest.mark.parametrize("damage", ["json", "npy", "no npy"])
def test_a_damaged_cache_is_an_error_that_names_the_file_to_remove(damage: str, few: list[Photo]) -> None:
    """Garbage in either file is a DataError; without the index, the photos are decoded again."""
    photos.decode(few, FRAME, "some")
    (index,) = cache_folder().glob("*.json")
    if damage == "no npy":
        index.with_suffix(".npy").unlink()
    else:
        index.with_suffix(f".{damage}").write_bytes(b"{")
    with pytest.raises(DataError, match=str(index)):
        photos.decode(few, FRAME, "some")
    index.unlink()
    assert len(photos.decode(few, FRAME, "some")) == 3


def test_the_index_names_skipped_photos(few: list[Photo]) -> None:
    """The cache has the pixels of valid photos and, in a second file, the digests of the others."""
    photos.decode(few, FRAME, "some")
    (index,) = cache_folder().glob("*.json")
    assert json.loads(index.read_text()) == [few[3].digest]
    np.testing.assert_array_equal(np.load(index.with_suffix(".npy")), expected(few[:3]))


def test_the_fingerprint_depends_on_photos_and_labels_alone(root: Path) -> None:
    """Another validation split, side or file name does not change it; another photo or label does."""
    as_folders(root)

    def fingerprint(**more: Any) -> str:
        data: Dataset = photos.load(data_table(**more), SPEC)
        return data.fingerprint

    first = fingerprint()
    assert first.startswith("sha256:")
    assert fingerprint(validation=9) == fingerprint(stored_side=11) == first
    (root / "train" / "cat" / "0.jpg").rename(root / "train" / "cat" / "zero.jpg")
    assert fingerprint() == first
    (root / "train" / "cat" / "zero.jpg").rename(root / "train" / "dog" / "zero.jpg")
    relabelled = fingerprint()
    write(root / "test" / "dog" / "more.jpg", noise(300))
    assert len({first, relabelled, fingerprint()}) == 3


def test_oxford_pets_have_their_official_splits(root: Path) -> None:
    """Cats are 0 and dogs 1; the validation split is held out of the official trainval; the test split is official."""
    examples = [(noise(number), number % 2) for number in range(16)]
    layouts.oxford(root.parent, examples[:12], examples[12:])
    data = photos.load(data_table("oxford-pets", validation=3), SPEC)
    assert (len(data.train), len(data.validation)) == (9, 3)
    test = data.tests["oxford-pets"]
    np.testing.assert_array_equal(
        test.inputs, np.stack([image_to_pixels(noise(number), FRAME) for number in range(12, 16)])
    )
    assert test.labels.tolist() == [CAT, DOG, CAT, DOG]
    parts = photos.split(data_table("oxford-pets", validation=3))
    assert labels_of(parts) == {noise(number): number % 2 for number in range(16)}


@pytest.mark.usefixtures("root")
def test_oxford_pets_are_never_downloaded_by_training() -> None:
    """Without files, the message names the folder and the command that downloads the data set."""
    with pytest.raises(DataError, match=r"oxford-pets: .* python -m training data oxford-pets"):
        photos.split(data_table("oxford-pets"))


def test_photos_of_every_format_are_found(root: Path) -> None:
    """Suffixes in capitals and of each format that the service reads; without a test folder, a tenth is held out."""
    names = ["a.JPG", "b.webp", "c.bmp", "d.gif", "e.TIFF", "f.jpeg", "g.png", "h.tif", "i.Png", "j.jpe"]
    for label in ("cat", "dog"):
        for number, name in enumerate([*names, "notes.txt", ".DS_Store"]):
            layouts.write(root / "train" / label / name, f"{label}{number}".encode())
    train, test = photos._split_test("cats-vs-dogs")  # noqa: SLF001 -- before anything is decoded
    assert (len(train), len(test)) == (18, 2)
    assert {photo.path.name for photo in train + test} == set(names)
    assert {photo.label for photo in test} == {0, 1}


def test_files_that_are_not_images_are_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line names the folder, the number of files and their suffixes."""
    for name in ("a.jpg", "b.heic", "c.txt"):
        layouts.write(root / "train" / "cat" / name, name.encode())
    photos.cats_vs_dogs()
    assert "train/cat: 2 files are not read, since they are not images: .heic, .txt" in capsys.readouterr().err


def test_a_refit_has_all_photos_as_they_are_stored(root: Path) -> None:
    """Photos of the validation split are decoded at the stored side, too, so that the two splits can be joined."""
    as_folders(root)
    data = photos.load(data_table(stored_side=11, refit=True), SPEC)
    assert data.refit.inputs.shape == (len(data.train) + len(data.validation), 7, 11, 3)
    assert data.refit.labels.tolist() == data.train.labels.tolist() + data.validation.labels.tolist()
    assert data.validation.inputs.shape[1:] == (6, 9, 3)


def test_folds_of_photos_partition_the_training_photos(root: Path) -> None:
    """Each training photo is tested in one fold, in proportion to the labels; the published test split is not used."""
    as_folders(root)
    train = {photo.digest: photo for part in photos.split(data_table())[:2] for photo in part}
    folds = [photos.fold(data_table(folds=3, validation=2), SPEC, number) for number in range(3)]
    tested = [file for fold in folds for file in fold.tests["cats-vs-dogs"].files or ()]
    assert sorted(tested) == sorted(str(photo.path) for photo in train.values())
    assert len({fold.fingerprint for fold in folds}) >= 1
    for fold in folds:
        parts = [set(split.files or ()) for split in (fold.train, fold.validation, fold.tests["cats-vs-dogs"])]
        assert sum(map(len, parts)) == len(set().union(*parts)) == len(train)


@pytest.mark.data
def test_the_real_photos_have_their_counts_and_are_disjoint() -> None:
    """20,466 training, 2,000 validation and 2,500 test photos, about half of each dogs, no two files equal."""
    if not (data_folder() / "cats-vs-dogs" / "train" / "cat").is_dir():
        pytest.skip(f"missing {data_folder() / 'cats-vs-dogs'}: set CONVOKE_DATA to the data folder")
    parts = photos.split(data_table(validation=2000))
    assert tuple(map(len, parts)) == (20_466, 2000, 2500)
    assert len(set().union(*map(digests, parts))) == sum(map(len, parts))
    assert [sum(photo.label for photo in part) for part in parts] == [10_230, 1000, 1250]
