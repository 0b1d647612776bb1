"""Kinds of images of digits as people send them, each made from one digit framed as MNIST's.

`KINDS` shows a digit, `BLANK` none and `SEVERAL` two or three. A kind takes a digit, uint8 (28, 28) with ink at 255,
and a generator of random numbers.
"""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

Digit = npt.NDArray[np.uint8]
Sheet = npt.NDArray[np.float32]
Random = np.random.Generator
Kind = Callable[[Digit, Random], Image.Image]

KINDS: dict[str, Kind] = {}
BLANK: dict[str, Kind] = {}
SEVERAL: dict[str, Callable[[Digit, Digit], Image.Image]] = {}


def kind(make: Kind) -> Kind:
    KINDS[make.__name__] = make
    return make


def blank(make: Kind) -> Kind:
    BLANK[make.__name__] = make
    return make


def several(make: Callable[[Digit, Digit], Image.Image]) -> Callable[[Digit, Digit], Image.Image]:
    SEVERAL[make.__name__] = make
    return make


def image(sheet: npt.NDArray[np.floating]) -> Image.Image:
    """Grey levels (H, W) as an image."""
    return Image.fromarray(np.clip(sheet + 0.5, 0, 255).astype(np.uint8))


def ink(digit: Digit, side: int) -> Sheet:
    """A digit enlarged to `side` pixels: 1 in a stroke, 0 on the paper."""
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / np.float32(255)


def page(
    digit: Digit,
    size: tuple[int, int],
    side: int,
    corner: tuple[int, int],
    levels: tuple[float, float] = (255, 0),
) -> Sheet:
    """A page (width, height) of one level with a digit of another in a square of `side` at `corner` (x, y)."""
    paper, stroke = levels
    sheet = np.full((size[1], size[0]), paper, np.float32)
    sheet[corner[1] : corner[1] + side, corner[0] : corner[0] + side] += (stroke - paper) * ink(digit, side)
    return sheet


def grain(sheet: npt.NDArray[np.floating], random: Random, deviation: float) -> Sheet:
    """Noise of a sensor or of paper."""
    noisy: Sheet = (sheet + random.normal(0, deviation, sheet.shape)).astype(np.float32)
    return noisy


def rules(sheet: Sheet, random: Random, gap: int, width: int, level: float) -> Sheet:
    """Lines across the page."""
    for row in range(int(random.integers(5, gap)), len(sheet) - width, gap):
        sheet[row : row + width] = level
    return sheet


def drawn(sheet: Sheet, draw: Callable[[ImageDraw.ImageDraw, int], object]) -> Image.Image:
    """Shapes drawn on a sheet, three times as large and reduced, so that their edges are smooth."""
    height, width = sheet.shape
    large = image(sheet).resize((width * 3, height * 3))
    draw(ImageDraw.Draw(large), 3)
    return large.resize((width, height), Image.Resampling.LANCZOS)


# Of 28 x 28 pixels, but not framed.


@kind
def dark_on_grey_28(digit: Digit, _: Random) -> Image.Image:
    return image(180 - digit / 255 * 140)


@kind
def pencil_28(digit: Digit, random: Random) -> Image.Image:
    return image(grain(235 - digit / 255 * 70, random, 5))


@kind
def light_on_dark_grey_28(digit: Digit, _: Random) -> Image.Image:
    return image(60 + digit / 255 * 120)


@kind
def in_a_corner_28(digit: Digit, random: Random) -> Image.Image:
    sheet = np.zeros((28, 28), np.float32)
    row, column = random.choice([0, 12], 2)
    small = Image.fromarray(digit).resize((16, 16), Image.Resampling.BILINEAR)
    sheet[row : row + 16, column : column + 16] = np.asarray(small)
    return image(255 - sheet)


@kind
def off_centre_28(digit: Digit, random: Random) -> Image.Image:
    x, y = (int(edge) for edge in random.integers(0, 140, 2))
    return image(page(digit, (400, 400), 260, (x, y))).resize((28, 28), Image.Resampling.BILINEAR)


# Of other contrast and colour.


@kind
def pale_ink(digit: Digit, _: Random) -> Image.Image:
    return image(page(digit, (280, 280), 240, (20, 20), (250, 225)))


@kind
def zeros_and_ones(digit: Digit, _: Random) -> Image.Image:
    return Image.fromarray((digit > 100).astype(np.uint8))


def coloured(digit: Digit, paper: tuple[int, int, int], stroke: tuple[int, int, int]) -> Image.Image:
    share = np.clip(np.pad(ink(digit, 240), 20), 0, 1)[..., None]
    return Image.fromarray((np.array(paper) * (1 - share) + np.array(stroke) * share).astype(np.uint8))


@kind
def colour_map(digit: Digit, _: Random) -> Image.Image:
    """From violet over green to yellow, as matplotlib saves by default."""
    stops = np.array([[68, 1, 84], [33, 145, 140], [253, 231, 37]])
    share = digit / 255
    channels = [np.interp(share, [0, 0.5, 1], stops[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@kind
def colour_map_with_many_hues(digit: Digit, _: Random) -> Image.Image:
    """From dark blue over cyan and yellow to dark red, as matplotlib's jet."""
    stops = np.array([[0, 0, 128], [0, 0, 255], [0, 255, 255], [255, 255, 0], [255, 0, 0], [128, 0, 0]])
    channels = [np.interp(digit / 255, np.linspace(0, 1, 6), stops[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@kind
def red_on_green(digit: Digit, _: Random) -> Image.Image:
    return coloured(digit, (0, 130, 0), (255, 0, 0))


@kind
def blue_on_red(digit: Digit, _: Random) -> Image.Image:
    return coloured(digit, (200, 60, 50), (60, 110, 230))


@kind
def yellow_on_white(digit: Digit, _: Random) -> Image.Image:
    return coloured(digit, (255, 255, 255), (240, 220, 40))


@kind
def chalk(digit: Digit, random: Random) -> Image.Image:
    return image(grain(page(digit, (400, 400), 260, (70, 70), (60, 210)), random, 8))


# Beside other things.


@kind
def ruled_paper(digit: Digit, random: Random) -> Image.Image:
    return image(rules(page(digit, (400, 400), 240, (80, 80)), random, 60, 3, 0))


@kind
def squared_paper(digit: Digit, random: Random) -> Image.Image:
    squares = rules(np.full((400, 400), 255, np.float32), random, 25, 1, 170)
    squares = rules(squares.T.copy(), random, 25, 1, 170).T
    return image(np.minimum(squares, page(digit, (400, 400), 240, (80, 80))))


@kind
def circled(digit: Digit, _: Random) -> Image.Image:
    """By hand: the ends of the circle overlap."""
    angles = np.linspace(0.1, 2 * np.pi + 0.3, 80)
    x = 200 + (140 + 12 * np.sin(3 * angles + 1)) * np.cos(angles)
    y = 200 + (150 + 10 * np.cos(2 * angles)) * np.sin(angles)

    def ring(pen: ImageDraw.ImageDraw, scale: int) -> None:
        pen.line([*zip(x * scale, y * scale, strict=True)], fill=10, width=9 * scale)

    return drawn(page(digit, (400, 400), 200, (100, 100)), ring)


@kind
def boxed(digit: Digit, _: Random) -> Image.Image:
    box = 70, 70, 330, 330

    def outline(pen: ImageDraw.ImageDraw, scale: int) -> None:
        pen.rectangle([edge * scale for edge in box], outline=0, width=6 * scale)

    return drawn(page(digit, (400, 400), 200, (100, 100)), outline)


@kind
def boxed_tightly(digit: Digit, _: Random) -> Image.Image:
    sheet = page(digit, (400, 400), 200, (100, 100))
    rows, columns = np.nonzero(sheet < 180)
    box = columns.min() - 12, rows.min() - 12, columns.max() + 12, rows.max() + 12

    def outline(pen: ImageDraw.ImageDraw, scale: int) -> None:
        pen.rectangle([int(edge) * scale for edge in box], outline=0, width=4 * scale)

    return drawn(sheet, outline)


@kind
def in_a_cell_of_a_form(digit: Digit, _: Random) -> Image.Image:
    sheet = page(digit, (120, 140), 100, (10, 20))
    sheet[:3] = sheet[-3:] = 60
    sheet[:, :3] = sheet[:, -3:] = 60
    return image(sheet)


@kind
def framed_at_the_edge(digit: Digit, _: Random) -> Image.Image:
    return ImageOps.expand(image(page(digit, (260, 260), 200, (30, 30))), 20, 0)


@kind
def on_a_table(digit: Digit, random: Random) -> Image.Image:
    sheet = np.full((400, 500), 70, np.float32)
    sheet[60:350, 90:430] = page(digit, (340, 290), 220, (60, 35), (245, 20))
    turned = image(sheet).rotate(float(random.uniform(-6, 6)), fillcolor=70)
    return image(grain(np.asarray(turned, np.float32), random, 4))


@kind
def on_a_light_table(digit: Digit, random: Random) -> Image.Image:
    sheet = np.full((400, 500), 190, np.float32)
    sheet[60:350, 90:430] = page(digit, (340, 290), 220, (60, 35), (245, 20))
    return image(grain(sheet, random, 3))


@kind
def on_a_disc(digit: Digit, _: Random) -> Image.Image:
    sheet = drawn(np.full((400, 400), 255, np.float32), lambda pen, scale: _disc(pen, 40 * scale, 360 * scale))
    share = np.pad(ink(digit, 180), 110)
    return image(np.asarray(sheet) * (1 - share) + 255 * share)


def _disc(pen: ImageDraw.ImageDraw, start: int, stop: int) -> None:
    pen.ellipse([start, start, stop, stop], fill=40)


@kind
def plotted(digit: Digit, _: Random) -> Image.Image:
    """In the axes of a figure, as matplotlib's imshow draws it."""
    figure = Image.new("L", (640, 480), 255)
    figure.paste(Image.fromarray(digit).resize((370, 370), Image.Resampling.NEAREST), (143, 58))
    return figure


@kind
def on_a_narrow_page(digit: Digit, random: Random) -> Image.Image:
    return image(page(digit, (300, 1800), 200, (50, int(random.integers(0, 1500)))))


@kind
def with_a_finger(digit: Digit, random: Random) -> Image.Image:
    sheet = image(page(digit, (400, 400), 220, (90, 60), (240, 25)))
    x = int(random.integers(0, 330))
    ImageDraw.Draw(sheet).ellipse([x, 330, x + 90, 520], fill=150)
    return image(grain(np.asarray(sheet.filter(ImageFilter.GaussianBlur(1)), np.float32), random, 3))


@kind
def across_a_hard_shadow(digit: Digit, random: Random) -> Image.Image:
    light, tilt = Image.new("L", (400, 400), 255), random.uniform(-0.5, 0.5)
    edge = [(0, 400), (0, 200 + 100 * tilt), (400, 200 - 150 * tilt), (400, 400)]
    ImageDraw.Draw(light).polygon(edge, fill=140)
    shaded = page(digit, (400, 400), 240, (80, 80), (235, 25)) * np.asarray(light, np.float32) / 255
    return image(grain(shaded, random, 3))


@kind
def with_dark_corners(digit: Digit, random: Random) -> Image.Image:
    rows, columns = np.mgrid[0:400, 0:400]
    distance = ((columns - 200) ** 2 + (rows - 200) ** 2) / 80_000
    return image(grain(page(digit, (400, 400), 240, (80, 80), (235, 25)) * (1 - 0.6 * distance), random, 3))


@kind
def scanned_beyond_the_page(digit: Digit, _: Random) -> Image.Image:
    sheet = page(digit, (400, 500), 240, (80, 130), (250, 20))
    sheet[:, :14], sheet[-9:] = 20, 30
    return image(sheet)


@kind
def punched(digit: Digit, _: Random) -> Image.Image:
    sheet = image(page(digit, (500, 500), 260, (160, 120), (250, 20)))
    for y in (120, 380):
        ImageDraw.Draw(sheet).ellipse([25, y - 18, 61, y + 18], fill=30)
    return sheet


@kind
def between_bars(digit: Digit, _: Random) -> Image.Image:
    """A screenshot of a phone."""
    sheet = np.zeros((640, 300), np.float32)
    sheet[120:520] = page(digit, (300, 400), 240, (30, 80), (250, 20))
    return image(sheet)


@kind
def with_specks(digit: Digit, random: Random) -> Image.Image:
    sheet = page(digit, (300, 300), 220, (40, 40))
    for row, column in random.integers(0, 298, (60, 2)):
        sheet[row : row + 2, column : column + 2] = 0
    return image(sheet)


# Of other sizes and qualities.


@kind
def small_on_a_page(digit: Digit, random: Random) -> Image.Image:
    x, y = int(random.integers(0, 1000)), int(random.integers(0, 1500))
    return image(grain(page(digit, (1240, 1754), 84, (x, y), (245, 40)), random, 3))


@kind
def tiny_on_a_page(digit: Digit, random: Random) -> Image.Image:
    return image(page(digit, (1240, 1754), 42, (int(random.integers(0, 1000)), int(random.integers(0, 1500)))))


@kind
def blurred(digit: Digit, _: Random) -> Image.Image:
    return image(page(digit, (300, 300), 240, (30, 30))).filter(ImageFilter.GaussianBlur(6))


@kind
def compressed(digit: Digit, _: Random) -> Image.Image:
    file = io.BytesIO()
    image(page(digit, (120, 120), 110, (5, 5))).save(file, "JPEG", quality=20)
    return Image.open(file)


@kind
def cropped_to_the_ink(digit: Digit, _: Random) -> Image.Image:
    rows, columns = (np.flatnonzero((digit > 60).any(axis=axis)) for axis in (1, 0))
    cropped = Image.fromarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return ImageOps.invert(cropped.resize((cropped.width * 10, cropped.height * 10), Image.Resampling.BICUBIC))


# Without a digit.


@blank
def one_level(_: Digit, random: Random) -> Image.Image:
    side = int(random.choice([1, 28, 300]))
    return Image.new("L", (side, side), int(random.choice([0, 128, 255])))


@blank
def noise(_: Digit, random: Random) -> Image.Image:
    side = int(random.choice([28, 200]))
    return Image.fromarray(random.integers(0, 256, (side, side), dtype=np.uint8))


@blank
def paper_grain(_: Digit, random: Random) -> Image.Image:
    return image(grain(np.full((300, 300), 225), random, float(random.uniform(2, 15))))


@blank
def dark_corners(_: Digit, random: Random) -> Image.Image:
    rows, columns = np.mgrid[0:300, 0:300]
    return image(grain(235 * (1 - 0.6 * ((columns - 150) ** 2 + (rows - 150) ** 2) / 45_000), random, 2))


@blank
def transparent(_: Digit, random: Random) -> Image.Image:
    return Image.new("RGBA", (200, 200), (int(random.integers(255)),) * 3 + (0,))


@blank
def one_dot(_: Digit, random: Random) -> Image.Image:
    sheet = np.full((300, 300), 255)
    row, column = random.integers(20, 280, 2)
    sheet[row : row + 7, column : column + 7] = 0
    return image(sheet)


@blank
def empty_ruled_paper(_: Digit, random: Random) -> Image.Image:
    sheet = np.full((400, 400), 250, np.float32)
    return image(rules(sheet, random, int(random.integers(30, 70)), int(random.integers(1, 5)), 60))


@blank
def gradient(_: Digit, random: Random) -> Image.Image:
    levels = np.tile(np.linspace(0, 255, 300), (300, 1))
    return image(levels if random.random() < 0.5 else levels.T)


@blank
def clouds(_: Digit, random: Random) -> Image.Image:
    side = int(random.choice([4, 6, 8, 12]))
    coarse = Image.fromarray(random.integers(0, 256, (side, side), dtype=np.uint8))
    return coarse.resize((300, 300), Image.Resampling.BICUBIC)


@blank
def clouds_28(_: Digit, random: Random) -> Image.Image:
    rough = Image.fromarray(random.integers(0, 256, (28, 28), dtype=np.uint8))
    return ImageOps.autocontrast(rough.filter(ImageFilter.GaussianBlur(float(random.uniform(2, 4)))))


@blank
def filled_shape(_: Digit, random: Random) -> Image.Image:
    sheet, size = Image.new("L", (300, 300), 255), int(random.integers(30, 120))
    pen, box = ImageDraw.Draw(sheet), [150 - size, 150 - size, 150 + size, 150 + size]
    shapes: list[Callable[[], object]] = [
        lambda: pen.ellipse(box, fill=0),
        lambda: pen.rectangle(box, fill=0),
        lambda: pen.polygon([(150, 150 - size), (150 - size, 150 + size), (150 + size, 150 + size)], fill=0),
    ]
    shapes[int(random.integers(3))]()
    return sheet


@blank
def squares(_: Digit, random: Random) -> Image.Image:
    count = int(random.choice([2, 4, 8]))
    rows, columns = np.mgrid[0:304, 0:304] * count // 304
    return image((rows + columns) % 2 * 255.0)


@blank
def stripes(_: Digit, random: Random) -> Image.Image:
    levels = np.tile(np.arange(28) // int(random.integers(3, 9)) % 2 * 255.0, (28, 1))
    return image(levels if random.random() < 0.5 else levels.T)


@blank
def empty_box(_: Digit, random: Random) -> Image.Image:
    side = int(random.choice([28, 300]))
    sheet, edge = Image.new("L", (side, side), 255), side // int(random.integers(6, 9))
    ImageDraw.Draw(sheet).rectangle([edge, edge, side - 1 - edge, side - 1 - edge], outline=0, width=max(side // 80, 1))
    return sheet


@blank
def filled_square_28(_: Digit, random: Random) -> Image.Image:
    sheet, edge = Image.new("L", (28, 28), 0), int(random.integers(4, 7))
    ImageDraw.Draw(sheet).rectangle([edge, edge, 27 - edge, 27 - edge], fill=255)
    return sheet


# With several.


@several
def two_beside_each_other(first: Digit, second: Digit) -> Image.Image:
    return image(np.hstack([page(digit, (250, 300), 200, (20, 50)) for digit in (first, second)]))


@several
def three_beside_each_other(first: Digit, second: Digit) -> Image.Image:
    return image(np.hstack([page(digit, (160, 200), 150, (5, 25)) for digit in (first, second, first)]))


@several
def two_above_each_other(first: Digit, second: Digit) -> Image.Image:
    return image(np.vstack([page(digit, (260, 240), 200, (30, 20)) for digit in (first, second)]))


@several
def two_in_28(first: Digit, second: Digit) -> Image.Image:
    narrow = [np.asarray(Image.fromarray(digit).resize((14, 20))) for digit in (first, second)]
    return Image.fromarray(np.pad(np.hstack(narrow), ((4, 4), (0, 0))))


@several
def ten_in_a_row(first: Digit, second: Digit) -> Image.Image:
    return image(np.hstack([page(digit, (100, 140), 90, (5, 25)) for digit in (first, second) * 5]))
