"""Encoded image -> pixels as a person sees them: upright, without transparency, 8 bits per channel."""

import io
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from contract import bars, jpeg
from contract.colour import Convert, find_conversion
from contract.errors import ConvokeError, NoContent, TooLarge, Unreadable, UnsupportedMediaType
from contract.kinds import describe, describe_damage, describe_variant
from contract.screen import screen
from contract.spec import DIGIT_SIDES, MAX_PIXELS, ImageInput

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (PNG_SIGNATURE, b"\xff\xd8\xff", b"RIFF", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")

_TEXT_CHUNKS = b"tEXt", b"zTXt", b"iTXt"
_PREFIX_BYTES = (b"\xef\xbb\xbf", b"\r", b"\n", b" ", b"\t")
_BAND_PIXELS = 1 << 20  # converted at a time, which bounds the memory of intermediate steps
_WHITE_16 = 0xFFFF
_MAX_SAMPLE_VALUE = 281  # a tag of TIFF 6.0
_USUAL_BITS = 8, 10, 12, 14, 16  # of cameras, microscopes and scanners
_FAINT_BYTE = 0x40  # high bytes below this leave 14 bits or fewer
_CROP = 7 / 8  # of a side, as torchvision's classifiers crop 224 of 256 pixels
_MIN_SIDE = 8  # pixels; fewer show nothing
_MIN_CONTRAST = 8  # grey levels of 255; what compression and noise leave of one colour stays below
_GREY_MODES = ("1", "L", "F", "I")  # and "LA", "I;16", ..., but for "LAB"
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the stored image upright."""


def has_signature(data: bytes) -> bool:
    """Whether bytes start like an image in one of the supported formats."""
    return data.startswith(_SIGNATURES)


def decode(data: bytes, spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image in the mode of `spec`; one in which a digit is searched for keeps its colours.

    A JPEG far larger than `spec` is decoded at a fraction of its size.

    Raises:
        UnsupportedMediaType, TooLarge, Unreadable: as `contract.inputs.image_to_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images and odd metadata; both are handled here
            data = _without_prefix(data)
            layout = screen(data)
            image = _open(data)
            _check_size(image, max_pixels)
            mode = _mode(image, spec)
            convert = find_conversion(image, data)
            if layout is not None:
                upright = _upright(jpeg.load(image, data, layout, image.mode if convert else mode, spec.working_side))
                return _flatten(upright, mode, spec, 0, convert)
            is_deep = ";16" in str(image.tile[:1]) and image.mode in {"RGB", "RGBA", "CMYK"}
            image = _load(image, data)
            limit = _declared_maximum(image, data)
            if is_deep and np.max(image.getextrema()[: _colours(image)]) < _FAINT_BYTE:
                _add_low_bytes(image, data, limit)
            return _flatten(_upright(image), mode, spec, limit, convert)
    except ConvokeError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image has too many pixels (maximum {max_pixels:,})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise _explain(error, data) from error


def _explain(error: Exception, data: bytes) -> ConvokeError:
    """Why an image cannot be decoded."""
    kind, damage = describe_variant(data), describe_damage(data)
    if damage:
        return Unreadable(f"the image is damaged: {damage}")
    if isinstance(error, UnidentifiedImageError) and not kind:
        kind = describe(data)
        if has_signature(data) and not kind:
            return Unreadable("the image is damaged or cut off: its header cannot be read")
    elif not kind:
        return Unreadable(f"the image is damaged or cut off: {error}")
    supported = f"supported formats: {', '.join(FORMATS)}"
    return UnsupportedMediaType(f"unsupported image format{': ' if kind else ''}{kind}; {supported}")


def size_and_mode(data: bytes) -> tuple[int, int, str]:
    """The width and the height in pixels as stored, and Pillow's mode, of an image that can be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(_without_prefix(data))
    return *image.size, image.mode


def upright_width(data: bytes) -> int:
    """The width in pixels, as a person sees it, of an image that can be decoded."""
    image = _open(_without_prefix(data))
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return image.height if is_turned else image.width


def fit(image: Image.Image, spec: ImageInput) -> Pixels:
    """Bring an image to the size of the graph, antialiased, as `spec.framing` says: uint8 (height, width, channels).

    Raises:
        NoContent: the image is too small to show anything, or has one colour throughout.
    """
    width, height = image.size
    if min(width, height) < _MIN_SIDE:
        raise NoContent(f"the image has no content: {width} x {height} pixels (minimum {_MIN_SIDE} x {_MIN_SIDE})")
    if spec.trim_bars:
        image = bars.trim(image)
    if spec.framing == "squash":
        resized = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)  # Pillow takes (width, height)
    else:
        resized = _padded(image, spec) if spec.framing == "pad" else _cropped(image, spec)
    pixels = np.asarray(resized, np.uint8).reshape(spec.height, spec.width, spec.channels)
    sample = pixels[::16, ::16, 0]  # enough for nearly all
    if int(sample.max()) - int(sample.min()) < _MIN_CONTRAST and np.ptp(pixels, axis=(0, 1)).max() < _MIN_CONTRAST:
        raise NoContent("the image has no content: it shows one colour throughout, or nothing that is opaque")
    return pixels


def _padded(image: Image.Image, spec: ImageInput) -> Image.Image:
    """The whole image in the middle of a black one of the graph's size."""
    ratio = min(spec.width / image.width, spec.height / image.height)
    width, height = (max(round(side * ratio), 1) for side in image.size)
    padded = Image.new(image.mode, (spec.width, spec.height))
    place = (spec.width - width) // 2, (spec.height - height) // 2
    padded.paste(image.resize((width, height), Image.Resampling.BILINEAR), place)
    return padded


def _cropped(image: Image.Image, spec: ImageInput) -> Image.Image:
    """The middle of the image with the graph's aspect, 7/8 of the largest such part, in the graph's size."""
    ratio = min(image.width / spec.width, image.height / spec.height) * _CROP
    width, height = spec.width * ratio, spec.height * ratio
    left, upper = (image.width - width) / 2, (image.height - height) / 2
    box = left, upper, left + width, upper + height
    return image.resize((spec.width, spec.height), Image.Resampling.BILINEAR, box=box)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header; texts and profiles of a PNG that are too large for Pillow are skipped."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except ValueError:
        if not data.startswith(PNG_SIGNATURE):
            raise
    try:
        return Image.open(io.BytesIO(_without_chunks(data, _TEXT_CHUNKS)), formats=FORMATS)
    except ValueError:
        return Image.open(io.BytesIO(_without_chunks(data, (*_TEXT_CHUNKS, b"iCCP"))), formats=FORMATS)


def _load(image: ImageFile.ImageFile, data: bytes) -> ImageFile.ImageFile:
    """Decode an opened image that is not a JPEG: of an animated PNG the first frame that it shows."""
    if image.info.get("default_image"):  # for viewers without animation
        image.seek(1)
    try:
        image.load()
    except ValueError:  # a text behind the pixels
        if image.format != "PNG":
            raise
        image = Image.open(io.BytesIO(_without_chunks(data, (*_TEXT_CHUNKS, b"iCCP"))), formats=FORMATS)
        image.load()
    return image


def _without_chunks(data: bytes, names: Collection[bytes]) -> bytes:
    """A PNG without the chunks of these names."""
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if data[place + 4 : place + 8] not in names:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _without_prefix(data: bytes) -> bytes:
    """An image without the byte order mark and line breaks that scripts and editors write before it."""
    if not data.startswith(_PREFIX_BYTES):
        return data
    stripped = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    return stripped if has_signature(stripped) else data


def _check_size(image: Image.Image, max_pixels: int) -> None:
    """Refuse an image before it is decoded, if it or one of its tiles has more than `max_pixels`.

    Raises:
        TooLarge: it has more.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the image has too many pixels: {width} x {height} (maximum {max_pixels:,})")
    if image.format == "TIFF":  # a tile is decoded completely, even if it is larger than the image
        tags = getattr(image, "tag_v2", {})
        width, height = (int(tags.get(tag, 0)) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
        if width * height > max_pixels:
            raise TooLarge(f"a tile of the TIFF has too many pixels: {width} x {height} (maximum {max_pixels:,})")


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image as its EXIF orientation says."""
    transposition = _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if transposition is None else image.transpose(transposition)


def _mode(image: Image.Image, spec: ImageInput) -> str:
    """The mode to decode to. Ink and paper of a digit may differ in nothing but colour."""
    return (
        "RGB"
        if spec.framing == "mnist" and (image.mode == "LAB" or not image.mode.startswith(_GREY_MODES))
        else spec.mode
    )


def _flatten(
    image: Image.Image, mode: str, spec: ImageInput, limit: int, convert: Convert | None = None
) -> Image.Image:
    """Any mode -> `mode`: colours to sRGB, transparency on a plain background, more than 8 bits scaled to 8.

    An image in which a digit is searched for is reduced to `DIGIT_SIDES` on the way, which bounds the memory.
    """
    reduction = -(-max(image.size) // DIGIT_SIDES[1]) if spec.framing == "mnist" else 1
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image, limit)
    is_transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    if image.mode == mode and not is_transparent and reduction == 1 and convert is None:
        return image
    background = _background(image, spec) if is_transparent else None
    flat = Image.new(mode, (-(-image.width // reduction), -(-image.height // reduction)))
    for box in _bands(image, reduction):
        band = image.crop(box)
        band = _flatten_band(convert(band) if convert else band, background, mode)
        flat.paste(band.reduce(reduction) if reduction > 1 else band, (0, box[1] // reduction))
    return flat


def _flatten_band(band: Image.Image, background: str | None, mode: str) -> Image.Image:
    if background is not None:
        band = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", band.size, background), band)
    return band if band.mode == mode else band.convert("RGB").convert(mode)


def _bands(image: Image.Image, multiple: int = 1) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) as wide as the image that together cover it; `multiple` divides their tops."""
    rows = max(_BAND_PIXELS // max(image.width, 1) // multiple, 1) * multiple
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _declared_maximum(image: Image.Image, data: bytes) -> int:
    """The value of white that a 16-bit PNG or TIFF declares, or 0, also for the 65,535 that writers put unasked."""
    if image.format == "TIFF":
        value = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
        value = value[0] if isinstance(value, tuple) and value else value
        return value if isinstance(value, int) and 0 < value < _WHITE_16 else 0
    place = data.find(b"sBIT", 0, data.find(b"IDAT")) if image.format == "PNG" and data[24] == 16 else -1  # noqa: PLR2004
    return (1 << min(data[place + 4], 16)) - 1 if place > 0 and data[place + 4] < 16 else 0  # noqa: PLR2004


def _white(high: int, declared: int) -> int:
    """The value of white, if the largest value is `high`: as declared, or of the fewest usual bits that hold it."""
    if 0 < high <= declared:
        return declared
    return next((1 << bits) - 1 for bits in _USUAL_BITS if high < 1 << bits)


def _add_low_bytes(image: Image.Image, data: bytes, declared: int) -> None:
    """Scale a colour image of 16 bits, of which Pillow keeps the high bytes, by its significant bits, in place.

    Read in the other order of bytes, the file gives the low ones.
    """
    low, colours, high = _low_bytes(data), _colours(image), 0
    for box in _bands(image):
        values = np.asarray(image.crop(box))[..., :colours].astype(np.uint16) << 8
        high = max(high, int((values | np.asarray(low.crop(box))[..., :colours]).max()))
    white = _white(high, declared)
    for box in _bands(image):
        pixels = np.array(image.crop(box))
        values = (pixels.astype(np.uint16) << 8) | np.asarray(low.crop(box))
        scaled = np.minimum(values.astype(np.float32) * (255 / white) + 0.5, 255).astype(np.uint8)
        is_opaque = pixels[..., colours:].max(initial=0) >= _FAINT_BYTE  # alpha has its own, full range
        pixels[..., : colours if is_opaque else None] = scaled[..., : colours if is_opaque else None]
        image.paste(Image.fromarray(pixels, image.mode), box)


def _colours(image: Image.Image) -> int:
    """How many channels have colours rather than alpha."""
    return len(image.getbands()) - ("A" in image.getbands())


def _low_bytes(data: bytes) -> Image.Image:
    """The low bytes of an image of 16 bits, in the mode in which Pillow gives the high ones."""
    low = _open(data)
    is_grey = str(low.tile[0].args).startswith("LA")  # as RGBA it is: high and low byte of grey, and of alpha
    low.tile = [tile._replace(args="RGBA" if is_grey else _swapped(tile.args)) for tile in low.tile]
    low.load()
    if not is_grey:
        return low
    grey, alpha = low.getchannel(1), low.getchannel(3)
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _swapped(args: Any) -> Any:
    """The arguments of a decoder, with the bytes of 16 bits in the other order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    start, _, order = args.rpartition(";16")
    return f"{start};16{'L' if order == 'B' else 'B'}"


def _to_8_bits(image: Image.Image, declared: int) -> Image.Image:
    """Integer and floating-point grey -> L. 16 bits or fewer keep their scale; other ranges are stretched to fit."""
    low, high = np.inf, -np.inf
    for box in _bands(image):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite numbers")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    keeps_scale = image.mode != "F" and low >= 0 and high <= _WHITE_16
    white = _white(int(high), declared) if keeps_scale else 0
    flat = Image.new("L", image.size)
    for box in _bands(image):
        values = np.asarray(image.crop(box)).astype(np.float64)
        scaled = values * (255 / white) if keeps_scale else (values - low) / max(high - low, 1e-12) * 255
        flat.paste(Image.fromarray((scaled + 0.5).astype(np.uint8)), box)
    return flat


def _background(image: Image.Image, spec: ImageInput) -> str:
    """The colour behind a transparent image: white, as on a page; black behind a digit in light ink."""
    if spec.framing != "mnist":
        return "white"
    light = weight = 0.0
    for box in _bands(image):
        band = image.crop(box).convert("RGBA")
        alpha = np.asarray(band.getchannel("A"), np.float32)
        light += float((np.asarray(band.convert("L"), np.float32) * alpha).sum(dtype=np.float64))
        weight += float(alpha.sum(dtype=np.float64))
    return "black" if light / max(weight, 1) > 127.5 else "white"  # noqa: PLR2004 -- the middle of 0 to 255
