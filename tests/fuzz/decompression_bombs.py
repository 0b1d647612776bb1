"""Decompression bombs: small files with huge headers, tiles, canvases, scans and run lengths."""

import struct
import zlib

from PIL import Image

from tests.drawing import encode
from tests.fuzz.seed_corpus import SIGNATURE, chunk, run_lengths

HUGE = 50_000


def huge_headers(side: int = HUGE) -> dict[str, bytes]:
    """For each format, a file of at most 100 bytes whose header declares side x side pixels."""
    png = side.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    size = struct.pack("<HH", side, side)
    fields = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    jpeg = b"\x08" + side.to_bytes(2) * 2 + b"\x01\x01\x11\0"
    return {
        "png": SIGNATURE + chunk(b"IHDR", png) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""),
        "gif": b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + size + b"\0\x08\x02\x4c\x01\0;",
        "bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + fields + bytes(46),
        "jpeg": b"\xff\xd8\xff\xc0" + (len(jpeg) + 2).to_bytes(2) + jpeg + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\xff\xd9",
        "tiff": tiff({256: side, 257: side, 258: 8, 262: 1, 273: 8, 279: 8}),
        "webp": animation(side),
    }


def decompression_bombs(side: int) -> dict[str, bytes]:
    """Bombs by name: "blank" ones are valid images of side x side pixels, the others are invalid or too costly."""
    header = chunk(b"IHDR", side.to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0]))
    pixels = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1)), 9)) + chunk(b"IEND", b"")
    tile = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: HUGE}
    compressed = zlib.compress(bytes(20_000_000))
    return {
        **{f"{image_format}-header": data for image_format, data in huge_headers().items()},
        "tiff-tile": tiff(tile, zlib.compress(bytes(side * side)), tiled=True),
        "webp-canvas": animation(side),
        "jpeg-scans": scans(side, 400),
        "bmp-short-runs": run_lengths(side, side, b"\1\7" * 2_500_000),
        "bmp-no-runs": run_lengths(side, side, b"\0\0" * 500_000),
        "png-blank": SIGNATURE + header + pixels,
        "png-blank-key": SIGNATURE + header + chunk(b"tRNS", b"\0\0") + pixels,
        "png-blank-16-bits": encode(_blank(side, "I;16")),
        "png-blank-alpha": encode(_blank(side, "RGBA")),
        "tiff-blank-floats": encode(_blank(side, "F"), "TIFF", compression="tiff_deflate"),
        "tiff-blank-fax": encode(_blank(side, "1"), "TIFF", compression="group4"),
        "gif-blank": encode(_blank(side, "L"), "GIF"),
        "tiff-damaged-fax": damaged_fax(side * side // 8),
        "png-text": _with_chunk(b"zTXt", b"comment\0\0" + compressed),
        "png-profile": _with_chunk(b"iCCP", b"profile\0\0" + compressed),
    }


def tiff(tags: dict[int, int], content: bytes = b"x" * 8, *, tiled: bool = False) -> bytes:
    """A TIFF with one directory of numeric tags, followed by the content."""
    offsets, byte_counts = (324, 325) if tiled else (273, 279)  # of tiles, or of strips
    entries = dict(sorted({**tags, offsets: 0, byte_counts: len(content)}.items()))
    entries[offsets] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + content


def animation(side: int) -> bytes:
    """A WebP of one pixel on a canvas of side x side pixels."""
    pixel = encode(_blank(1, "RGB"), "WEBP", lossless=True)
    frame = bytes(6) + bytes(6) + b"\x64\0\0\0" + pixel[12:]
    body = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + (side - 1).to_bytes(3, "little") * 2
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def scans(side: int, count: int) -> bytes:
    """A progressive JPEG with `count` superfluous scans; a decoder passes over all pixels for each."""
    data = encode(_blank(side, "L"), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def damaged_fax(rows: int) -> bytes:
    """A TIFF in fax group 3 compression, 8 pixels wide, whose content is noise."""
    tags = {256: 8, 257: rows, 258: 1, 259: 3, 262: 1, 277: 1, 278: rows}
    return tiff(tags, b"\x35\xca\x07\x91\xee\x10" * (rows // 6))


def _blank(side: int, mode: str) -> Image.Image:
    return Image.new(mode, (side, side))


def _with_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG of one pixel with an additional chunk after its header."""
    data = encode(_blank(1, "L"))
    return data[:33] + chunk(name, content) + data[33:]
