"""Answers in JSON, written by hand."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contract.errors import Unreadable
from service.inference.predictor import Answer
from service.inference.repository import Version
from service.routes.answer import render

LABELS = ['say "a"', "b\\", "c\n", "d\u00e9"]


def answer(*rows: Any) -> Answer:
    """An answer of a model whose name and labels need quoting."""
    manifest: Any = SimpleNamespace(model='odd "name"', version=3, labels=LABELS)
    unused: Any = None
    return Answer(Version(manifest, unused, unused, ""), rows, 0.0, 0.0, 0.0)


def test_an_answer_is_what_json_would_write() -> None:
    """Names and labels are quoted; scores come highest first, equals in the labels' order; errors stay in place."""
    found = json.loads(render(answer(np.array([0.125, 0.5, 0.125, 0.25], np.float32), Unreadable('a "b"'))))
    assert found == {
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
    assert list(found["predictions"][0]["scores"]) == [LABELS[1], LABELS[3], LABELS[0], LABELS[2]]


@pytest.mark.parametrize(("top", "names"), [(1, LABELS[1:2]), (2, [LABELS[1], LABELS[3]]), (99, LABELS)])
def test_top_keeps_the_highest(top: int, names: list[str]) -> None:
    """`top` scores are given, the highest; the label and its score stay."""
    (found,) = json.loads(render(answer(np.array([0.1, 0.5, 0.1, 0.3], np.float32)), top=top))["predictions"]
    assert set(found["scores"]) == set(names)
    assert (found["label"], found["score"]) == (LABELS[1], 0.5)


@pytest.mark.parametrize(("score", "least", "abstains"), [(0.9, 0.9, False), (0.8999, 0.9, True), (1.0, 1.0, False)])
def test_below_the_least_score_an_answer_abstains(score: float, least: float, abstains: bool) -> None:
    """The label is null and the guess is beside it; a score that reads as the least one is enough."""
    row = np.array([score, 1 - score, 0, 0], np.float32)
    (found,) = json.loads(render(answer(row), min_score=least))["predictions"]
    assert (found["label"], found.get("guess")) == ((None, LABELS[0]) if abstains else (LABELS[0], None))
