"""Encoded pictures to pixels, texts to token ids. Training and serving both come through here, and only here.

`decode` opens a picture as a person sees it: upright, flattened, in 8 bits. `frame` brings it to the graph's size:
squashed, or, for digits, as MNIST was made (LeCun et al., 1998, section III.A). A text goes through the tokenizer that
lies beside its graph. Whoever changes a pixel or an id here raises `PREPROCESSING_VERSION` in `service.manifest`.
"""

import contextlib
import ctypes
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import (
    ExifTags,
    Image,
    ImageFilter,
    ImageOps,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    _imaging,
)
from tokenizers import Tokenizer

from service.errors import ServiceError, TooLarge, Unreadable, UnsupportedKind
from service.manifest import ImageInput, TextInput
from service.screen import screen

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]
Grey = npt.NDArray[np.float32]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000

_BAND = 1 << 20  # pixels that are converted at a time, which bounds what the steps between take of memory
_WHITE_16 = 0xFFFF
_TINY_BYTES, _TINY_SIDE = 4096, 64
_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN_GREY = b"\x08\x00\x00\x00\x00"  # a PNG header's end: 8 bits of grey, the usual packing, filters and order
_SIGNATURES = (_PNG, b"\xff\xd8\xff", b"RIFF", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WORK = 112  # the longer side at which a digit is looked for: four pixels for each of MNIST's
_BOX = 20  # MNIST's digits fill a box of 20 x 20 ...
_FRAME = 28  # ... inside a frame of 28 x 28
_FAINT = 24  # grey levels between paper and ink under which a picture is taken for blank
_WEAK = 0.6  # a stroke's thin parts are fainter than the threshold between ink and paper, by this much at most
_CROWD = 4.5  # ink pixels, among the 81 around one, that a stroke has and a speck has not
_THIN = 0.07  # strokes thinner than this share of the digit's box vanish when it shrinks to 20 pixels


def image_to_pixels(data: bytes, spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Turn an encoded picture into what the graph takes: uint8 (height, width, channels).

    Args:
        data: the bytes of a JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF.
        spec: the size, mode and framing that the model was trained with.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        UnsupportedKind: not one of these formats.
        TooLarge: more than `max_pixels`.
        Unreadable: one of these formats, but damaged.
    """
    ready = _ready_made(data, spec)
    if ready is not None:
        return ready
    image = decode(data, spec, max_pixels=max_pixels)
    framed = _frame_digit(image) if spec.framing == "mnist" else _squash(image, spec)
    return np.asarray(framed, np.uint8).reshape(spec.height, spec.width, spec.channels)


def text_to_tokens(text: str, tokenizer: Tokenizer, spec: TextInput) -> Tokens:
    """Turn a text into what the graph takes: the ids of its first `spec.length` tokens, int64 (L), L from 1.

    Raises:
        Unreadable: there is no word in it, it holds half of a surrogate pair, or the tokenizer gives up on it.
    """
    try:  # `encode` alone would hold the interpreter's lock; for a batch it is let go
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    except TypeError as error:
        raise Unreadable("the text holds half of a surrogate pair, which is no character") from error
    except BaseException as error:
        if is_panic(error):
            raise Unreadable("the tokenizer gave up on this text") from error
        raise
    ids = encoding.ids[: spec.length]
    if not ids:
        raise Unreadable("the text holds no word")
    return np.array(ids, np.int64)


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library in Rust, which no `except Exception` catches.

    `tokenizers` panics where a pattern needs too many steps on a text.
    """
    return type(error).__name__ == "PanicException"


def pad(texts: Sequence[Tokens]) -> Tokens:
    """Bring the ids of several texts to one length with padding, id 0, at their ends: N x (L) -> (N, longest L)."""
    padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, ids in zip(padded, texts, strict=True):
        row[: len(ids)] = ids
    return padded


def warm_up() -> None:
    """Load Pillow's decoders, which it would do at the first picture, a tenth of a second long.

    Pillow, and libtiff below it, are kept from writing what they find wrong to the log: a damaged fax of 100 kB has a
    million bad rows, and would leave 60 MB there. What is wrong is in the error that the caller gets.
    """
    Image.init()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError, OSError):  # a build of Pillow that hides its libtiff
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
        set_handler(None)


def is_tiny(data: bytes) -> bool:
    """Whether a picture is certainly decoded in microseconds: a short PNG of at most 64 x 64 by its header."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return data.startswith(_PNG) and len(data) <= _TINY_BYTES and max(width, height) <= _TINY_SIDE


def has_picture_signature(data: bytes) -> bool:
    """Whether bytes begin as a picture of a kind that is read here does."""
    return data.startswith(_SIGNATURES)


def _ready_made(data: bytes, spec: ImageInput) -> Pixels | None:
    """The pixels of a PNG that is framed as MNIST is and plain grey: as the general way gives them, sooner.

    Nothing but its header stands before its pixels, so there is no palette, no transparency and nothing to turn; what
    is damaged, or not that plain after all, gives None and goes the general way.
    """
    if spec.framing != "mnist" or data[24:29] != _PLAIN_GREY or data[37:41] != b"IDAT" or not is_tiny(data):
        return None
    try:
        image = PngImagePlugin.PngImageFile(io.BytesIO(data))
        grey = image.tobytes()
    except Exception:  # noqa: BLE001 -- the general way finds the words for it
        return None
    if image.size != (_FRAME, _FRAME) or image.info:
        return None
    border = sorted(grey[:_FRAME] + grey[-_FRAME:] + grey[::_FRAME] + grey[_FRAME - 1 :: _FRAME])
    pixels = np.frombuffer(grey, np.uint8).reshape(_FRAME, _FRAME, 1)
    dark_on_light = border[2 * _FRAME - 1] + border[2 * _FRAME] > 255  # noqa: PLR2004 -- twice the middle of 0 to 255
    return 255 - pixels if dark_on_light else pixels


def decode(data: bytes, spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as a person sees it: upright, without transparency, 8 bits, in the mode of `spec`.

    A JPEG far larger than `spec` is decoded at a fraction of its size.

    Raises:
        UnsupportedKind, TooLarge, Unreadable: as `image_to_pixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about bombs and odd metadata; both are dealt with here
            screen(data)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_cost(image, max_pixels)
            goal = _WORK if spec.framing == "mnist" else max(spec.height, spec.width)
            image.draft(spec.mode, (goal, goal))
            image.load()
            return _flatten(_upright(image), spec)
    except ServiceError:
        raise
    except UnidentifiedImageError as error:
        if has_picture_signature(data):
            raise Unreadable("the picture is damaged or cut off: its header cannot be read") from error
        raise UnsupportedKind(f"this is no picture of a kind that is read here: {', '.join(FORMATS)}") from error
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


def _squash(image: Image.Image, spec: ImageInput) -> Image.Image:
    """Resize both sides to the graph's, antialiased. Pillow wants (width, height)."""
    return image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)


def _frame_digit(image: Image.Image) -> Image.Image:
    """A grey picture of a digit -> light on black, 28 x 28, as MNIST has it.

    One that has 28 x 28 pixels is taken as framed already: only dark ink on light is inverted. Any other is searched
    for ink, which is fitted into a 20 x 20 box and centred by its mass.
    """
    if image.size == (_FRAME, _FRAME):
        return ImageOps.invert(image) if _paper(np.asarray(image, np.float32)) > 127.5 else image  # noqa: PLR2004
    ink = _ink(image)
    if ink is None:
        return Image.new("L", (_FRAME, _FRAME))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = _BOX / max(box.size)
    size = (max(round(box.width * scale), 1), max(round(box.height * scale), 1))
    small = np.asarray(_thicken(box).resize(size, Image.Resampling.BILINEAR), np.float32)
    small *= 255 / max(float(small.max()), 1)
    return _centre(small)


def _paper(grey: Grey) -> float:
    """The grey level of the ground: the median along the border."""
    return float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))


def _ink(image: Image.Image) -> Pixels | None:
    """The ink of a grey picture, uint8 (H, W) at working size: 255 in a stroke, 0 on the paper; None for none.

    Shade and vignettes are smoother than strokes: where the border is uneven, a picture of the paper alone, from the
    surroundings of each spot, is taken off first.
    """
    if max(image.size) > _WORK:
        scale = _WORK / max(image.size)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2)
    grey = np.asarray(image, np.float32)
    paper = _paper(grey)
    if paper > np.median([grey.min(), grey.max()]):
        grey, paper = 255 - grey, 255 - paper
    ink = np.maximum(grey - _ground_picture(grey, paper), 0)
    if ink.max() < _FAINT:
        return None
    threshold = _otsu(ink)
    mask = Image.fromarray((ink > threshold * _WEAK).astype(np.uint8) * 255)
    # A stroke fills a row of the 9 x 9 pixels around each of its own; a speck, or paper's grain, fills a few.
    crowded = np.asarray(mask.filter(ImageFilter.BoxBlur(4)), np.float32) * 81 / 255 >= _CROWD
    mask = Image.fromarray(np.where(crowded, np.asarray(mask), 0))
    near = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > 0
    strength = float(np.median(ink[ink > threshold]))
    stroke = np.where(near, np.clip(ink / strength, 0, 1) * 255, 0)
    stroke[stroke < 32] = 0  # noqa: PLR2004 -- an eighth of full ink is paper's grain
    return stroke.astype(np.uint8) if stroke.any() else None


def _ground_picture(grey: Grey, paper: float) -> Grey | float:
    """The level of the (dark) paper at each spot: one number where the border is even, else (H, W).

    A morphological opening on 16 x 16 cells: whatever is lighter than all of its surroundings is ink.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.percentile(border, 90) - np.percentile(border, 10) < _FAINT:
        return paper
    cells = Image.fromarray(grey.astype(np.uint8)).resize((16, 16), Image.Resampling.BOX)
    opened = cells.filter(ImageFilter.MinFilter(7)).filter(ImageFilter.MaxFilter(7))
    smooth = opened.filter(ImageFilter.BoxBlur(2))
    return np.asarray(smooth.resize((grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR), np.float32)


def _otsu(values: Grey) -> float:
    """The threshold that best parts ink from paper (Otsu, 1979): the largest variance between the two."""
    counts, edges = np.histogram(values, bins=64)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    mass = np.cumsum(counts * centres)
    between = below * above * (mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)) ** 2
    return float(edges[1 + int(between.argmax())])


def _thicken(box: Image.Image) -> Image.Image:
    """Widen strokes that would be lost when the digit shrinks to 20 pixels.

    A stroke of width w and length l has area w*l and about 2*l of outline, so w is about 2 * area / outline.
    """
    mask = np.pad(np.asarray(box) > 127, 1)  # noqa: PLR2004 -- the middle of 0 to 255
    outline = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    width = 2 * int(mask.sum()) / max(outline, 1)
    missing = _THIN * max(box.size) - width
    if missing <= 0:
        return box
    grow = max(round(missing / 2), 1)
    roomy = ImageOps.expand(box, grow)
    return roomy.filter(ImageFilter.MaxFilter(2 * grow + 1))


def _centre(digit: Grey) -> Image.Image:
    """Place a digit, (h, w) up to 20 x 20, so that its centre of mass is the middle of 28 x 28."""
    height, width = digit.shape
    mass = digit.sum()
    row = float((digit.sum(axis=1) * np.arange(height)).sum() / mass)
    column = float((digit.sum(axis=0) * np.arange(width)).sum() / mass)
    middle = (_FRAME - 1) / 2
    top = int(np.clip(round(middle - row), 0, _FRAME - height))
    left = int(np.clip(round(middle - column), 0, _FRAME - width))
    frame = np.zeros((_FRAME, _FRAME), np.uint8)
    frame[top : top + height, left : left + width] = (digit + 0.5).astype(np.uint8)
    return Image.fromarray(frame)
