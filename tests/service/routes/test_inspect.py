"""POST /inspect/{model}: its forms, its options, its errors, and its bounds."""

import asyncio
import io
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contract.errors import NotInspectable
from contract.twin import Inspection
from service.errors import Overloaded
from service.inference.inspect import Inspector
from service.server.assembly import Parts
from service.settings import Settings
from tests.drawing import encode, mnist_like
from tests.serving import ROOT, Call, client, code, make_keys, parts

SEVEN = encode(mnist_like(7))
PNG = {"Accept": "image/png"}


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


def test_an_image_goes_through_all_layers(call: Call) -> None:
    """The layers in order, with the prediction of /classify; the same each time, in a form and in JSON as well."""
    response = call("POST", "/inspect/digits", content=SEVEN)
    answer = response.json()
    assert [layer["name"] for layer in answer["layers"]] == [
        "conv1", "pool1", "conv2", "pool2", "flatten1", "dense1", "dense2", "softmax1",
    ]  # fmt: skip
    first = answer["layers"][0]
    assert (first["shape"], first["parameters"], first["recipe"]["layer"]) == ([16, 28, 28], 416, 1)
    assert "(28 + 2*2 - 5)/1 + 1 = 28" in first["formulas"][0]
    assert first["receptive_field"] == {"size": [5, 5], "stride": [1, 1], "start": [-2, -2]}
    classified = call("POST", "/classify/digits", content=SEVEN).json()["predictions"][0]
    assert (answer["prediction"], answer["precision"]) == (classified["label"], "float32") == ("7", "float32")
    assert answer["score"] == pytest.approx(classified["score"], abs=1e-4)
    assert sum(answer["layers"][-1]["values"]) == pytest.approx(1, abs=1e-3)
    assert "infer;dur=" in response.headers["server-timing"]
    form = {"files": {"image": ("seven.png", SEVEN, "image/png")}}
    assert call("POST", "/inspect/digits", **form).content == response.content


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [
        ("", "image/*;q=0.9,*/*;q=0.1", "application/json"),
        ("?layer=conv1", "*/*", "application/json"),
        ("?layer=conv1", "image/png", "image/png"),
        ("?layer=conv2&show=filters", "image/*", "image/png"),
        ("?layer=node_Conv_43", "image/png", "image/png"),
        ("?layer=conv1&cell=1,2,3", "application/json;q=0.5,image/png", "application/json"),
    ],
)
def test_accept_chooses_the_form(call: Call, query: str, accept: str, media_type: str) -> None:
    """One layer is a PNG for clients that prefer one; all layers and cells are JSON. Sheets have their stated size."""
    response = call("POST", f"/inspect/digits{query}", content=SEVEN, headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, media_type)
    assert response.headers["vary"] == "Accept"
    if media_type == "image/png":
        layers = call("POST", "/inspect/digits", content=SEVEN).json()["layers"]
        wanted = "filters" if "filters" in query else "sheet"
        sizes = {(layer[wanted]["width"], layer[wanted]["height"]) for layer in layers if wanted in layer}
        assert Image.open(io.BytesIO(response.content)).size in sizes


def test_one_layer_has_all_its_values_and_a_cell_its_arithmetic(call: Call) -> None:
    """The values as nested lists in the shape of the layer; a cell's value is the one at its place."""
    layer = call("POST", "/inspect/digits?layer=conv2", content=SEVEN).json()
    assert (layer["model"], layer["name"], layer["shape"]) == ("digits", "conv2", [32, 10, 10])
    cell = call("POST", "/inspect/digits?layer=conv2&cell=5,4,3", content=SEVEN).json()
    assert cell["value"] == pytest.approx(layer["values"][5][4][3], abs=1e-4)
    assert cell["saw"] == {"top": 6, "left": 4, "bottom": 20, "right": 18}
    assert cell["before_activation"] == pytest.approx(cell["sum"] + cell["bias"], abs=1e-3)


def test_a_text_has_windows_and_strongest_positions(call: Call) -> None:
    """Tokens as the model reads them; each window says where it responds most, and to what."""
    answer = call("POST", "/inspect/reviews", json={"texts": ["Not one dull minute; simply superb."]}).json()
    tokens = answer["input"]["tokens"]
    (windows,) = [layer for layer in answer["layers"] if layer["name"] == "windows1-2"]
    assert windows["shape"] == [128, len(tokens)]
    for row in windows["strongest"]:
        assert row["text"].split() == tokens[row["start"] : row["end"]]
    sheet = call("POST", "/inspect/reviews?layer=windows1-2", content=b"superb", headers=PNG).content
    assert Image.open(io.BytesIO(sheet)).size[1] == 640


@pytest.mark.parametrize(
    ("path", "status", "name", "words"),
    [
        ("/inspect/digits?layer=conv9", 400, "invalid_request", "the layers are conv1, pool1"),
        ("/inspect/digits?layer=pool1&show=filters", 400, "invalid_request", "these have: conv1, conv2"),
        ("/inspect/digits?show=filters", 400, "invalid_request", "layer=NAME"),
        ("/inspect/digits?layer=conv1&show=weights", 400, "invalid_request", "maps or filters"),
        ("/inspect/digits?layer=conv1&cell=1", 400, "invalid_request", "expected 3 numbers"),
        ("/inspect/digits?layer=conv1&cell=16,0,0", 400, "invalid_request", "below 16, 28, 28"),
        ("/inspect/digits?layer=conv1&cell=a", 400, "invalid_request", "like 3,10,12"),
        ("/inspect/digits?layers=conv1", 400, "invalid_request", "did you mean layer"),
        ("/inspect/unknown", 404, "model_not_found", "unknown"),
    ],
)  # fmt: skip
def test_errors_say_what_is_possible(call: Call, path: str, status: int, name: str, words: str) -> None:
    """Unknown layers, cells, options and models."""
    headers = PNG if "filters" in path else {}
    response = call("POST", path, content=SEVEN, headers=headers)
    assert code(response) == (status, name)
    assert words in response.json()["error"]["message"]


def test_bodies_are_refused_as_elsewhere(call: Call) -> None:
    """Two items, no digit, no image, and a media type that no form has."""
    two = {"files": [("a", ("a.png", SEVEN, "image/png")), ("b", ("b.png", SEVEN, "image/png"))]}
    assert code(call("POST", "/inspect/digits", **two)) == (400, "invalid_request")
    assert code(call("POST", "/inspect/digits", content=encode(Image.new("L", (50, 50), 255))))[1] == "no_digit"
    assert code(call("POST", "/inspect/digits", content=b"text")) == (415, "unsupported_kind")
    assert code(call("POST", "/inspect/digits", content=SEVEN, headers=PNG)) == (406, "not_acceptable")


def test_a_key_of_the_role_predict_is_needed(tmp_path: Path) -> None:
    """As for /classify."""
    predict, metrics = make_keys(tmp_path / "keys", "predict", "metrics")
    locked = client(api_keys_file=tmp_path / "keys")
    assert code(locked("POST", "/inspect/digits", content=SEVEN)) == (401, "unauthorized")
    headers = {"Authorization": f"Bearer {metrics}"}
    assert code(locked("POST", "/inspect/digits", content=SEVEN, headers=headers)) == (403, "forbidden")
    headers = {"Authorization": f"Bearer {predict}"}
    assert locked("POST", "/inspect/digits", content=SEVEN, headers=headers).status_code == 200


@pytest.fixture(scope="module")
def served() -> Parts:
    return parts()


def _keep(found: Inspection, _units: list[str]) -> bytes:
    return str(len(found.layers)).encode()


def inspect(inspector: Inspector, served: Parts, model: str, item: Any) -> bytes:
    version = served.predictor.resolve(model)
    return asyncio.run(inspector.inspect(version, item, _keep)).content


def test_twins_are_kept_within_a_bound(served: Parts) -> None:
    """The last ones that fit stay; a graph above the bound is refused with the name of the setting."""
    inspector = Inspector(served.predictor, served.repository, Settings(max_inspected_bytes=7_000_000))
    assert inspect(inspector, served, "digits", SEVEN) == b"8"
    assert inspect(inspector, served, "cats-vs-dogs", (ROOT / "examples/cat.jpg").read_bytes()) == b"13"
    assert [version.name for version in inspector._twins] == ["digits", "cats-vs-dogs"]  # noqa: SLF001
    with pytest.raises(NotInspectable, match="CONVOKE_MAX_INSPECTED_BYTES"):
        inspect(inspector, served, "reviews", "good")
    small = Inspector(served.predictor, served.repository, Settings(max_inspected_bytes=6_800_000))
    for model, item in (("digits", SEVEN), ("cats-vs-dogs", (ROOT / "examples/cat.jpg").read_bytes())):
        inspect(small, served, model, item)
    assert [version.name for version in small._twins] == ["cats-vs-dogs"]  # noqa: SLF001


def test_inspections_above_the_limit_are_refused(served: Parts) -> None:
    """While one is made, another is refused at once with 429; predictions go on; afterwards it is answered."""
    inspector = Inspector(served.predictor, served.repository, Settings(max_inspections=1))
    version, may_end = served.predictor.resolve("digits"), threading.Event()

    def wait(_found: Inspection, _units: list[str]) -> bytes:
        assert may_end.wait(30)
        return b""

    async def scenario() -> None:
        first = asyncio.create_task(inspector.inspect(version, SEVEN, wait))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 inspections"):
            await inspector.inspect(version, SEVEN, _keep)
        await served.predictor.predict(version, [SEVEN])
        may_end.set()
        await first
        await inspector.inspect(version, SEVEN, _keep)

    asyncio.run(scenario())
    assert code(client(max_inspections=0)("POST", "/inspect/digits", content=SEVEN)) == (429, "overloaded")


def test_a_graph_that_was_changed_is_not_inspected(tmp_path: Path) -> None:
    """The twin has the graph that was verified, or it is not made."""
    shutil.copytree(ROOT / "models/digits", tmp_path / "digits")
    changed = client(models=tmp_path, poll_s=0)
    with (tmp_path / "digits/1/model.onnx").open("ab") as file:
        file.write(b"\0")
    assert code(changed("POST", "/inspect/digits", content=SEVEN)) == (422, "not_inspectable")
