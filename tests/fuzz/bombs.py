"""Small files that ask for much: huge headers, tiles, canvases, scans and run lengths."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.fuzz.seeds import SIGNATURE, chunk, run_lengths

HUGE = 50_000


def headers(side: int = HUGE) -> dict[str, bytes]:
    """Files of at most 100 bytes for each kind, whose header says that the picture has side x side pixels."""
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


def bombs(side: int) -> dict[str, bytes]:
    """Files by name. Those that claim side x side pixels keep their word; all others claim more than they hold."""
    found = {f"{kind}-header": data for kind, data in headers().items()}
    tile = {256: 28, 257: 28, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: HUGE}
    found["tiff-tile"] = tiff(tile, zlib.compress(bytes(side * side)), tiled=True)
    found["webp-canvas"] = animation(side)
    found["jpeg-scans"] = scans(side, 400)
    found["bmp-short-runs"] = run_lengths(side, side, b"\1\7" * 2_500_000)
    found["bmp-no-runs"] = run_lengths(side, side, b"\0\0" * 500_000)
    head = chunk(b"IHDR", side.to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0]))
    end = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1)), 9)) + chunk(b"IEND", b"")
    found["png-blank"] = SIGNATURE + head + end
    found["png-blank-key"] = SIGNATURE + head + chunk(b"tRNS", b"\0\0") + end
    found["png-blank-16-bits"] = _filled(side, "I;16", "PNG")
    found["png-blank-alpha"] = _filled(side, "RGBA", "PNG")
    found["tiff-blank-floats"] = _filled(side, "F", "TIFF", compression="tiff_deflate")
    found["tiff-blank-fax"] = _filled(side, "1", "TIFF", compression="group4")
    found["gif-blank"] = _filled(side, "L", "GIF")
    found["tiff-damaged-fax"] = damaged_fax(side * side // 8)
    packed = zlib.compress(bytes(20_000_000))
    found["png-text"] = _with_chunk(b"zTXt", b"comment\0\0" + packed)
    found["png-profile"] = _with_chunk(b"iCCP", b"profile\0\0" + packed)
    return found


def tiff(tags: dict[int, int], content: bytes = b"x" * 8, *, tiled: bool = False) -> bytes:
    """A TIFF of one directory whose tags are all numbers; the content stands behind it."""
    where = (324, 325) if tiled else (273, 279)  # offsets and byte counts of tiles or of strips
    entries = dict(sorted({**tags, where[0]: 0, where[1]: len(content)}.items()))
    entries[where[0]] = 8 + 2 + 12 * len(entries) + 4
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + listed + bytes(4) + content


def animation(side: int) -> bytes:
    """A WebP of one pixel on a canvas of side x side."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "WEBP", lossless=True)
    frame = bytes(6) + bytes(6) + b"\x64\0\0\0" + file.getvalue()[12:]
    body = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + (side - 1).to_bytes(3, "little") * 2
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def scans(side: int, count: int) -> bytes:
    """A progressive JPEG with so many scans more than it needs: each is a pass over all of its pixels."""
    data = _filled(side, "L", "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def damaged_fax(rows: int) -> bytes:
    """A TIFF of fax, group 3, 8 pixels wide, that is noise."""
    tags = {256: 8, 257: rows, 258: 1, 259: 3, 262: 1, 277: 1, 278: rows}
    return tiff(tags, b"\x35\xca\x07\x91\xee\x10" * (rows // 6))


def _filled(side: int, mode: str, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **options)
    return file.getvalue()


def _with_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG of one pixel with one chunk more, right behind its header."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = file.getvalue()
    return data[:33] + chunk(name, content) + data[33:]
