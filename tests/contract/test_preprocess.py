"""Encoded pictures to pixels, texts to token ids."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from contract import picture
from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from contract.inputs import _decode_plain_digit, image_to_pixels, is_tiny
from contract.picture import FORMATS, decode
from contract.spec import ImageInput, TextInput
from contract.text import pad, text_to_tokens
from tests import reviews
from tests.drawing import draw, encode, mnist_like, styles
from tests.fuzz import seed_corpus

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")
PHOTO = ImageInput(height=20, width=40, mode="RGB", framing="squash")


def quarters(mode: str = "RGB", size: tuple[int, int] = (80, 40)) -> Image.Image:
    """A picture whose quarters are red, green (above), blue and white (below): any turn or swap shows."""
    width, height = size
    image = Image.new("RGB", size, "white")
    for colour, corner in (("red", (0, 0)), ("lime", (width // 2, 0)), ("blue", (0, height // 2))):
        image.paste(colour, (*corner, corner[0] + width // 2, corner[1] + height // 2))
    return image.convert(mode)


def corners(pixels: np.ndarray) -> list[list[int]]:
    """The colours in the middle of the four quarters, row by row."""
    height, width, _ = pixels.shape
    return [
        [int(value) for value in pixels[row, column]]
        for row in (height // 4, height * 3 // 4)
        for column in (width // 4, width * 3 // 4)
    ]


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


def test_a_picture_that_is_not_square_keeps_its_axes() -> None:
    """(H, W) never turns into (W, H): a wide picture comes out wide, with every corner in its place."""
    pixels = image_to_pixels(encode(quarters()), PHOTO)
    assert pixels.shape == (20, 40, 3)
    assert pixels.dtype == np.uint8
    assert corners(pixels) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    """Each format gives the same picture, within what its compression loses."""
    pixels = image_to_pixels(encode(quarters(size=(160, 80)), kind), PHOTO)
    assert np.abs(np.array(corners(pixels)) - np.array([RED, GREEN, BLUE, WHITE])).max() <= 8


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA"])
def test_colour_modes_come_out_as_a_person_sees_them(mode: str) -> None:
    """Palette, print and opaque-alpha pictures show the same colours as their plain twin."""
    data = encode(quarters(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert corners(image_to_pixels(data, PHOTO)) == [RED, GREEN, BLUE, WHITE]


def test_a_grey_picture_feeds_a_colour_network() -> None:
    """Grey becomes three equal channels."""
    pixels = image_to_pixels(encode(Image.new("L", (30, 50), 77)), PHOTO)
    assert (pixels == 77).all()


def test_transparency_shows_white() -> None:
    """What is transparent is paper, whatever colour is stored below it."""
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (image_to_pixels(encode(image), PHOTO) == 255).all()


def test_a_palette_with_a_transparent_entry_shows_white() -> None:
    """GIF-like transparency counts as transparency, not as the colour stored for it."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0] * 256)
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    assert (image_to_pixels(file.getvalue(), PHOTO) == 255).all()


@pytest.mark.parametrize("spec", [DIGIT, PHOTO], ids=["digit", "photo"])
@pytest.mark.parametrize("name", ["png-alpha", "png-palette-transparent", "png-16-bits", "tiff-floats", "tiff-cmyk"])
def test_converting_band_by_band_changes_no_pixel(name: str, spec: ImageInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is converted a row or three at a time comes out as one that is converted whole."""
    data = seed_corpus.images()[name]
    whole = image_to_pixels(data, spec)
    for pixels in (1, 150):
        monkeypatch.setattr(picture, "_BAND", pixels)
        assert (image_to_pixels(data, spec) == whole).all()


def test_16_bits_are_scaled_not_cut() -> None:
    """A 16-bit grey ramp comes out as its 8-bit twin."""
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (64, 1))
    pixels = decode(encode(Image.fromarray(ramp)), PHOTO)
    expected = np.round(ramp / 257).astype(int)
    assert np.abs(np.asarray(pixels)[..., 0].astype(int) - expected).max() <= 1


def test_floating_point_pictures_are_stretched() -> None:
    """A TIFF of floats from 0 to 1 is not black."""
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    pixels = np.asarray(decode(encode(Image.fromarray(ramp), "TIFF"), PHOTO))
    assert pixels[..., 0].min() == 0
    assert pixels[..., 0].max() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """A camera held in any of the eight ways gives the same upright picture."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> Pillow's Transpose that makes the stored one
    upright = quarters(size=(160, 80))
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "JPEG", exif=exif, quality=95)
    pixels = image_to_pixels(file.getvalue(), PHOTO)
    assert np.abs(np.array(corners(pixels)) - np.array([RED, GREEN, BLUE, WHITE])).max() <= 8


def test_large_jpegs_are_drafted() -> None:
    """A JPEG far larger than the network's input is never decoded in full, and looks the same."""
    data = encode(quarters(size=(1600, 800)), "JPEG")
    assert max(decode(data, PHOTO).size) < 400
    assert np.abs(np.array(corners(image_to_pixels(data, PHOTO))) - np.array([RED, GREEN, BLUE, WHITE])).max() <= 8


def test_framed_digits_pass_unchanged() -> None:
    """A 28 x 28 grey picture, light on dark, goes to the graph bit for bit."""
    for digit in range(10):
        image = mnist_like(digit)
        assert (image_to_pixels(encode(image), DIGIT)[..., 0] == np.asarray(image)).all()


def test_framed_dark_on_light_digits_are_inverted() -> None:
    """A 28 x 28 picture in dark ink is the negative of what passes unchanged."""
    image = mnist_like(3)
    negative = Image.fromarray(255 - np.asarray(image))
    assert (image_to_pixels(encode(negative), DIGIT)[..., 0] == np.asarray(image)).all()


@pytest.mark.parametrize("paper", [0, 100, 127, 128, 255])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"dpi": (72, 72)}], ids=["plain", "optimised", "dpi"])
def test_the_short_way_for_framed_digits_gives_what_the_long_way_gives(
    paper: int, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On paper of any grey and with any ink, a plain 28 x 28 PNG has the same pixels by both ways."""
    rng = np.random.default_rng(paper)
    for ink in (0, 90, 255):
        grey = np.full((28, 28), paper, np.uint8)
        grey[rng.random((28, 28)) < 0.5] = ink
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "PNG", **options)
        short = image_to_pixels(buffer.getvalue(), DIGIT)
        with monkeypatch.context() as context:
            context.setattr("contract.inputs._decode_plain_digit", lambda *_: None)
            assert np.array_equal(short, image_to_pixels(buffer.getvalue(), DIGIT))


def test_the_short_way_is_taken_for_plain_pngs_alone() -> None:
    """A plain framed PNG needs no general decoder; a damaged, turned, transparent or larger one gets it."""
    plain = encode(draw(3, size=(28, 28)))
    assert _decode_plain_digit(plain, DIGIT) is not None
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.open(io.BytesIO(plain))
    turned, clear, tall = io.BytesIO(), io.BytesIO(), io.BytesIO()
    grey.save(turned, "PNG", exif=exif)
    grey.save(clear, "PNG", transparency=0)
    grey.resize((28, 29)).save(tall, "PNG")
    for other in (plain[:-30], turned.getvalue(), clear.getvalue(), tall.getvalue()):
        assert _decode_plain_digit(other, DIGIT) is None
    assert _decode_plain_digit(plain, PHOTO) is None


@pytest.mark.parametrize("digit", range(10))
def test_digits_are_framed_as_mnist_framed_them(digit: int) -> None:
    """In every style: light on black, within a 20 x 20 box, its mass in the middle (LeCun et al., 1998)."""
    for style, image in styles(digit):
        pixels = image_to_pixels(encode(image), DIGIT)[..., 0].astype(float)
        rows, columns = np.nonzero(pixels > 64)
        assert 16 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20, style
        assert pixels.max() == 255, style
        assert pixels[0].max() == pixels[-1].max() == pixels[:, 0].max() == pixels[:, -1].max() == 0, style
        middle = [(pixels.sum(axis=axis) * np.arange(28)).sum() / pixels.sum() for axis in (1, 0)]
        assert middle == pytest.approx([13.5, 13.5], abs=0.6), style


def test_a_digit_may_be_drawn_in_light_ink_on_nothing() -> None:
    """White strokes on a transparent ground are found, as black ones are."""
    mask = draw(4, ink=255, paper=0)
    for ink in (0, 255):
        image = Image.new("RGBA", mask.size, (ink, ink, ink, 255))
        image.putalpha(mask)
        assert image_to_pixels(encode(image), DIGIT).max() == 255, ink


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (200, 100)])
def test_blank_paper_is_black(size: tuple[int, int], grey: int) -> None:
    """A picture without ink gives an empty frame instead of amplified noise or an error."""
    assert image_to_pixels(encode(Image.new("L", size, grey)), DIGIT).max() == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1)])
def test_tiny_pictures_are_read(size: tuple[int, int]) -> None:
    """A picture smaller than the input is enlarged."""
    assert (image_to_pixels(encode(Image.new("RGB", size, "red")), PHOTO) == RED).all()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("spec", [DIGIT, PHOTO], ids=["digit", "photo"])
def test_truncated_files_are_named_as_such(kind: str, spec: ImageInput) -> None:
    """Cut anywhere, a file is read, or refused as damaged or foreign: nothing else is ever raised."""
    data = encode(draw(5, size=(60, 80), box=(10, 10, 50, 70), width=6).convert("RGB"), kind)
    refused = 0
    for length in range(0, len(data), max(len(data) // 97, 1)):
        try:
            assert image_to_pixels(data[:length], spec).shape == (spec.height, spec.width, spec.channels)
        except (Unreadable, UnsupportedMediaType):
            refused += 1
    assert refused > 40
    with pytest.raises(Unreadable, match="damaged or cut off"):
        image_to_pixels(data[: len(data) // 2], spec)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%PDF-1.7 ...", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 99]
)
def test_other_content_is_refused_by_kind(data: bytes) -> None:
    """What is no picture is told which kinds are read."""
    with pytest.raises(UnsupportedMediaType, match="JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        image_to_pixels(data, PHOTO)


def test_pictures_of_kinds_that_are_not_allowed_are_refused() -> None:
    """Pillow could read it, but its decoder is not one that we open to callers."""
    with pytest.raises(UnsupportedMediaType):
        image_to_pixels(encode(quarters(), "PPM"), PHOTO)


def test_pixels_are_counted_before_decoding() -> None:
    """A header of 50,000 x 50,000 in a file of 100 bytes is refused by its header alone."""
    data = bytearray(encode(Image.new("L", (8, 8))))
    data[16:24] = (50_000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(TooLarge, match="too large"):
        image_to_pixels(bytes(data), PHOTO)
    with pytest.raises(TooLarge, match="at most 100"):
        image_to_pixels(encode(Image.new("L", (11, 10))), PHOTO, max_pixels=100)


def test_only_small_pngs_count_as_tiny() -> None:
    """What may be decoded on the event loop is told by the header: format, bytes and sides."""
    assert is_tiny(encode(mnist_like(1)))
    assert not is_tiny(encode(Image.new("L", (65, 8))))
    assert not is_tiny(encode(mnist_like(1), "JPEG"))
    assert not is_tiny(encode(mnist_like(1)) + bytes(4096))
    assert not is_tiny(b"")


def test_every_refusal_is_of_the_error_tree() -> None:
    """A caller's fault is always a 4xx."""
    for error in (TooLarge, Unreadable, UnsupportedMediaType):
        assert issubclass(error, ConvokeError)
        assert 400 <= error.status < 500


def test_a_text_becomes_the_ids_of_its_first_words() -> None:
    """Ids int64 in order, unknown words as one id, cut at the model's length."""
    spec = TextInput(length=4, vocabulary=len(reviews.WEIGHTS))
    tokens = text_to_tokens("Film strange GOOD", reviews.tokenizer(), spec)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [2, 1, 3]
    assert text_to_tokens("bad " * 9, reviews.tokenizer(), spec).tolist() == [5] * 4


@pytest.mark.parametrize(("text", "said"), [("", "no word"), (" \n", "no word"), ("a \ud83d", "surrogate")])
def test_a_text_without_a_word_is_unreadable(text: str, said: str) -> None:
    """Nothing to classify, and what is no Unicode, is refused in words."""
    with pytest.raises(Unreadable, match=said):
        text_to_tokens(text, reviews.tokenizer(), TextInput(length=4, vocabulary=len(reviews.WEIGHTS)))


def test_padding_stands_behind_the_shorter_texts() -> None:
    """One length for all, zeros at the ends."""
    padded = pad([np.array([3]), np.array([4, 5, 6]), np.array([1, 2])])
    assert padded.dtype == np.int64
    assert padded.tolist() == [[3, 0, 0], [4, 5, 6], [1, 2, 0]]
