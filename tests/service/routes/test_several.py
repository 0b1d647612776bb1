"""POST /classify/{model}?several=true: an image of several digits, each with its box."""

import numpy as np
import pytest
from PIL import Image

from tests.drawing import encode, mnist_like
from tests.serving import Call, client, code

SIDE = 90


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


def sheet(rows: list[list[int]]) -> Image.Image:
    """A page with digits in rows, each in a square of 90 pixels, dark on white."""
    page = np.full((SIDE * len(rows) + 40, SIDE * max(map(len, rows)) + 40), 255, np.uint8)
    for row, digits in enumerate(rows):
        for column, digit in enumerate(digits):
            square = np.asarray(mnist_like(digit).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            page[20 + row * SIDE :, 20 + column * SIDE :][:SIDE, :SIDE] -= square
    return Image.fromarray(page)


def test_each_digit_has_a_prediction_and_a_box(call: Call) -> None:
    """Line by line, from left to right; a box lies in the square of its digit, whatever the model makes of it."""
    rows = [[2, 7, 1, 0], [4, 3]]
    response = call("POST", "/classify/digits?several=true&top=1", content=encode(sheet(rows)))
    assert response.status_code == 200, response.text
    predictions = response.json()["predictions"]
    assert len(predictions) == 6
    squares = [(row, column) for row, digits in enumerate(rows) for column in range(len(digits))]
    for prediction, (row, column) in zip(predictions, squares, strict=True):
        left, top, right, bottom = prediction["box"]
        assert 20 + column * SIDE <= left < right <= 20 + (column + 1) * SIDE
        assert 20 + row * SIDE <= top < bottom <= 20 + (row + 1) * SIDE
        assert bottom - top > SIDE / 2
    assert [prediction["label"] for prediction in predictions].count(None) == 0


def test_boxes_are_in_pixels_of_the_upright_image(call: Call) -> None:
    """Also of a large photo that the camera stored on its side, and that is searched at a fraction of its size."""
    upright = sheet([[2, 7]]).resize((2200, 1300), Image.Resampling.BICUBIC).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = call("POST", "/classify/digits?several=true", content=encode(upright)).json()["predictions"]
    turned = encode(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    photo = call("POST", "/classify/digits?several=true", content=turned).json()["predictions"]
    assert [each["label"] for each in photo] == [each["label"] for each in plain]
    for one, other in zip(photo, plain, strict=True):
        assert np.abs(np.array(one["box"]) - np.array(other["box"])).max() < 40
    assert plain[1]["box"][2] > 1100


def test_one_digit_is_a_list_of_one(call: Call) -> None:
    """A client need not know how many there are."""
    assert len(call("POST", "/classify/digits?several=true", content=encode(sheet([[7]]))).json()["predictions"]) == 1


def test_what_cannot_have_several_digits_is_refused(call: Call) -> None:
    """Another model, another value, several images, an image without a digit."""
    image = encode(sheet([[7]]))
    assert code(call("POST", "/classify/cats-vs-dogs?several=true", content=image)) == (415, "unsupported_kind")
    text = {"Content-Type": "text/plain"}
    assert code(call("POST", "/classify/reviews?several=true", content=b"good", headers=text)) == (
        415,
        "unsupported_kind",
    )
    assert code(call("POST", "/classify/digits?several=1", content=image)) == (400, "invalid_request")
    files = [("a", image), ("b", image)]
    assert code(call("POST", "/classify/digits?several=true", files=files)) == (400, "invalid_request")
    blank = encode(Image.new("L", (90, 90), 255))
    assert code(call("POST", "/classify/digits?several=true", content=blank)) == (422, "no_digit")
    assert code(call("POST", "/classify/digits?several=true", content=image[:200])) == (422, "unreadable")
    assert call("POST", "/classify/digits?several=false", content=image).status_code == 200
