"""Decompression bombs are refused before they are decoded, or decoded within limits of time and memory."""

import contextlib
import subprocess
import sys

import pytest

from contract.errors import NoContent, NoDigit, SeveralDigits, TooLarge, Unreadable
from contract.inputs import image_to_pixels
from contract.picture import decode
from contract.spec import ImageInput
from tests.fuzz.decompression_bombs import animation, decompression_bombs, huge_headers, scans, tiff
from tests.fuzz.measure import measured
from tests.fuzz.seed_corpus import run_lengths
from tests.serving import ROOT

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")
PHOTO = ImageInput(height=96, width=96, mode="RGB", framing="squash")
SIDE = 1200
BYTES_PER_PIXEL, BASE_BYTES = 24, 16 << 20


@pytest.mark.parametrize("image_format", list(huge_headers()))
def test_huge_headers_are_refused_at_no_cost(image_format: str) -> None:
    """A file of 100 bytes that declares 50,000 x 50,000 pixels is refused without noticeable time and memory."""
    data = huge_headers()[image_format]
    assert len(data) <= 100
    with contextlib.suppress(NoContent):
        image_to_pixels(huge_headers(8)["webp"], PHOTO)
    with measured() as cost, pytest.raises(TooLarge, match=r"too many pixels.*51,000,000"):
        image_to_pixels(data, PHOTO)
    assert cost.peak_bytes < BASE_BYTES
    assert cost.cpu_s < 0.5


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return decompression_bombs(SIDE)


@pytest.mark.parametrize("spec", [DIGIT, PHOTO], ids=["digit", "photo"])
def test_memory_is_bounded_by_the_pixel_limit(files: dict[str, bytes], spec: ImageInput) -> None:
    """Decoding any file takes at most 24 bytes for each pixel that the limit allows, and less than two seconds."""
    read = set()
    for name, data in files.items():
        with measured() as cost, contextlib.suppress(TooLarge, Unreadable):
            with contextlib.suppress(NoContent, NoDigit, SeveralDigits):
                image_to_pixels(data, spec, max_pixels=SIDE * SIDE)
            read.add(name)
        assert cost.peak_bytes < BYTES_PER_PIXEL * SIDE * SIDE + BASE_BYTES, name
        assert cost.cpu_s < 2, name
    assert {name for name in files if "blank" in name} | {"webp-canvas"} <= read


def test_tiles_larger_than_the_image_are_refused() -> None:
    """A TIFF of 28 x 28 pixels in tiles of 40,000 x 50,000 is not decoded: one tile would take 2 GB."""
    tags = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 50_000}
    with pytest.raises(TooLarge, match=r"tile.*40000 x 50000.*51,000,000"):
        image_to_pixels(tiff(tags, tiled=True), DIGIT)


def test_a_canvas_larger_than_its_frame_is_refused() -> None:
    """A WebP of one pixel on a canvas of 10,000 x 10,000 counts as 100 million pixels."""
    with pytest.raises(TooLarge, match="10000 x 10000"):
        image_to_pixels(animation(10_000), DIGIT)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each scan takes a few bytes in the file and a pass over all pixels, so at most 100 scans are allowed."""
    assert decode(scans(64, 50), PHOTO).size == (64, 64)
    with pytest.raises(TooLarge, match=r"scans.*100"):
        image_to_pixels(scans(64, 400), PHOTO)


def test_scans_of_a_baseline_jpeg_are_counted() -> None:
    """A baseline JPEG is also decoded scan by scan if its first scan does not hold all components."""
    data = scans(64, 400)
    baseline = data.replace(b"\xff\xc2", b"\xff\xc0", 1).replace(b"\xff\xda\x00\x08\x01", b"\xff\xda\x00\x0a\x02", 1)
    with pytest.raises(TooLarge, match=r"scans.*100"):
        image_to_pixels(baseline, PHOTO)


def test_run_lengths_of_a_bmp_are_bounded() -> None:
    """Pillow decodes them in Python, byte by byte, so at most 4 MiB of them are allowed."""
    assert decode(run_lengths(64, 64, b"\x40\7\0\0" * 64 + b"\0\1"), PHOTO).size == (64, 64)
    with pytest.raises(TooLarge, match="run lengths"):
        image_to_pixels(run_lengths(64, 64, b"\1\7" * (2 << 20)), PHOTO)


def test_a_damaged_fax_does_not_fill_the_log() -> None:
    """Libtiff would log a line for each bad row of a TIFF; the service turns its messages off."""
    program = (
        "from contract import inputs\n"
        "from contract.spec import ImageInput\n"
        "from tests.fuzz.decompression_bombs import damaged_fax\n"
        "inputs.warm_up()\n"
        "spec = ImageInput(height=96, width=96, mode='RGB', framing='squash')\n"
        "inputs.image_to_pixels(damaged_fax(20_000), spec)\n"
    )
    completed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert completed.stderr == b""
