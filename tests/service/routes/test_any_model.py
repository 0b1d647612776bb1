"""The service takes any model: names and labels in any script, two classes or a thousand, any side up to the bound."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from contract import batches, manifest
from contract.manifest import Manifest
from contract.session import Session
from contract.spec import ImageInput
from tests.drawing import encode
from tests.serving import client

GRAPH = """
    <ir_version: 8, opset_import: ["" : 17]>
    any (uint8[N, {height}, {width}, 3] image) => (float[N, {classes}] probabilities)
{{
        values = Cast <to = 1> (image)
        means = ReduceMean <axes = [1, 2], keepdims = 0> (values)
        logits = MatMul (means, weights)
        probabilities = Softmax <axis = 1> (logits)
    }}
"""


def publish(models: Path, name: str, labels: list[str], height: int, width: int) -> None:
    """Write models/NAME/1: a random network over the mean of each channel."""
    folder = models / name / "1"
    folder.mkdir(parents=True)
    graph = parser.parse_model(GRAPH.format(height=height, width=width, classes=len(labels)))
    weights = np.random.default_rng(0).normal(0, 0.01, (3, len(labels))).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    onnx.save(graph, folder / manifest.GRAPH)
    (folder / manifest.CARD).write_text(f"# {name}\n", encoding="utf-8")
    fields: dict[str, Any] = {
        "model": name,
        "version": 1,
        "input": ImageInput(height=height, width=width, mode="RGB", framing="squash"),
        "labels": labels,
        "preprocessing_version": manifest.PREPROCESSING_VERSION,
        "max_batch": 2,
        "temperature": 1.0,
        "test_metrics": {},
        "dataset": "unknown",
        "dataset_fingerprint": "unknown",
        "recipe": {},
        "parameters": 1,
        "commit": "none",
        "created": "2026-01-01T00:00:00+00:00",
        "files": {manifest.GRAPH: "0" * 64},
    }
    session = Session(folder / manifest.GRAPH, Manifest(**fields), provider="cpu")
    inputs = batches.random(fields["input"], 1)
    np.savez(folder / manifest.GOLDEN, inputs=inputs, probabilities=session.run(inputs))
    files = {file: manifest.sha256(folder / file) for file in (manifest.GRAPH, manifest.CARD, manifest.GOLDEN)}
    Manifest(**{**fields, "files": files}).write(folder)


@pytest.mark.parametrize(
    ("name", "count", "height", "width"),
    [("Blüten_2.0", 2, 9, 30), ("猫と犬", 1000, 32, 16), ("2024-рентген", 21, 4096, 8)],
)
def test_any_name_number_of_labels_and_side_is_served(
    name: str, count: int, height: int, width: int, tmp_path: Path
) -> None:
    """The model is listed, described and answers under its name, and a prediction has at most ten scores by default."""
    labels = [f"{number}: ü 犬 \U0001f431" for number in range(count)]
    publish(tmp_path, name, labels, height, width)
    call = client(models=tmp_path)
    assert [model["name"] for model in call("GET", "/models").json()["models"]] == [name]
    assert call("GET", f"/models/{quote(name)}").json()["labels"] == labels
    image = encode(Image.linear_gradient("L").convert("RGB"))
    response = call("POST", f"/classify/{quote(name)}", content=image, headers={"content-type": "image/png"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == name
    assert len(answer["predictions"][0]["scores"]) == (10 if count > 20 else count)
    assert answer.get("labels") == (count if count > 20 else None)
    assert {answer["predictions"][0]["label"]} <= {*labels}
    assert len(response.content) < 1000
    tensors = call("GET", f"/v2/models/{quote(name)}").json()
    assert json.dumps(name) in json.dumps(tensors)
