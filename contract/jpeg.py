"""A JPEG (ITU-T T.81): what its markers declare, and whether its pixels are all there.

libjpeg fills what is missing with grey, and reads on after damage without a word. A file that lacks no more than its
last rows is cut to the others, as browsers show it; one that lacks more, or is damaged in its middle, is refused. What
cannot be seen is damage that leaves the number of pixels as it was, such as one wrong byte.
"""

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from contract.errors import TooLarge, Unreadable

MAX_SCANS = 100  # cameras write 1, progressive files about 10
MAX_SEGMENTS = 1 << 16

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those with a length behind them
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PLAIN, _PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)
_TABLES, _SCAN, _END = 0xC4, 0xDA, 0xD9
_END_MARKER = b"\xff\xd9"
_COEFFICIENTS = 64
_ZEROS = bytes(64)  # no photo's code holds 512 zero bits
_TAIL_BYTES = 66  # the end marker, and the code that the last rows need
_TEXT_BYTES, _LINE_ENDS = 16_384, 4  # by chance, one in 4 billion files has as many
_FILLED = {128, (128,) * 3, (127,) * 4}
"""The pixels that libjpeg fills in for missing code: grey, colour and CMYK."""
_FEW, _BLOCK_ROWS = 8, 16  # an eighth of the rows may be missing, or one row of blocks
_NOISE = bytes(range(1, 255))
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_VARIANTS = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA), "JPEG with arithmetic coding"),
    0xF7: "JPEG-LS",
}


class Layout(NamedTuple):
    """What the markers of a JPEG declare."""

    scan: int
    """Where the code of the first scan starts; 0 if the file has none."""
    is_complete: bool
    """Whether the scans hold every coefficient in full precision."""
    has_huffman_code: bool
    """Whether the code is that of nearly all files: not arithmetic, and of one scan or progressive."""


def read_layout(data: bytes) -> Layout:
    """Read the markers, and count the passes over the image, up to where the decoder stops.

    Raises:
        TooLarge: it has too many passes or segments.
    """
    place = scans = segments = components = frame = first = 0
    bits: dict[tuple[int, int], int] = {}
    while (marker := _MARKER.search(data, place)) is not None and data[marker.end() - 1] != _END:
        start, kind = marker.end(), data[marker.end() - 1]
        place = start + int.from_bytes(data[start : start + 2])
        segments += 1
        if segments > MAX_SEGMENTS:
            raise TooLarge(f"the JPEG has too many segments (maximum {MAX_SEGMENTS})")
        if kind in _FRAMES:
            frame, components = kind, int.from_bytes(data[start + 7 : start + 8])
        elif kind == _SCAN:
            scans += 1
            first = first or place
            if scans > MAX_SCANS:
                raise TooLarge(f"the JPEG has too many scans (maximum {MAX_SCANS})")
            if scans == 1 and frame in _PLAIN and int.from_bytes(data[start + 2 : start + 3]) == components:
                return Layout(first, is_complete=True, has_huffman_code=True)  # the decoder reads no other scan
            _add_scan(bits, data[start + 2 : place])
    is_complete = frame not in _PROGRESSIVE or (len(bits) == components * _COEFFICIENTS and not any(bits.values()))
    return Layout(first, is_complete, has_huffman_code=frame in _PLAIN or frame == _PROGRESSIVE[0])


def load(image: ImageFile.ImageFile, data: bytes, layout: Layout, mode: str, side: int) -> Image.Image:
    """Decode an opened JPEG; rows at its end that the file lacks are cut off.

    Args:
        image: the image.
        data: the file that it was opened from.
        layout: that of the file.
        mode: to which Pillow may convert while it decodes: L or RGB.
        side: a larger image is decoded at a fraction of its size, with sides of at least these pixels.

    Raises:
        Unreadable: the file is cut off earlier, or damaged in its middle.
        OSError: as Pillow raises it.
    """
    stream = image.fp
    if layout.has_huffman_code and (end := _check_code(data, layout.scan)):
        return _cut(data[:end], layout, mode, side)
    image.draft(mode, (side, side))
    # Pillow reads the tail last, if it needs it at all; arithmetic code cannot be decoded in pieces.
    image.decodermaxblock = max(len(data) - _TAIL_BYTES * layout.has_huffman_code, 1)
    try:
        image.load()
    except OSError:
        if not layout.scan or data.find(_END_MARKER, layout.scan) >= 0:
            raise
        return _cut(data, layout, mode, side)
    if stream is not None and stream.tell() < len(data) and layout.has_huffman_code:
        _check_rest(data, layout.scan)
    if _ends_grey(image) or not layout.is_complete:
        return _cut(data[: data.rfind(_END_MARKER)], layout, mode, side)
    return image


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last row is grey throughout, as libjpeg fills rows whose code is missing."""
    width, height = image.size
    if image.getpixel((0, height - 1)) not in _FILLED and image.getpixel((width - 1, height - 1)) not in _FILLED:
        return False
    return image.crop((0, height - 1, width, height)).getcolors(1) is not None


def name_variant(data: bytes) -> str | None:
    """The kind of a JPEG that is rarely written and rarely read; None for an ordinary one."""
    for marker in _MARKER.finditer(data, 2, 1 << 16):
        kind, bits = data[marker.end() - 1], int.from_bytes(data[marker.end() + 2 : marker.end() + 3])
        if kind in _VARIANTS:
            return _VARIANTS[kind]
        if kind in _FRAMES:
            return None if bits == 8 else f"JPEG with {bits} bits for each channel"  # noqa: PLR2004 -- the usual bits
    return None


def _add_scan(bits: dict[tuple[int, int], int], header: bytes) -> None:
    """Note the bits that each (component, coefficient) still lacks after a scan of a progressive file."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return
    first, last, precision = header[1 + 2 * count : 4 + 2 * count]
    for component in header[1 : 1 + 2 * count : 2]:
        for coefficient in range(first, min(last, _COEFFICIENTS - 1) + 1):
            bits[component, coefficient] = precision & 15


def _check_code(data: bytes, scan: int) -> int:
    """Refuse code that no encoder writes: long runs of zeros, and line ends that were changed.

    Returns:
        where the code ends, if the rest of the file is zeros; else 0.

    Raises:
        Unreadable: the code has one of them.
    """
    zeros = data.find(_ZEROS, scan)
    if zeros >= 0 and data.find(_END_MARKER, scan, zeros) < 0 and not _is_flat(data, zeros):
        if data[zeros:].strip(b"\0") in {b"", _END_MARKER}:
            return zeros
        raise Unreadable("the JPEG is damaged: a part of it is zeros; send the original file again")
    start = max(len(data) - _TEXT_BYTES, scan)
    lines = data.count(b"\n", start)
    if lines >= _LINE_ENDS and lines == data.count(b"\r\n", start - 1):
        raise Unreadable("the JPEG is damaged: its line ends were converted; transfer it in binary mode")
    return 0


def _is_flat(data: bytes, zeros: int) -> bool:
    """Whether zeros at a place in the code stand for an area of one colour.

    The shortest code is all zeros. Of AC coefficients it may stand for "the rest of the block is zero"; and a scan that
    refines DC coefficients has one bit for each block.
    """
    shortest: dict[int, int] = {}
    place, header = 2, b""
    while (marker := _MARKER.search(data, place, zeros)) is not None:
        start = marker.end()
        place = start + int.from_bytes(data[start : start + 2])
        if data[start - 1] == _SCAN:
            header = data[start + 2 : place]
        elif data[start - 1] == _TABLES:
            table = start + 2
            while table + 17 < place:
                shortest[data[table]] = data[table + 17]
                table += 17 + sum(data[table + 1 : table + 17])
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return False
    is_dc = header[2 + 2 * count] == 0
    return is_dc or all(shortest.get(0x10 | selector & 15, 1) & 15 == 0 for selector in header[2 : 2 + 2 * count : 2])


def _check_rest(data: bytes, scan: int) -> None:
    """Refuse a file of which the decoder did not need the last code, unless it is padding or another file's.

    Raises:
        Unreadable: rows are missing in the middle, or the code between them is wrong.
    """
    tail = data[-_TAIL_BYTES : data.rfind(_END_MARKER)]
    if data.endswith(_END_MARKER) and len(set(tail)) > 2 and data.rfind(_END_MARKER, scan, len(data) - 2) < 0:  # noqa: PLR2004
        raise Unreadable("the JPEG is damaged: it has more code than pixels; send the original file again")


def _cut(data: bytes, layout: Layout, mode: str, side: int) -> Image.Image:
    """Decode a JPEG without end marker, and cut off the rows at its end that its code does not reach.

    What is missing is filled with grey, and with other pixels if noise follows on the code.

    Raises:
        Unreadable: more than a few rows are missing.
    """
    if not layout.is_complete:
        raise Unreadable("the JPEG is cut off: its last scans are missing; send the whole file")
    data = data.rstrip(b"\xff")  # half of a marker, or of an escaped byte
    restarts = [data[marker.start() + 1] for marker in _RESTART.finditer(data, layout.scan)] or [0xD7]
    noise = b"".join(_NOISE + bytes([0xFF, 0xD0 + (restarts[-1] + place) % 8]) for place in range(1, 17))
    image, other = (_decode(data + rest + _END_MARKER, mode, side) for rest in (b"", noise))
    is_missing = (np.asarray(image) != np.asarray(other)).reshape(image.height, -1).any(axis=1)
    rows = int(is_missing.argmax()) if is_missing.any() else image.height
    height = Image.open(io.BytesIO(data), formats=["JPEG"]).height
    missing = round((image.height - rows) * height / image.height)
    if missing > max(height // _FEW, _BLOCK_ROWS):
        raise Unreadable(f"the JPEG is cut off: {missing} of its {height} rows are missing; send the whole file")
    return image.crop((0, 0, image.width, rows))


def _decode(data: bytes, mode: str, side: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.draft(mode, (side, side))
    image.load()
    return image
