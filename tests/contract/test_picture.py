"""Encoded images to pixels, as a person sees them."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from contract import picture
from contract.errors import NoContent, TooLarge, Unreadable, UnsupportedMediaType
from contract.inputs import image_to_pixels
from contract.picture import FORMATS, decode
from contract.spec import ImageInput
from tests.contract.test_colour import DISPLAY_P3
from tests.drawing import draw, encode
from tests.fuzz import seed_corpus
from tests.fuzz.seed_corpus import SIGNATURE, chunk

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")
PHOTO = ImageInput(height=20, width=40, mode="RGB", framing="squash")
RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


def quarters(mode: str = "RGB", size: tuple[int, int] = (80, 40)) -> Image.Image:
    """An image with quarters in red, green (top), blue and white (bottom), which shows every rotation and swap."""
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


def assert_similar(pixels: np.ndarray) -> None:
    """The corners have the colours of `quarters`, within the loss of compression."""
    assert np.abs(np.array(corners(pixels)) - np.array([RED, GREEN, BLUE, WHITE])).max() <= 8


def test_an_image_that_is_not_square_keeps_its_axes() -> None:
    """(H, W) is never swapped with (W, H): a wide image stays wide, with every corner in its place."""
    pixels = image_to_pixels(encode(quarters()), PHOTO)
    assert pixels.shape == (20, 40, 3)
    assert pixels.dtype == np.uint8
    assert corners(pixels) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_is_read(image_format: str) -> None:
    """Each format gives the same image, within the loss of its compression."""
    assert_similar(image_to_pixels(encode(quarters(size=(160, 80)), image_format), PHOTO))


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA"])
def test_colour_modes_come_out_as_a_person_sees_them(mode: str) -> None:
    """Images with a palette, in print colours or with opaque alpha show the same colours as in plain RGB."""
    data = encode(quarters(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert corners(image_to_pixels(data, PHOTO)) == [RED, GREEN, BLUE, WHITE]


def test_a_grey_image_becomes_three_equal_channels() -> None:
    """A colour network accepts grey images."""
    pixels = np.asarray(decode(encode(Image.new("L", (30, 50), 77)), PHOTO))
    assert pixels.shape == (50, 30, 3)
    assert (pixels == 77).all()


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\xef\xbb\xbf\r\n", b"  "])
@pytest.mark.parametrize("image_format", FORMATS)
def test_blanks_before_the_signature_are_skipped(image_format: str, prefix: bytes) -> None:
    """A script that prints a blank line or a byte order mark before the image does not damage it."""
    data = encode(quarters(size=(160, 80)), image_format)
    assert (image_to_pixels(prefix + data, PHOTO) == image_to_pixels(data, PHOTO)).all()


def test_transparency_shows_white() -> None:
    """Transparent pixels are white, whatever colour is stored below."""
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (np.asarray(decode(encode(image), PHOTO)) == 255).all()


def test_a_palette_with_a_transparent_entry_shows_white() -> None:
    """The transparent entry of a palette counts as transparent, not as the colour stored for it."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0] * 256)
    assert (np.asarray(decode(encode(image, transparency=0), PHOTO)) == 255).all()


@pytest.mark.parametrize("spec", [DIGIT, PHOTO], ids=["digit", "photo"])
@pytest.mark.parametrize("name", ["png-alpha", "png-palette-transparent", "png-16-bits", "tiff-floats", "tiff-cmyk"])
def test_converting_band_by_band_changes_no_pixel(name: str, spec: ImageInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is converted a row or three at a time equals one that is converted at once."""
    data = seed_corpus.images()[name]
    expected = image_to_pixels(data, spec)
    for pixels in (1, 150):
        monkeypatch.setattr(picture, "_BAND_PIXELS", pixels)
        assert (image_to_pixels(data, spec) == expected).all()


def test_16_bits_are_scaled_not_clipped() -> None:
    """A 16-bit grey ramp equals the same ramp in 8 bits."""
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (64, 1))
    pixels = decode(encode(Image.fromarray(ramp)), PHOTO)
    expected = np.round(ramp / 257).astype(int)
    assert np.abs(np.asarray(pixels)[..., 0].astype(int) - expected).max() <= 1


def deep_png(values: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16 bits, (H, W, 2 to 4); Pillow cannot write it."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(body)


def deep_tiff(values: np.ndarray, order: str = "<") -> bytes:
    """A colour TIFF of 16 bits, (H, W, 3 or 4 for CMYK); Pillow cannot write it."""
    height, width, channels = values.shape
    content = values.astype(order + "u2").tobytes()
    tags = [(256, width), (257, height), (258, 0), (259, 1), (262, {3: 2, 4: 5}[channels]), (273, 8), (277, channels)]
    tags += [(278, height), (279, len(content))]
    start = 8 + len(content)
    entries = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags]
    entries[2] = struct.pack(order + "HHII", 258, 3, channels, start + 2 + 12 * len(tags) + 4)
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start)
    directory = struct.pack(order + "H", len(tags)) + b"".join(entries) + bytes(4)
    return header + content + directory + struct.pack(f"{order}{channels}H", *[16] * channels)


def depths(bits: int) -> dict[str, bytes]:
    """A ramp from black to white of `bits` significant bits, right-aligned in 16 or 32, in each kind of file."""
    ramp = np.tile(np.linspace(0, (1 << bits) - 1, 256).round().astype(np.uint16), (40, 1))
    colour = np.stack([ramp] * 3, axis=-1)
    opaque = np.dstack([colour, np.full_like(ramp, 65535)])
    return {
        "grey PNG": encode(Image.fromarray(ramp)),
        "colour PNG": deep_png(colour),
        "colour PNG with alpha": deep_png(opaque),
        "grey PNG with alpha": deep_png(opaque[..., 2:]),
        "CMYK TIFF": deep_tiff(np.dstack([np.zeros_like(colour), ramp[:, ::-1]])),
        "CMYK TIFF, big-endian": deep_tiff(np.dstack([np.zeros_like(colour), ramp[:, ::-1]]), ">"),
        "grey TIFF": encode(Image.fromarray(ramp), "TIFF"),
        "grey TIFF, deflated": encode(Image.fromarray(ramp), "TIFF", compression="tiff_deflate"),
        "int32 TIFF": encode(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        "colour TIFF": deep_tiff(colour),
        "colour TIFF, big-endian": deep_tiff(colour, ">"),
    }


@pytest.mark.parametrize("kind", depths(8))
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_significant_bits_are_scaled(bits: int, kind: str) -> None:
    """A microscope's 12 bits in 16 are not seen as black."""
    pixels = np.asarray(decode(depths(bits)[kind], PHOTO))
    assert np.abs(pixels[..., 1].astype(int) - np.arange(256)).max() <= 1


def test_declared_bits_are_used() -> None:
    """A dark image of 12 bits stays dark if its file says that it has 12, in sBIT or MaxSampleValue."""
    dark = np.full((20, 20, 3), 205, np.uint16)
    dark[5:9] = 100
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    for data in (
        deep_png(dark, chunk(b"sBIT", b"\x0c\x0c\x0c")),
        encode(Image.fromarray(dark[..., 0]), "TIFF", tiffinfo=tags),
    ):
        assert np.asarray(decode(data, PHOTO)).max() == round(205 / 4095 * 255)


def test_black_in_16_bits_is_black() -> None:
    """No significant bit at all is no error."""
    black = np.zeros((20, 20, 3), np.uint16)
    for data in (deep_png(black), encode(Image.fromarray(black[..., 0])), deep_tiff(black)):
        assert np.asarray(decode(data, PHOTO)).max() == 0


def test_left_aligned_bits_keep_their_scale() -> None:
    """Samples that sBIT's 12 bits stand at the top of, as the PNG specification has it, are 16 bits."""
    values = np.full((20, 20, 3), 4000 << 4, np.uint16)
    data = deep_png(values, chunk(b"sBIT", b"\x0c\x0c\x0c"))
    assert abs(int(np.asarray(decode(data, PHOTO)).max()) - 249) <= 1


def test_floating_point_images_are_stretched() -> None:
    """A TIFF of floats from 0 to 1 is not black."""
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    pixels = np.asarray(decode(encode(Image.fromarray(ramp), "TIFF"), PHOTO))
    assert pixels[..., 0].min() == 0
    assert pixels[..., 0].max() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """A camera that was held in any of the eight orientations gives the same upright image."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> Pillow's Transpose that makes the stored image
    upright = quarters(size=(160, 80))
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_similar(image_to_pixels(encode(stored, "JPEG", exif=exif, quality=95), PHOTO))


def test_large_jpegs_are_drafted() -> None:
    """A JPEG far larger than the network's input is not decoded at full size, and looks the same."""
    data = encode(quarters(size=(1600, 800)), "JPEG")
    assert max(decode(data, PHOTO).size) < 400
    assert_similar(image_to_pixels(data, PHOTO))


def test_small_images_are_enlarged() -> None:
    """An image smaller than the input is read."""
    assert corners(image_to_pixels(encode(quarters(size=(12, 8))), PHOTO)) == [RED, GREEN, BLUE, WHITE]


def noise(*shape: int, spread: int = 256) -> Image.Image:
    """Random pixels, `spread` levels apart."""
    return Image.fromarray(np.random.default_rng(0).integers(0, spread, shape).astype(np.uint8))


EMPTY: dict[str, bytes] = {
    "black": encode(Image.new("L", (300, 200), 0)),
    "red jpeg": encode(Image.new("RGB", (300, 200), "red"), "JPEG", quality=30),
    "transparent": encode(Image.new("RGBA", (300, 200), (10, 90, 200, 0))),
    "transparent photo": encode(Image.merge("RGBA", (*noise(64, 64, 3).split(), Image.new("L", (64, 64))))),
    "transparent palette": encode(Image.new("P", (64, 64), 0), "GIF", transparency=0),
    "sensor noise": encode(noise(900, 900, 3, spread=12), "JPEG"),
    "one pixel": encode(noise(1, 1, 3)),
    "six pixels": encode(noise(2, 3, 3)),
    "one row": encode(noise(1, 65_000, 3)),
    "one column": encode(noise(65_000, 1, 3)),
    "7 rows": encode(noise(7, 300, 3)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_image_without_content_is_refused(name: str) -> None:
    """One colour, nothing opaque or a few pixels show no cat and no dog."""
    with pytest.raises(NoContent, match="no content") as error:
        image_to_pixels(EMPTY[name], PHOTO)
    assert (error.value.status, error.value.code) == (422, "no_content")


def test_a_faint_image_has_content() -> None:
    """A photo in fog is read: a tenth of the usual contrast is enough."""
    image = quarters().point([200 + level // 10 for level in range(256)] * 3)
    assert image_to_pixels(encode(image), PHOTO).max() == 225


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("spec", [DIGIT, PHOTO], ids=["digit", "photo"])
def test_truncated_files_are_unreadable(image_format: str, spec: ImageInput) -> None:
    """A file that is cut off anywhere is read, or refused as damaged or unsupported; no other exception is raised."""
    data = encode(draw(5, size=(60, 80), box=(10, 10, 50, 70), width=6).convert("RGB"), image_format)
    refused = 0
    for length in range(0, len(data), max(len(data) // 97, 1)):
        try:
            assert image_to_pixels(data[:length], spec).shape == (spec.height, spec.width, spec.channels)
        except (Unreadable, UnsupportedMediaType):
            refused += 1
    assert refused > 40
    with pytest.raises(Unreadable, match="cut off"):
        image_to_pixels(data[: len(data) // 2], spec)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%PDF-1.7 ...", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(99)]
)
def test_other_content_is_unsupported(data: bytes) -> None:
    """The message lists the supported formats."""
    with pytest.raises(UnsupportedMediaType, match=", ".join(FORMATS)):
        image_to_pixels(data, PHOTO)


def test_other_image_formats_are_unsupported() -> None:
    """Pillow could read a PPM, but its decoder is not open to clients."""
    with pytest.raises(UnsupportedMediaType):
        image_to_pixels(encode(quarters(), "PPM"), PHOTO)


def test_pixels_are_counted_before_decoding() -> None:
    """A file of 100 bytes whose header says 50,000 x 50,000 is refused by its header alone."""
    data = bytearray(encode(Image.new("L", (8, 8))))
    data[16:24] = (50_000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(TooLarge, match="51,000,000"):
        image_to_pixels(bytes(data), PHOTO)
    with pytest.raises(TooLarge, match=r"11 x 10 .*100"):
        image_to_pixels(encode(Image.new("L", (11, 10))), PHOTO, max_pixels=100)


def test_a_photo_of_a_50_megapixel_phone_is_within_the_default_limit() -> None:
    """Its 8160 x 6144 pixels are 0.3 % more than 50 million."""
    data = bytearray(encode(Image.new("L", (8, 8))))
    data[16:24] = (8160).to_bytes(4) + (6144).to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(Unreadable):  # its pixels are missing, but not too many
        image_to_pixels(bytes(data), PHOTO)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{" * (3 << 20))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3 << 20))),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "behind the pixels"])
def test_large_texts_and_profiles_of_a_png_are_skipped(extra: bytes, place: int) -> None:
    """Image generators write their settings into the file, which the pixels do not need."""
    plain = encode(quarters())
    data = plain[:place] + extra + plain[place:]
    assert (image_to_pixels(data, PHOTO) == image_to_pixels(plain, PHOTO)).all()


def test_a_large_text_hides_no_profile() -> None:
    """The colours of a PNG are converted although its text is skipped."""
    muted = quarters().point([60 + level // 2 for level in range(256)] * 3)
    data = encode(muted, icc_profile=DISPLAY_P3)
    text = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3 << 20)))
    assert (image_to_pixels(data[:33] + text + data[33:], PHOTO) == image_to_pixels(data, PHOTO)).all()
    assert (image_to_pixels(data, PHOTO) != image_to_pixels(encode(muted), PHOTO)).any()


def test_an_animated_png_shows_its_first_frame() -> None:
    """Not the image for viewers without animation, which browsers hide."""
    hidden, frames = Image.new("RGB", (80, 40), "black"), [quarters(), Image.new("RGB", (80, 40), "grey")]
    for default, images in ((True, [hidden, *frames]), (False, frames)):
        data = encode(images[0], save_all=True, append_images=images[1:], default_image=default)
        assert_similar(image_to_pixels(data, PHOTO))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda data: data.replace(b"\r\n", b"\n"), "line ends"),
        (lambda data: data.replace(b"\n", b"\r\n"), "line ends"),
        (lambda data: data.replace(b"\r", b""), "line ends"),
        (lambda data: data.decode("utf-8", "replace").encode(), "as text"),
        (lambda data: data.decode("latin-1").encode(), "as text"),
        (lambda data: data.decode("ascii", "replace").encode("ascii", "replace"), "as text"),
    ],
    ids=["CR LF to LF", "LF to CR LF", "without CR", "UTF-8", "Latin-1", "ASCII"],
)
def test_a_png_that_was_taken_for_text_says_so(change: Callable[[bytes], bytes], fact: str) -> None:
    """Its signature was made to show this."""
    with pytest.raises(Unreadable, match=fact):
        image_to_pixels(change(encode(quarters())), PHOTO)


def os2_bitmap(header_bytes: int, compression: int) -> bytes:
    """A BMP of OS/2 2.0."""
    fields = struct.pack("<IiiHHIIiiII", header_bytes, 8, 8, 1, 24, compression, 192, 0, 0, 0, 0)
    header = fields[:header_bytes].ljust(header_bytes, b"\0")
    return b"BM" + struct.pack("<IHHI", 206 + header_bytes, 0, 0, 14 + header_bytes) + header + bytes(192)


def numeric_tiff(dtype: str, sample_format: int, channels: int) -> bytes:
    """A TIFF of 20 x 20 pixels of numbers that Pillow cannot write."""
    values = np.zeros((20, 20, channels), dtype)
    order, bits = ">" if dtype.startswith(">") else "<", values.dtype.itemsize * 8
    start = 8 + values.nbytes
    tags = [(256, 20), (257, 20), (258, bits), (259, 1), (262, 1), (273, 8), (277, channels), (278, 20)]
    tags += [(279, values.nbytes), (339, sample_format)]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start)
    return header + values.tobytes() + struct.pack(order + "H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (os2_bitmap(16, 0), "OS/2"),
        (os2_bitmap(64, 3), "OS/2"),
        (os2_bitmap(64, 4), "OS/2"),
        (os2_bitmap(40, 4), "compression 4"),
        (numeric_tiff("<f8", 3, 1), "64-bit floating-point"),
        (numeric_tiff(">f2", 3, 1), "16-bit floating-point"),
        (numeric_tiff("<f4", 3, 3), "3 channels of 32-bit floating-point"),
        (numeric_tiff("<c8", 6, 1), "complex"),
    ],
    ids=["OS/2 short", "OS/2 Huffman", "OS/2 RLE24", "BMP of JPEG", "float64", "float16", "RGB of floats", "complex"],
)
def test_rare_variants_are_named(data: bytes, name: str) -> None:
    """They are whole, but not read: the message says what they are."""
    with pytest.raises(UnsupportedMediaType, match=name):
        image_to_pixels(data, PHOTO)


def test_a_bitmap_of_os2_with_the_short_header_is_read() -> None:
    """That of OS/2 1.0, which Windows wrote, too."""
    pixels = np.asarray(quarters(size=(16, 16)))[::-1, :, ::-1].tobytes()
    header = struct.pack("<IHHIIHHHH", 26 + len(pixels), 0, 0, 26, 12, 16, 16, 1, 24)
    assert_similar(image_to_pixels(b"BM" + header + pixels, PHOTO))


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (30, 30)])
def test_padding_keeps_the_aspect(height: int, width: int) -> None:
    """The whole image is in the middle, and the rest is black."""
    spec = ImageInput(height=height, width=width, mode="RGB", framing="pad")
    pixels = image_to_pixels(encode(quarters(size=(80, 40))), spec)
    assert pixels.shape == (height, width, 3)
    rows, columns = np.flatnonzero(pixels.any(axis=(1, 2))), np.flatnonzero(pixels.any(axis=(0, 2)))
    shown_height, shown_width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert shown_width == 2 * shown_height
    assert (shown_height == height) or (shown_width == width)
    assert abs(int(rows[0]) - (height - shown_height) // 2) <= 1
    assert abs(int(columns[0]) - (width - shown_width) // 2) <= 1


@pytest.mark.parametrize("size", [(512, 256), (256, 256), (256, 640)])
def test_cropping_is_that_of_torchvision(size: tuple[int, int]) -> None:
    """The shorter side becomes 256 pixels and the middle 224 x 224 are taken, as torchvision's classifiers do it."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    left, upper = ((side - 224) // 2 for side in size)
    expected = np.asarray(image.crop((left, upper, left + 224, upper + 224)))
    spec = ImageInput(height=224, width=224, mode="RGB", framing="crop")
    assert np.abs(image_to_pixels(encode(image), spec).astype(int) - expected).max() <= 1
