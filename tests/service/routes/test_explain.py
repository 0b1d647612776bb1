"""POST /explain/{model}: its two forms, its options, and its errors."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from tests.drawing import encode, mnist_like
from tests.serving import Call, client, code

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SEVEN = encode(mnist_like(7))


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


def test_an_image_has_a_grid_and_the_pixels_that_the_model_saw(call: Call) -> None:
    """The JSON has the grid of evidence, the probability of /classify and a PNG of 28 x 28, each time the same."""
    response = call("POST", "/explain/digits", content=SEVEN)
    answer = response.json()
    assert [len(row) for row in answer["evidence"]] == [answer["columns"]] * answer["rows"]
    assert Image.open(io.BytesIO(base64.b64decode(answer["image"]))).size == (28, 28)
    classified = call("POST", "/classify/digits", content=SEVEN).json()["predictions"][0]
    assert answer["label"] == answer["prediction"] == classified["label"] == "7"
    assert answer["score"] == pytest.approx(classified["score"], abs=1e-5)
    assert (answer["method"], answer["runs"]) == ("occlusion", 197)
    assert response.headers["vary"] == "Accept"
    assert "infer;dur=" in response.headers["server-timing"]
    assert call("POST", "/explain/digits", content=SEVEN).content == response.content
    form = {"files": {"image": ("seven.png", SEVEN, "image/png")}}
    assert call("POST", "/explain/digits", **form).content == response.content
    other = call("POST", "/explain/digits?label=1", content=SEVEN).json()
    assert (other["label"], other["prediction"]) == ("1", "7")
    assert other["evidence"] != answer["evidence"]


def test_class_activation_maps_take_one_run(call: Call) -> None:
    """A photo has a map of the size of the last feature maps, as JSON and as an overlay; LeNet has none."""
    photo = (EXAMPLES / "cat.jpg").read_bytes()
    answer = call("POST", "/explain/cats-vs-dogs?method=cam", content=photo).json()
    assert (answer["method"], answer["runs"], answer["rows"], answer["columns"]) == ("cam", 1, 5, 5)
    assert (answer["label"], answer["prediction"]) == ("cat", "cat")
    other = call("POST", "/explain/cats-vs-dogs?method=cam&label=dog", content=photo).json()
    assert [[-value for value in row] for row in other["evidence"]] == answer["evidence"]
    overlay = call("POST", "/explain/cats-vs-dogs?method=cam", content=photo, headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(overlay.content)).size == (384, 384)
    for path in ("/explain/digits?method=cam", "/explain/digits?method=saliency", "/explain/digits?method=cam&label=x"):
        assert code(call("POST", path, content=SEVEN)) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/avif,image/webp,image/*;q=0.8,*/*;q=0.5", "image/png"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("image/png;q=0, */*", "application/json"),
    ],
)
def test_accept_chooses_the_form(call: Call, accept: str, media_type: str) -> None:
    """The overlay is a PNG for clients that prefer one; others receive JSON."""
    photo = (EXAMPLES / "seven.png").read_bytes()
    response = call("POST", "/explain/digits", content=photo, headers={"Accept": accept})
    assert response.headers["content-type"] == media_type
    if media_type == "image/png":
        assert Image.open(io.BytesIO(response.content)).size == (448, 448)


def test_a_text_has_words_with_character_offsets(call: Call) -> None:
    """Offsets count characters of the text in any charset; a text in JSON is read as well."""
    text = "Ein 👍 film, naïve but good."
    answer = call("POST", "/explain/reviews", json={"texts": [text]}).json()
    assert [text[word["start"] : word["end"]] for word in answer["words"]] == [
        "Ein", "👍", "film", ",", "naïve", "but", "good", "."
    ]  # fmt: skip
    charset = {"Content-Type": "text/plain; charset=utf-16"}
    assert call("POST", "/explain/reviews", content=text.encode("utf-16"), headers=charset).json() == answer
    single = call("POST", "/explain/reviews", content=b"wonderful").json()
    assert single["words"][0]["weight"] > 0


@pytest.mark.parametrize(
    ("path", "request_", "expected"),
    [
        ("/explain/digits?label=cat", {"content": SEVEN}, (400, "invalid_request")),
        ("/explain/digits?lable=7", {"content": SEVEN}, (400, "invalid_request")),
        ("/explain/digits", {"files": [("a", SEVEN), ("b", SEVEN)]}, (400, "invalid_request")),
        ("/explain/digits", {"content": b"no image"}, (415, "unsupported_kind")),
        ("/explain/digits", {"content": encode(Image.new("L", (200, 200), 255))}, (422, "no_digit")),
        ("/explain/reviews", {"content": b" "}, (422, "unreadable")),
        ("/explain/reviews", {"content": b"good", "headers": {"Accept": "image/png"}}, (406, "not_acceptable")),
        ("/explain/nothing", {"content": SEVEN}, (404, "model_not_found")),
    ],
)
def test_errors_say_what_is_wrong(call: Call, path: str, request_: dict[str, object], expected: object) -> None:
    """Each mistake has its status and its code."""
    if "files" in request_:
        parts = [(name, (f"{name}.png", content, "image/png")) for name, content in request_["files"]]  # type: ignore[attr-defined]
        request_ = {"files": parts}
    assert code(call("POST", path, **request_)) == expected
