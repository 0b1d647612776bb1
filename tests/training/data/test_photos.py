"""Photos of noise in every layout: how they are parted, decoded and kept; and the counts of the real ones."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contract.inputs import image_to_pixels
from tests.drawing import encode
from tests.training.data import layouts
from tests.training.data.layouts import write
from training.data import photos
from training.data.dataset import Dataset, Split, cache_folder, folder
from training.data.photos import Photo
from training.data.schema import Data
from training.data.schema import Image as ImageTable
from training.errors import DataError

SPEC = ImageTable(height=6, width=9, mode="RGB", framing="squash", mean=[0.5] * 3, std=[0.2] * 3)
FRAME = photos.contract_of(SPEC)
CAT, DOG = 0, 1


def noise(seed: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A JPEG of noise, `size` wide and high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "JPEG")


def wants(name: str = "cats-vs-dogs", validation: int = 5, **more: Any) -> Data:
    """What a recipe says of its data, with fewer held out than recipes may."""
    return Data.model_construct(name=name, validation=validation, **more)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cats-vs-dogs/ in a data folder of the test's own, and an empty cache."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data" / "cats-vs-dogs"
    place.mkdir(parents=True)
    return place


def as_folders(root: Path) -> None:
    """{train,test}/{cat,dog}: 40 photos to learn from, 6 to test on."""
    examples = [(noise(number), number % 2) for number in range(46)]
    layouts.folders(root.parent, examples[:40], examples[40:])


def as_kaggle(root: Path) -> None:
    layouts.kaggle(root.parent, [(noise(number), number % 2) for number in range(40)])
    write(root / "train" / "bird.0.jpg", noise(99))


def as_microsoft(root: Path) -> None:
    layouts.microsoft(root.parent, [(noise(number), number % 2) for number in range(40)])
    write(root / "PetImages" / "Cat" / "Thumbs.db", b"no photo")


def found(parts: tuple[list[Photo], ...]) -> dict[bytes, int]:
    """The label of each content, over all parts."""
    return {photo.path.read_bytes(): photo.label for part in parts for photo in part}


def digests(part: list[Photo]) -> set[str]:
    return {photo.digest for photo in part}


@pytest.mark.parametrize(
    ("layout", "sizes"), [(as_folders, (35, 5, 6)), (as_kaggle, (31, 5, 4)), (as_microsoft, (31, 5, 4))]
)
def test_each_layout_is_read(layout: Callable[[Path], None], sizes: tuple[int, ...], root: Path) -> None:
    """Every photo is in one split, under its label; a layout without a test split gives a tenth of its photos."""
    layout(root)
    parts = photos.split(wants())
    assert tuple(map(len, parts)) == sizes
    assert found(parts) == {noise(number): number % 2 for number in range(sum(sizes))}
    assert not any(digests(one) & digests(other) for one in parts for other in parts if one is not other)


@pytest.mark.parametrize("layout", [as_folders, as_kaggle, as_microsoft])
def test_what_is_held_out_depends_on_content_alone(layout: Callable[[Path], None], root: Path) -> None:
    """Other file names, in another order, give the same three sets of photos."""
    layout(root)
    before = [digests(part) for part in photos.split(wants())]
    paths = [path for path in root.rglob("*.jpg") if not path.name.startswith("bird")]
    for path in paths:
        kind, *_, ending = path.name.split(".") if "cat." in path.name or "dog." in path.name else ("x", "jpg")
        path.rename(path.with_name(f"{kind}.{1000 - int(path.stem.split('.')[-1])}.{ending}"))
    assert [digests(part) for part in photos.split(wants())] == before


def test_copies_to_learn_from_stand_once(root: Path) -> None:
    """Three copies of a photo under one label are one photo, in one split."""
    as_folders(root)
    for copy in ("a", "z"):
        write(root / "train" / "cat" / f"{copy}.jpg", noise(8))
    parts = photos.split(wants())
    assert [photo.digest for part in parts for photo in part].count(photo_of(noise(8)).digest) == 1
    assert tuple(map(len, parts)) == (35, 5, 6)


def test_a_photo_to_test_on_is_not_learnt_from(root: Path) -> None:
    """Of a content in the training and the test folder only the test photo stays."""
    as_folders(root)
    write(root / "train" / "cat" / "copy.jpg", noise(40))
    write(root / "train" / "dog" / "copy.jpg", noise(42))  # a cat in the test folder
    train, validation, test = photos.split(wants())
    assert digests(test) == {photo_of(noise(number)).digest for number in range(40, 46)}
    assert not digests(test) & (digests(train) | digests(validation))
    assert len(train) + len(validation) == 40


def test_a_photo_under_both_labels_is_left_out(root: Path) -> None:
    """A content that is a cat and a dog is neither: no copy of it is learnt from."""
    as_folders(root)
    write(root / "train" / "dog" / "cat after all.jpg", noise(8))
    train, validation, _ = photos.split(wants())
    assert photo_of(noise(8)).digest not in digests(train) | digests(validation)
    assert len(train) + len(validation) == 39


def photo_of(content: bytes, label: int = CAT, place: Path | None = None) -> Photo:
    """A photo by its content, written where it is to be read."""
    if place is not None:
        write(place, content)
    return Photo(place or Path(), label, hashlib.sha256(content).hexdigest())


def test_without_photos_the_refusal_names_every_layout(root: Path) -> None:
    """An empty folder, and one that is not there, are a DataError with the place and the command."""
    write(root / "readme.txt", b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"there are no photos in .*cats-vs-dogs: .*PetImages.*training data"):
            photos.split(wants())
        (root / "readme.txt").unlink(missing_ok=True)


@pytest.mark.parametrize("validation", [40, 41])
def test_more_held_out_than_there_is_is_refused(validation: int, root: Path) -> None:
    """Some photo must be left to learn from."""
    as_folders(root)
    with pytest.raises(DataError, match=f"{validation} of 40 photos cannot be held out"):
        photos.split(wants(validation=validation))
    assert len(photos.split(wants(validation=39))[0]) == 1


def expected(part: list[Photo], spec: Any = FRAME) -> npt.NDArray[np.uint8]:
    return np.stack([image_to_pixels(photo.path.read_bytes(), spec) for photo in part])


def test_pixels_are_those_that_the_service_makes(root: Path) -> None:
    """Each split is what service.preprocess gives, 6 high and 9 wide; training photos at the side they are kept at."""
    as_folders(root)
    train, validation, test = photos.split(wants())
    data = photos.load(wants(), SPEC)
    for split, part in ((data.train, train), (data.validation, validation), (data.tests["cats-vs-dogs"], test)):
        assert split.inputs.shape[1:] == (6, 9, 3)
        np.testing.assert_array_equal(split.inputs, expected(part))
        assert split.labels.tolist() == [photo.label for photo in part]
    large = photos.load(wants(stored_side=11), SPEC)
    np.testing.assert_array_equal(large.train.inputs, expected(train, photos.contract_of(SPEC, 11)))
    assert large.train.inputs.shape[1:] == (11, 11, 3)
    np.testing.assert_array_equal(large.validation.inputs, data.validation.inputs)
    alone = photos.tests("cats-vs-dogs", FRAME, None)["cats-vs-dogs"]
    np.testing.assert_array_equal(alone.inputs, data.tests["cats-vs-dogs"].inputs)


def test_a_sample_is_of_the_photos_to_learn_from(root: Path) -> None:
    """It has the served size, names the same data as a load does, and holds nothing held out or tested on."""
    as_folders(root)
    found, fingerprint = photos.sample(wants(stored_side=12), FRAME, 7)
    train, validation, test = photos.split(wants())
    assert found.inputs.shape == (7, 6, 9, 3)
    assert fingerprint == photos.load(wants(stored_side=12), SPEC).fingerprint
    pixels = {picture.numpy().tobytes() for picture in found.inputs}
    assert pixels <= {picture.tobytes() for picture in expected(train)}
    assert not pixels & {picture.tobytes() for picture in expected(validation + test)}


def test_height_and_width_are_not_swapped(root: Path) -> None:
    """A photo whose left half is white and right half black has them there, 6 high and 9 wide."""
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
    """Four ways to be damaged cost four photos and no other: labels stay with their pixels; the second load agrees."""
    as_microsoft(root)
    for number, (name, content) in enumerate(BROKEN.items()):
        write(root / "PetImages" / ("Cat", "Dog")[number % 2] / name, content)
    parts = photos.split(wants(validation=8))
    for part in parts:
        whole = [photo for photo in part if photo.path.name not in BROKEN]
        for _ in range(2):
            split = photos.decode(part, FRAME, "some")
            np.testing.assert_array_equal(split.inputs, expected(whole))
            assert split.labels.tolist() == [photo.label for photo in whole]
    said = capsys.readouterr().err
    assert sorted(line.split(":")[0].rsplit("/", 1)[1] for line in said.splitlines()) == sorted(BROKEN)
    assert sorted(line.split(":")[0].rsplit("/", 1)[1] for part in parts for line in photos.broken(part, FRAME)) == (
        sorted(BROKEN)
    )


def test_nothing_but_corrupt_photos_is_a_data_error(root: Path) -> None:
    """Where none of a split can be decoded there is nothing to train on, the second time as well."""
    part = [photo_of(content, place=root / name) for name, content in BROKEN.items()]
    for _ in range(2):
        with pytest.raises(DataError, match="none of the 4 training photos can be decoded"):
            photos.decode(part, FRAME, "training")


@pytest.fixture
def few(root: Path) -> list[Photo]:
    """Four photos, one of them corrupt."""
    whole = [photo_of(noise(number), number % 2, root / f"{number}.jpg") for number in range(3)]
    return [*whole, photo_of(b"", DOG, root / "empty.jpg")]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents that are decoded, as they are."""
    seen: list[bytes] = []

    def recorded(content: bytes, spec: Any) -> npt.NDArray[np.uint8]:
        seen.append(content)
        return image_to_pixels(content, spec)

    monkeypatch.setattr("training.data.photos.image_to_pixels", recorded)
    return seen


def equal(one: Split, other: Split) -> bool:
    return bool((one.inputs == other.inputs).all()) and bool((one.labels == other.labels).all())


def test_a_second_load_decodes_nothing(few: list[Photo], decoded: list[bytes]) -> None:
    """What was decoded is read from the cache, wherever the files lie by then; labels are not part of it."""
    first = photos.decode(few, FRAME, "some")
    assert len(decoded) == 4
    moved = [Photo(Path("elsewhere"), 1 - photo.label, photo.digest) for photo in few]
    second = photos.decode(moved, FRAME, "some")
    assert len(decoded) == 4
    assert equal(Split(second.inputs, 1 - second.labels), first)


def test_what_changes_pixels_is_decoded_anew(
    few: list[Photo], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another frame, another preprocessing version, other photos or another order of them is another cache."""
    photos.decode(few, FRAME, "some")
    decoded.clear()
    for change in ({"width": 8}, {"height": 9, "width": 6}, {"mode": "L"}):
        photos.decode(few, FRAME.model_copy(update=change), "some")
    photos.decode(few[:2], FRAME, "some")
    photos.decode(few[::-1], FRAME, "some")
    assert len(decoded) == 3 * 4 + 2 + 4
    decoded.clear()
    monkeypatch.setattr("training.data.photos.PREPROCESSING_VERSION", 2)
    photos.decode(few, FRAME, "some")
    assert len(decoded) == 4


def test_what_is_done_with_the_pixels_does_not_reach_the_cache(few: list[Photo]) -> None:
    """The split may be written to, as torch expects of memory; the cache keeps its content."""
    first = photos.decode(few, FRAME, "some")
    before = first.inputs.clone()
    first.inputs.zero_()
    assert bool((photos.decode(few, FRAME, "some").inputs == before).all())


def left_in_cache() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir())


@pytest.mark.parametrize("place", [0, 2])
def test_a_run_killed_while_decoding_leaves_no_half_cache(
    place: int, few: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at any photo: nothing stays in the cache, and the next run decodes all."""

    def killed(content: bytes, spec: Any) -> npt.NDArray[np.uint8]:
        if content == few[place].path.read_bytes():
            raise KeyboardInterrupt
        return image_to_pixels(content, spec)

    with monkeypatch.context() as patch:
        patch.setattr("training.data.photos.image_to_pixels", killed)
        with pytest.raises(KeyboardInterrupt):
            photos.decode(few, FRAME, "some")
    assert left_in_cache() == []
    np.testing.assert_array_equal(photos.decode(few, FRAME, "some").inputs, expected(few[:3]))


@pytest.mark.parametrize("name", ["np.save", "json.dumps", "Path.replace"])
def test_a_failure_after_decoding_leaves_no_half_cache(
    name: str, few: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at any later step is a DataError that names the variable; the next run starts anew."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"training.data.photos.{name}", full)
        with pytest.raises(DataError, match=r"No space left on device.* in CONVOKE_CACHE"):
            photos.decode(few, FRAME, "some")
    assert [path for path in left_in_cache() if path.endswith(".json") or path.startswith(".")] == []
    np.testing.assert_array_equal(photos.decode(few, FRAME, "some").inputs, expected(few[:3]))


def test_a_disk_without_room_is_refused_before_decoding(
    few: list[Photo], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four photos of 6 x 9 x 3 bytes do not go into 647: a file mapped onto a full disk would kill the process."""
    monkeypatch.setattr("training.data.photos.shutil.disk_usage", lambda _place: SimpleNamespace(free=647))
    with pytest.raises(DataError, match=r"No space left on device.* in CONVOKE_CACHE"):
        photos.decode(few, FRAME, "some")
    assert decoded == []
    monkeypatch.setattr("training.data.photos.shutil.disk_usage", lambda _place: SimpleNamespace(free=648))
    assert len(photos.decode(few, FRAME, "some")) == 3


def test_a_cache_that_cannot_be_made_is_a_data_error(
    few: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file is in the way of the folder, the refusal names the variable that moves it."""
    write(tmp_path / "in the way", b"")
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "in the way" / "cache"))
    with pytest.raises(DataError, match=r"cannot be kept there: .*CONVOKE_CACHE"):
        photos.decode(few, FRAME, "some")


@pytest.mark.parametrize("damage", ["json", "npy", "no npy"])
def test_a_damaged_cache_is_a_data_error_that_says_what_to_remove(damage: str, few: list[Photo]) -> None:
    """Garbage in either file is no traceback; once the index is removed, the photos are decoded again."""
    photos.decode(few, FRAME, "some")
    (index,) = cache_folder().glob("*.json")
    if damage == "no npy":
        index.with_suffix(".npy").unlink()
    else:
        index.with_suffix(f".{damage}").write_bytes(b"{")
    with pytest.raises(DataError, match=f"Remove {index} to decode again"):
        photos.decode(few, FRAME, "some")
    index.unlink()
    assert len(photos.decode(few, FRAME, "some")) == 3


def test_the_index_names_what_was_skipped(few: list[Photo]) -> None:
    """The cache holds the pixels of whole photos and, beside them, the digests of the others."""
    photos.decode(few, FRAME, "some")
    (index,) = cache_folder().glob("*.json")
    assert json.loads(index.read_text()) == [few[3].digest]
    np.testing.assert_array_equal(np.load(index.with_suffix(".npy")), expected(few[:3]))


def test_the_fingerprint_says_which_photos_and_nothing_else(root: Path) -> None:
    """Another number held out, another side or other file names: the same data. Another photo or label: other data."""
    as_folders(root)

    def fingerprint(**more: Any) -> str:
        data: Dataset = photos.load(wants(**more), SPEC)
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


def test_oxford_pets_come_in_their_official_splits(root: Path) -> None:
    """Cats are 0 and dogs 1; the validation split is held out of the official trainval, the test split is theirs."""
    examples = [(noise(number), number % 2) for number in range(16)]
    layouts.oxford(root.parent, examples[:12], examples[12:])
    data = photos.load(wants("oxford-pets", validation=3), SPEC)
    assert (len(data.train), len(data.validation)) == (9, 3)
    test = data.tests["oxford-pets"]
    np.testing.assert_array_equal(
        test.inputs, np.stack([image_to_pixels(noise(number), FRAME) for number in range(12, 16)])
    )
    assert test.labels.tolist() == [CAT, DOG, CAT, DOG]
    parts = photos.split(wants("oxford-pets", validation=3))
    assert found(parts) == {noise(number): number % 2 for number in range(16)}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), URLError("no network")])
def test_oxford_pets_that_cannot_be_downloaded_are_a_data_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without files and without a network the refusal names the place and the reason."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", fail)
    with pytest.raises(
        DataError, match=r"cannot be read from .*oxford-pets, nor downloaded there: .*(corrupt|network)"
    ):
        photos.split(wants("oxford-pets"))


@pytest.mark.data
def test_the_real_photos_have_their_counts_and_are_disjoint() -> None:
    """20,466 to learn from, 2,000 held out and 2,500 to test on, about half of each dogs, no two files alike."""
    if not (folder() / "cats-vs-dogs" / "train" / "cat").is_dir():
        pytest.skip(f"there are no photos in {folder() / 'cats-vs-dogs'}: name the data folder in CONVOKE_DATA")
    parts = photos.split(wants(validation=2000))
    assert tuple(map(len, parts)) == (20_466, 2000, 2500)
    assert len(set().union(*map(digests, parts))) == sum(map(len, parts))
    assert [sum(photo.label for photo in part) for part in parts] == [10_213, 1017, 1250]
