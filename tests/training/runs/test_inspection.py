"""The description of a run and of a published version, and which folders are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contract.manifest import CARD, GOLDEN, GRAPH, MANIFEST, PREPROCESSING_VERSION, Manifest, Metrics, Variant, sha256
from contract.spec import TOKENIZER, ImageInput, TextInput
from training.errors import PublishError, RunError
from training.fit import checkpoint
from training.recipe.schema import Recipe
from training.runs import inspection, record

WEIGHTS = np.array([[0.5, 0.0, -1.5], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -2.0]], np.float32)


def graph() -> onnx.ModelProto:
    """`image` uint8 (N, 2, 2, 1) -> `probabilities` float32 (N, 3): one dense layer."""
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense.weight", "dense.bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 2, 2, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(WEIGHTS, "dense.weight"),
            numpy_helper.from_array(np.zeros(3, np.float32), "dense.bias"),
            numpy_helper.from_array(np.array(0.1, np.float32), "epsilon"),
            numpy_helper.from_array(np.array([1, -1]), "shape"),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], producer_name="by hand")


FILES = (GRAPH, CARD, TOKENIZER, GOLDEN)


def publish(folder: Path, **changes: Any) -> Path:
    """A version's folder with that graph, and changes to its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(), folder / GRAPH)
    (folder / CARD).write_text("# stripes")
    (folder / TOKENIZER).write_text("{}")
    (folder / GOLDEN).write_bytes(b"")
    entries: dict[str, Any] = {
        "model": "stripes",
        "version": 3,
        "input": ImageInput(height=2, width=2, mode="L", framing="squash"),
        "labels": ["left", "middle", "right"],
        "preprocessing_version": PREPROCESSING_VERSION,
        "max_batch": 64,
        "temperature": 1.25,
        "test_metrics": {"made-up": Metrics(n=1234, accuracy=0.9876, nll=0.0432, ece=0.0021)},
        "dataset": "made-up",
        "dataset_fingerprint": "sha256:stripes",
        "recipe": {"name": "small"},
        "parameters": 15,
        "commit": "0123abc",
        "created": "2026-01-01T00:00:00+00:00",
        "files": {name: sha256(folder / name) for name in FILES},
    }
    Manifest(**{**entries, **changes}).write(folder)
    return folder


@pytest.fixture
def made_run(recipe_with: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A run of three epochs of which two are done, with a checkpoint."""
    history = [
        {"epoch": 1, "loss": 0.5, "accuracy": 0.75, "validation_loss": 0.25, "validation_accuracy": 0.9, "seconds": 61},
        {"epoch": 2, "loss": 0.4, "accuracy": 0.8, "validation_loss": 0.75, "validation_accuracy": 0.6, "seconds": 60},
    ]
    (tmp_path / record.RECIPE).write_text(recipe_with(seed=11).model_dump_json())
    (tmp_path / record.METRICS).write_text("".join(json.dumps(epoch) + "\n" for epoch in history))
    checkpoint.save(tmp_path / "fit.pt", {"history": history})
    return tmp_path


def facts(text: str) -> list[str]:
    """Lines without the spaces that align them."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_version_has_the_metrics_of_its_variants(tmp_path: Path) -> None:
    """Precision, metrics and graph of a variant stand below those of float32."""
    worth = {"made-up": Metrics(n=1234, accuracy=0.98, nll=0.05, ece=0.002)}
    variants = [Variant(precision="int8", graph=CARD, test_metrics=worth)]
    lines = facts(inspection.describe(publish(tmp_path, variants=variants)))
    assert "test on made-up, int8 accuracy 98.00%, NLL 0.0500 nats, ECE 0.0020, n = 1,234, card.md" in lines


def test_an_unfinished_run_has_its_progress_and_the_command_that_continues(made_run: Path) -> None:
    """Epochs, last and best metrics, checkpoints, and the command that continues the run."""
    lines = facts(inspection.describe(made_run))
    assert f"run {made_run}: recipe small, seed 11" in lines
    assert {"state not finished", "epochs 2 of 3, in 121 s", "checkpoint fit.pt after epoch 2"} <= set(lines)
    assert (
        "fit, last epoch epoch 2, loss 0.4000, accuracy 80.00%, validation loss 0.7500, validation accuracy 60.00%"
        in lines
    )
    best = "epoch 1, loss 0.5000, accuracy 75.00%, validation loss 0.2500, validation accuracy 90.00%"
    assert f"fit, lowest validation loss {best}" in lines
    assert f"continue this run with: python -m training train --resume {made_run}" in lines


def test_a_run_has_its_recipe_and_its_files(made_run: Path) -> None:
    """Keys are flattened as `--set` takes them, layers numbered from 1; each file has its size."""
    lines = facts(inspection.describe(made_run))
    assert "optimiser.learning_rate 0.05" in lines
    assert "layers[1] conv=4 kernel=3 stride=1 padding=1 dilation=1 groups=1 batch_norm" in lines
    size = (made_run / record.METRICS).stat().st_size
    assert f"{record.METRICS} {size} bytes" in lines


def test_a_finished_run_has_its_result(made_run: Path) -> None:
    """The metrics are named by their path in the result, and the next command is the publication."""
    result = {"temperature": 1.5, "validation": {"n": 45, "accuracy": 0.975}, "seconds": 130.2}
    (made_run / record.RESULT).write_text(json.dumps(result))
    lines = facts(inspection.describe(made_run))
    assert {"state finished", "epochs 2 of 3, in 130 s"} <= set(lines)
    assert lines[-1] == f"publish this run with: python -m training publish {made_run}"
    assert {"temperature 1.5", "validation.n 45", "validation.accuracy 0.975"} <= set(lines)
    assert not any("--resume" in line for line in lines)


def test_a_damaged_checkpoint_is_reported_and_the_rest_is_shown(made_run: Path) -> None:
    """The error stands in place of the checkpoint."""
    (made_run / "fit.pt").write_bytes(b"nonsense")
    lines = facts(inspection.describe(made_run))
    assert any(line.startswith(f"checkpoint fit.pt {made_run / 'fit.pt'}: ") for line in lines)
    assert "epochs 2 of 3, in 121 s" in lines


def test_a_version_has_its_manifest(tmp_path: Path) -> None:
    """Input with its units, labels, metrics with n, and the origin."""
    lines = facts(inspection.describe(publish(tmp_path)))
    assert f"version {tmp_path}: stripes, version 3" in lines
    assert "input image, 2 x 2 pixels (height x width), L, framing squash, bilinear" in lines
    assert "labels left, middle, right" in lines
    assert "test on made-up, float32 accuracy 98.76%, NLL 0.0432 nats, ECE 0.0021, n = 1,234, model.onnx" in lines
    assert {"parameters 15", "temperature 1.2500", "commit 0123abc", "data made-up, sha256:stripes"} <= set(lines)


def test_a_version_of_a_text_model_has_its_tokens(tmp_path: Path) -> None:
    """Length, vocabulary and tokenizer stand in place of the image's size."""
    lines = facts(inspection.describe(publish(tmp_path, input=TextInput(length=400, vocabulary=20000))))
    assert "input text, 400 tokens of 20,000, tokenizer.json" in lines


def test_a_version_has_its_graph(tmp_path: Path) -> None:
    """Inputs and outputs with type and shape, opset, producer, operations with their counts, and the file's size."""
    lines = facts(inspection.describe(publish(tmp_path)))
    assert "input image uint8 (N, 2, 2, 1)" in lines
    assert "output probabilities float (N, 3)" in lines
    assert "opset ai.onnx 20" in lines
    assert "producer by hand" in lines
    assert "operations 1 Cast, 1 Flatten, 1 Gemm, 1 Softmax" in lines
    assert f"{GRAPH} {(tmp_path / GRAPH).stat().st_size:,} bytes" in lines


def test_the_statistics_are_those_of_the_weights(tmp_path: Path) -> None:
    """Mean, deviation, bounds and share of zeros of each tensor of floats; scalars and shapes are not weights."""
    dense, bias = inspection.weights(graph())
    assert (dense.name, dense.shape, bias.name) == ("dense.weight", (4, 3), "dense.bias")
    assert dense.mean == pytest.approx(0.0)
    assert dense.std == pytest.approx(np.sqrt((0.25 + 2.25 + 4 + 1 + 4) / 12))
    assert (dense.minimum, dense.maximum, dense.zeros) == pytest.approx((-2, 2, 7 / 12))
    assert bias.zeros == 1
    assert "dense.weight 4 x 3 0 0.9789 -2 2 58.3%" in facts(inspection.describe(publish(tmp_path)))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_weights_of_any_precision_have_statistics(kind: int) -> None:
    """Half and double precision have the statistics of single precision: these values are exact in all of them."""
    model = graph()
    del model.graph.initializer[:]
    model.graph.initializer.append(helper.make_tensor("half", kind, WEIGHTS.shape, WEIGHTS.flatten().tolist()))
    (half,) = inspection.weights(model)
    assert (half.minimum, half.maximum, half.zeros) == pytest.approx((-2, 2, 7 / 12))


def test_hashes_are_checked(tmp_path: Path) -> None:
    """A version says that its files match; a changed file is named, and the rest is described."""
    publish(tmp_path)
    assert "SHA-256 all 4 files match the manifest" in facts(inspection.describe(tmp_path))
    (tmp_path / CARD).write_text("# changed")
    lines = facts(inspection.describe(tmp_path))
    assert any(line.startswith("SHA-256 REFUSED: ") and str(tmp_path / CARD) in line for line in lines)
    assert "input image uint8 (N, 2, 2, 1)" in lines


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_graph_that_cannot_be_read_is_reported(content: bytes | None, tmp_path: Path) -> None:
    """The manifest is shown although the graph is damaged or missing."""
    publish(tmp_path)
    if content is None:
        (tmp_path / GRAPH).unlink()
    else:
        (tmp_path / GRAPH).write_bytes(content)
    lines = facts(inspection.describe(tmp_path))
    assert any(line.startswith("SHA-256 REFUSED") for line in lines)
    assert any(line.startswith("cannot be read ") for line in lines[lines.index("graph") :])
    assert "parameters 15" in lines


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The error names the manifest and its schema version."""
    publish(tmp_path)
    (tmp_path / MANIFEST).write_text('{"schema_version": 1}')
    with pytest.raises(PublishError, match=r"manifest\.json: .*schema version 1"):
        inspection.describe(tmp_path)


def test_a_folder_that_is_neither_run_nor_version_is_refused(tmp_path: Path) -> None:
    """The error says what the path is: missing, a file, or a folder with other folders in it."""
    (tmp_path / "file").touch()
    (tmp_path / "models" / "digits" / "2").mkdir(parents=True)
    for path, description in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "file", "this is a file"),
        (tmp_path / "models" / "digits", "this folder contains 2"),
        (tmp_path / "models" / "digits" / "2", "neither a run nor a version"),
    ):
        with pytest.raises(RunError, match=f"{path}: {description}; expected a run, runs/RECIPE/TIME, or a version"):
            inspection.describe(path)
