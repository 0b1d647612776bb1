"""The colours of an image file -> sRGB, in which models are trained and browsers show.

An embedded ICC profile says what the numbers mean, as do the chunks cICP, sRGB, gAMA and cHRM of a PNG (Portable
Network Graphics, third edition, section 4.3), and the EXIF data of a camera that is set to Adobe RGB. Little CMS
converts. A profile that gives the same colours as sRGB costs a look-up; one that is damaged is ignored, as browsers do.
"""

import io
import struct
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from PIL import ExifTags, Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]
"""Turns an image, or a band of it, into sRGB: mode RGB, or RGBA if it has transparency."""

MAX_PROFILE_BYTES = 4 << 20  # the largest of printers have 3 MB
_SAME = 3  # levels of 255 by which a profile may differ from sRGB without being used
_LEAST_CONTRAST = 128  # levels of 255 between the lightest and the darkest colour of a profile that is not damaged
_SPACES = {
    b"RGB ": ("RGB", ("RGB", "RGBA", "RGBX", "P", "PA", "YCbCr")),
    b"GRAY": ("L", ("L", "LA", "I", "F", "I;16", "I;16B", "I;16L")),
    b"CMYK": ("CMYK", ("CMYK",)),
}
"""The colour space of a profile -> the mode for the conversion, and the modes of images that may have the profile."""

Curve = tuple[float, ...]
"""The exponent from encoded to linear values, or g, a, b, c and d of sRGB's curve."""
Primaries = tuple[float, ...]
"""x and y (CIE, 1931) of white, red, green and blue."""
_D65 = 0.3127, 0.3290
_SRGB: Primaries = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB: Primaries = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_CICP_PRIMARIES: dict[int, Primaries] = {
    1: _SRGB,
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # ITU-R BT.2020
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # SMPTE RP 431-2
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}
_SRGB_CURVE = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
_CICP_CURVES = {**dict.fromkeys((1, 6, 13, 14, 15), _SRGB_CURVE), 4: (2.2,), 5: (2.8,), 8: (1.0,)}
"""Primaries and transfer functions of ITU-T H.273; those of high dynamic range are left out."""
_CURVE_TAGS = b"rTRC", b"gTRC", b"bTRC"
_LOWEST_GAMMA = 0.1
_USUAL_GAMMA = 0.43, 0.48  # 1 / 2.2 stands for sRGB
_SRGB_CHROMATICITY = 0.01  # largest difference of the primaries
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of ICC.1:2022
_EXIF_ADOBE_RGB, _EXIF_UNCALIBRATED = 2, 0xFFFF


def find_conversion(image: Image.Image, data: bytes) -> Convert | None:
    """How the colours of an opened image come to sRGB; None if they are in it, or nothing usable says otherwise.

    Args:
        image: the image, with what Pillow read from the file in `info`.
        data: the file.
    """
    info, transform = image.info, None
    if image.format == "PNG" and (coding := _cicp(data)):
        transform = _transform(_matrix_profile(*coding))
    elif profile := info.get("icc_profile"):
        transform = _embedded(profile, image.mode)
    elif "gamma" in info and "srgb" not in info:
        transform = _gamma(info["gamma"], info.get("chromaticity", _SRGB))
    elif image.format in {"JPEG", "MPO"} and _is_adobe_rgb(image.getexif()):
        transform = _transform(_matrix_profile(_ADOBE_RGB, (2.2,)))
    return None if transform is None else partial(_apply, transform)


def _apply(transform: ImageCms.ImageCmsTransform, band: Image.Image) -> Image.Image:
    is_transparent = "A" in band.getbands() or "transparency" in band.info
    if is_transparent:
        band = band.convert("RGBA")
    result = Image.new("RGB", band.size)
    transform.apply(band.convert(transform.input_mode), result)
    if is_transparent:
        result.putalpha(band.getchannel("A"))
    return result


def _embedded(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile for images of a mode; None if it is not for them, and for one that is too large."""
    _, modes = _SPACES.get(profile[16:20], ("", ()))
    return _transform(profile) if mode in modes and len(profile) <= MAX_PROFILE_BYTES else None


@lru_cache(16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if the profile is damaged, or gives the same colours as sRGB."""
    mode, _ = _SPACES[profile[16:20]]
    steps = np.arange(0, 256, 15).astype(np.uint8)  # 18 levels, black and white among them
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, len(steps), 3)
    sample = Image.fromarray(cube).convert(mode)
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        converted = np.asarray(_apply(transform, sample), np.int16)
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None
    if converted.max() - converted.min() < _LEAST_CONTRAST:
        return None  # all colours look alike
    difference = np.abs(converted - np.asarray(sample.convert("RGB"), np.int16))
    return transform if mode == "CMYK" or difference.max() > _SAME else None


def _cicp(data: bytes) -> tuple[Primaries, Curve] | None:
    """Primaries and curve that the chunk cICP of a PNG names, if it has one and the display needs no high range."""
    place = data.find(b"cICP", 0, data.find(b"IDAT"))
    if place < 0 or data[place + 6 : place + 8] != b"\0\1":  # RGB, of full range
        return None
    primaries, curve = _CICP_PRIMARIES.get(data[place + 4]), _CICP_CURVES.get(data[place + 5])
    return (primaries, curve) if primaries and curve else None


def _gamma(gamma: float, primaries: Primaries) -> ImageCms.ImageCmsTransform | None:
    """The transform of the chunks gAMA and cHRM of a PNG."""
    low, high = _USUAL_GAMMA
    is_usual = max(abs(one - other) for one, other in zip(primaries, _SRGB, strict=True)) < _SRGB_CHROMATICITY
    if not _LOWEST_GAMMA < gamma < 1 / _LOWEST_GAMMA or (is_usual and low < gamma < high):
        return None
    try:
        profile = _matrix_profile(primaries, _SRGB_CURVE if low < gamma < high else (1 / gamma,))
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None  # primaries that are not colours
    return _transform(profile)


def _is_adobe_rgb(exif: Image.Exif) -> bool:
    """Whether a camera says that it wrote Adobe RGB, for which it embeds no profile (DCF 2.0)."""
    if ExifTags.IFD.Exif not in exif:
        return False
    space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    return space == _EXIF_ADOBE_RGB or (
        space == _EXIF_UNCALIBRATED
        and str(exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)).startswith("R03")
    )


@lru_cache(16)
def _matrix_profile(primaries: Primaries, curve: Curve) -> bytes:
    """An ICC profile of three primaries and one curve (ICC.1:2022, sections 7.2, 8.3 and 10.18).

    Raises:
        ArithmeticError, ValueError, LinAlgError, struct.error: the primaries are not three different colours.
    """
    x, y = np.array(primaries).reshape(4, 2).T
    white, *_ = xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)  # (4, XYZ)
    matrix = xyz[1:].T * np.linalg.solve(xyz[1:].T, white)  # linear RGB -> XYZ
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white)) @ _BRADFORD
    columns = [b"XYZ \0\0\0\0" + _fixed(*column) for column in (adapt @ matrix).T]
    kind = 3 if len(curve) > 1 else 0
    response = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(*curve)
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)) | dict.fromkeys(_CURVE_TAGS, response)
    table, content = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(value))
        content += value
    header = struct.pack(">I4sI4s4s4s", 0, b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp" + bytes(28)
    header += _fixed(*_D50) + bytes(48)
    return struct.pack(">I", len(header + table + content)) + header[4:] + table + content


def _fixed(*values: float) -> bytes:
    """Numbers as s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))
