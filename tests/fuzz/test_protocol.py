"""The Open Inference Protocol's bodies are read or refused, whatever they hold: JSON, binary tensors, wrong lengths."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import manifest as contract
from contract.errors import ConvokeError, TooLarge, Unreadable, UnsupportedMediaType
from contract.manifest import Manifest
from service.errors import InvalidRequest
from service.routes import tensors
from service.routes.tensors import Asked
from service.settings import Settings
from tests import reviews
from tests.fuzz.spoil import numbers, spoilt, values
from tests.fuzz.target import ROOT

SETTINGS = Settings(max_items=8)
REFUSALS = (InvalidRequest, TooLarge, Unreadable, UnsupportedMediaType)
BINARY = {"binary_data_size": 4}
DIGITS = contract.read(ROOT / "models/digits/1")

NAMES = st.sampled_from(["image", "text", "tokens", "label", "probabilities", "BYTES", "UINT8", "INT64", "FP32"])
LEAVES = st.one_of(st.none(), st.booleans(), numbers, NAMES, st.text(max_size=8))
GOOD: list[dict[str, Any]] = [
    {"inputs": [{"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784}]},
    {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["AAAA", "iVBORw0KGgo="]}], "id": "7"},
    {"inputs": [{"name": "tokens", "shape": [2, 3], "datatype": "INT64", "data": [[2, 3, 0], [1, 4, 5]]}]},
    {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good film", ""]}]},
    {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": BINARY}],
        "outputs": [{"name": "label", "parameters": {"binary_data": True, "classification": 0}}],
        "parameters": {"binary_data_output": True},
    },
]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """One model of pictures and one of texts."""
    folder: Path = tmp_path_factory.mktemp("models")
    return [DIGITS, contract.read(reviews.publish(folder))]


def check(content: bytes, head_length: str | None, manifests: list[Manifest]) -> None:
    """The property: items, at most as many as are allowed; or a refusal that is the caller's fault."""
    for manifest in manifests:
        with contextlib.suppress(*REFUSALS):
            asked = tensors.parse(content, head_length, manifest, SETTINGS)
            assert isinstance(asked, Asked)
            assert 1 <= len(asked.items) <= SETTINGS.max_items
            assert asked.outputs


@given(st.binary(max_size=80), st.none() | st.integers(-2, 90).map(str) | st.text(max_size=14))
def test_any_bytes_are_read_or_refused(manifests: list[Manifest], content: bytes, head_length: str | None) -> None:
    """Bodies and lengths that are no protocol at all."""
    check(content, head_length, manifests)


@given(values(LEAVES))
def test_any_json_is_read_or_refused(manifests: list[Manifest], content: Any) -> None:
    """NaN, huge numbers and lone surrogates included."""
    check(json.dumps(content).encode(), None, manifests)


@given(
    st.sampled_from(GOOD).flatmap(lambda good: spoilt(good, LEAVES)),
    st.binary(max_size=12) | st.just(b"\4\0\0\0abcd"),
    st.integers(-3, 3),
)
def test_spoilt_requests_are_read_or_refused(
    manifests: list[Manifest], content: Any, tail: bytes, wrong_by: int
) -> None:
    """Right requests with places replaced, dropped or added, bytes behind them, and a header that is off by a few."""
    head = json.dumps(content).encode()
    check(head + tail, str(max(len(head) + wrong_by, 0)), manifests)
    check(head, None, manifests)


def packed(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def request(tail: bytes, count: int, size: int) -> bytes:
    """The JSON of encoded pictures, whose bytes follow it."""
    described = {"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [described]}).encode() + tail


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_what_was_packed_is_what_is_read(parts: list[bytes]) -> None:
    """Any byte strings come out of a binary BYTES tensor as they went in."""
    content = request(packed(parts), len(parts), len(packed(parts)))
    length = str(len(content) - len(packed(parts)))
    assert tensors.parse(content, length, DIGITS, SETTINGS).items == parts


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=4),
    st.integers(-30, 30).filter(bool),
    st.sampled_from(["size", "count", "header", "cut"]),
)
def test_a_wrong_length_is_never_taken(parts: list[bytes], wrong_by: int, where: str) -> None:
    """A size, count, header or body that does not agree with the others is refused, however little it is off."""
    tail = packed(parts)
    off = {where: wrong_by}
    content = request(tail, max(len(parts) + off.get("count", 0), 0), max(len(tail) + off.get("size", 0), 0))
    length = len(content) - len(tail) + off.get("header", 0)
    if "cut" in off:
        content = content[: -abs(wrong_by)]
    with pytest.raises((InvalidRequest, TooLarge)):
        tensors.parse(content, str(length), DIGITS, SETTINGS)


@given(st.integers(1, 5), st.booleans(), st.booleans())
def test_an_answer_says_what_it_was_given(count: int, label: bool, probabilities: bool) -> None:
    """Rows come back from the answer's JSON or bytes, each output as it was asked for."""
    rows = np.random.default_rng(count).dirichlet(np.ones(10), count).astype(np.float32)  # (N, 10)
    asked = Asked([b""] * count, [("label", label), ("probabilities", probabilities)], None)
    head, tail = tensors.answer(asked, DIGITS, list(rows))
    names, found = json.loads(head)["outputs"]
    labels = [DIGITS.labels[index].encode() for index in rows.argmax(axis=1)]
    assert (tail[0] if label else names["data"]) == (packed(labels) if label else [one.decode() for one in labels])
    numbers_back = np.frombuffer(tail[-1], "<f4") if probabilities else np.array(found["data"], np.float32)
    assert (numbers_back.reshape(found["shape"]) == rows).all()


def test_refusals_are_the_callers_fault() -> None:
    """What the properties above let pass is below 500."""
    for refusal in REFUSALS:
        assert issubclass(refusal, ConvokeError)
        assert 400 <= refusal.status < 500
