"""Encoded image -> pixels as a person sees them: upright, without transparency, 8 bits a channel."""

import io
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from contract.screen import screen
from contract.spec import MAX_PIXELS, ImageInput

Pixels = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.float32]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_BAND = 1 << 20  # pixels that are converted at a time, which bounds what the steps between take of memory
_WHITE_16 = 0xFFFF
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (PNG_SIGNATURE, b"\xff\xd8\xff", b"RIFF", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def has_image_signature(data: bytes) -> bool:
    """Whether bytes begin as a picture of a kind that is read here does."""
    return data.startswith(_SIGNATURES)


def decode(data: bytes, spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as a person sees it: upright, without transparency, 8 bits, in the mode of `spec`.

    A JPEG far larger than `spec` is decoded at a fraction of its size.

    Raises:
        UnsupportedMediaType, TooLarge, Unreadable: as `image_to_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about bombs and odd metadata; both are dealt with here
            screen(data)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_cost(image, max_pixels)
            side = spec.working_side
            image.draft(spec.mode, (side, side))
            image.load()
            return _flatten(_upright(image), spec)
    except ConvokeError:
        raise
    except UnidentifiedImageError as error:
        if has_image_signature(data):
            raise Unreadable("the picture is damaged or cut off: its header cannot be read") from error
        raise UnsupportedMediaType(f"this is no picture of a kind that is read here: {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture is too large to decode; at most {max_pixels:,} pixels are") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise Unreadable(f"the picture is damaged or cut off: {error}") from error


def _check_cost(image: Image.Image, max_pixels: int) -> None:
    """Refuse, before decoding, more than `max_pixels`, in the picture or in a tile of it.

    Raises:
        TooLarge: there are more.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width} x {height} pixels; at most {max_pixels:,} are decoded")
    if image.format == "TIFF":  # a tile is decoded whole, also where it is larger than the picture
        tags = getattr(image, "tag_v2", {})
        tile = [int(tags.get(tag, 0)) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]
        if tile[0] * tile[1] > max_pixels:
            raise TooLarge(f"the TIFF has tiles of {tile[0]} x {tile[1]} pixels; at most {max_pixels:,} are decoded")


def _upright(image: Image.Image) -> Image.Image:
    """A loaded picture turned as its EXIF data says, of which no more than that is read."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, spec: ImageInput) -> Image.Image:
    """Any mode -> `spec.mode`, transparency laid on a ground, more than 8 bits scaled to 8."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    if image.mode == spec.mode and not transparent:
        return image
    ground = _ground(image, spec) if transparent else None
    flat = Image.new(spec.mode, image.size)
    for box in _bands(image):
        flat.paste(_flatten_band(image.crop(box), ground, spec.mode), box)
    return flat


def _flatten_band(band: Image.Image, ground: str | None, mode: str) -> Image.Image:
    if ground is not None:
        band = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", band.size, ground), band)
    return band if band.mode == mode else band.convert("RGB").convert(mode)


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) as wide as the picture that together cover it."""
    rows = max(_BAND // max(image.width, 1), 1)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Integer and floating-point grey -> L. 16 bits keep their scale; other ranges are stretched to fit."""
    low, high = np.inf, -np.inf
    for box in _bands(image):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise ValueError("the picture holds values that are no numbers")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    keeps = image.mode != "F" and low >= 0 and high <= _WHITE_16
    flat = Image.new("L", image.size)
    for box in _bands(image):
        values = np.asarray(image.crop(box)).astype(np.float64)
        scaled = values / 257 if keeps else (values - low) / max(high - low, 1e-12) * 255
        flat.paste(Image.fromarray((scaled + 0.5).astype(np.uint8)), box)
    return flat


def _ground(image: Image.Image, spec: ImageInput) -> str:
    """What shows through a transparent picture: white, as on a page; black behind a digit in light ink."""
    if spec.framing != "mnist":
        return "white"
    light = weight = 0.0
    for box in _bands(image):
        band = image.crop(box).convert("RGBA")
        alpha = np.asarray(band.getchannel("A"), np.float32)
        light += float((np.asarray(band.convert("L"), np.float32) * alpha).sum(dtype=np.float64))
        weight += float(alpha.sum(dtype=np.float64))
    return "black" if light / max(weight, 1) > 127.5 else "white"  # noqa: PLR2004 -- the middle of 0 to 255


def squash(image: Image.Image, spec: ImageInput) -> Image.Image:
    """Resize both sides to the graph's, antialiased. Pillow wants (width, height)."""
    return image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
