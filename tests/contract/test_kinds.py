"""Bodies that are not a supported image are named in the error."""

import base64
import gzip
import io
import zipfile

import pytest
from PIL import Image

from contract.errors import UnsupportedMediaType
from contract.inputs import image_to_pixels
from contract.kinds import describe
from contract.picture import FORMATS
from contract.spec import ImageInput
from tests.drawing import cat, encode
from tests.fuzz import seed_corpus

PHOTO = ImageInput(height=96, width=96, mode="RGB", framing="squash")
PNG = encode(cat())


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("cat.png", PNG)
    return file.getvalue()


def boxes(brand: bytes, *compatible: bytes) -> bytes:
    """The start of an ISO base media file."""
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (len(content) + 4).to_bytes(4) + content + bytes(200)


KINDS: list[tuple[str, bytes]] = [
    ("HEIC", boxes(b"heic", b"mif1", b"heic")),
    ("HEIC", boxes(b"mif1", b"mif1", b"heic")),
    ("AVIF", encode(Image.new("RGB", (64, 64)), "AVIF")),
    ("AVIF", boxes(b"mif1", b"avif", b"miaf")),
    ("video", boxes(b"isom", b"iso2", b"mp41")),
    ("JPEG XL", b"\xff\x0a\xfa\x7f\x01"),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50)),
    ("JPEG 2000", encode(Image.new("RGB", (64, 64)), "JPEG2000")),
    ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("SVG", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>"),
    ("PDF", b"%PDF-1.7 ..."),
    ("camera", b"II*\0\x10\0\0\0CR\2\0" + bytes(99)),
    ("Zstandard", b"\x28\xb5\x2f\xfd" + bytes(40)),
    ("TAR", b"a.jpg".ljust(257, b"\0") + b"ustar\0" + bytes(250)),
    ("hexadecimal", (b"\x89PNG\r\n\x1a\n" * 4).hex().encode()),
    ("multipart", b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n" + bytes(50)),
    ("QOI", b"qoif" + bytes(40)),
    ("DICOM", bytes(128) + b"DICM" + bytes(100)),
    ("HTML", b"<!DOCTYPE html><html><img src='cat.jpg'></html>"),
    ("base64", base64.b64encode(PNG)),
    ("base64", base64.encodebytes(PNG)),
    ("base64", base64.urlsafe_b64encode(encode(cat(), "JPEG"))),
    ("base64", b'"' + base64.b64encode(encode(cat(), "JPEG")) + b'"'),
    ("data URI", b"data:image/png;base64," + base64.b64encode(PNG)),
    ("ZIP", archive()),
    ("gzip", gzip.compress(PNG)),
    ("empty", b""),
    ("zeros", bytes(500)),
    ("path", b"@cat.jpg"),
    ("path", b"/srv/anna/my photos/cat (2).JPEG\n"),
    ("path", b"C:\\photos\\cat.png"),
    ("URL", b"https://example.org/cat.jpg?size=large\n"),
    ("JSON", b'{"images": ["aGk="]}'),
    ("plain text", b"hello"),
    ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
    ("NumPy", b"\x93NUMPY\x01\0v\0"),
    ("PSD", b"8BPS\0\1" + bytes(30)),
    ("ICO", encode(Image.new("RGB", (64, 64)), "ICO")),
    ("PPM", encode(Image.new("RGB", (64, 64)), "PPM")),
    ("sound", b"RIFF\x24\0\0\0WAVEfmt "),
]


@pytest.mark.parametrize(("name", "data"), KINDS)
def test_an_unsupported_body_is_named(name: str, data: bytes) -> None:
    """The message says what the body is, what to do and which formats are supported."""
    with pytest.raises(UnsupportedMediaType, match=", ".join(FORMATS)) as error:
        image_to_pixels(data, PHOTO)
    assert name in str(error.value)
    assert "send" in str(error.value) or "convert" in str(error.value) or "PNG" in str(error.value)


@pytest.mark.parametrize("data", [b"\x81\x92 \xb3" * 40, b"\x01", b"\xff"])
def test_unknown_bytes_are_not_named(data: bytes) -> None:
    """Nothing is guessed about bytes that are not recognised."""
    assert not describe(data)


def test_supported_images_have_no_such_name() -> None:
    """A damaged file in a supported format is called damaged, not unsupported."""
    for name, data in seed_corpus.images().items():
        assert not describe(data[:100]), name
