"""ONNX Runtime sessions."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service import manifest as contract
from service.errors import ModelRefused, ProviderError
from service.session import Session


def open_session(version: Path, **change: object) -> Session:
    """The session of a version, its manifest changed."""
    manifest = contract.read(version).model_copy(update=change)
    return Session(version / contract.GRAPH, manifest, provider="cpu")


@pytest.mark.parametrize("size", [1, 2, 7, 256])
def test_any_batch_gives_probabilities(version: Path, size: int) -> None:
    """Rows are probabilities, and do not depend on their neighbours."""
    pictures = np.random.default_rng(size).integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    session = open_session(version)
    rows = session.run(pictures)
    assert rows.shape == (size, 10)
    assert rows.dtype == np.float32
    assert rows.sum(axis=1) == pytest.approx(np.ones(size), abs=1e-5)
    alone = np.concatenate([session.run(picture[None]) for picture in pictures])
    assert np.abs(rows - alone).max() < 1e-5


def test_golden_inputs_are_replayed(version: Path) -> None:
    """The published model passes on this machine; one that computes something else is refused."""
    session = open_session(version)
    session.replay(version)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, probabilities = golden["inputs"], golden["probabilities"]
    np.savez(version / contract.GOLDEN, inputs=inputs, probabilities=probabilities[:, ::-1])
    with pytest.raises(ModelRefused, match="golden probabilities differ by"):
        session.replay(version)
    np.savez(version / contract.GOLDEN, inputs=inputs[:, :5], probabilities=probabilities)
    with pytest.raises(ModelRefused, match="cannot be run"):
        session.replay(version)
    (version / contract.GOLDEN).write_bytes(b"PK")
    with pytest.raises(ModelRefused, match="cannot be read"):
        session.replay(version)


def test_a_graph_whose_ends_are_not_the_manifests_is_refused(version: Path) -> None:
    """Labels that the graph has no outputs for are found before anybody asks."""
    with pytest.raises(ModelRefused, match=r"expected probabilities tensor\(float\) of shape \[N, 2\]"):
        open_session(version, labels=["cat", "dog"])


def test_a_damaged_graph_is_refused(version: Path) -> None:
    """What ONNX Runtime cannot load is refused with its reason."""
    (version / contract.GRAPH).write_bytes(b"not a graph")
    with pytest.raises(ModelRefused, match="cannot load this graph"):
        open_session(version)


def test_cuda_is_an_error_where_there_is_none(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for and not there: an error that says why, never a silent fall back to the CPU."""
    manifest = contract.read(version)
    monkeypatch.setattr("service.session._has_nvidia_driver", lambda: False)
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        Session(version / contract.GRAPH, manifest, provider="cuda")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="has only CPUExecutionProvider"):
        Session(version / contract.GRAPH, manifest, provider="cuda")
    assert Session(version / contract.GRAPH, manifest, provider="auto").provider == "CPUExecutionProvider"
