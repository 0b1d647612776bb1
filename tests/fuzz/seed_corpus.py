"""The seed corpus of the fuzz tests: small valid images in every supported format, and texts of many kinds."""

import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from tests.drawing import draw, encode, mnist_like

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG."""

_VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg-grey": ("JPEG", "L", {}),
    "jpeg-progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg-restarts": ("JPEG", "RGB", {"restart_marker_rows": 1, "subsampling": 0}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "png-bits": ("PNG", "1", {}),
    "png-grey": ("PNG", "L", {}),
    "png-grey-alpha": ("PNG", "LA", {}),
    "png-palette": ("PNG", "P", {}),
    "png-palette-transparent": ("PNG", "P", {"transparency": 0}),
    "png-colour": ("PNG", "RGB", {}),
    "png-colour-key": ("PNG", "RGB", {"transparency": (255, 255, 255)}),
    "png-alpha": ("PNG", "RGBA", {}),
    "png-16-bits": ("PNG", "I;16", {}),
    "webp": ("WEBP", "RGB", {}),
    "webp-alpha": ("WEBP", "RGBA", {}),
    "webp-lossless": ("WEBP", "RGBA", {"lossless": True}),
    "gif": ("GIF", "P", {}),
    "gif-transparent": ("GIF", "P", {"transparency": 0}),
    "bmp-bits": ("BMP", "1", {}),
    "bmp-palette": ("BMP", "P", {}),
    "bmp-colour": ("BMP", "RGB", {}),
    "bmp-alpha": ("BMP", "RGBA", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff-floats": ("TIFF", "F", {}),
    "tiff-integers": ("TIFF", "I", {"compression": "tiff_deflate"}),
    "tiff-lab": ("TIFF", "LAB", {"compression": "tiff_lzw"}),
    "tiff-cmyk": ("TIFF", "CMYK", {"compression": "packbits"}),
    "tiff-lzw": ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    "tiff-jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff-group3": ("TIFF", "1", {"compression": "group3"}),
    "tiff-group4": ("TIFF", "1", {"compression": "group4"}),
    "tiff-lzma": ("TIFF", "L", {"compression": "lzma"}),
    "tiff-zstd": ("TIFF", "L", {"compression": "zstd"}),
}
"""Name -> format, mode and options of Pillow's `save`."""


def images() -> dict[str, bytes]:
    """Files of a few hundred to a few thousand bytes, by name: every supported format, mode and compression."""
    sheet = _sheet()
    files = {
        name: encode(_convert(sheet, mode), image_format, **options)
        for name, (image_format, mode, options) in _VARIANTS.items()
    }
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"  # orientation, description
    rgb = _convert(sheet, "RGB")
    files["jpeg-exif"] = encode(rgb, "JPEG", exif=exif, dpi=(72, 72), comment=b"a comment", icc_profile=bytes(200))
    files["png-exif"] = encode(rgb, "PNG", exif=exif, icc_profile=bytes(200))
    frames = [sheet.rotate(angle) for angle in (90, 180)]
    for image_format in ("WEBP", "GIF", "PNG", "TIFF"):
        name = f"{image_format.lower()}-animated"
        files[name] = encode(sheet, image_format, save_all=True, append_images=frames)
    files["png-digit"] = encode(mnist_like(3))
    files["png-interlaced"] = interlaced(np.asarray(mnist_like(5)))
    files["bmp-run-lengths"] = run_lengths(40, 30, b"\x28\x07\0\0" * 30 + b"\0\1")
    return files


def texts() -> dict[str, bytes]:
    """Texts in UTF-8, valid and invalid, by name."""
    return {
        "review": b"A good film, though it's far too long: I wouldn't see it again. Fine, but not 1,000 times!",
        "markup": b"good<br /><br />film &amp; -lrb- bad -rrb- ``quoted'' \\/ " * 4,
        "empty": b"",
        "blank": b" \t\r\n\x0b\x0c\xc2\xa0\xe2\x80\x8b\xef\xbb\xbf",
        "mark": b"\xef\xbb\xbfgood film",
        "zeros": b"good\0film\0" * 8,
        "controls": bytes(range(1, 32)) + b"good",
        "one word": b"good" * 5000,
        "apostrophes": b"n't'" * 3000,
        "numbers": b"1,1.1," * 3000,
        "emoji": "good \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e007f film".encode() * 9,
        "accents": ("go\u0301o\u0323" + "\u0300\u0301\u0302" * 200).encode(),
        "right to left": "\u202egood\u202c \u05d8\u05d5\u05d1 \u062c\u064a\u062f".encode(),
        "cjk": "\u597d\u7684\u7535\u5f71\u3002".encode() * 50,
        "longest": b"bad " * 25_000,
        "too long": b"bad " * 25_001,
        "latin-1": "f\xfcr \xe9t\xe9".encode("latin-1"),
        "utf-16": "good film".encode("utf-16"),
        "overlong": b"good \xc0\xaf \xe0\x80\xaf \xf8\x88\x80\x80\x80 film",
        "surrogate": b"good \xed\xa0\xbd film",
        "json": b'{"texts": ["good film"]}',
    }


def interlaced(grey: np.ndarray) -> bytes:
    """A PNG of 8-bit grey, (H, W), in Adam7's seven passes (PNG specification, section 8.2); Pillow cannot write it."""
    height, width = grey.shape
    rows = bytearray()
    for top, left, down, across in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    ):  # fmt: skip
        for row in grey[top::down, left::across]:
            rows += b"\0" + row.tobytes() if row.size else b""
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 1])
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: length, name, content, checksum."""
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def run_lengths(width: int, height: int, runs: bytes) -> bytes:
    """An 8-bit BMP with run-length encoding (BI_RLE8) and a black palette."""
    palette = bytes(1024)
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs


def _sheet() -> Image.Image:
    """A digit in light ink on a transparent background, 48 x 40, RGBA."""
    ink = draw(5, size=(48, 40), box=(14, 6, 34, 34), width=5, ink=255, paper=0)
    sheet = Image.new("RGBA", ink.size, (250, 240, 120, 255))
    sheet.putalpha(ink)
    return sheet


def _convert(sheet: Image.Image, mode: str) -> Image.Image:
    """Convert to a mode, including modes that Pillow cannot convert to directly; opaque images get a grey gradient."""
    if mode in {"RGBA", "LA"}:
        return sheet.convert(mode)
    background = Image.radial_gradient("L").resize(sheet.size).convert("RGB")
    opaque = Image.composite(sheet.convert("RGB"), background, sheet.getchannel("A"))
    if mode == "I;16":
        return Image.fromarray(np.asarray(opaque.convert("L"), np.uint16) * 257)
    return opaque.convert("L").convert(mode) if mode in {"I", "F"} else opaque.convert(mode)
