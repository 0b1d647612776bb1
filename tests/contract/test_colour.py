"""Colours of images: whatever a file's numbers mean, they come out as sRGB; files in sRGB stay as they are."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image, ImageCms

from contract import colour
from contract.inputs import image_to_pixels
from contract.picture import decode
from contract.spec import ImageInput
from tests.drawing import encode
from tests.fuzz.seed_corpus import chunk

PHOTO = ImageInput(height=18, width=18, mode="RGB", framing="squash")
GREY = ImageInput(height=18, width=18, mode="L", framing="squash")
D50 = (0.9642, 1.0, 0.8249)

TO_P3 = [[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]]
TO_ADOBE = [[0.7151, 0.2849, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0412, 0.9588]]
"""Linear sRGB to linear Display P3 and Adobe RGB, as CSS Color 4 and Lindbloom publish them."""

Levels = npt.NDArray[np.float64]


def linear(encoded: Levels) -> Levels:
    """SRGB -> light (IEC 61966-2-1)."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def srgb(light: Levels) -> Levels:
    """Light -> sRGB."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def colours() -> Image.Image:
    """Colours of every hue, 18 x 18."""
    values = np.random.default_rng(3).integers(25, 231, (18, 18, 3), np.uint8)
    return Image.fromarray(values)


def written(image: Image.Image, matrix: list[list[float]], curve: Callable[[Levels], Levels]) -> Image.Image:
    """The same colours as numbers of another space."""
    light = linear(np.asarray(image) / 255) @ np.array(matrix).T
    return Image.fromarray((curve(light) * 255 + 0.5).astype(np.uint8))


def icc(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 with these tags."""
    place, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", place + len(content), len(value))
        content += value.ljust(-(-len(value) // 4) * 4, b"\0")
    header = bytes(8) + b"\x02\x20\0\0prtr" + space + connection + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(value * 65536) for value in D50)) + bytes(48)
    return struct.pack(">I", place + len(content)) + header[4:] + table + content


def monochrome_press() -> bytes:
    """A CMYK profile of a press with four black inks: any ink at full strength is black."""
    levels = [65280 if inks == 0 else 0 for inks in range(16)]  # L* of the corners, 100 for paper
    corners = [value for level in levels for value in (level, 32768, 32768)]
    table = struct.pack(">4sIBBBB9iHH", b"mft2", 0, 4, 3, 2, 0, *(65536 * (place % 4 == 0) for place in range(9)), 2, 2)
    table += struct.pack(">8H", *[0, 65535] * 4) + struct.pack(">48H", *corners) + struct.pack(">6H", *[0, 65535] * 3)
    return icc(b"CMYK", b"Lab ", {b"A2B0": table})


def linear_grey() -> bytes:
    """A grey profile whose numbers are light."""
    return icc(b"GRAY", b"XYZ ", {b"kTRC": b"curv\0\0\0\0\0\0\0\0", b"wtpt": xyz(*D50)})


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


DISPLAY_P3 = icc(
    b"RGB ",
    b"XYZ ",
    {
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        **dict.fromkeys(
            (b"rTRC", b"gTRC", b"bTRC"),
            b"para\0\0\0\0\0\3\0\0"
            + struct.pack(">5i", *(round(v * 65536) for v in (2.4, 0.947867, 0.052133, 0.077399, 0.04045))),
        ),
    },
)
"""The colorants of Apple's Display P3.icc."""
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(image: Image.Image, *chunks: bytes) -> bytes:
    """A PNG with more chunks before its pixels."""
    data = encode(image)
    return data[:33] + b"".join(chunks) + data[33:]


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


def with_exif(image: Image.Image, space: int, index: str | None = None) -> bytes:
    """A JPEG of a camera that names its colour space in EXIF alone."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = space
    if index:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: index}
    return encode(image, "JPEG", exif=exif, quality=100, subsampling=0)


def same(data: bytes, expected: Image.Image, tolerance: int = 4) -> None:
    """The file decodes to these colours."""
    spec = ImageInput(height=expected.height, width=expected.width, mode="RGB", framing="squash")
    actual = np.asarray(decode(data, spec), np.int16)
    assert np.abs(actual - np.asarray(expected.convert("RGB"), np.int16)).max() <= tolerance


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_an_embedded_profile_is_used(image_format: str) -> None:
    """A photo in Display P3, as every iPhone writes, shows the colours that it showed on the phone."""
    options: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    image = colours().resize((180, 180), Image.Resampling.BILINEAR)
    data = encode(written(image, TO_P3, srgb), image_format, icc_profile=DISPLAY_P3, **options.get(image_format, {}))
    same(data, image, tolerance=24 if image_format == "JPEG" else 4)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_and_palettes_keep_their_meaning(mode: str) -> None:
    """Colours are converted, alpha is not."""
    image = colours()
    stored = written(image, TO_P3, srgb)
    if mode == "P":
        stored = stored.quantize(16)
        data = encode(stored, icc_profile=DISPLAY_P3)
        expected = decode(encode(stored.convert("RGB"), icc_profile=DISPLAY_P3), PHOTO)
    else:
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, 18, 9))
        stored.putalpha(alpha)
        data = encode(stored, icc_profile=DISPLAY_P3)
        expected = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    same(data, expected)


def test_a_model_of_grey_images_sees_converted_colours() -> None:
    """The luminance is that of the converted colours, also in a JPEG, whose luminance Pillow could decode alone."""
    image = colours()
    stored = written(image, TO_P3, srgb)
    for image_format in ("PNG", "JPEG"):
        data = encode(
            stored, image_format, icc_profile=DISPLAY_P3, **({"quality": 100} if image_format == "JPEG" else {})
        )
        colour_pixels = decode(data, PHOTO).convert("L")
        assert np.abs(np.asarray(decode(data, GREY), np.int16) - np.asarray(colour_pixels, np.int16)).max() <= 2


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "JPEG"])
def test_grey_profiles_are_used(image_format: str) -> None:
    """A grey image of light, linear, is not seen too dark."""
    ramp = Image.fromarray(np.tile(np.arange(10, 250, 10).astype(np.uint8), (24, 1)))
    stored = Image.fromarray((linear(np.asarray(ramp) / 255) * 255 + 0.5).astype(np.uint8))
    data = encode(stored, image_format, icc_profile=linear_grey())
    actual = np.asarray(decode(data, PHOTO), np.int16)[..., 0]
    assert np.abs(actual - np.asarray(ramp, np.int16))[:, 6:].max() <= 6  # the darkest have few levels in light
    assert np.abs(np.asarray(stored, np.int16) - np.asarray(ramp, np.int16)).max() > 50


def test_cmyk_profiles_are_used() -> None:
    """Cyan ink that prints black is black."""
    image = Image.new("CMYK", (18, 18), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (0, 0, 18, 9))
    expected = Image.new("RGB", (18, 18), "black")
    expected.paste("white", (0, 0, 18, 9))
    for image_format in ("TIFF", "JPEG"):
        same(encode(image, image_format, icc_profile=monochrome_press()), expected, tolerance=6)
    assert np.asarray(decode(encode(image, "TIFF"), PHOTO))[17, 0].tolist() == [0, 255, 255]


def test_the_chunks_of_a_png_are_used() -> None:
    """Linear light by gAMA, Adobe RGB by gAMA and cHRM, Display P3 by cICP; sRGB comes before gAMA."""
    image = colours()
    light = written(image, np.eye(3).tolist(), lambda levels: levels)
    same(png(light, gamma(1.0)), image, tolerance=6)  # dark colours have few levels in light
    adobe = written(image, TO_ADOBE, lambda levels: levels ** (1 / 2.2))
    same(png(adobe, gamma(1 / 2.2), primaries(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)), image, tolerance=12)
    same(png(written(image, TO_P3, srgb), chunk(b"cICP", b"\x0c\x0d\0\1"), gamma(1.0)), image)
    same(png(image, chunk(b"sRGB", b"\0"), gamma(1.0)), image, tolerance=0)
    same(png(image, gamma(0.45455), primaries(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)), image, tolerance=0)


def test_a_grey_png_with_gamma_is_converted() -> None:
    """A grey image of light has no profile, but gAMA."""
    ramp = Image.fromarray(np.tile(np.arange(60, 250, 10).astype(np.uint8), (24, 1)))
    stored = Image.fromarray((linear(np.asarray(ramp) / 255) * 255 + 0.5).astype(np.uint8))
    same(png(stored, gamma(1.0)), ramp, tolerance=4)


def test_cameras_may_name_adobe_rgb_in_exif_alone() -> None:
    """As the design rule for camera file systems has it; a camera that names sRGB is taken by its word."""
    image = colours()
    adobe = written(image, TO_ADOBE, lambda levels: levels ** (1 / 2.2))
    for space, index in ((2, None), (0xFFFF, "R03")):
        same(with_exif(adobe, space, index), image, tolerance=12)
    for space, index in ((1, "R98"), (0xFFFF, None), (0xFFFF, "R98")):
        plain = decode(encode(adobe, "JPEG", quality=100, subsampling=0), PHOTO)
        same(with_exif(adobe, space, index), plain, tolerance=0)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "JPEG"])
def test_srgb_profiles_change_nothing(image_format: str) -> None:
    """A photo with a profile of sRGB equals the one without, bit for bit."""
    image = colours()
    same(encode(image, image_format, icc_profile=SRGB), decode(encode(image, image_format), PHOTO), tolerance=0)


BROKEN = {
    "empty": b"",
    "words": b"not a profile" * 20,
    "cut off": DISPLAY_P3[:200],
    "without tags": DISPLAY_P3[:128] + bytes(4),
    "no colorant": DISPLAY_P3.replace(b"rXYZ", b"zzzz"),
    "of grey, in a colour image": linear_grey(),
    "of CMYK, in a colour image": monochrome_press(),
    "a table of curves": DISPLAY_P3.replace(b"para", b"curv"),
    "too large": DISPLAY_P3 + bytes(colour.MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_used_is_ignored(name: str) -> None:
    """As browsers do: the numbers are taken as sRGB."""
    image = colours()
    same(encode(image, "TIFF", icc_profile=BROKEN[name]), image, tolerance=0)


def test_damaged_profiles_are_survived() -> None:
    """Whatever bytes of a profile are changed, the image is read."""
    random = np.random.default_rng(1)
    profiles = [DISPLAY_P3, SRGB]
    stored = encode(colours(), "TIFF")
    expected = image_to_pixels(stored, PHOTO).shape
    for place in range(60):
        damaged = bytearray(profiles[place % 2])
        for position in random.integers(0, len(damaged), 4):
            damaged[position] = random.integers(256)
        assert image_to_pixels(encode(colours(), "TIFF", icc_profile=bytes(damaged)), PHOTO).shape == expected


@pytest.mark.parametrize(
    "chunks",
    [
        gamma(0),
        gamma(40_000),
        gamma(1.0) + primaries(*[0] * 8),
        gamma(1.0) + primaries(*[0.3] * 8),
        chunk(b"cICP", b"\x09\x10\0\1"),
        chunk(b"cICP", b"\1\1\1\0"),
        chunk(b"cICP", b""),
    ],
    ids=["gamma 0", "gamma 40000", "no primaries", "equal primaries", "high range", "not RGB", "empty"],
)
def test_chunks_that_cannot_be_used_are_ignored(chunks: bytes) -> None:
    """They are no reason to refuse an image."""
    image = colours()
    same(png(image, chunks), image, tolerance=0)


def test_a_damaged_iccp_chunk_is_ignored() -> None:
    """A profile that cannot be unpacked is as none."""
    image = colours()
    same(png(image, chunk(b"iCCP", b"x\0\0" + zlib.compress(DISPLAY_P3)[:40])), image, tolerance=0)
