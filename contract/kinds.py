"""Bytes that are not a supported image -> what they are and what the client can do, for the message of the error.

AVIF and HEIC stay unsupported: each would open a video decoder to clients (dav1d; libde265 under the LGPL), and phones
and browsers write JPEG as readily.
"""

import base64
import binascii
import re
from typing import Literal

from contract import jpeg

_CONVERT = "convert it to JPEG or PNG"
_UNPACK = "send the image uncompressed"
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    b"crx ": "Canon CR3",
    **dict.fromkeys((b"mif1", b"msf1"), "HEIC or AVIF"),
}
"""The brand of an ISO base media file (ISO 14496-12), at byte 8 -> its name."""
_SIGNATURES = (
    (b"\xff\x0a", "JPEG XL", _CONVERT),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _CONVERT),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _CONVERT),
    (b"\xff\x4f\xff\x51", "JPEG 2000", _CONVERT),
    (b"%PDF-", "PDF", "render the page to PNG"),
    (b"%!PS", "PostScript", "render the page to PNG"),
    (b"PK\x03\x04", "a ZIP archive", "send each image on its own, or several in multipart/form-data"),
    (b"PK\x05\x06", "an empty ZIP archive", "send an image"),
    (b"\x1f\x8b", "gzip", "send the header Content-Encoding: gzip, or the image uncompressed"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "send each image on its own"),
    (b"Rar!", "a RAR archive", "send each image on its own"),
    (b"8BPS", "Photoshop (PSD)", _CONVERT),
    (b"\0\0\1\0", "an icon (ICO)", _CONVERT),
    (b"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (b"#?RADIANCE", "Radiance HDR", _CONVERT),
    (b"SIMPLE  =", "FITS", _CONVERT),
    (b"\x89HDF", "HDF5", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", "save it as PNG"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", "send one frame as JPEG or PNG"),
    (b"BA", "an OS/2 bitmap array", _CONVERT),
    (b"qoif", "QOI", _CONVERT),
    (b"DDS ", "a texture (DDS)", _CONVERT),
    (b"\x28\xb5\x2f\xfd", "Zstandard", _UNPACK),
    (b"\xfd7zXZ\0", "xz", _UNPACK),
    (b"BZh", "bzip2", _UNPACK),
    (b"\x80\x04\x95", "a Python pickle", "send the bytes of an image file"),
    (b"SQLite format 3\0", "a database (SQLite)", "send an image"),
    (b"\x7fELF", "a program (ELF)", "send an image"),
    (b"MZ", "a program (EXE)", "send an image"),
)
_PAGE = "send the image itself, not the page that shows it"
_TEXTS = (
    (b"\xff\xfe", "text in UTF-16", "send the bytes of an image"),
    (b"\xfe\xff", "text in UTF-16", "send the bytes of an image"),
    (b"data:", "a data URI", "send the bytes that its base64 stands for"),
    (b"<!doctype html", "an HTML page", _PAGE),
    (b"<html", "an HTML page", _PAGE),
    (b"<head", "an HTML page", _PAGE),
    (b"<body", "an HTML page", _PAGE),
    (b"<", "XML or HTML", "send the bytes of an image"),
    (b"version https://git-lfs", "a pointer of Git LFS", "run `git lfs pull` and send the image"),
    (b"{", "JSON", "send it with Content-Type: application/json"),
    (b"[", "JSON", "send it with Content-Type: application/json"),
)
_USUAL_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_CONVERTED = re.compile(rb"\x89PNG(?!\r\n\x1a\n)[\r\n]+\x1a")
_RECODED = re.compile(rb"(\xef\xbf\xbd|\xc2\x89|\?)PNG[\r\n]|(\xef\xbf\xbd){3}|\xc3\xbf\xc3\x98\xc3\xbf")
"""The signatures of PNG and JPEG after a program took the bytes for text in UTF-8, Latin-1 or ASCII."""
_CAMERA = re.compile(rb"\A.{8}CR[\x02\x00]|NIKON CORPORATION|SONY\0|PENTAX|FUJIFILM|Panasonic", re.DOTALL)
_NETPBM = re.compile(rb"P[1-7fF]\s")
_URL = re.compile(rb"(https?|ftp|file|s3|gs)://\S+\Z", re.IGNORECASE)
_PATH = re.compile(rb"@?([A-Za-z]:\\|\.{0,2}/|~/)?[\w .\\/()-]+\.(jpe?g|png|webp|gif|bmp|tiff?|heic)\Z", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_HEX = re.compile(rb"(0x)?([0-9a-fA-F]{2}[ :]?){16}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16}")


def describe(data: bytes) -> str:
    """What bytes are and what to do, as the rest of a sentence; empty if they are not recognised."""
    if not data:
        return "the image is empty (0 bytes); send the bytes of the image"
    kind, advice = _binary(data) or _textual(data) or ("", "")
    return f"this is {kind}; {advice}" if kind else ""


def _binary(data: bytes) -> tuple[str, str] | None:
    if data[128:132] == b"DICM":
        return "DICOM", "export the image as PNG"
    if data[4:8] == b"ftyp":
        brands = [data[8:12], *(data[start : start + 4] for start in range(16, min(data[3], 64), 4))]
        name = next((name for brand, name in _BRANDS.items() if brand in brands), None)
        return (name, _CONVERT) if name else ("a video (MP4 or QuickTime)", "send one frame as JPEG or PNG")
    if data.startswith(b"RIFF") and data[8:12] in {b"WAVE", b"AVI "}:
        return "a sound or a video (RIFF)", "send an image"
    if _NETPBM.match(data):
        return "Netpbm (PBM, PGM or PPM)", _CONVERT
    if not any(data[:4096]):
        return "a file of zeros", "send the image again"
    at_start = next(((name, advice) for start, name, advice in _SIGNATURES if data.startswith(start)), None)
    return at_start or (("a TAR archive", "send each image on its own") if data[257:262] == b"ustar" else None)


def describe_damage(data: bytes) -> str:
    """How the first bytes of an image say that it was damaged on its way; empty if they do not."""
    if _CONVERTED.match(data):
        return "its line ends were converted; transfer it in binary mode"
    return "it was decoded as text and encoded again; send its bytes as they are" if _RECODED.match(data) else ""


def describe_variant(data: bytes) -> str:
    """What is special about a JPEG, BMP or TIFF that cannot be read, with advice; empty if nothing is known."""
    name: str | None
    if data[:4] in {b"II*\0", b"MM\0*"} and _CAMERA.search(data[:4096]):
        name = "a raw file of a camera"
    elif data.startswith(b"\xff\xd8"):
        name = jpeg.name_variant(data)
    elif data.startswith(b"BM"):
        name = _bmp_variant(data)
    else:
        name = _tiff_variant(data) if data[:2] in {b"II", b"MM"} else None
    return f"{name}; {_CONVERT}" if name else ""


def _bmp_variant(data: bytes) -> str | None:
    size, compression = (int.from_bytes(data[place : place + 4], "little") for place in (14, 30))
    if size in {16, 64} and (size == 16 or compression):  # noqa: PLR2004 -- the headers of OS/2 2.0
        return "a BMP of OS/2"
    return f"a BMP with compression {compression}" if size >= 40 and compression > 3 else None  # noqa: PLR2004


def _tiff_variant(data: bytes) -> str | None:
    """The values of a TIFF, and how they are compressed."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    if number(2, 2) != 42:  # noqa: PLR2004 -- BigTIFF has 43
        return None
    start = number(4, 4)
    tags: dict[int, int] = {}
    for place in range(start + 2, start + 2 + 12 * min(number(start, 2), 100), 12):
        size = {3: 2, 4: 4}.get(number(place + 2, 2), 0)
        is_inside = size * number(place + 4, 4) <= 4  # noqa: PLR2004 -- bytes of an entry's value
        tags[number(place, 2)] = number(place + 8 if is_inside else number(place + 8, 4), size)
    bits, channels, compression = tags.get(258, 1), tags.get(277, 1), tags.get(259, 1)
    form = {2: "signed integers", 3: "floating-point numbers", 6: "complex numbers"}.get(tags.get(339, 1), "integers")
    if not 0 < bits <= 128 or not tags:  # noqa: PLR2004 -- of complex numbers
        return None
    coded = f" and compression {compression}" if compression not in _USUAL_COMPRESSIONS else ""
    usual = form == "integers" and bits in {1, 2, 4, 8, 16} and not coded
    return None if usual else f"a TIFF with {channels} channel{'s' * (channels > 1)} of {bits}-bit {form}{coded}"


def _textual(data: bytes) -> tuple[str, str] | None:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and b"<svg" in start:
        return "SVG", "render it to PNG"
    if start.startswith(b"--") and b"\ncontent-" in start:
        return "a multipart body", "send its Content-Type, with the boundary, as a header of the request"
    named = next(((name, advice) for first, name, advice in _TEXTS if start.startswith(first)), None)
    return named or _short_text(data.strip(b"\xef\xbb\xbf \t\r\n\"'"))


def _short_text(text: bytes) -> tuple[str, str] | None:
    if len(text) <= 4096 and _URL.match(text):  # noqa: PLR2004 -- no URL or path is longer
        return "a URL", "download the image and send its bytes"
    if len(text) <= 4096 and _PATH.match(text):  # noqa: PLR2004
        return "the path of a file", "send the file's content (curl: --data-binary @FILE)"
    if _HEX.match(text):
        return "hexadecimal text", "send the bytes that it stands for"
    if _BASE64.match(text) and _is_base64(text[:1024]):
        return "base64 text", "send the decoded bytes, or the base64 in JSON"
    is_text = text[:1024].isascii() and not _CONTROL.search(text[:1024])
    return ("plain text", "send the bytes of an image") if is_text else None


def _is_base64(text: bytes) -> bool:
    digits = text.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n \t=")[:512]
    try:
        base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        return False
    return True
