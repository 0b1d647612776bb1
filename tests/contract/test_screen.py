"""Images that would cost far more than their bytes and pixels suggest."""

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from contract.errors import TooLarge
from contract.inputs import image_to_pixels
from contract.jpeg import MAX_SCANS, MAX_SEGMENTS
from contract.screen import MAX_RUN_LENGTH_BYTES, MAX_TAG_VALUES, screen
from contract.spec import ImageInput
from tests.drawing import cat, draw, encode

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"", rows: bytes = b"") -> bytes:
    """A grey PNG with these chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(screen_size: int, frame_size: int, frames: int = 1) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, frame_size, frame_size, 0) + b"\x02\x02\x44\x01\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", screen_size, screen_size, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return header + frame * frames + b";"


def tiff(size: int, *tags: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """A grey TIFF of size x size with the data of 28 x 28, and more tags: number, type, count and values."""
    plain = [(256, size), (257, size), (258, 8), (259, 1), (262, 1), (273, 8), (278, size), (279, 784)]
    entries = sorted([*((tag, 4, 1, struct.pack(order + "I", value)) for tag, value in plain), *tags])
    start = 8 + 784
    data, directory = b"", struct.pack(order + "H", len(entries))
    for tag, kind, count, values in entries:
        place = start + 2 + 12 * len(entries) + 4 + len(data)
        directory += struct.pack(order + "HHI", tag, kind, count)
        directory += values.ljust(4, b"\0") if len(values) <= 4 else struct.pack(order + "I", place)
        data += values if len(values) > 4 else b""
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start)
    return header + bytes(784) + directory + bytes(4) + data


def webp(side: int, chunk_kind: int) -> bytes:
    """A WebP that declares a canvas of this side: plain (0) or animated (2)."""
    canvas = bytes([chunk_kind, 0, 0, 0]) + struct.pack("<I", side - 1)[:3] * 2
    body = b"VP8X" + struct.pack("<I", 10) + canvas + encode(Image.new("RGB", (16, 16)), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp(side: int, data: bytes) -> bytes:
    """A run-length coded BMP."""
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + header + bytes(1024) + data


def jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG with `scans` more scans than it needs."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


ROW = bytes(29 * 28)
BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 50,000 x 50,000": lambda: png(50_000, 50_000),
    "png with a profile of 100 MB": lambda: png(
        28, 28, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000), 9)), ROW
    ),
    "png with text of 100 MB": lambda: png(
        28, 28, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000), 9)), ROW
    ),
    "png with 80 texts of 1 MB": lambda: png(
        28, 28, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000), 9)) * 80, ROW
    ),
    "png with a million chunks": lambda: png(28, 28, chunk(b"abCd", b"") * 1_000_000, ROW),
    "gif with a screen of 65,535": lambda: gif(65_535, 1),
    "gif with a frame of 65,535": lambda: gif(1, 65_535),
    "tiff of 50,000 x 50,000": lambda: tiff(50_000),
    "tiff with two million fractions": lambda: tiff(28, (282, 5, 2_000_000, b"\1\0\0\0" * 4_000_000)),
    "tiff with four million strips": lambda: tiff(28, (324, 4, 4_000_000, b"\1\0\0\0" * 4_000_000)),
    "big-endian tiff with a long orientation": lambda: tiff(28, (274, 3, 9_000_000, bytes(18_000_000)), order=">"),
    "webp of 16,383": lambda: webp(16_383, 0),
    "animated webp of 16,383": lambda: webp(16_383, 2),
    "bmp of 50,000": lambda: bmp(50_000, b""),
    "bmp of ten million runs": lambda: bmp(7000, b"\1\1" * 10_000_000),
    "jpeg with 2,000 passes": lambda: jpeg(2000, 2000),
    "jpeg with a million segments": lambda: encode(draw(1), "JPEG")[:2] + b"\xff\xee\0\2" * 1_000_000,
}


def test_a_hundred_bytes_cannot_claim_gigabytes() -> None:
    """The pixels are counted from the header, before decoding."""
    bomb = png(50_000, 50_000)
    assert len(bomb) < 100
    with pytest.raises(TooLarge):
        image_to_pixels(bomb, DIGIT)


@pytest.mark.parametrize("name", [name for name in BOMBS if "million" in name or "passes" in name or "long" in name])
def test_excessive_structures_are_screened(name: str) -> None:
    """They are refused before a decoder reads them."""
    with pytest.raises(TooLarge):
        screen(BOMBS[name]())


def test_only_the_first_frame_of_a_gif_is_read() -> None:
    """Thousands of later frames cost nothing, whatever is in them."""
    file = io.BytesIO()
    frames = [draw(digit) for digit in (3, 7)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], optimize=False)
    short = file.getvalue()
    long = short[:-1] + b"\x2c\xff\xff\xff\xff\xff\xff\xff\xff\0\x02\x01\x44\0" * 200_000
    assert (image_to_pixels(long, DIGIT) == image_to_pixels(short, DIGIT)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_ordinary_photos_pass(kind: str) -> None:
    """A photo in any format passes, also if it is cut off, which the decoder reports."""
    photo = encode(cat(), kind)
    screen(photo)
    for length in range(0, len(photo), max(len(photo) // 64, 1)):
        screen(photo[:length])


def test_each_limit_is_exact() -> None:
    """A file at the limit passes, a file just above it does not."""
    usual = jpeg(28, 0).count(b"\xff\xda")
    screen(jpeg(28, MAX_SCANS - usual))
    with pytest.raises(TooLarge, match=f"scans.* {MAX_SCANS}"):
        screen(jpeg(28, MAX_SCANS - usual + 1))
    screen(tiff(28, (282, 5, MAX_TAG_VALUES, bytes(8 * MAX_TAG_VALUES))))
    with pytest.raises(TooLarge, match=r"tag 282 .*100,001"):
        screen(tiff(28, (282, 5, MAX_TAG_VALUES + 1, bytes(8 * MAX_TAG_VALUES + 8))))
    screen(tiff(28, (34675, 7, 5_000_000, bytes(5_000_000))))  # a colour profile is bytes, not numbers
    chunks = MAX_SEGMENTS - 4  # beside the signature and the three chunks of any PNG
    screen(png(28, 28, chunk(b"abCd", b"") * chunks, ROW))
    with pytest.raises(TooLarge, match="chunks"):
        screen(png(28, 28, chunk(b"abCd", b"") * (chunks + 1), ROW))
    screen(bmp(28, bytes(MAX_RUN_LENGTH_BYTES - 54 - 1024)))
    with pytest.raises(TooLarge, match="run lengths"):
        screen(bmp(28, bytes(MAX_RUN_LENGTH_BYTES)))


def test_hidden_scans_are_counted() -> None:
    """An end marker in a comment between two scans hides no scan; a preview in the metadata does not count."""
    bomb = jpeg(28, 2 * MAX_SCANS)
    start = bomb.find(b"\xff\xda")
    with pytest.raises(TooLarge, match="scans"):
        screen(bomb[:start] + b"\xff\xfe\0\4\xff\xd9" + bomb[start:])
    file = io.BytesIO()
    cat().save(file, "JPEG")
    split = bytearray(file.getvalue())  # the first scan declares one of three components, the later ones all three
    place = split.find(b"\xff\xda")
    scan = split[place:-2]
    split[place : place + 5] = b"\xff\xda\0\x08\1"
    with pytest.raises(TooLarge, match="scans"):
        screen(bytes(split[:-2] + scan * MAX_SCANS))
    preview = b"\xff\xda" * 1000
    photo = encode(cat(), "JPEG")
    screen(photo[:2] + b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview + photo[2:])
