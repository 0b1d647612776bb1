"""Bytes -> the array that a graph takes: the one door for a client's file and for a training file.

Whoever changes a pixel or a token id here, or in `picture`, `digit` or `text`, raises `PREPROCESSING_VERSION` in
`contract.manifest`.
"""

import contextlib
import ctypes
import io
import logging

import numpy as np
from PIL import Image, PngImagePlugin, _imaging

from contract import digit, picture
from contract.picture import MAX_PIXELS, PNG_SIGNATURE, Pixels
from contract.spec import ImageInput

_TINY_BYTES, _TINY_SIDE = 4096, 64
_PLAIN_GREY = b"\x08\x00\x00\x00\x00"  # a PNG header's end: 8 bits of grey, the usual packing, filters and order


def image_to_pixels(data: bytes, spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Turn an encoded picture into what the graph takes: uint8 (height, width, channels).

    Args:
        data: the bytes of a JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF.
        spec: the size, mode and framing that the model was trained with.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        UnsupportedMediaType: not one of these formats.
        TooLarge: more than `max_pixels`.
        Unreadable: one of these formats, but damaged.
    """
    ready = _ready_made(data, spec)
    if ready is not None:
        return ready
    image = picture.decode(data, spec, max_pixels=max_pixels)
    framed = digit.frame(image) if spec.framing == "mnist" else picture.squash(image, spec)
    return np.asarray(framed, np.uint8).reshape(spec.height, spec.width, spec.channels)


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
    return data.startswith(PNG_SIGNATURE) and len(data) <= _TINY_BYTES and max(width, height) <= _TINY_SIDE


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
    if image.size != (digit.SIDE, digit.SIDE) or image.info:
        return None
    border = sorted(grey[: digit.SIDE] + grey[-digit.SIDE :] + grey[:: digit.SIDE] + grey[digit.SIDE - 1 :: digit.SIDE])
    pixels = np.frombuffer(grey, np.uint8).reshape(digit.SIDE, digit.SIDE, 1)
    dark_on_light = border[2 * digit.SIDE - 1] + border[2 * digit.SIDE] > 255  # noqa: PLR2004 -- twice the middle of 0 to 255
    return 255 - pixels if dark_on_light else pixels
