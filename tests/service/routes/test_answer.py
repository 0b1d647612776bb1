"""The JSON of responses, which is written by hand."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contract.errors import Unreadable
from service.inference.predictor import Answer
from service.inference.version import Version
from service.routes.answer import render

LABELS = ['say "a"', "b\\", "c\n", "d\u00e9"]


def answer(*rows: Any, labels: list[str] = LABELS) -> Answer:
    """The answer of a model whose name and labels need quoting."""
    manifest: Any = SimpleNamespace(model='odd "name"', version=3, labels=labels)
    unused: Any = None
    return Answer(Version(manifest, unused, unused, ""), rows, 0.0, 0.0, 0.0)


def test_a_response_is_what_json_would_write() -> None:
    """Names and labels are quoted, scores fall, equal ones keep the order of labels, and errors keep their place."""
    content = json.loads(render(answer(np.array([0.125, 0.5, 0.125, 0.25], np.float32), Unreadable('a "b"'))))
    assert content == {
        "model": 'odd "name"',
        "version": "3",
        "predictions": [
            {
                "label": LABELS[1],
                "score": 0.5,
                "scores": {LABELS[1]: 0.5, LABELS[3]: 0.25, LABELS[0]: 0.125, LABELS[2]: 0.125},
            },
            {"error": {"code": "unreadable", "message": 'a "b"'}},
        ],
    }
    assert list(content["predictions"][0]["scores"]) == [LABELS[1], LABELS[3], LABELS[0], LABELS[2]]


@pytest.mark.parametrize(("top", "names"), [(1, LABELS[1:2]), (2, [LABELS[1], LABELS[3]]), (99, LABELS)])
def test_top_keeps_the_highest(top: int, names: list[str]) -> None:
    """The response has the `top` highest scores; the label and its score do not change."""
    (prediction,) = json.loads(render(answer(np.array([0.1, 0.5, 0.1, 0.3], np.float32)), top=top))["predictions"]
    assert set(prediction["scores"]) == set(names)
    assert (prediction["label"], prediction["score"]) == (LABELS[1], 0.5)


@pytest.mark.parametrize(
    ("score", "min_score", "abstains"), [(0.9, 0.9, False), (0.8999, 0.9, True), (1.0, 1.0, False)]
)
def test_below_min_score_a_prediction_abstains(score: float, min_score: float, abstains: bool) -> None:
    """The label is null and the guess has it; a score that is equal when rounded to six decimals is enough."""
    row = np.array([score, 1 - score, 0, 0], np.float32)
    (prediction,) = json.loads(render(answer(row), min_score=min_score))["predictions"]
    assert (prediction["label"], prediction.get("guess")) == ((None, LABELS[0]) if abstains else (LABELS[0], None))


@pytest.mark.parametrize("count", [2, 20, 21, 1000])
def test_of_many_labels_ten_have_a_score_by_default(count: int) -> None:
    """With more than 20 labels the 10 highest scores are given, which the answer states; `top` overrides it."""
    row = np.random.default_rng(0).permutation(np.arange(count)).astype(np.float32) / count
    labels = [f"Größe {number} 猫" for number in range(count)]
    content = json.loads(render(answer(row, row, labels=labels)))
    (first, second) = content.pop("predictions")
    expected = sorted(range(count), key=row.__getitem__, reverse=True)
    assert [*first["scores"]] == [labels[place] for place in expected[: 10 if count > 20 else None]]
    assert (first["label"], first) == (labels[expected[0]], second)
    stated = {"top": 10, "labels": count} if count > 20 else {}
    assert content == {"model": 'odd "name"', "version": "3", **stated}
    content = json.loads(render(answer(row, labels=labels), top=count))
    assert len(content["predictions"][0]["scores"]) == count
    assert "top" not in content


def test_equal_scores_of_many_labels_keep_their_order() -> None:
    """Of labels with the same score the first of the manifest comes first, whatever their number."""
    content = json.loads(render(answer(np.full(30, 1 / 30, np.float32), labels=[*map(str, range(30))])))
    assert [*content["predictions"][0]["scores"]] == [*map(str, range(10))]
