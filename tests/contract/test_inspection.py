"""The layers of graphs: names, arithmetic, values, receptive fields, filters, sheets, and single cells."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from onnx import helper, numpy_helper, parser
from PIL import Image

from contract import inspection, onnx_file, sheets
from contract.anatomy import Layer
from contract.errors import NotInspectable
from contract.inputs import load_preprocessor
from contract.manifest import Manifest, read
from contract.twin import Inspection, Twin

ROOT = Path(__file__).resolve().parents[2]
REVIEW = "A warm, funny film that earns every one of its tears. The plot is thin, but the cast is superb."
SIDES = 17, 12
"""Height and width of the images of hand-written graphs."""


def inspect(model: str, item: Any) -> tuple[Inspection, list[str]]:
    """An item in the twin of the highest published version, and its tokens."""
    path = max((ROOT / "models" / model).glob("[0-9]*"), key=lambda folder: int(folder.name))
    manifest = read(path)
    preprocessor = load_preprocessor(path, manifest.input)
    decoded = preprocessor.decode(item)
    return Twin((path / "model.onnx").read_bytes(), manifest).run(decoded), preprocessor.units(decoded)


@pytest.fixture(scope="module")
def digit() -> Inspection:
    return inspect("digits", (ROOT / "examples/seven.png").read_bytes())[0]


@pytest.fixture(scope="module")
def photo() -> Inspection:
    return inspect("cats-vs-dogs", (ROOT / "examples/cat.jpg").read_bytes())[0]


@pytest.fixture(scope="module")
def review() -> tuple[Inspection, list[str]]:
    return inspect("reviews", REVIEW)


def named(found: Inspection, name: str) -> Layer:
    layer = found.layer(name)
    assert layer is not None, [each.name for each in found.layers]
    return layer


def weights(layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights and the bias of a layer."""
    assert layer.weights is not None
    assert layer.bias is not None
    return torch.tensor(np.array(layer.weights.values)), torch.tensor(np.array(layer.bias.values))


def test_layers_have_the_names_and_the_arithmetic_of_the_recipe(digit: Inspection) -> None:
    """LeNet: its layers in order, with the shapes, parameters and formulas that can be worked out by hand."""
    shapes = {layer.name: layer.shape for layer in digit.layers}
    assert shapes == {
        "conv1": (16, 28, 28), "pool1": (16, 14, 14), "conv2": (32, 10, 10), "pool2": (32, 5, 5), "flatten1": (800,),
        "dense1": (60,), "dense2": (10,), "softmax1": (10,),
    }  # fmt: skip
    first, second = named(digit, "conv1"), named(digit, "conv2")
    assert first.formulas == ("OH = (28 + 2*2 - 5)/1 + 1 = 28", "16 x 1 x 5 x 5 weights + 16 biases = 416")
    assert (first.parameters, first.multiply_adds) == (416, 16 * 25 * 28 * 28)
    assert first.title == "conv 16, 5x5, padding 2, relu"
    assert (second.parameters, second.formulas[0]) == (32 * (16 * 25 + 1), "OH = (14 + 2*0 - 5)/1 + 1 = 10")
    assert [layer.position for layer in digit.layers] == [1, 2, 3, 4, 5, 6, 7, None]
    assert second.recipe["conv"] == 32
    assert named(digit, "node_Conv_45") is second


def test_rounding_is_shown(photo: Inspection) -> None:
    """AlexNet's first layers, whose stride does not divide: (96 + 6 - 7)/2 + 1 = 48.5."""
    assert named(photo, "conv1").formulas[0] == "OH = (96 + 2*3 - 7)/2 + 1 = 48.5, rounded down to 48"
    assert [layer.shape for layer in photo.layers[-6:]] == [(256, 5, 5), (256, 1, 1), (256,), (128,), (2,), (2,)]
    assert named(photo, "pool4").title == "global average pool"
    assert named(photo, "dense1").position == 12  # after a dropout, which the graph does not have


def test_values_are_those_of_the_network(digit: Inspection) -> None:
    """Each layer of LeNet, recomputed by torch from the values of the layer before it."""
    manifest = digit.manifest
    pixels = torch.tensor(digit.item.astype(np.float32)).permute(2, 0, 1)[None] / 255
    values = (pixels - manifest.recipe["input"]["mean"][0]) / manifest.recipe["input"]["std"][0]
    for name, padding in (("1", 2), ("2", 0)):
        values = F.relu(F.conv2d(values, *weights(named(digit, f"conv{name}")), padding=padding))
        assert np.allclose(digit.values(named(digit, f"conv{name}")), values[0], atol=1e-4)
        values = F.max_pool2d(values, 2)
        assert np.allclose(digit.values(named(digit, f"pool{name}")), values[0], atol=1e-4)
    values = F.relu(F.linear(values.flatten(1), *weights(named(digit, "dense1"))))
    logits = F.linear(values, *weights(named(digit, "dense2")))
    assert np.allclose(digit.values(named(digit, "dense2")), logits[0], atol=1e-3)
    assert np.allclose(digit.row, logits.softmax(1)[0], atol=1e-4)


@pytest.mark.parametrize("place", [(0, 0, 0), (3, 4, 5), (31, 9, 9)])
def test_a_cell_of_a_convolution_is_a_sum_of_products(digit: Inspection, place: tuple[int, ...]) -> None:
    """Inputs times weights, plus bias, and ReLU, give the value of the map; the inputs are those of pool1."""
    layer = named(digit, "conv2")
    found = inspection.cell(digit, layer, place, [])
    inputs, kernel = np.array(found["inputs"]), np.array(found["weights"])
    assert inputs.shape == kernel.shape == (16, 5, 5)
    before = digit.values(named(digit, "pool1"))[:, place[1] : place[1] + 5, place[2] : place[2] + 5]
    assert np.allclose(inputs, before, atol=1e-3)
    assert found["sum"] == pytest.approx((inputs * kernel).sum(), abs=5e-3)
    assert found["before_activation"] == pytest.approx(found["sum"] + found["bias"], abs=1e-3)
    assert found["value"] == pytest.approx(max(found["before_activation"], 0), abs=1e-3)
    assert found["value"] == pytest.approx(digit.values(layer)[place], abs=1e-3)


def test_cells_of_pools_and_dense_layers(digit: Inspection) -> None:
    """A pool's cell is the largest of its window; a unit is a sum of products, the largest of them first."""
    found = inspection.cell(digit, named(digit, "pool1"), (4, 6, 7), [])
    assert np.max(found["inputs"]) == pytest.approx(found["value"], abs=1e-3)
    unit = inspection.cell(digit, named(digit, "dense2"), (7,), [])
    assert unit["before_activation"] == pytest.approx(unit["value"], abs=1e-2)
    first, second = (abs(each["value"] * each["weight"]) for each in unit["largest"][:2])
    assert first >= second > 0
    with pytest.raises(ValueError, match="expected 3 numbers from 0, below 16, 14, 14"):
        inspection.cell(digit, named(digit, "pool1"), (16, 0, 0), [])


GRAPHS = {
    "padding and stride": (
        "a = Conv <pads = [2, 1, 2, 1], strides = [2, 1], kernel_shape = [5, 3]> (planes, w53) "
        "c = Relu (a) d = MaxPool <kernel_shape = [2, 3], strides = [2, 2]> (c) "
        "e = Conv <pads = [1, 1, 1, 1]> (d, w33)"
    ),
    "dilation": "a = Conv <dilations = [2, 3], pads = [2, 0, 2, 0]> (planes, w33) e = Conv (a, w33)",
    "same upper": 'a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (planes, w22) e = Conv (a, w33)',
    "same lower": 'a = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (planes, w22) e = Conv (a, w22)',
    "skip connection": (
        "a = Conv <pads = [1, 1, 1, 1]> (planes, w33) b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w33) "
        "d = Add (c, a) f = Relu (d) e = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (f)"
    ),
    "two paths": (
        "a = Conv <pads = [1, 1, 1, 1]> (planes, w33) b = Conv (planes, w11) c = Concat <axis = 1> (a, b) "
        "e = MaxPool <kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1> (c)"
    ),
    "a pad of its own": "b = Pad (planes, pads) e = Conv <strides = [2, 2]> (b, w33)",
}


def by_hand(body: str) -> tuple[Manifest, bytes]:
    """A graph over images uint8 (H, W, 1) whose tensor `e` is averaged into two probabilities."""
    random = np.random.default_rng(0)
    height, width = SIDES
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        g (uint8[N, {height}, {width}, 1] image) => (float[N, 2] probabilities) {{
            t = Cast <to = 1> (image) planes = Transpose <perm = [0, 3, 1, 2]> (t) {body}
            s = ReduceMean <keepdims = 0> (e, axes) r = Reshape (s, shape) l = Gemm <transB = 1> (r, dense)
            probabilities = Softmax <axis = 1> (l)
        }}"""
    )
    for name in ("w53", "w33", "w22", "w11"):
        values = random.uniform(0.1, 1, (1, 1, int(name[1]), int(name[2]))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for name, sizes in (("axes", [1, 2, 3]), ("shape", [-1, 1]), ("pads", [0, 0, 2, 1, 0, 0, 0, 1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([[1], [-1]], np.float32), "dense"))
    content = model.SerializeToString()
    described = read(ROOT / "models/digits/1").model_dump()
    described["input"] |= {"height": height, "width": width, "framing": "squash"}
    described |= {"labels": ["a", "b"], "recipe": {}}
    return Manifest.model_validate(described), content


@pytest.mark.parametrize("body", GRAPHS.values(), ids=GRAPHS)
def test_receptive_fields_are_what_cells_have_seen(body: str) -> None:
    """A pixel inside of a cell's field changes it, and no pixel outside of it does, for every cell of the last map."""
    manifest, content = by_hand(body)
    twin = Twin(content, manifest)
    pixels = np.random.default_rng(1).integers(20, 200, (*SIDES, 1), np.uint8)
    plain = twin.run(pixels)
    layer = next(each for each in plain.layers if each.output == "e" or "e" in each.node.outputs)
    assert layer.receptive is not None
    height, width = layer.shape[1:]
    is_max = "MaxPool" in body  # whose cells do not depend on every pixel
    changed = np.zeros((*SIDES, height, width), bool)
    for row in range(SIDES[0]):
        for column in range(SIDES[1]):
            other = pixels.copy()
            other[row, column] = 255
            changed[row, column] = (twin.run(other).values(layer) != plain.values(layer)).any(axis=0)
    for row in range(height):
        for column in range(width):
            saw = inspection.cell(plain, layer, (0, row, column), [])["saw"]
            inside = np.zeros(SIDES, bool)
            inside[saw["top"] : saw["bottom"], saw["left"] : saw["right"]] = True
            seen = changed[:, :, row, column]
            assert not (seen & ~inside).any(), (row, column, saw)
            rows, columns = np.nonzero(seen)
            if not is_max and "dilations" not in body:
                assert (rows.min(), rows.max() + 1) == (saw["top"], saw["bottom"])
                assert (columns.min(), columns.max() + 1) == (saw["left"], saw["right"])


def test_activations_norms_and_skips_belong_where_a_person_would_draw_them() -> None:
    """ReLU ends a layer, unless a skip starts before it; x * sigmoid(x) is swish; an added bias is its layer's."""
    manifest, content = by_hand(GRAPHS["skip connection"])
    layers = Twin(content, manifest).run(np.zeros((*SIDES, 1), np.uint8)).layers
    assert [(layer.name, layer.activation) for layer in layers] == [
        ("conv1", ""), ("activation1", ""), ("conv2", ""), ("sum1", "relu"), ("pool1", ""),
        ("dense1", ""), ("softmax1", ""),
    ]  # fmt: skip
    swish = "a = Conv (planes, w33) b = Add (a, dense1) c = Sigmoid (b) e = Mul (b, c)"
    manifest, content = by_hand(swish.replace("dense1", "w11"))
    first = Twin(content, manifest).run(np.zeros((*SIDES, 1), np.uint8)).layers[0]
    assert (first.activation, first.parameters, first.output) == ("swish", 10, "e")


def test_a_text_has_windows_over_its_tokens(review: tuple[Inspection, list[str]]) -> None:
    """Windows of 1, 2 and 3 tokens; the strongest position of a filter is that of its maximum over time."""
    found, units = review
    assert [layer.name for layer in found.layers] == [
        "embedding1", "windows1-1", "pool1", "windows1-2", "pool2", "windows1-3", "pool3", "concat1", "dense1",
        "softmax1",
    ]  # fmt: skip
    assert units[:3] == ["a", "warm", ","]
    report = inspection.report(found, units)
    assert (report["prediction"], report["input"]["tokens"]) == ("positive", units)
    for width in (1, 2, 3):
        layer = named(found, f"windows1-{width}")
        assert layer.title == f"windows of {width}, 128 filters, relu"
        values = found.values(layer)
        strongest = inspection.strongest(found, layer, units)
        for row in strongest:
            assert row["value"] == pytest.approx(values[row["filter"]].max(), rel=1e-3)
            assert row["text"] == " ".join(units[row["position"] : row["position"] + width])
        sizes = [abs(row["weight"]) for row in strongest]
        assert sizes == sorted(sizes, reverse=True)
    superb = inspection.strongest(found, named(found, "windows1-1"), units)
    assert any(row["text"] == "superb" and row["weight"] > 0 for row in superb)


def test_weights_of_filters_add_up_to_the_logits(review: tuple[Inspection, list[str]]) -> None:
    """Maximum and average over time, each times its weight, give the difference of the two logits of the network."""
    found, _ = review
    dense = named(found, "dense1")
    matrix, bias = (values.numpy() for values in weights(dense))
    total = bias[1] - bias[0]
    for width in (1, 2, 3):
        layer = named(found, f"windows1-{width}")
        offset = 256 * (width - 1)
        average = found.values(layer).mean(axis=1) @ (matrix[1] - matrix[0])[offset + 128 : offset + 256]
        every = inspection._weights_of_filters(found, layer)  # noqa: SLF001 -- all of them, not the strongest
        assert every is not None
        total += average + found.values(layer).max(axis=1) @ every
    logits = found.values(dense)
    assert total == pytest.approx(logits[1] - logits[0], abs=1e-3)


def test_the_report_is_json_of_finite_numbers(photo: Inspection) -> None:
    """Also where a graph gives values that JSON does not have."""
    text = json.dumps(inspection.report(photo, []), allow_nan=False)
    assert len(text) < 100_000
    assert inspection._short(np.float32("nan")) == 0.0  # noqa: SLF001


@pytest.mark.parametrize("name", ["conv1", "pool2", "dense1", "softmax1"])
def test_sheets_have_the_size_that_the_report_says(digit: Inspection, name: str) -> None:
    """A PNG of 256 colours, whose gaps are transparent; its brightest square is where the largest value is."""
    layer = named(digit, name)
    layout = inspection.describe(digit, layer, [])["sheet"]
    image = Image.open(io.BytesIO(inspection.sheet(digit, layer, "maps")))
    assert (image.mode, image.size) == ("P", (layout["width"], layout["height"]))
    values = sheets.as_maps(digit.values(layer)).reshape(-1, layout["map_height"], layout["map_width"])
    number, row, column = np.unravel_index(values.argmax(), values.shape)
    x = number % layout["columns"] * (layout["map_width"] * layout["zoom"] + layout["gap"]) + column * layout["zoom"]
    y = number // layout["columns"] * (layout["map_height"] * layout["zoom"] + layout["gap"]) + row * layout["zoom"]
    assert image.getpixel((int(x), int(y))) == 255
    if layout["columns"] > 1:
        assert image.getpixel((layout["map_width"] * layout["zoom"], 0)) == 0
        assert image.info["transparency"] == 0


def test_filters_are_drawn(digit: Inspection, photo: Inspection, review: tuple[Inspection, list[str]]) -> None:
    """Over grey values in two colours, over red, green and blue in colours; a pool has none."""
    drawn = [
        (found, name, inspection.sheet(found, named(found, name), "filters"))
        for found, name in ((digit, "conv1"), (digit, "conv2"), (photo, "conv1"), (review[0], "windows1-3"))
    ]
    for found, name, content in drawn:
        layout = inspection.describe(found, named(found, name), [])["filters"]
        image = Image.open(io.BytesIO(content))
        assert image.size == (layout["width"], layout["height"])
        assert image.mode == ("RGBA" if found is photo else "P")
    with pytest.raises(ValueError, match="pool1 has no filters to draw; these have: conv1, conv2"):
        inspection.sheet(digit, named(digit, "pool1"), "filters")


def test_large_sheets_leave_out_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that do not fit on a sheet are left out, and the layout says how many are on it."""
    monkeypatch.setattr(sheets, "MAX_PIXELS", 10_000)
    placed = sheets.layout(np.zeros((500, 20, 30)))
    assert placed.maps * 22 * 32 <= 10_000 < (placed.maps + 1) * 22 * 32
    width, height = placed.size
    assert Image.open(io.BytesIO(sheets.draw(np.ones((500, 20, 30))))).size == (width, height)


def test_outputs_are_added_without_the_package_onnx() -> None:
    """The bytes with further outputs are read by `onnx` as the same graph with these outputs; names of any length."""
    content = (ROOT / "models/digits/1/model.onnx").read_bytes()
    names = ["relu", "x" * 300, "größer"]
    extended = onnx.load_from_string(onnx_file.with_outputs(content, names))
    plain = onnx.load_from_string(content)
    assert [output.name for output in extended.graph.output] == ["probabilities", *names]
    assert extended.graph.node == plain.graph.node
    assert onnx_file.with_outputs(content, []) == content


@pytest.mark.parametrize(
    ("dtype", "is_raw"),
    [(dtype, True) for dtype in ("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")]
    + [(dtype, False) for dtype in ("float32", "int64", "int32", "int8", "uint8", "bool")],
)
def test_stored_tensors_are_read_as_onnx_reads_them(dtype: str, is_raw: bool) -> None:
    """Values in raw bytes and in lists, of every type that is read here."""
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    if np.dtype(dtype).kind in "if":
        values = -values
    content = values.tobytes() if is_raw else values.ravel().tolist()
    tensor = helper.make_tensor("t", helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, content, raw=is_raw)
    stored = onnx_file.Constant(memoryview(tensor.SerializeToString())).values
    assert stored is not None
    assert stored.tolist() == numpy_helper.to_array(tensor).tolist() == values.tolist()


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with more values than fit, and bytes that are not a graph, are refused in words."""
    manifest, content = by_hand(GRAPHS["dilation"])
    monkeypatch.setattr("contract.twin.MAX_VALUES", 100)
    with pytest.raises(NotInspectable, match="values \\(maximum 100\\)"):
        Twin(content, manifest)
    with pytest.raises(NotInspectable, match="digits"):
        Twin(content[:200], manifest)
