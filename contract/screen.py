"""Checks what an encoded image declares before a decoder reads it: structures that cost far more than their bytes.

The header bounds the pixels, and Pillow bounds metadata in text. This file bounds what is left: the passes over a JPEG,
each of which touches every pixel (50 million of them in 18 ms, for 20 bytes of file), the numbers in the tags of a TIFF
(160 bytes of memory each), the chunks of a PNG, and the run lengths of a BMP, which Pillow reads in Python. The figures
are of one run of Pillow 13.0 on one core of an AMD EPYC.
"""

import struct

from contract.errors import TooLarge
from contract.jpeg import MAX_SEGMENTS, Layout, read_layout

MAX_TAG_VALUES = 100_000  # the strips of an image of the largest height
MAX_RUN_LENGTH_BYTES = 4 << 20

_OPAQUE = {1, 2, 6, 7}  # types of tags whose values stay one object: bytes and text
_BIG_TIFF = 43


def screen(data: bytes) -> Layout | None:
    """Refuse an encoded image that would cost far more than its bytes and pixels suggest; the layout of a JPEG.

    Raises:
        TooLarge: it has too many passes, segments, chunks or numbers.
    """
    if data.startswith(b"\xff\xd8"):
        return read_layout(data)
    if data.startswith(b"\x89PNG") and len(data) > 12 * MAX_SEGMENTS:
        _screen_png(data)
    elif data.startswith(b"BM") and len(data) > MAX_RUN_LENGTH_BYTES:
        _screen_bmp(data)
    elif data[:2] in {b"II", b"MM"} and len(data) > 2 * MAX_TAG_VALUES:
        _screen_tiff(data)
    return None


def _screen_png(data: bytes) -> None:
    place = chunks = 0
    while place + 8 <= len(data):
        place += 12 + int.from_bytes(data[place : place + 4]) if place else 8
        chunks += 1
        if chunks > MAX_SEGMENTS:
            raise TooLarge(f"the PNG has too many chunks (maximum {MAX_SEGMENTS})")


def _screen_bmp(data: bytes) -> None:
    if int.from_bytes(data[30:34], "little") in {1, 2}:
        raise TooLarge(f"the BMP has too many bytes of run lengths: {len(data)} (maximum {MAX_RUN_LENGTH_BYTES})")


def _screen_tiff(data: bytes) -> None:
    """Count the numbers of the tags in the first directory, which Pillow reads."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = _BIG_TIFF in data[2:4]  # BigTIFF: 8 bytes for offsets and counts
    offset, entry, count = (8, "HHQ8x", "Q") if is_big else (4, "HHI4x", "H")
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, offset)
        (entries,) = struct.unpack_from(order + count, data, start)
        start += struct.calcsize(order + count)
        for place in range(min(entries, MAX_SEGMENTS)):
            tag, kind, values = struct.unpack_from(order + entry, data, start + place * struct.calcsize(order + entry))
            if kind not in _OPAQUE and values > MAX_TAG_VALUES:
                raise TooLarge(f"tag {tag} of the TIFF holds too many numbers: {values:,} (maximum {MAX_TAG_VALUES:,})")
    except struct.error:
        return  # cut off: the decoder reports it
