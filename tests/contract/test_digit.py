"""Images of digits, framed as MNIST's: what is framed stays, any other is found, and what shows no digit is refused."""

import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from contract.digit import frame
from contract.errors import ConvokeError, NoDigit, SeveralDigits
from contract.inputs import image_to_pixels
from contract.manifest import read
from contract.session import Session
from contract.spec import ImageInput
from tests.contract.digit_kinds import BLANK, KINDS, SEVERAL, Digit
from tests.drawing import encode, mnist_like, styles
from tests.serving import ROOT

MODEL = ROOT / "models/digits/1"
SPEC = ImageInput(height=28, width=28, mode="L", framing="mnist")
MNIST = Path(os.environ.get("CONVOKE_DATA", "data")) / "mnist/MNIST/raw"
EACH = 4
"""MNIST test digits of each class, for each kind of image."""
SURE = 0.9

Digits = list[tuple[Digit, int]]


def drawn_digits() -> Digits:
    """One of each class, drawn."""
    return [(np.asarray(mnist_like(digit)), digit) for digit in range(10)]


def mnist_digits() -> Digits:
    """The first test digits of each class."""
    images = np.frombuffer(gzip.decompress((MNIST / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((MNIST / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    places = np.concatenate([np.flatnonzero(labels == digit)[:EACH] for digit in range(10)])
    return [(images.reshape(-1, 28, 28)[place], int(labels[place])) for place in places]


@pytest.fixture(scope="module", params=["drawn", pytest.param("mnist", marks=[pytest.mark.data, pytest.mark.slow])])
def digits(request: pytest.FixtureRequest) -> Digits:
    """Digits to make images of."""
    if request.param == "drawn":
        return drawn_digits()
    if not MNIST.exists():
        pytest.skip(f"{MNIST} does not exist; CONVOKE_DATA names the folder of the data sets")
    return mnist_digits()


@pytest.fixture(scope="module")
def session() -> Session:
    """The published model."""
    return Session(MODEL / "model.onnx", read(MODEL), provider="cpu")


def answers(session: Session, images: list[Image.Image]) -> list[tuple[int, float] | str]:
    """For each image the label and its probability, or the code of the error."""
    outcomes: list[tuple[int, float] | str] = []
    for one in images:
        try:
            pixels: npt.NDArray[np.uint8] = image_to_pixels(encode(one), SPEC)
        except ConvokeError as error:
            outcomes.append(error.code)
        else:
            (probabilities,) = session.run(pixels[None])
            outcomes.append((int(probabilities.argmax()), float(probabilities.max())))
    return outcomes


@pytest.mark.parametrize("digit", range(10))
def test_framed_digits_pass_unchanged(digit: int) -> None:
    """A grey image of 28 x 28, light on black and centred, keeps every pixel; its negative gives the same."""
    image = mnist_like(digit)
    assert np.array_equal(frame(image), np.asarray(image))
    assert np.array_equal(frame(ImageOps.invert(image)), np.asarray(image))


@pytest.mark.data
def test_mnist_passes_unchanged() -> None:
    """Of MNIST's own test images at least 99 % are taken as framed: every pixel stays."""
    if not MNIST.exists():
        pytest.skip(f"{MNIST} does not exist; CONVOKE_DATA names the folder of the data sets")
    images = np.frombuffer(gzip.decompress((MNIST / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    sample = images.reshape(-1, 28, 28)[::10]
    same = sum(np.array_equal(frame(Image.fromarray(pixels)), pixels) for pixels in sample)
    assert same >= 0.99 * len(sample)


@pytest.mark.parametrize("digit", range(10))
def test_digits_are_framed_as_mnist_framed_them(digit: int) -> None:
    """In every style: light on black, within a box of 20 x 20, its mass in the middle (LeCun et al., 1998)."""
    for style, image in styles(digit):
        pixels = frame(image).astype(float)
        rows, columns = np.nonzero(pixels > 64)
        assert 16 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20, style
        assert pixels.max() == 255, style
        assert pixels[0].max() == pixels[-1].max() == pixels[:, 0].max() == pixels[:, -1].max() == 0, style
        middle = [(pixels.sum(axis=axis) * np.arange(28)).sum() / pixels.sum() for axis in (1, 0)]
        assert middle == pytest.approx([13.5, 13.5], abs=0.6), style


@pytest.mark.parametrize("kind", KINDS)
def test_digits_are_found_in_images_of_every_kind(kind: str, digits: Digits, session: Session) -> None:
    """At least nine in ten are classified right, and at most one in twenty is wrong with a score above 0.9."""
    images = [KINDS[kind](digit, np.random.default_rng(place)) for place, (digit, _) in enumerate(digits)]
    found = answers(session, images)
    right = sum(
        not isinstance(answer, str) and answer[0] == label for answer, (_, label) in zip(found, digits, strict=True)
    )
    wrong = [
        answer
        for answer, (_, label) in zip(found, digits, strict=True)
        if not isinstance(answer, str) and answer[0] != label and answer[1] > SURE
    ]
    assert right >= 0.9 * len(digits), found
    assert len(wrong) <= len(digits) / 20


@pytest.mark.parametrize("kind", BLANK)
def test_images_without_a_digit_are_refused(kind: str) -> None:
    """Paper, noise, shade, lines and filled shapes: not one is classified."""
    blank = np.zeros((28, 28), np.uint8)
    for seed in range(12):
        data = encode(BLANK[kind](blank, np.random.default_rng(seed)))
        with pytest.raises((NoDigit, SeveralDigits)):
            image_to_pixels(data, SPEC)


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_digits_are_refused(kind: str, digits: Digits) -> None:
    """At least nine in ten images of two or three digits are refused by that name."""
    codes = []
    for (first, _), (second, _) in zip(digits, [*digits[3:], *digits[:3]], strict=True):
        try:
            image_to_pixels(encode(SEVERAL[kind](first, second)), SPEC)
        except ConvokeError as error:
            codes.append(error.code)
    assert codes.count("several_digits") >= 0.9 * len(digits), codes


@pytest.mark.parametrize("kind", ["dark_on_grey_28", "light_on_dark_grey_28", "zeros_and_ones", "colour_map"])
def test_levels_alone_are_stretched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digit that is framed but for its levels needs no search, which would take fifty times as long."""
    monkeypatch.setattr("contract.digit.find_digit", lambda _: pytest.fail("searched"))
    for digit in range(10):
        original = np.asarray(mnist_like(digit))
        image = KINDS[kind](original, np.random.default_rng(digit))
        framed = frame(image if image.mode == "L" else image.convert("RGB")).astype(float)
        expected = (original > 100) * 255.0 if kind == "zeros_and_ones" else original.astype(float)
        assert np.abs(framed - expected).mean() < 4
        assert framed.max() == 255
        assert framed[0].max() == 0
