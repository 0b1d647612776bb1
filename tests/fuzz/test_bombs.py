"""Files that ask for much: refused before they take it, or decoded within bounds."""

import contextlib
import subprocess
import sys

import pytest

from contract.errors import TooLarge, Unreadable
from contract.inputs import image_to_pixels
from contract.spec import ImageInput
from tests.fuzz.bombs import animation, bombs, headers, scans, tiff
from tests.fuzz.measure import measured
from tests.fuzz.seeds import run_lengths
from tests.fuzz.target import ROOT

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")
PHOTO = ImageInput(height=96, width=96, mode="RGB", framing="squash")
SIDE = 1200
BYTES_A_PIXEL, BYTES_BESIDE = 24, 16 << 20


@pytest.mark.parametrize("kind", list(headers()))
def test_a_header_of_100_bytes_gets_nothing(kind: str) -> None:
    """50,000 x 50,000 pixels are refused as too many, for every kind, in no time and with no memory to speak of."""
    data = headers()[kind]
    assert len(data) <= 100
    image_to_pixels(headers(8)["webp"], PHOTO)
    with measured() as cost, pytest.raises(TooLarge, match=r"too large|50000 x 50000"):
        image_to_pixels(data, PHOTO)
    assert cost.peak_bytes < BYTES_BESIDE
    assert cost.cpu_s < 0.5


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return bombs(SIDE)


@pytest.mark.parametrize("spec", [DIGIT, PHOTO], ids=["digit", "photo"])
def test_what_is_within_the_limits_takes_memory_in_proportion(files: dict[str, bytes], spec: ImageInput) -> None:
    """At most 24 bytes for each pixel that the limit allows, whatever the file says, and less than a second."""
    read = set()
    for name, data in files.items():
        with measured() as cost, contextlib.suppress(TooLarge, Unreadable):
            image_to_pixels(data, spec, max_pixels=SIDE * SIDE)
            read.add(name)
        assert cost.peak_bytes < BYTES_A_PIXEL * SIDE * SIDE + BYTES_BESIDE, name
        assert cost.cpu_s < 2, name
    assert {name for name in files if "blank" in name} | {"webp-canvas"} <= read


def test_a_tile_larger_than_its_picture_is_counted() -> None:
    """A TIFF of 28 x 28 in tiles of 40,000 x 50,000 is not decoded: one tile would take 2 GB."""
    tags = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 50_000}
    with pytest.raises(TooLarge, match="tiles of 40000 x 50000 pixels; at most 50,000,000"):
        image_to_pixels(tiff(tags, tiled=True), DIGIT)


def test_a_canvas_larger_than_its_frame_is_counted() -> None:
    """A WebP of one pixel on a canvas of 10,000 x 10,000 has 100 million of them."""
    with pytest.raises(TooLarge, match="10000 x 10000"):
        image_to_pixels(animation(10_000), DIGIT)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each scan is a pass over all pixels that a file asks for in a few bytes; a hundred are enough for anyone."""
    assert image_to_pixels(scans(64, 50), PHOTO).shape == (96, 96, 3)
    with pytest.raises(TooLarge, match="scans; at most 100"):
        image_to_pixels(scans(64, 400), PHOTO)


def test_scans_are_counted_where_the_first_is_not_all() -> None:
    """A baseline JPEG, too, is read scan by scan where its first scan leaves a component out."""
    data = scans(64, 400)
    baseline = data.replace(b"\xff\xc2", b"\xff\xc0", 1).replace(b"\xff\xda\x00\x08\x01", b"\xff\xda\x00\x0a\x02", 1)
    with pytest.raises(TooLarge, match="scans; at most 100"):
        image_to_pixels(baseline, PHOTO)


def test_run_lengths_of_a_bmp_are_bounded() -> None:
    """Pillow unpacks them in Python, a byte at a time: 4 MiB of them are read, more are not."""
    assert (image_to_pixels(run_lengths(64, 64, b"\x40\7\0\0" * 64 + b"\0\1"), PHOTO) == 0).all()
    with pytest.raises(TooLarge, match="run lengths"):
        image_to_pixels(run_lengths(64, 64, b"\1\7" * (2 << 20)), PHOTO)


def test_a_damaged_fax_does_not_fill_the_log() -> None:
    """Libtiff would write a line for each bad row of a TIFF, as many as its header says; the service has it silent."""
    program = (
        "from contract import inputs\n"
        "from contract.spec import ImageInput\n"
        "from tests.fuzz.bombs import damaged_fax\n"
        "inputs.warm_up()\n"
        "spec = ImageInput(height=96, width=96, mode='RGB', framing='squash')\n"
        "inputs.image_to_pixels(damaged_fax(20_000), spec)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert ended.stderr == b""
