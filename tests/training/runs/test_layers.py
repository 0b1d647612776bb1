"""The sheets of a version's layers as files."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.drawing import encode, mnist_like
from tests.serving import ROOT
from training.__main__ import main


def test_an_image_is_drawn_layer_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files in the order of the layers, with their filters; the arithmetic is printed."""
    (tmp_path / "seven.png").write_bytes(encode(mnist_like(7)))
    folder = tmp_path / "sheets"
    arguments = ["--input", str(tmp_path / "seven.png"), "--sheets", str(folder)]
    assert main(["inspect", str(ROOT / "models/digits/1"), *arguments]) == 0
    assert [path.name for path in sorted(folder.iterdir())] == [
        "00-input.png", "01-conv1-filters.png", "01-conv1.png", "02-pool1.png", "03-conv2-filters.png", "03-conv2.png",
        "04-pool2.png", "05-flatten1.png", "06-dense1.png", "07-dense2.png", "08-softmax1.png", "layers.json",
    ]  # fmt: skip
    layers = json.loads((folder / "layers.json").read_text())["layers"]
    with Image.open(folder / "03-conv2.png") as sheet:
        assert sheet.size == (layers[2]["sheet"]["width"], layers[2]["sheet"]["height"])
    printed = capsys.readouterr().out
    assert "prediction 7" in printed
    assert "OH = (14 + 2*0 - 5)/1 + 1 = 10" in printed


def test_a_text_is_drawn_layer_by_layer(tmp_path: Path) -> None:
    """Windows over its tokens, and their strongest positions in the report."""
    arguments = ["--text", "A superb film.", "--sheets", str(tmp_path / "sheets")]
    version = max((ROOT / "models/reviews").glob("[0-9]*"), key=lambda folder: int(folder.name))
    assert main(["inspect", str(version), *arguments]) == 0
    report = json.loads((tmp_path / "sheets/layers.json").read_text())
    assert report["input"]["tokens"] == ["a", "superb", "film", "."]
    assert (tmp_path / "sheets/02-windows1-1-filters.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models/digits/1", "--sheets", "x"], "add --input FILE"),
        (["models/digits/1", "--input", "missing.png"], "cannot be read"),
        (["models/digits/1", "--input", "README.md"], "image"),
        (["models", "--text", "good"], "publish a run first"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No item, no file, no image, no version."""
    folder, *options = arguments
    options = [str(ROOT / option) if option.endswith((".png", ".md")) else option for option in options]
    assert main(["inspect", str(ROOT / folder), *options]) != 0
    assert words in capsys.readouterr().err
