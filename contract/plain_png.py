"""Plain grey PNGs -> pixels by Pillow's own decoder, without its parser of PNG files, which takes five times as long.

`PIL.Image.core` is private: `tests/contract/test_plain_png.py` compares this with `PIL.Image.open` on thousands of
files, whole and damaged, and `decode` leaves every file to the general code if the private parts are missing.
"""

from functools import lru_cache
from typing import Any
from zlib import crc32

from PIL import Image

from contract.picture import PNG_SIGNATURE

_GREY = b"\x08\x00\x00\x00\x00"  # 8 bits of grey, the usual packing, filters and order
_END = b"\0\0\0\0IEND\xaeB`\x82"
_DATA = 41  # where the compressed pixels start

Core: Any = Image.core  # type: ignore[attr-defined]
_IS_USABLE = all(hasattr(Core, name) for name in ("new", "zip_decoder", "raw_encoder"))


def decode(data: bytes, width: int, height: int) -> Any | None:
    """The pixels of a PNG of this size, as an image of Pillow's core of mode L.

    Args:
        data: the file. Only one that has nothing but a header, one piece of grey pixels and an end is decoded: it has
            no palette, transparency, orientation, colour profile or gamma.
        width: expected pixels.
        height: expected pixels.

    Returns:
        None for any other file, and for a damaged one.
    """
    if data[37:_DATA] != b"IDAT" or not data.startswith(_header(width, height)):
        return None
    stop = _DATA + int.from_bytes(data[33:37])
    if not _IS_USABLE or data[stop + 4 :] != _END:
        return None
    pixels = Core.new("L", (width, height))
    decoder = Core.zip_decoder("L", "L", 0)
    decoder.setimage(pixels, (0, 0, width, height))
    consumed, error = decoder.decode(data[_DATA:stop])  # -1, 0 once all pixels are decoded
    return pixels if consumed < 0 and not error else None


@lru_cache
def _header(width: int, height: int) -> bytes:
    """The signature and the header of such a file, 33 bytes with their checksum."""
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + _GREY
    return PNG_SIGNATURE + b"\0\0\0\x0d" + header + crc32(header).to_bytes(4)


def raw(pixels: Any, width: int, height: int) -> bytes:
    """The pixels of an image of Pillow's core of mode L, row by row."""
    encoder = Core.raw_encoder("L", "L", 0, 1)
    encoder.setimage(pixels, (0, 0, width, height))
    encoded: bytes = encoder.encode(width * height)[2]
    return encoded
