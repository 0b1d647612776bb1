"""The preprocessors of image and text models, and the fast path for small digits."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract import inputs
from contract.errors import ConvokeError, ModelRefused, TooLarge, Unreadable, UnsupportedMediaType
from contract.inputs import Rows, image_to_pixels, is_tiny, load_preprocessor
from contract.spec import ImageInput, TextInput
from tests import reviews
from tests.drawing import draw, encode, mnist_like

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")
PHOTO = ImageInput(height=20, width=40, mode="RGB", framing="squash")
TEXT = TextInput(length=reviews.LENGTH, vocabulary=len(reviews.WEIGHTS))


class Spy:
    """A session that records the batches that it runs: a row with the sum of its values for each item."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def __call__(self, batch: inputs.Array) -> Rows:
        self.batches.append(batch)
        return np.asarray(batch.reshape(len(batch), -1).sum(axis=1, keepdims=True), np.float32)


@pytest.fixture
def texts(tmp_path: Path) -> inputs.Preprocessor:
    return load_preprocessor(reviews.publish(tmp_path), TEXT, max_characters=100)


def test_images_run_in_one_batch(tmp_path: Path) -> None:
    """Decoded images are stacked, (N, H, W, C); one array is run as it is; the extent is the number of images."""
    images, session = load_preprocessor(tmp_path, DIGIT), Spy()
    items = [images.decode(encode(mnist_like(digit))) for digit in (4, 2)]
    images.run(session, items)
    images.run(session, np.stack(items))
    assert [batch.shape for batch in session.batches] == [(2, 28, 28, 1)] * 2
    assert np.array_equal(*session.batches)
    assert images.extent(items) == 2


def test_texts_run_in_batches_of_similar_length_in_their_order(texts: inputs.Preprocessor) -> None:
    """Short and long texts are padded apart, each row comes back in its place; the extent is the number of tokens."""
    session = Spy()
    items = [texts.decode("bad " * count) for count in (20, 1, 24, 2)]
    rows = texts.run(session, items)
    assert rows.ravel().tolist() == [5 * 20, 5, 5 * 24, 5 * 2]
    assert [batch.shape for batch in session.batches] == [(2, 2), (2, 24)]
    assert texts.extent(items) == 47
    assert texts.run(session, items[1:2]).tolist() == [[5]]


def test_texts_are_decoded_from_utf_8(texts: inputs.Preprocessor) -> None:
    """With or without a byte order mark, as a string or as bytes."""
    for text in ("Film good", b"Film good", b"\xef\xbb\xbfFilm good"):
        assert texts.decode(text).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("text", "error", "fact"),
    [
        (b"bad \xff", Unreadable, "0xff at position 4"),
        (b"\x89PNG\r\n\x1a\n", UnsupportedMediaType, "image"),
        ("x" * 101, TooLarge, "101 .*100"),
        ("\ufdfa" * 6, TooLarge, "100 characters"),  # a ligature of 18 letters
        (" ", Unreadable, "no word"),
    ],
)
def test_texts_that_cannot_be_decoded_are_refused(
    texts: inputs.Preprocessor, text: str | bytes, error: type[ConvokeError], fact: str
) -> None:
    """Bytes that are not UTF-8, images, too many characters (also once ligatures are written out), and no words."""
    with pytest.raises(error, match=fact):
        texts.decode(text)


def test_what_is_quick_is_decided_by_size(texts: inputs.Preprocessor, tmp_path: Path) -> None:
    """Short texts and tiny PNGs are decoded on the event loop, but for digits that must be searched for."""
    longer = inputs.TextPreprocessor(texts._spec, texts._tokenizer, 10_000)  # type: ignore[attr-defined]  # noqa: SLF001
    assert longer.decode_quickly("good " * 400) is not None
    assert longer.decode_quickly("good " * 400 + ".") is None
    images = load_preprocessor(tmp_path, PHOTO)
    assert images.decode_quickly(encode(mnist_like(1))) is not None
    assert images.decode_quickly(encode(draw(1))) is None
    digits = load_preprocessor(tmp_path, DIGIT)
    assert digits.decode_quickly(encode(mnist_like(1))) is not None
    assert digits.decode_quickly(encode(draw(1, size=(28, 28), box=(2, 2, 9, 12), width=2))) is None


def test_a_model_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ModelRefused, match=r"tokenizer\.json"):
        load_preprocessor(tmp_path, TEXT)


def test_only_small_pngs_count_as_tiny() -> None:
    """The header decides: format, bytes and sides."""
    assert is_tiny(encode(mnist_like(1)))
    assert not is_tiny(encode(Image.new("L", (65, 8))))
    assert not is_tiny(encode(mnist_like(1), "JPEG"))
    assert not is_tiny(encode(mnist_like(1)) + bytes(4096))
    assert not is_tiny(b"")


def outcome(data: bytes) -> bytes | str:
    """The pixels of a digit, or the code of the error."""
    try:
        return image_to_pixels(data, DIGIT).tobytes()
    except ConvokeError as error:
        return error.code


@pytest.mark.parametrize("paper", [0, 100, 127, 128, 255])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"dpi": (72, 72)}], ids=["plain", "optimised", "dpi"])
def test_the_fast_path_gives_the_same_pixels(
    paper: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain 28 x 28 PNG, framed or not, on paper of any grey, has the same pixels as by the general code."""
    for digit in range(10):
        ink = np.asarray(mnist_like(digit), np.float32) / 255
        light, dark = paper + (255 - paper) * ink, paper - paper * ink
        for levels in (light, dark, np.roll(light, 4, axis=0)):
            data = encode(Image.fromarray(levels.astype(np.uint8)), **options)
            pixels = outcome(data)
            with monkeypatch.context() as context:
                context.setattr(inputs, "decode_plain_digit", lambda *_: None)
                assert outcome(data) == pixels


def test_only_plain_pngs_take_the_fast_path() -> None:
    """Damaged, rotated, transparent and larger files are left to the general code, and so is another framing."""
    plain = encode(mnist_like(3))
    assert inputs.decode_plain_digit(plain, DIGIT) is not None
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.open(io.BytesIO(plain))
    rotated, transparent = encode(grey, exif=exif), encode(grey, transparency=0)
    for data in (plain[:-30], rotated, transparent, encode(grey.resize((28, 29)))):
        assert inputs.decode_plain_digit(data, DIGIT) is None
    assert inputs.decode_plain_digit(plain, PHOTO) is None


@pytest.mark.parametrize("ink", [0, 255])
def test_a_digit_on_a_transparent_background_is_found_in_any_ink(ink: int) -> None:
    """White strokes on a transparent background are found, like black ones."""
    mask = draw(4, ink=255, paper=0)
    image = Image.new("RGBA", mask.size, (ink, ink, ink, 255))
    image.putalpha(mask)
    assert image_to_pixels(encode(image), DIGIT).max() == 255


@pytest.mark.parametrize("error", [TooLarge, Unreadable, UnsupportedMediaType])
def test_every_refusal_is_a_client_error(error: type[ConvokeError]) -> None:
    """Its status is a 4xx."""
    assert 400 <= error.status < 500
