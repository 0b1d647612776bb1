"""Bytes -> the array that a graph takes, both for the files of clients and for those of training.

Raise `PREPROCESSING_VERSION` in `contract.manifest` with each change here, or in `picture`, `digit` or `text`, that
turns the same bytes into other values.
"""

import contextlib
import ctypes
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, _imaging
from tokenizers import Tokenizer

from contract import digit, picture, plain_png
from contract.errors import Unreadable, UnsupportedMediaType
from contract.occlusion import ImageOcclusions, Occlusions, TextOcclusions
from contract.picture import PNG_SIGNATURE, Pixels, has_signature
from contract.spec import MAX_CHARACTERS, MAX_PIXELS, ImageInput, TextInput
from contract.text import Tokens, check_length, group_by_length, pad, read_tokenizer, text_to_tokens, unknown_id

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.float32]
Items = Sequence[Array] | Array
"""Decoded items, in a list or along the first axis of an array, which saves splitting and joining it."""

_TINY_BYTES, _TINY_SIDE, _TINY_CHARACTERS = 4096, 64, 2000


class Preprocessor(Protocol):
    """Decodes the items of one model version, and puts decoded items together into batches.

    An encoded item is `bytes`, or `str` if the input takes texts.
    """

    unknown_id: int | None
    """The id of tokens outside of the vocabulary, if the input has such tokens."""

    def decode_quickly(self, item: Any) -> Array | None:
        """What `decode` gives, if that certainly takes less time than handing the item to another thread; else None."""

    def decode(self, item: Any) -> Array:
        """Turn an encoded item into what the graph takes, without the batch axis.

        Raises:
            TooLarge, UnsupportedMediaType, Unreadable: it cannot be decoded within the limits.
            NoContent, NoDigit, SeveralDigits: the image shows nothing to classify, or several digits.
        """

    def occlude(self, item: Any) -> Occlusions:
        """What shows which parts of an encoded item a prediction depends on: its variants, each without a part.

        Raises:
            ConvokeError: as `decode`.
        """

    def units(self, item: Array) -> list[str]:
        """The tokens of a decoded text (L), in words; an image has none."""

    def extent(self, items: Items) -> int:
        """The size of a batch on which the time of its run depends, as `Session.is_quick` takes it."""

    def run(self, session_run: Callable[[Array], Rows], items: Items) -> Rows:
        """Run a session on N decoded items, in one batch or several: (N, classes)."""


def load_preprocessor(
    folder: Path,
    spec: ImageInput | TextInput,
    *,
    max_pixels: int = MAX_PIXELS,
    max_characters: int = MAX_CHARACTERS,
) -> Preprocessor:
    """The preprocessor of the version in `folder`.

    Raises:
        ModelRefused: a file that decoding needs cannot be read, or does not fit the graph.
    """
    if isinstance(spec, ImageInput):
        return ImagePreprocessor(spec, max_pixels)
    return TextPreprocessor(spec, read_tokenizer(folder / spec.tokenizer, spec), max_characters)


class ImagePreprocessor:
    """Encoded images -> uint8 (H, W, C) -> batches (N, H, W, C)."""

    unknown_id: int | None = None

    def __init__(self, spec: ImageInput, max_pixels: int) -> None:
        self._spec = spec
        self._max_pixels = max_pixels

    def decode_quickly(self, item: bytes) -> Pixels | None:
        if self._spec.framing == "mnist":  # a digit that is not framed must be searched for
            return decode_plain_digit(item, self._spec)
        return self.decode(item) if is_tiny(item) else None

    def decode(self, item: bytes) -> Pixels:
        return image_to_pixels(item, self._spec, max_pixels=self._max_pixels)

    def decode_all(self, item: bytes) -> list[tuple[Pixels, tuple[int, ...]]]:
        """What `decode` gives for each digit of an image, line by line, and its box.

        A box is left, top, right and bottom, in pixels of the upright image.

        Raises:
            UnsupportedMediaType: the model does not search for digits; or as `decode`.
            TooLarge, Unreadable, NoDigit, SeveralDigits: as `decode`.
        """
        if self._spec.framing != "mnist":
            raise UnsupportedMediaType("the model classifies whole images; ?several=true is for models of digits")
        image = picture.decode(item, self._spec, max_pixels=self._max_pixels)
        factor = picture.upright_width(item) / image.width
        return [
            (pixels[..., None], tuple(round(edge * factor) for edge in box)) for pixels, box in digit.frame_all(image)
        ]

    def occlude(self, item: bytes) -> ImageOcclusions:
        return ImageOcclusions(self.decode(item), is_on_paper=self._spec.framing == "mnist")

    def units(self, item: Array) -> list[str]:  # noqa: ARG002 -- as texts have it
        return []

    def extent(self, items: Items) -> int:
        return len(items)

    def run(self, session_run: Callable[[Array], Rows], items: Items) -> Rows:
        if not isinstance(items, np.ndarray):  # as np.stack, in a fifth of the time for hundreds of small images
            items = np.concatenate(items).reshape(len(items), *items[0].shape)
        return session_run(items)


class TextPreprocessor:
    """Texts, or their UTF-8 -> int64 (L) -> batches (N, longest L), each of texts of similar length."""

    def __init__(self, spec: TextInput, tokenizer: Tokenizer, max_characters: int) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._max_characters = max_characters
        self.unknown_id = unknown_id(tokenizer, spec)

    def decode_quickly(self, item: str | bytes) -> Tokens | None:
        return self.decode(item) if len(item) <= _TINY_CHARACTERS else None

    def decode(self, item: str | bytes) -> Tokens:
        text = item if isinstance(item, str) else _from_utf8(item)
        check_length(text, self._max_characters)
        return text_to_tokens(text, self._tokenizer, self._spec)

    def occlude(self, item: str | bytes) -> TextOcclusions:
        return TextOcclusions(item if isinstance(item, str) else _from_utf8(item), self.decode)

    def units(self, item: Tokens) -> list[str]:
        tokenizer, ids = self._tokenizer, (np.asarray(item) - self._spec.shift).tolist()
        named = [tokenizer.id_to_token(number) or "" for number in ids]
        if tokenizer.decoder is None:
            return named
        decoded = [tokenizer.decode([number], skip_special_tokens=False).strip() for number in ids]
        return [text or name for text, name in zip(decoded, named, strict=True)]

    def extent(self, items: Items) -> int:
        return sum(map(len, items))

    def run(self, session_run: Callable[[Array], Rows], items: Items) -> Rows:
        if len(items) == 1:
            return session_run(items[0][None])
        groups = list(group_by_length([len(item) for item in items]))
        grouped = np.concatenate([session_run(pad([items[place] for place in group])) for group in groups])
        rows = np.empty_like(grouped)
        rows[np.concatenate(groups)] = grouped
        return rows


def image_to_pixels(data: bytes, spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Turn an encoded image into what the graph takes: uint8 (height, width, channels).

    Args:
        data: the bytes of a JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF.
        spec: the size, mode and framing that the model was trained with.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UnsupportedMediaType: another format.
        TooLarge: more than `max_pixels`.
        Unreadable: one of these formats, but damaged.
        NoContent: the image shows nothing to classify.
        NoDigit, SeveralDigits: the image of a digit shows none, or more than one.
    """
    plain = decode_plain_digit(data, spec)
    if plain is not None:
        return plain
    image = picture.decode(data, spec, max_pixels=max_pixels)
    return digit.frame(image)[..., None] if spec.framing == "mnist" else picture.fit(image, spec)


def is_tiny(data: bytes) -> bool:
    """Whether an image is certainly decoded in microseconds: a short PNG of at most 64 x 64 by its header."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return data.startswith(PNG_SIGNATURE) and len(data) <= _TINY_BYTES and max(width, height) <= _TINY_SIDE


def decode_plain_digit(data: bytes, spec: ImageInput) -> Pixels | None:
    """The pixels of a plain grey PNG of 28 x 28, uint8 (28, 28, 1): as the general code decodes and frames it, sooner.

    For a damaged file, or one that is not so plain after all, the result is None, and the general code decodes it.
    """
    if spec.framing != "mnist" or (image := plain_png.decode(data, digit.SIDE, digit.SIDE)) is None:
        return None
    framed = digit.as_framed(image)
    return None if framed is None else framed[..., None]


def _from_utf8(data: bytes) -> str:
    """UTF-8, with or without a byte order mark -> text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if has_signature(data):
            raise UnsupportedMediaType("this is an image, but the model takes texts; send UTF-8 text") from error
        if data.startswith(b"\x1f\x8b"):
            raise Unreadable("this is gzip; send the header Content-Encoding: gzip, or plain text") from error
        raise Unreadable(
            f"the text is not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start}; send it in UTF-8"
        ) from error


def warm_up() -> None:
    """Load Pillow's decoders, which would otherwise happen at the first image and take a tenth of a second.

    Pillow and libtiff are kept from writing to the log: a damaged fax of 100 kB has a million bad rows, and would leave
    60 MB there. The error that the client receives says what is wrong.
    """
    Image.init()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError, OSError):  # a build of Pillow that hides its libtiff
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
        set_handler(None)
