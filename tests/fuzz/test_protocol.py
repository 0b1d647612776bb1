"""Any body of the Open Inference Protocol is read or refused: JSON, binary tensors, wrong lengths."""

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
from service.routes.tensors import Inference
from service.settings import Settings
from tests import reviews
from tests.fuzz.strategies import json_values, mutations_of, numbers
from tests.serving import ROOT

SETTINGS = Settings(max_items=8)
READER = tensors.Reader(SETTINGS)
REFUSALS = (InvalidRequest, TooLarge, Unreadable, UnsupportedMediaType)
BINARY = {"binary_data_size": 4}
DIGITS = contract.read(ROOT / "models/digits/1")

NAMES = st.sampled_from(["image", "text", "tokens", "label", "probabilities", "BYTES", "UINT8", "INT64", "FP32"])
LEAVES = st.one_of(st.none(), st.booleans(), numbers, NAMES, st.text(max_size=8))
VALID: list[dict[str, Any]] = [
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
    """A model of images and a model of texts."""
    folder: Path = tmp_path_factory.mktemp("models")
    return [DIGITS, contract.read(reviews.publish(folder))]


def check(content: bytes, header_length: str | None, manifests: list[Manifest]) -> None:
    """The property: an allowed number of items; or a client error."""
    for manifest in manifests:
        with contextlib.suppress(*REFUSALS):
            parsed = READER.read(content, header_length, manifest)
            assert 1 <= len(parsed.items) <= SETTINGS.max_items
            assert parsed.outputs


@given(st.binary(max_size=80), st.none() | st.integers(-2, 90).map(str) | st.text(max_size=14))
def test_any_bytes_are_read_or_refused(manifests: list[Manifest], content: bytes, header_length: str | None) -> None:
    """Any bodies with any header lengths."""
    check(content, header_length, manifests)


@given(json_values(LEAVES))
def test_any_json_is_read_or_refused(manifests: list[Manifest], content: Any) -> None:
    """Including NaN, huge numbers and lone surrogates."""
    check(json.dumps(content).encode(), None, manifests)


@given(
    st.sampled_from(VALID).flatmap(lambda valid: mutations_of(valid, LEAVES)),
    st.binary(max_size=12) | st.just(b"\4\0\0\0abcd"),
    st.integers(-3, 3),
)
def test_mutated_requests_are_read_or_refused(manifests: list[Manifest], content: Any, tail: bytes, error: int) -> None:
    """Valid requests with mutated JSON, followed by binary data, with a header length that is wrong by a few bytes."""
    header = json.dumps(content).encode()
    check(header + tail, str(max(len(header) + error, 0)), manifests)
    check(header, None, manifests)


def packed(parts: list[bytes]) -> bytes:
    """Byte strings in the binary form of a BYTES tensor."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def request(tail: bytes, count: int, size: int) -> bytes:
    """The JSON of a tensor of encoded images, followed by its binary data."""
    tensor = {"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [tensor]}).encode() + tail


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_binary_strings_are_read_unchanged(parts: list[bytes]) -> None:
    """Any byte strings in a binary BYTES tensor."""
    content = request(packed(parts), len(parts), len(packed(parts)))
    length = str(len(content) - len(packed(parts)))
    assert READER.read(content, length, DIGITS).items == parts


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=4),
    st.integers(-30, 30).filter(bool),
    st.sampled_from(["size", "count", "header", "truncated"]),
)
def test_a_wrong_length_is_always_refused(parts: list[bytes], error: int, field: str) -> None:
    """A size, count, header length or body that does not match the others is refused, even if it differs by one."""
    tail = packed(parts)
    errors = {field: error}
    content = request(tail, max(len(parts) + errors.get("count", 0), 0), max(len(tail) + errors.get("size", 0), 0))
    length = len(content) - len(tail) + errors.get("header", 0)
    if "truncated" in errors:
        content = content[: -abs(error)]
    with pytest.raises((InvalidRequest, TooLarge)):
        READER.read(content, str(length), DIGITS)


@given(st.integers(1, 5), st.booleans(), st.booleans())
def test_a_response_holds_the_requested_outputs(count: int, label: bool, probabilities: bool) -> None:
    """Labels and probabilities are read back from the response, each in JSON or binary form as requested."""
    rows = np.random.default_rng(count).dirichlet(np.ones(10), count).astype(np.float32)  # (N, 10)
    request = Inference([b""] * count, [("label", label), ("probabilities", probabilities)], None)
    header, tail = tensors.answer(request, DIGITS, list(rows))
    labelled, scored = json.loads(header)["outputs"]
    labels = [DIGITS.labels[index].encode() for index in rows.argmax(axis=1)]
    assert (tail[0] if label else labelled["data"]) == (packed(labels) if label else [name.decode() for name in labels])
    values = np.frombuffer(tail[-1], "<f4") if probabilities else np.array(scored["data"], np.float32)
    assert (values.reshape(scored["shape"]) == rows).all()


def test_refusals_are_client_errors() -> None:
    """The exceptions that the properties above allow have a status below 500."""
    for refusal in REFUSALS:
        assert issubclass(refusal, ConvokeError)
        assert 400 <= refusal.status < 500
