"""The gate: its arithmetic against coins counted by hand, and its choice of what to compare with."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from contract.manifest import CARD, GOLDEN, GRAPH, MANIFEST, PREPROCESSING_VERSION, Manifest, Metrics, sha256
from contract.session import Session
from contract.spec import ImageInput
from training.data.dataset import Split
from training.errors import TrainingError
from training.release import gate
from training.release.gate import Comparison, compare

GRAPH_TEXT = """
    <ir_version: 10, opset_import: ["" : 21]>
    pictures (uint8[N, 1, 1, 1] image) => (float[N, 2] probabilities)
    <float[1, 1] edge = {EDGE}, float[1, 2] sides = {-1, 1}, int64[2] flat = {-1, 1}> {
        wide = Cast <to = 1> (image)
        level = Reshape (wide, flat)
        over = Sub (level, edge)
        logits = MatMul (over, sides)
        probabilities = Softmax (logits)
    }
"""
LEVELS = torch.arange(200, dtype=torch.uint8)
TRUTH = 100  # pictures of this level and above are light


@pytest.fixture(autouse=True)
def _levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of one pixel, dark or light, in place of a data set."""
    split = Split(LEVELS.view(-1, 1, 1, 1), (LEVELS >= TRUTH).long())
    monkeypatch.setattr(
        "training.release.gate.catalogue.tests", lambda name, *_: {"levels": split} if name == "levels" else {}
    )


def publish(home: Path, number: int, edge: float, labels: tuple[str, str] = ("dark", "light")) -> Manifest:
    """A version that calls a picture light from the level `edge` on: wrong on all between it and the truth."""
    folder = home / str(number)
    folder.mkdir(parents=True)
    onnx.save(parser.parse_model(GRAPH_TEXT.replace("EDGE", str(edge))), folder / GRAPH)
    for name in (CARD, GOLDEN):
        (folder / name).write_bytes(b"")
    manifest = Manifest(
        model="levels",
        version=number,
        input=ImageInput(height=1, width=1, mode="L", framing="squash"),
        labels=list(labels),
        preprocessing_version=PREPROCESSING_VERSION,
        max_batch=8,
        temperature=1.0,
        test_metrics={"levels": Metrics(n=1, accuracy=1, nll=0, ece=0)},
        dataset="levels",
        dataset_fingerprint="sha256:none",
        recipe={},
        parameters=1,
        commit="none",
        created="2026-01-01T00:00:00+00:00",
        files={name: sha256(folder / name) for name in (GRAPH, CARD, GOLDEN)},
    )
    manifest.write(folder)
    return manifest


def answers(edge: float) -> dict[str, gate.Answers]:
    """What a model of such an edge reads right."""
    return {"levels": ((edge <= LEVELS) == (LEVELS >= TRUTH)).numpy()}


def comparison(gained: int, lost: int) -> Comparison:
    return Comparison("levels", 1, 0.5, 0.5, gained, lost)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 1), (1, 0), (3, 4), (2, 8), (8, 2), (5, 5)])
def test_the_chance_is_that_of_fair_coins(gained: int, lost: int) -> None:
    """All throws of as many coins as examples are in dispute are counted: the share with as many tails or more."""
    throws = [sum(throw) for throw in product((0, 1), repeat=gained + lost)]
    expected = sum(tails >= lost for tails in throws) / len(throws)
    assert comparison(gained, lost).chance == pytest.approx(expected, abs=1e-15)


def test_the_chance_of_thousands_of_examples_is_exact_enough() -> None:
    """With 10,000 examples in dispute it neither overflows nor is 0 where it should not be; all lost is 2^-n."""
    assert comparison(5000, 5000).chance == pytest.approx(0.503989, abs=1e-6)  # 1/2 + half of C(10000, 5000) / 2^10000
    assert comparison(0, 1000).chance == 2.0**-1000
    assert comparison(0, 10_000).is_worse


@pytest.mark.parametrize(
    ("gained", "lost", "worse"),
    [
        (0, 0, False),
        (10, 10, False),
        (0, 4, False),
        (0, 5, True),
        (100, 110, False),
        (100, 140, True),
        (140, 100, False),
    ],
)
def test_worse_is_what_a_coin_would_not_do_in_19_of_20_cases(gained: int, lost: int, *, worse: bool) -> None:
    """Equal models and small differences pass: 4 of 4 lost has a chance of 1/16, 5 of 5 one of 1/32."""
    assert comparison(gained, lost).is_worse is worse


def test_examples_in_dispute_are_those_that_one_of_both_reads_right(tmp_path: Path) -> None:
    """Edges at 90 and 115 err on 10 and 15 different pictures: the new model gains 10 and loses 15."""
    manifest = publish(tmp_path, 1, edge=89.5)
    (found,), verdict = compare(answers(115), manifest, tmp_path)
    assert found == Comparison("levels", 1, accuracy=185 / 200, accuracy_in_service=190 / 200, gained=10, lost=15)
    assert verdict == f"Beside version 1 in service: {found}."
    assert "92.50% beside 95.00% of version 1 (10 examples gained, 15 lost, chance 0.21)" in verdict


def test_the_highest_version_that_can_be_read_is_in_service(tmp_path: Path) -> None:
    """Version 10 counts above 9, and a broken one is passed over: changed graph, no manifest, a file in its place."""
    for number, edge in ((2, 149.5), (9, 119.5), (10, 109.5)):
        manifest = publish(tmp_path, number, edge)
    (tmp_path / ".publishing-x").mkdir()
    (tmp_path / "notes").mkdir()

    def in_service() -> tuple[int, int]:
        (found,), _ = compare(answers(TRUTH), manifest, tmp_path)
        return found.version, found.gained

    assert in_service() == (10, 10)
    (tmp_path / "10" / GRAPH).write_bytes(b"spoilt")
    assert in_service() == (9, 20)
    (tmp_path / "9" / MANIFEST).unlink()
    (tmp_path / "11").write_text("no folder")
    assert in_service() == (2, 50)


def test_a_graph_that_cannot_be_loaded_is_passed_over(tmp_path: Path) -> None:
    """Garbage whose hash is right is no version in service either."""
    publish(tmp_path, 1, 109.5)
    second = publish(tmp_path, 2, 119.5)
    (tmp_path / "2" / GRAPH).write_bytes(b"garbage")
    files = {**second.files, GRAPH: sha256(tmp_path / "2" / GRAPH)}
    second.model_copy(update={"files": files}).write(tmp_path / "2")
    (found,), _ = compare(answers(TRUTH), second, tmp_path)
    assert found.version == 1


def test_other_labels_are_not_compared(tmp_path: Path) -> None:
    """A model of other classes has nothing in common with the one in service, and the verdict says so."""
    publish(tmp_path, 1, TRUTH - 0.5, labels=("night", "day"))
    ours = publish(tmp_path / "elsewhere", 1, TRUTH - 0.5)
    assert compare(answers(150), ours, tmp_path) == (
        [],
        "Version 1 in service has other labels, so the two were not compared.",
    )


def test_other_test_splits_are_not_compared(tmp_path: Path) -> None:
    """A split of another name or size cannot be set beside the one that the version in service is measured on."""
    manifest = publish(tmp_path, 1, TRUTH - 0.5)
    expected: tuple[list[Comparison], str] = (
        [],
        "Version 1 in service was measured on other test splits, so the two were not compared.",
    )
    assert compare({"others": answers(150)["levels"]}, manifest, tmp_path) == expected
    assert compare({"levels": answers(150)["levels"][:-1]}, manifest, tmp_path) == expected


def test_without_a_version_in_service_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """The first version passes, and its card can say why."""
    manifest = publish(tmp_path / "elsewhere", 1, 99.5)
    home = tmp_path / "home"
    home.mkdir()
    assert compare(answers(150), manifest, home) == ([], "There was no version in service to compare with.")


def test_answers_of_a_published_model_are_its_graph_s(tmp_path: Path) -> None:
    """Each example's answer, in the split's order, is whether the graph names its label."""
    manifest = publish(tmp_path, 1, 129.5)
    session = Session(tmp_path / "1" / GRAPH, manifest, provider="cpu")
    found = gate.answers_of(session, manifest, tmp_path / "1")
    assert found.keys() == {"levels"}
    np.testing.assert_array_equal(found["levels"], answers(130)["levels"])


def test_a_model_of_unknown_data_cannot_be_measured(tmp_path: Path) -> None:
    """A manifest that names data which is not known here is refused by that name."""
    manifest = publish(tmp_path, 1, 129.5).model_copy(update={"dataset": "secrets"})
    with pytest.raises(TrainingError, match="the data set 'secrets' is not known here"):
        gate.tests_of(manifest, tmp_path / "1")
