"""JPEGs that are cut off or damaged: what is nearly all there is read, what is not is refused."""

import base64
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from contract.errors import Unreadable, UnsupportedMediaType
from contract.inputs import image_to_pixels
from contract.picture import decode
from contract.spec import ImageInput
from tests.drawing import encode

PHOTO = ImageInput(height=96, width=96, mode="RGB", framing="squash")
KINDS: dict[str, dict[str, object]] = {
    "usual": {},
    "fine": {"quality": 95},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_rows": 1},
    "grey": {},
    "CMYK": {},
}


def photo() -> Image.Image:
    """Shapes and grain in colour, 320 x 240."""
    random = np.random.default_rng(4)
    coarse = Image.fromarray(random.integers(0, 256, (8, 10, 3), np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + random.normal(0, 9, (240, 320, 3)), 0, 255).astype(np.uint8))


def jpeg(kind: str) -> bytes:
    """The photo as one kind of JPEG."""
    return encode(photo().convert({"grey": "L", "CMYK": "CMYK"}.get(kind, "RGB")), "JPEG", **KINDS[kind])


def code(data: bytes) -> int:
    """Where the code of the pixels starts."""
    place = data.find(b"\xff\xda")
    return place + 2 + int.from_bytes(data[place + 2 : place + 4])


def with_rows(data: bytes, rows: int) -> bytes:
    """The file with another height in its header."""
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:place] + rows.to_bytes(2) + data[place + 2 :]


def replaced(data: bytes, start: float, end: float, fill: bytes) -> bytes:
    """The file with a part of its code, in shares of it, replaced."""
    first, length = code(data), len(data) - code(data) - 2
    begin, stop = first + int(length * start), first + int(length * end)
    return data[:begin] + fill * (stop - begin) + data[stop:]


NEARLY: dict[str, Callable[[bytes], bytes]] = {
    "without the end marker": lambda data: data[:-2],
    "without half of the end marker": lambda data: data[:-1],
    "without 3 bytes": lambda data: data[:-3],
    "without 100 bytes": lambda data: data[:-100],
    "without 100 bytes, ended": lambda data: data[:-100] + b"\xff\xd9",
    "of two more rows": lambda data: with_rows(data, 242),
    "followed by zeros": lambda data: data + bytes(500),
    "followed by another": lambda data: data + data,
    "followed by a line end": lambda data: data + b"\r\n",
}
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda data: data[: code(data) + (len(data) - code(data)) // 2],
    "cut in half, ended": lambda data: replaced(data, 0.5, 1, b""),
    "cut in half, filled up with zeros": lambda data: replaced(data, 0.5, 1, b"\0"),
    "zeros in the middle": lambda data: replaced(data, 0.4, 0.6, b"\0"),
    "without its middle": lambda data: replaced(data, 0.4, 0.7, b""),
    "line feeds became CR LF": lambda data: data.replace(b"\n", b"\r\n"),
    "carriage returns are lost": lambda data: data.replace(b"\r", b""),
    "of half as many rows again": lambda data: with_rows(data, 360),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", NEARLY)
def test_all_but_the_last_rows_are_enough(change: str, kind: str) -> None:
    """As every browser shows it; nothing that the file does not hold is among the pixels."""
    data = jpeg(kind)
    actual = np.asarray(decode(NEARLY[change](data), PHOTO), np.int16)
    expected = np.asarray(decode(data, PHOTO), np.int16)
    assert actual.shape[1:] == expected.shape[1:]
    assert 0.85 * len(expected) <= len(actual) <= 1.01 * len(expected)
    rows = min(len(actual), len(expected))
    difference = np.abs(actual[:rows] - expected[:rows])
    assert difference[:-12].max() <= (60 if kind == "progressive" else 0)  # of which the last refinement is missing
    assert difference.mean() < 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", DAMAGED)
def test_what_lacks_more_is_refused(change: str, kind: str) -> None:
    """No answer is given about pixels that are not there."""
    if (kind, change) == ("progressive", "without its middle"):
        pytest.skip("the scans that are left are complete")
    with pytest.raises(Unreadable, match=r"damaged|cut off") as error:
        image_to_pixels(DAMAGED[change](jpeg(kind)), PHOTO)
    assert error.value.status == 422


def test_the_message_counts_the_missing_rows() -> None:
    """So that a client sees how much of its upload arrived."""
    with pytest.raises(Unreadable, match=r"1\d\d of its 240 rows"):
        image_to_pixels(DAMAGED["cut in half"](jpeg("usual")), PHOTO)


@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"progressive": True}], ids=["usual", "optimised", "scans"]
)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_areas_of_one_colour_are_no_damage(level: int, options: dict[str, object]) -> None:
    """A page of one colour has code of zeros, and the grey of missing rows may be the image's own."""
    page = Image.new("RGB", (1200, 1600), (level,) * 3)
    page.paste(photo(), (0, 0))
    data = encode(page, "JPEG", **options)
    assert image_to_pixels(data, PHOTO)[90].min() >= level - 2


def test_padding_behind_the_code_is_no_damage() -> None:
    """Cameras align the end of their code."""
    data = jpeg("usual")
    for padding in (bytes(300), b"\xff" * 300):
        assert (image_to_pixels(data[:-2] + padding + b"\xff\xd9", PHOTO) == image_to_pixels(data, PHOTO)).all()


@pytest.mark.parametrize(
    ("marker", "bits", "name"),
    [
        (0xC1, 12, "12 bits"),
        (0xC3, 8, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xCB, 8, "lossless"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_rare_kinds_are_named(marker: int, bits: int, name: str) -> None:
    """They are not damaged, but no decoder of ours reads them."""
    data = bytearray(jpeg("usual"))
    place = data.find(b"\xff\xc0")
    data[place + 1], data[place + 4] = marker, bits
    with pytest.raises(UnsupportedMediaType, match=name):
        image_to_pixels(bytes(data), PHOTO)


ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6j"
    "q62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk"
    "pKSkpKSkpKT/yQARCAAQABADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD+TRUDcQHDxvTlczGEK4yA/9k="
)
"""Red above blue, 16 x 16, by `cjpeg -arithmetic`."""


def test_arithmetic_coding_is_read() -> None:
    """libjpeg-turbo has it, and cannot stop in the middle of it."""
    pixels = image_to_pixels(ARITHMETIC, PHOTO)
    assert pixels[5, 50, 0] > pixels[5, 50, 2] + 100
    assert pixels[90, 50, 2] > pixels[90, 50, 0] + 100
