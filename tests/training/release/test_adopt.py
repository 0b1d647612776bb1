"""ONNX classifiers made elsewhere, adopted: by torch, in scikit-learn's operators, and by hand."""

import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser
from PIL import Image
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from torch import nn

from contract import manifest as contract
from tests import reviews
from tests.serving import client
from training.__main__ import main

LABELS = ["dark blue", "dark red", "hell blau", "hell rot ä"]
"""Of the images: dark or bright by green, blue or red."""
SIDES = 12, 20
"""Height and width."""


def pixels(label: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image of a label: uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    bright, red = divmod(label, 2)
    means = np.array([170 if red else 60, 190 if bright else 60, 60 if red else 170])
    return np.clip(random.normal(means, 25, (*SIDES, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with a subfolder for each label, and one file that is not an image."""
    folder = tmp_path_factory.mktemp("examples")
    for place, label in enumerate(LABELS):
        (folder / label).mkdir()
        for seed in range(20):
            Image.fromarray(pixels(place, 4 * seed + place)).save(folder / label / f"{seed}.png")
    (folder / LABELS[0] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


class Colours(nn.Module):
    """A network that is right on pixels from 0 to 1 in the order red, green, blue, and on no others."""

    def __init__(self, scores: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.dense = nn.Linear(3, 4)
        self.scores = scores or nn.Identity()
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[range(3), range(3), 1, 1] = 1.0
            self.conv.bias.zero_()  # type: ignore[union-attr]
            self.dense.weight.copy_(torch.tensor([[-5.0, -9, 5], [5, -9, -5], [-5, 9, 5], [5, 9, -5]]))
            self.dense.bias.copy_(torch.tensor([4.5, 4.5, -4.5, -4.5]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float (N, 3, H, W) -> scores (N, 4)."""
        scores: torch.Tensor = self.scores(self.dense(self.conv(images).mean((2, 3))))
        return scores


def export(path: Path, network: nn.Module, *, batch: int | None = None) -> Path:
    """Write a network as torch exports it; `batch` fixes the number of items."""
    shape = None if batch else {"images": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(), (torch.zeros(batch or 2, 3, *SIDES),), dynamo=True, dynamic_shapes=shape, verbose=False
        )
    assert program is not None
    program.save(str(path), external_data=True)
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Colours`, with logits, exported by torch."""
    return export(tmp_path_factory.mktemp("torch") / "Colours Net.onnx", Colours())


def adopt(*arguments: object) -> int:
    """Run the command."""
    return main(["adopt", *map(str, arguments)])


def answers(models: Path, name: str) -> dict[str, str]:
    """What the service answers for an image of each label, also layer by layer."""
    call = client(models=models)
    found = {}
    for place, label in enumerate(LABELS):
        path = models / f"{place}.bmp"
        Image.fromarray(pixels(place, 1000 + place)).save(path)
        response = call("POST", f"/classify/{name}", content=path.read_bytes())
        inspected = call("POST", f"/inspect/{name}", content=path.read_bytes())
        path.unlink()
        assert response.status_code == 200, response.text
        found[label] = response.json()["predictions"][0]["label"]
        assert inspected.json()["prediction"] == found[label], inspected.text
    return found


RIGHT = {label: label for label in LABELS}


def test_examples_decide_about_a_network_of_torch(
    colours: Path, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every plausible scale and order of colours is tried and shown, and the service answers with the best."""
    assert adopt(colours, "--examples", examples, "--models", tmp_path) == 0
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if line.startswith("  ") and "of 40" in line]
    assert len(table) == 10
    assert table[0].split("  ")[1].strip() == "0 to 1, RGB"
    assert "chosen" in table[0]
    assert any("0 to 255, BGR" in line for line in table)
    manifest = contract.read(tmp_path / "colours-net/1")
    assert manifest.labels == LABELS
    assert manifest.test_metrics["examples"].n == 40
    assert manifest.test_metrics["examples"].accuracy == 1
    assert manifest.temperature != 1
    assert manifest.recipe["input"]["scale"] == pytest.approx(1 / 255)
    assert answers(tmp_path, "colours-net") == RIGHT
    card = (tmp_path / "colours-net/1/card.md").read_text(encoding="utf-8")
    assert "broken.png" in card
    assert "## Unknown" in card


def test_without_examples_the_scale_must_be_stated(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A float input needs --scale; nothing is written without it, and with it the card says what is unknown."""
    arguments = (colours, "--models", tmp_path, "--name", "farben-ü", "--labels", ",".join(LABELS))
    assert adopt(*arguments) == 2
    assert "--scale" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    assert adopt(*arguments, "--scale", "1/255") == 0
    manifest = contract.read(tmp_path / "farben-ü/1")
    assert (manifest.test_metrics, manifest.dataset) == ({}, "unknown")
    assert "the accuracy is unknown" in (tmp_path / "farben-ü/1/card.md").read_text(encoding="utf-8")
    assert answers(tmp_path, "farben-ü") == RIGHT


def test_a_wrong_scale_is_reported_beside_the_right_one(
    colours: Path, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is stated is not overruled, but a setting that is significantly better is named."""
    assert adopt(colours, "--examples", examples, "--models", tmp_path, "--scale", "1", "--mode", "BGR", "--force") == 0
    shown = capsys.readouterr().out
    assert "'0 to 1, RGB' on 100.00%" in shown
    assert contract.read(tmp_path / "colours-net/1").recipe["input"]["scale"] == 1


def by_hand(inputs: str, body: str, outputs: str = "float[N, 4] s", *, weights: bool = True) -> onnx.ModelProto:
    """A graph in ONNX's text form whose input is `x`, from pixels in the order red, green, blue."""
    dense = (
        "<float[3, 4] w = {-5, 5, -5, 5, -9, -9, 9, 9, 5, -5, 5, -5}, float[4] b = {4.5, 4.5, -4.5, -4.5},"
        " float byte = {255}, int64[2] pixels = {1, 2}, int64[2] last = {2, 3}, int64[3] split = {12, 20, 3}>"
    )
    model: onnx.ModelProto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g ({inputs}) => ({outputs}) {dense if weights else ""} {{ {body} }}'
    )
    return model


DENSE = "h = MatMul (m, w)  s = Add (h, b)"
MADE: dict[str, tuple[onnx.ModelProto, list[str]]] = {
    "bytes, (N, H, W, C), probabilities": (
        by_hand(
            "uint8[N, 12, 20, 3] x",
            "f = Cast <to = 1> (x) g = Div (f, byte) m = ReduceMean <keepdims = 0> (g, pixels)"
            "h = MatMul (m, w) l = Add (h, b) s = Softmax (l)",
        ),
        [],
    ),
    "double, one at a time": (
        by_hand(
            "double[1, 3, 12, 20] x",
            "f = Cast <to = 1> (x) m = ReduceMean <keepdims = 0> (f, last)" + DENSE,
            "float[1, 4] s",
        ),
        ["--scale", "1/255"],
    ),
    "int32, rank 3 without items": (
        by_hand(
            "int32[12, 20, 3] x",
            "f = Cast <to = 1> (x) g = Div (f, byte) m = ReduceMean <keepdims = 0> (g, zero)" + DENSE,
            "float[4] s",
        ),
        [],
    ),
    "any size, float16, scores of four axes": (
        by_hand(
            "float16[N, 3, H, W] x",
            "f = Cast <to = 1> (x) m = ReduceMean <keepdims = 0> (f, last) h = MatMul (m, w)  l = Add (h, b)"
            "s = Unsqueeze (l, last)",
            "float[N, 4, 1, 1] s",
        ),
        ["--scale", "1/255", "--size", "12x20"],
    ),
}
MADE["int32, rank 3 without items"][0].graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), "zero"))


@pytest.mark.parametrize("kind", MADE)
def test_graphs_of_many_forms_are_adopted(kind: str, tmp_path: Path) -> None:
    """Layout, type, axes and number of items are read from the graph, and the service answers right."""
    model, arguments = MADE[kind]
    onnx.save(model, tmp_path / "net.onnx")
    models = tmp_path / "models"
    assert adopt(tmp_path / "net.onnx", "--labels", ",".join(LABELS), "--models", models, *arguments) == 0
    assert answers(models, "net") == RIGHT


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_number_of_items_is_opened_or_kept(batch: int, tmp_path: Path) -> None:
    """Reshapes to a fixed number of items are changed; the answers stay, whatever the number of images."""
    shape = numpy_helper.from_array(np.array([batch, -1]), "shape")
    mixed = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[{batch}, 3, 12, 20] x) => (float[{batch}, 4] s)'
        " <float[3, 4] w = {-5, 5, -5, 5, -9, -9, 9, 9, 5, -5, 5, -5}, float[4] b = {4.5, 4.5, -4.5, -4.5},"
        " int64[2] last = {2, 3}> { p = ReduceMean <keepdims = 1> (x, last) m = Reshape (p, shape)"
        f" {DENSE} }}"
    )
    mixed.graph.initializer.append(shape)
    onnx.save(mixed, tmp_path / "net.onnx")
    arguments = ("--labels", ",".join(LABELS), "--models", tmp_path / "models", "--scale", "0..1")
    assert adopt(tmp_path / "net.onnx", *arguments) == 0
    assert contract.read(tmp_path / "models/net/1").max_batch == 256
    assert answers(tmp_path / "models", "net") == RIGHT


def by_scikit_learn(*, zipmap: bool) -> onnx.ModelProto:
    """A logistic regression over 8 x 8 grey values from 0 to 16, written by skl2onnx."""
    random = np.random.default_rng(1)
    means = np.repeat([5.6, 10.4], 30)[:, None]
    values = np.clip(random.normal(means, 1.9, (60, 64)), 0, 16).astype(np.float32)
    model = LogisticRegression(max_iter=1000).fit(values, np.repeat(["night", "day"], 30))
    graph: onnx.ModelProto = to_onnx(model, values[:1], options={"zipmap": zipmap}, target_opset=17)
    return graph


def test_a_classifier_of_scikit_learn_is_adopted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its labels are those that the graph names, its size follows from the values, and 0 to 16 is a setting."""
    onnx.save(by_scikit_learn(zipmap=False), tmp_path / "sky.onnx")
    random = np.random.default_rng(0)
    for label, mean in (("night", 90), ("day", 165)):
        (tmp_path / "sky" / label).mkdir(parents=True)
        for place in range(10):
            image = np.clip(random.normal(mean, 30, (32, 32)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "sky" / label / f"{place}.png")
    assert adopt(tmp_path / "sky.onnx", "--examples", tmp_path / "sky", "--models", tmp_path / "models") == 0
    assert "0 to 16" in capsys.readouterr().out
    manifest = contract.read(tmp_path / "models/sky/1")
    assert manifest.labels == ["day", "night"]
    assert manifest.recipe["input"]["scale"] == pytest.approx(16 / 255)
    assert manifest.test_metrics["examples"].accuracy == 1


@pytest.mark.parametrize("is_probability", [True, False])
def test_one_score_is_the_second_label(is_probability: bool, tmp_path: Path) -> None:
    """A score from a sigmoid is the probability of the second label; one without needs a sigmoid (--softmax yes)."""
    model = by_hand(
        "float[N, 12, 20, 3] x",
        "m = ReduceMean <keepdims = 0> (x, pixels) h = MatMul (m, red)"
        + ("s = Sigmoid (h)" if is_probability else "s = Identity (h)"),
        "float[N, 1] s",
        weights=True,
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([[9], [0], [-9]], np.float32), "red"))
    onnx.save(model, tmp_path / "net.onnx")
    models = tmp_path / "models"
    options = [] if is_probability else ["--softmax", "yes"]
    arguments = ("--labels", "blue,red", "--models", models, "--scale", "1/255", *options)
    assert adopt(tmp_path / "net.onnx", *arguments) == 0
    assert contract.read(models / "net/1").recipe["output"]["scores"] == ("score" if is_probability else "logit")
    assert {label[-3:]: answer for label, answer in answers(models, "net").items() if "dark" in label} == {
        "lue": "blue",
        "red": "red",
    }


def test_weights_in_a_file_of_their_own_are_taken_over(tmp_path: Path) -> None:
    """The version holds them in its graph, so that the files that were adopted can go."""
    in_two_files(tmp_path)
    assert (tmp_path / "net.data").stat().st_size > 0
    arguments = ("--labels", ",".join(LABELS), "--models", tmp_path / "models", "--scale", "1/255")
    assert adopt(tmp_path / "net.onnx", *arguments) == 0
    for path in tmp_path.glob("net.*"):
        path.unlink()
    assert answers(tmp_path / "models", "net") == RIGHT


@pytest.mark.parametrize(("framing", "label"), [("pad", "bars"), ("squash", "full")])
def test_padding_keeps_the_aspect(framing: str, label: str, tmp_path: Path) -> None:
    """A bright image that is higher than the input has black bars at its sides, unless it is squashed."""
    model = by_hand(
        "float[N, 3, 12, 20] x",
        "p = ReduceMean <keepdims = 0> (x, channels) c = ReduceMean <keepdims = 0> (p, one) s = MatMul (c, edges)",
        "float[N, 2] s",
    )
    edges = np.zeros((20, 2), np.float32)
    edges[0], edges[10] = (-9, 9), (4, -4)
    for name, values in (("edges", edges), ("channels", np.array([1])), ("one", np.array([1]))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "net.onnx")
    arguments = ("--labels", "bars,full", "--models", tmp_path, "--scale", "1/255", "--framing", framing)
    assert adopt(tmp_path / "net.onnx", *arguments) == 0
    assert contract.read(tmp_path / "net/1").input.framing == framing  # type: ignore[union-attr]
    Image.fromarray(np.random.default_rng(0).integers(200, 255, (48, 24, 3), np.uint8)).save(tmp_path / "high.png")
    response = client(models=tmp_path)("POST", "/classify/net", content=(tmp_path / "high.png").read_bytes())
    assert response.json()["predictions"][0]["label"] == label


def by_keras(last: str) -> onnx.ModelProto:
    """A graph as `keras.Model.export(format="onnx")` (tf2onnx 1.17) writes it: its operators, names and opset.

    Rescaling is a part of it, so that it takes pixels from 0 to 255; images are NHWC and are transposed.
    """
    bright = np.zeros((3, 3, 3, 3), np.float32)
    bright[range(3), range(3), 1, 1] = 1
    one = last == "Sigmoid"
    dense = [[9], [0], [-9]] if one else [[-5, 5, -5, 5], [-9, -9, 9, 9], [5, -5, 5, -5]]
    weights = {
        "sequential/rescaling/Cast/x:0": np.float32(1 / 255),
        "sequential/rescaling/Cast_1:0": np.float32(0),
        "sequential/conv2d/convolution/ReadVariableOp:0": bright,
        "sequential/conv2d/Squeeze:0": np.zeros(3, np.float32),
        "const_axes__25": np.array([2, 3]),
        "sequential/dense/Cast/ReadVariableOp:0": np.array(dense, np.float32),
        "sequential/dense/BiasAdd/ReadVariableOp:0": np.array([0] if one else [4.5, 4.5, -4.5, -4.5], np.float32),
    }
    scale, shift, kernel, bias, axes, matrix, offset = weights
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Mul", [scale], {}),
        ("Add", [shift], {}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Conv", [kernel, bias], {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "group": 1}),
        ("Relu", [], {}),
        ("GlobalAveragePool", [], {}),
        ("Squeeze", [axes], {}),
        ("MatMul", [matrix], {}),
        ("Add", [offset], {}),
        (last, [], {}),
    ]
    nodes, value = [], "keras_tensor"
    for place, (operator, inputs, attributes) in enumerate(steps):
        output = "Identity:0" if operator == last else f"sequential/{operator.lower()}_{place}:0"
        nodes.append(helper.make_node(operator, [value, *inputs], [output], name=output[:-2], **attributes))
        value = output
    classes = len(dense[0])
    graph = helper.make_graph(
        nodes,
        "tf2onnx",
        [helper.make_tensor_value_info("keras_tensor", onnx.TensorProto.FLOAT, ["unk__82", *SIDES, 3])],
        [helper.make_tensor_value_info("Identity:0", onnx.TensorProto.FLOAT, ["unk__83", classes])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 2)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tf2onnx")
    return model


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_a_network_of_keras_is_adopted(last: str, examples: Path, tmp_path: Path) -> None:
    """Its rescaling is found by examples, and each kind of last layer by what it gives."""
    onnx.save(by_keras(last), tmp_path / "net.onnx")
    models, kinds = tmp_path / "models", LABELS
    if last == "Sigmoid":
        kinds, examples = ["dark blue", "dark red"], shutil.copytree(examples, tmp_path / "examples")
        for label in LABELS[2:]:
            shutil.rmtree(examples / label)
    assert adopt(tmp_path / "net.onnx", "--examples", examples, "--models", models) == 0
    version = contract.read(models / "net/1")
    assert (version.labels, version.recipe["input"]["scale"], version.recipe["input"]["layout"]) == (kinds, 1, "nhwc")
    assert version.test_metrics["examples"].accuracy == 1
    found = answers(models, "net")
    assert {label: found[label] for label in kinds} == {label: label for label in kinds}


def weak(favourite: int) -> onnx.ModelProto:
    """A network that is right about two of the four labels, and names one of them for all others, too."""
    model = by_hand(
        "uint8[N, 12, 20, 3] x",
        "f = Cast <to = 1> (x) g = Div (f, byte) m = ReduceMean <keepdims = 0> (g, pixels) h = MatMul (m, w)"
        "l = Add (h, b) s = Mul (l, only)",
    )
    only = np.array([1 if place in {favourite, 1} else 0 for place in range(4)], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(only, "only"))
    return model


def test_a_version_that_is_worse_in_the_metric_of_the_one_in_service_is_refused(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gate of the version in service decides: by accuracy the next one is worse, by the recall of a label not."""
    models = tmp_path / "models"
    onnx.save(MADE["bytes, (N, H, W, C), probabilities"][0], tmp_path / "net.onnx")
    onnx.save(weak(0), tmp_path / "weak.onnx")
    arguments = ("--examples", examples, "--models", models, "--name", "net")
    assert adopt(tmp_path / "net.onnx", *arguments) == 0
    assert adopt(tmp_path / "weak.onnx", *arguments) == 2
    shown = capsys.readouterr().err
    assert "significantly worse: all examples: accuracy" in shown
    assert "version 1 has 100.00%" in shown
    assert [path.name for path in (models / "net").iterdir()] == ["1"]
    manifest = contract.read(models / "net/1")
    gate = {"metric": "recall", "label": LABELS[1]}
    manifest.model_copy(update={"recipe": {**manifest.recipe, "gate": gate}}).write(models / "net/1")
    assert adopt(tmp_path / "weak.onnx", *arguments) == 0
    card = (models / "net/2/card.md").read_text(encoding="utf-8")
    assert "recall of 'dark red' 100.00%" in " ".join(card.split())


def test_an_adopted_version_is_measured_on_examples(
    colours: Path, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate` says that no test split is known, and measures the version on examples."""
    arguments = ("--models", tmp_path, "--labels", ",".join(LABELS), "--scale", "1/255")
    assert adopt(colours, *arguments) == 0
    version = str(tmp_path / "colours-net/1")
    assert main(["evaluate", version]) == 2
    assert f"evaluate {version} --examples FOLDER" in capsys.readouterr().err
    assert main(["evaluate", version, "--examples", str(examples)]) == 0
    shown = capsys.readouterr()
    assert "(0 of 80 wrong)" in shown.out
    assert "broken.png" in shown.err


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_folder_of_models_that_cannot_be_written_is_named(
    call: str, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the folder and the cause, and nothing stays behind."""

    def refuse(path: Any, *_arguments: Any, **_keywords: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    (tmp_path / "models").mkdir()
    monkeypatch.setattr(os, call, refuse)
    arguments = ("--models", tmp_path / "models", "--labels", ",".join(LABELS), "--scale", "1/255")
    assert adopt(colours, *arguments) == 2
    monkeypatch.undo()
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'models' / 'colours-net'}: the version cannot be written" in shown
    assert "Read-only file system" in shown
    assert not list((tmp_path / "models").iterdir())


TOKENS = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (int64[N, L] input_ids, int64[N, L] attention_mask) => (float[N, 2] logits)
    <float[8, 1] weights = {9, 9, 0, 0.1, 0.4, 0.1, -0.4, -0.7}, float[1, 2] signs = {-1, 1}, int64[1] last = {2},
     int64[1] along = {1}> {
        mask = Cast <to = 1> (attention_mask)
        wide = Unsqueeze (mask, last)
        gathered = Gather (weights, input_ids)
        masked = Mul (gathered, wide)
        total = ReduceSum <keepdims = 0> (masked, along)
        logits = MatMul (total, signs)
    }
"""


def test_a_text_model_is_adopted_with_its_tokenizer(tmp_path: Path) -> None:
    """Inputs are told apart by their names; id 0 is a word of the tokenizer, and padding has another id."""
    words = {"first": 0, "[PAD]": 1, "[UNK]": 2, "film": 3, "good": 4, "fine": 5, "bad": 6, "awful": 7}
    tokenizer = reviews.tokenizer()
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] = words
    content["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    onnx.save(parser.parse_model(TOKENS), tmp_path / "moods.onnx")
    (tmp_path / "moods.csv").write_text("text,label\ngood film,up\nawful film,down\n", encoding="utf-8")
    arguments = ("--tokenizer", tmp_path / "tokenizer.json", "--labels", "down,up", "--models", tmp_path / "models")
    assert adopt(tmp_path / "moods.onnx", *arguments, "--examples", tmp_path / "moods.csv") == 0
    manifest = contract.read(tmp_path / "models/moods/1")
    assert manifest.test_metrics["examples"].accuracy == 1
    texts = ["awful film film film film film film", "good", "first good", "good good good film film fine bad"]
    found = client(models=tmp_path / "models")("POST", "/classify/moods", json={"texts": texts}).json()["predictions"]
    alone = [
        client(models=tmp_path / "models")("POST", "/classify/moods", json={"texts": [text]}).json()["predictions"][0]
        for text in texts
    ]
    assert found == alone
    assert [each["label"] for each in found] == ["down", "up", "up", "up"]
    inspected = client(models=tmp_path / "models")("POST", "/inspect/moods", json={"texts": texts[2:3]}).json()
    assert (inspected["prediction"], inspected["input"]["tokens"]) == ("up", ["first", "good"])


LAST = """
    <ir_version: 8, opset_import: ["" : 17]> g (int64[N, 6] ids) => (float[N, 2] logits)
    <float[8, 1] weights = {0, 0, 0, 0.1, 3, 2, -2, -3}, float[1, 2] signs = {-1, 1},
     float[6, 1] places = {0, 0, 0, 0.1, 0.3, 1}> {
        gathered = Gather (weights, ids)  weighted = Mul (gathered, places)
        total = ReduceSum <keepdims = 0> (weighted, along)  logits = MatMul (total, signs)
    }
"""


@pytest.mark.parametrize("said_by", ["option", "tokenizer", "examples", "nothing"])
def test_padding_on_the_left_is_told_apart(said_by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that weighs the last places most, as Keras's with pad_sequences, needs padding before the text."""
    model = parser.parse_model(LAST)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "along"))
    onnx.save(model, tmp_path / "moods.onnx")
    content = json.loads(reviews.tokenizer().to_str())
    content["model"]["vocab"] = {
        "[PAD]": 0,
        "[UNK]": 1,
        "the": 2,
        "film": 3,
        "good": 4,
        "fine": 5,
        "bad": 6,
        "awful": 7,
    }
    if said_by == "tokenizer":
        content["padding"] = {
            "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "[PAD]",
        }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    rows = [
        "text,label",
        "bad good,up",
        "good bad,down",
        "awful fine,up",
        "fine awful,down",
        "bad fine,up",
        "fine bad,down",
    ]
    (tmp_path / "moods.csv").write_text("\n".join(rows), encoding="utf-8")
    more: dict[str, list[str | Path]] = {
        "option": ["--padding", "left"],
        "examples": ["--examples", tmp_path / "moods.csv", "--force"],
    }
    arguments = ("--tokenizer", tmp_path / "tokenizer.json", "--labels", "down,up", "--models", tmp_path / "models")
    assert adopt(tmp_path / "moods.onnx", *arguments, *more.get(said_by, [])) == 0
    is_left = said_by != "nothing"
    assert contract.read(tmp_path / "models/moods/1").recipe["input"]["padding"] == ("left" if is_left else "right")
    assert is_left or "--padding left" in capsys.readouterr().out
    texts = ["bad good", "good bad", "the awful fine", "fine"]
    found = client(models=tmp_path / "models")("POST", "/classify/moods", json={"texts": texts}).json()["predictions"]
    if is_left:
        assert [each["label"] for each in found] == ["up", "down", "up", "up"]
        assert found[3]["score"] > 0.95


def test_a_condition_that_never_changes_is_removed(tmp_path: Path) -> None:
    """Exporters leave `If` behind where the condition follows from the shape."""
    model = by_hand(
        "float[N, 3, 12, 20] x",
        "m = ReduceMean <keepdims = 0> (x, last) h = MatMul (m, w) i = If (yes) <then_branch = t () => (float[N, 4] a)"
        " { a = Add (h, b) }, else_branch = e () => (float[N, 4] c) { c = Sub (h, b) }> s = Identity (i)",
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    onnx.save(model, tmp_path / "net.onnx")
    arguments = ("--labels", ",".join(LABELS), "--models", tmp_path / "models", "--scale", "0..1")
    assert adopt(tmp_path / "net.onnx", *arguments) == 0
    assert answers(tmp_path / "models", "net") == RIGHT


def with_operator(name: str) -> onnx.ModelProto:
    """A graph with an operator that the service does not run."""
    model = by_hand("float[N, 3, 12, 20] x", "y = Identity (x) m = ReduceMean <keepdims = 0> (y, last)" + DENSE)
    model.graph.node[0].op_type = name
    return model


def broken_labels() -> onnx.ModelProto:
    """A graph that gives nothing but the number of a label."""
    return by_hand("float[N, 3, 12, 20] x", "f = Flatten (x) s = ArgMax <axis = 1, keepdims = 0> (f)", "int64[N] s")


def with_custom() -> onnx.ModelProto:
    """A graph with an operator of a runtime."""
    model = by_hand("float[N, 3, 12, 20] x", "m = ReduceMean <keepdims = 0> (x, last)" + DENSE)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def of_strings() -> onnx.ModelProto:
    """A graph that takes strings, and needs a locale."""
    return by_hand(
        "string[N, 1] x",
        'n = StringNormalizer <locale = "tr_TR", case_change_action = "LOWER"> (x) s = Cast <to = 1> (n)',
        "float[N, 1] s",
    )


def in_two_files(folder: Path) -> None:
    """A graph whose weights are in a file of their own, net.data."""
    model = by_hand("float[N, 3, 12, 20] x", "m = ReduceMean <keepdims = 0> (x, last)" + DENSE)
    weights = [numpy_helper.from_array(numpy_helper.to_array(each), each.name) for each in model.graph.initializer]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(weights)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str, list[str]]] = {
    "maps": (lambda: by_scikit_learn(zipmap=True), "zipmap", []),
    "labels alone": (broken_labels, "no output of scores", []),
    "a custom operator": (with_custom, "com.microsoft.ReduceMean", ["--scale", "1"]),
    "resizing": (lambda: with_operator("Resize"), "the service resizes images itself", ["--scale", "1"]),
    "a loop": (lambda: with_operator("Loop"), "without loops and conditions", ["--scale", "1"]),
    "strings": (of_strings, "strings", []),
    "a video": (lambda: by_hand("float[N, 3, 9, 12, 20] x", "s = Flatten (x)"), "5 axes", []),
    "two inputs": (lambda: by_hand("float[N, 3] x, float[N, 3] y", "s = Add (x, y)"), "2: x (float [?, 3])", []),
    "any size": (lambda: by_hand("float[N, 3, H, W] x", "s = Flatten (x)"), "--size", []),
    "two channels": (lambda: by_hand("float[N, 2, 9, 9] x", "s = Flatten (x)"), "1 or 3 channels", []),
    "a scale above 1": (MADE["double, one at a time"][0].__deepcopy__, "--scale 255", ["--scale", "255"]),
    "a mean outside": (
        MADE["double, one at a time"][0].__deepcopy__,
        "lies in that range",
        ["--scale", "1/255", "--mean", "123"],
    ),
    "a side above the bound": (
        lambda: by_hand("float[N, 3, 5000, 20] x", "s = Flatten (x)"),
        "4096",
        ["--scale", "1"],
    ),
    "another framing": (
        MADE["double, one at a time"][0].__deepcopy__,
        "28 x 28",
        ["--scale", "1", "--framing", "mnist"],
    ),
    "a name for no URL": (MADE["double, one at a time"][0].__deepcopy__, "--name 'a/b'", ["--name", "a/b"]),
    "too few labels": (MADE["double, one at a time"][0].__deepcopy__, "2 labels", ["--scale", "1", "--labels", "a,b"]),
    "another size": (
        MADE["double, one at a time"][0].__deepcopy__,
        "12 x 20",
        ["--size", "20x12", "--scale", "1"],
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_adopted_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says what to do, and nothing is written."""
    make, fact, arguments = REFUSED[kind]
    onnx.save(make(), tmp_path / "net.onnx")
    assert adopt(tmp_path / "net.onnx", "--labels", ",".join(LABELS), "--models", tmp_path / "m", *arguments) == 2
    assert fact in capsys.readouterr().err
    assert not [*tmp_path.glob("m/*")]


def test_missing_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file that is missing is named."""
    in_two_files(tmp_path)
    (tmp_path / "net.data").unlink()
    assert adopt(tmp_path / "net.onnx", "--labels", ",".join(LABELS), "--scale", "1") == 2
    assert "net.data" in capsys.readouterr().err
