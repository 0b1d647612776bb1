"""Checks what an encoded image declares before a decoder reads it: structures that cost far more than their bytes.

The header bounds the pixels, and Pillow bounds metadata in text. This file bounds what is left: the passes over a JPEG,
each of which touches every pixel (50 million of them in 18 ms, for 20 bytes of file), the numbers in the tags of a TIFF
(160 bytes of memory each), the chunks of a PNG, and the run lengths of a BMP, which Pillow reads in Python. The figures
are of one run of Pillow 13.0 on one core of an AMD EPYC.
"""

import re
import struct

from contract.errors import TooLarge

MAX_SCANS = 100  # cameras write 1, progressive files about 10
MAX_SEGMENTS = 1 << 16
MAX_TAG_VALUES = 100_000  # the strips of an image of the largest height
MAX_RUN_LENGTH_BYTES = 4 << 20

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those with a length behind them
_PLAIN_FRAMES, _FRAMES = {0xC0, 0xC1}, {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_OPAQUE = {1, 2, 6, 7}  # types of tags whose values stay one object: bytes and text
_BIG_TIFF = 43


def screen(data: bytes) -> None:
    """Refuse an encoded image that would cost far more than its bytes and pixels suggest.

    Raises:
        TooLarge: it has too many passes, segments, chunks or numbers.
    """
    if data.startswith(b"\xff\xd8"):
        _screen_jpeg(data)
    elif data.startswith(b"\x89PNG") and len(data) > 12 * MAX_SEGMENTS:
        _screen_png(data)
    elif data.startswith(b"BM") and len(data) > MAX_RUN_LENGTH_BYTES:
        _screen_bmp(data)
    elif data[:2] in {b"II", b"MM"} and len(data) > 2 * MAX_TAG_VALUES:
        _screen_tiff(data)


def _screen_jpeg(data: bytes) -> None:
    """Count the passes over the image, up to where the decoder stops."""
    place = scans = segments = components = 0
    is_plain = False
    while (marker := _MARKER.search(data, place)) is not None and data[marker.end() - 1] != _END:
        start, kind = marker.end(), data[marker.end() - 1]
        place = start + int.from_bytes(data[start : start + 2])
        segments += 1
        if segments > MAX_SEGMENTS:
            raise TooLarge(f"the JPEG has too many segments (maximum {MAX_SEGMENTS})")
        if kind in _FRAMES:
            is_plain, components = kind in _PLAIN_FRAMES, int.from_bytes(data[start + 7 : start + 8])
        elif kind == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise TooLarge(f"the JPEG has too many scans (maximum {MAX_SCANS})")
            if scans == 1 and is_plain and int.from_bytes(data[start + 2 : start + 3]) == components:
                return  # the first scan has all components, so the decoder reads no other


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
