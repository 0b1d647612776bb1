"""Plain grey PNGs, decoded without Pillow's parser: the pixels are Pillow's, or the general code decodes the file."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from contract import plain_png

SIDE = 28


def encode(pixels: np.ndarray, **options: object) -> bytes:
    """A PNG as Pillow writes it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def decoded(data: bytes) -> bytes | None:
    """The pixels of a 28 x 28 file, or None if it is left to the general code."""
    image = plain_png.decode(data, SIDE, SIDE)
    return None if image is None else plain_png.raw(image, SIDE, SIDE)


def by_pillow(data: bytes) -> bytes | None:
    """The pixels by Pillow's public interface, or None if it refuses the file."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.tobytes()
    except Exception:  # noqa: BLE001 -- whatever Pillow raises
        return None


def images(count: int) -> list[np.ndarray]:
    """Noise, gradients and strokes, so that all five filters of PNG occur."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        rows, columns = np.indices((SIDE, SIDE))
        kinds = [random.integers(0, 256, (SIDE, SIDE)), rows * 9, columns * 9, (rows * columns) % 256]
        made.append((kinds[number % 4] * (random.random((SIDE, SIDE)) < 0.3 + number % 7 / 10)).astype(np.uint8))
    return made


def test_pixels_are_those_of_pillow() -> None:
    """Files of all compression levels, and with each filter in each row."""
    random = np.random.default_rng(0)
    for pixels in images(200):
        data = encode(pixels, compress_level=int(random.integers(0, 10)))
        assert decoded(data) == pixels.tobytes() == by_pillow(data)
        filters = random.integers(0, 5, SIDE)
        rows = b"".join(bytes([kind]) + bytes(row) for kind, row in zip(filters, pixels, strict=True))
        filtered = data[:33] + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        assert decoded(filtered) == by_pillow(filtered) is not None


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Change, remove or repeat bytes in one to three places."""
    mutated = bytearray(data)
    for _ in range(random.integers(1, 4)):
        place, length = int(random.integers(len(mutated) + 1)), int(random.integers(1, 40))
        match random.integers(4):
            case 0:
                mutated[place : place + 1] = random.bytes(1)
            case 1:
                del mutated[place : place + length]
            case 2:
                mutated[place:place] = mutated[place : place + length]
            case _:
                del mutated[place:]
    return bytes(mutated)


def test_damaged_files_have_the_pixels_of_pillow_or_none() -> None:
    """20,000 files with damage in the file, or in the rows before they are compressed: never other pixels."""
    random = np.random.default_rng(1)
    files = [encode(pixels) for pixels in images(40)]
    rows = [zlib.decompress(data[41:-16]) for data in files]
    read = 0
    for number in range(20_000):
        data = files[number % 40]
        if number % 2:
            damaged = mutate(data, random)
        else:
            damaged = data[:33] + chunk(b"IDAT", zlib.compress(mutate(rows[number % 40], random))) + data[-12:]
        pixels = decoded(damaged)
        if pixels is not None:
            read += 1
            assert pixels == by_pillow(damaged)
    assert read > 1000, "the comparison needs files that are still read"


@pytest.mark.parametrize(
    "data",
    [
        encode(np.zeros((SIDE, SIDE, 3), np.uint8)),
        encode(np.zeros((SIDE, SIDE + 1), np.uint8)),
        encode(np.zeros((SIDE, SIDE), np.uint8), dpi=(72, 72)),
        encode(np.zeros((SIDE, SIDE), np.uint8), transparency=0),
        encode(np.zeros((SIDE, SIDE), bool)),
        b"",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["color", "size", "metadata", "transparency", "one bit", "empty", "signature"],
)
def test_other_files_are_left_to_the_general_code(data: bytes) -> None:
    """A file that is not plain has no pixels here."""
    assert decoded(data) is None


def test_without_the_private_parts_every_file_is_left_to_the_general_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pillow without them costs time, not answers."""
    monkeypatch.setattr(plain_png, "_IS_USABLE", False)
    assert decoded(encode(images(1)[0])) is None


def test_this_pillow_has_the_private_parts() -> None:
    """If this fails after an update of Pillow, small digits take five times as long to decode."""
    assert plain_png._IS_USABLE  # noqa: SLF001
