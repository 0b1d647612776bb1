"""ONNX Runtime sessions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from contract import manifest as contract
from contract import session as session_module
from contract.batches import Batch
from contract.errors import ModelRefused
from contract.session import Session, race
from contract.spec import TextInput
from tests import reviews


def open_session(version: Path, **change: object) -> Session:
    """The session of a version with a changed manifest."""
    manifest = contract.read(version).model_copy(update=change)
    return Session(version / contract.GRAPH, manifest, provider="cpu")


@pytest.mark.parametrize("size", [1, 2, 7, 256])
def test_any_batch_gives_probabilities(version: Path, size: int) -> None:
    """Rows are probabilities and do not depend on their neighbours."""
    images = np.random.default_rng(size).integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    session = open_session(version)
    rows = session.run(images)
    assert rows.shape == (size, 10)
    assert rows.dtype == np.float32
    assert rows.sum(axis=1) == pytest.approx(np.ones(size), abs=1e-5)
    alone = np.concatenate([session.run(image[None]) for image in images])
    assert np.abs(rows - alone).max() < 1e-5


def test_a_cpu_runs_few_images_at_once(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large batch runs in slices, and the rows keep their order."""
    sizes: list[int] = []
    run = ort.InferenceSession.run

    def record(self: Any, names: Any, feed: dict[str, Any]) -> Any:
        sizes.extend(map(len, feed.values()))
        return run(self, names, feed)

    monkeypatch.setattr(ort.InferenceSession, "run", record)
    images = np.random.default_rng(0).integers(0, 256, (70, 28, 28, 1), dtype=np.uint8)
    session = open_session(version)
    rows = session.run(images)
    assert sizes == [32, 32, 6]
    assert np.abs(rows - np.concatenate([session.run(images[:30]), session.run(images[30:])])).max() < 1e-5


def test_golden_inputs_are_replayed(version: Path) -> None:
    """The published model passes on this machine; a model with other outputs is refused."""
    session = open_session(version)
    session.replay(version)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, probabilities = golden["inputs"], golden["probabilities"]
    np.savez(version / contract.GOLDEN, inputs=inputs, probabilities=probabilities[:, ::-1])
    with pytest.raises(ModelRefused, match=r"golden probabilities differ by .*0\.0001"):
        session.replay(version)


def test_a_graph_that_does_not_fit_the_manifest_is_refused(version: Path) -> None:
    """A graph with another number of outputs than the manifest has labels is found at loading."""
    with pytest.raises(ModelRefused, match=r"expected probabilities tensor\(float\) of shape \[N, 2\]"):
        open_session(version, labels=["cat", "dog"])


def test_tokens_of_any_batch_and_length_give_probabilities(tmp_path: Path) -> None:
    """Both axes are open, padding does not change the result, and the golden tokens pass."""
    version = reviews.publish(tmp_path)
    session = open_session(version)
    session.replay(version)
    session.warm_up()
    rows = session.run(np.array([[3], [5]], np.int64))
    assert rows == pytest.approx(reviews.reference(["good", "bad"]), abs=1e-5)
    padded = session.run(np.array([[3, 0, 0, 0], [5, 0, 0, 0], [4, 4, 4, 4]], np.int64))
    assert np.array_equal(padded[:2], rows)


def test_golden_tokens_that_the_graph_cannot_run_are_refused(tmp_path: Path) -> None:
    """The golden file has ids that the graph has no embedding for."""
    version = reviews.publish(tmp_path)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, rows = golden["inputs"], golden["probabilities"]
    np.savez(version / contract.GOLDEN, inputs=inputs + 100, probabilities=rows)
    with pytest.raises(ModelRefused, match="cannot be run"):
        open_session(version).replay(version)


@pytest.mark.parametrize("axes", ["N, 64", "8, L"])
def test_a_graph_of_texts_with_a_fixed_axis_is_refused(tmp_path: Path, axes: str) -> None:
    """The graph must accept batches of any size and length."""
    version = reviews.publish(tmp_path, graph=reviews.GRAPH.replace("int64[N, L]", f"int64[{axes}]"))
    with pytest.raises(ModelRefused, match=r"expected tokens tensor\(int64\) of shape \[N, L\], found"):
        open_session(version)


def test_a_graph_of_the_other_kind_is_refused(version: Path, tmp_path: Path) -> None:
    """A graph of images with a manifest of texts is found at loading."""
    texts = contract.read(reviews.publish(tmp_path / "texts")).input
    with pytest.raises(ModelRefused, match=r"expected tokens tensor\(int64\)"):
        open_session(version, input=texts)


@pytest.mark.parametrize(("max_batch", "length"), [(1, 1), (8, 64), (256, 400), (100_000, 3), (4, 1_000_000)])
def test_the_warm_up_of_texts_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_batch: int, length: int
) -> None:
    """One token, the longest text and the largest batches run; only a single text may exceed the limit."""
    version = reviews.publish(tmp_path)
    spec = TextInput(length=length, vocabulary=len(reviews.WEIGHTS))
    session = open_session(version, input=spec, max_batch=max_batch)
    shapes: list[tuple[int, int]] = []
    monkeypatch.setattr(session, "run", lambda batch: shapes.append(batch.shape))
    session.warm_up()
    assert {(1, 1), (1, length)} <= set(shapes)
    assert all(size == 1 or size * tokens <= TextInput.max_batch_tokens for size, tokens in shapes)
    assert all(1 <= size <= max_batch and 1 <= tokens <= length for size, tokens in shapes)
    assert max(size for size, _ in shapes) == min(max_batch, TextInput.max_batch_tokens)


def test_a_graph_that_fails_on_a_short_text_is_refused(tmp_path: Path) -> None:
    """A graph that cannot run a text of one token is found at the warm-up."""
    graph = """
        <ir_version: 10, opset_import: ["" : 21]>
        reviews (int64[N, L] tokens) => (float[N, 2] probabilities)
        <float[7, 2] weights = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, int64 second = {1}> {
            token = Gather <axis = 1> (tokens, second)
            total = Gather (weights, token)
            probabilities = Softmax (total)
        }
    """
    session = open_session(reviews.publish(tmp_path, graph=graph))
    with pytest.raises(ModelRefused, match=r"cannot be run on tokens \(1, 1\)"):
        session.warm_up()


def test_a_damaged_graph_is_refused(version: Path) -> None:
    """A file that is not ONNX is refused."""
    (version / contract.GRAPH).write_bytes(b"not a graph")
    with pytest.raises(ModelRefused, match="not an ONNX file"):
        open_session(version)


def test_a_race_finds_the_faster_session(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions run the same batch in turns; a session that runs it five times takes clearly longer."""
    plain, slow = open_session(version), open_session(version)
    run, shapes = slow.run, []

    def five_times(batch: Batch) -> None:
        shapes.append(batch.shape)
        for _ in range(5):
            run(batch)

    monkeypatch.setattr(slow, "run", five_times)
    plain_s, slow_s = race([plain, slow], 8)
    assert slow_s > 2 * plain_s
    assert set(shapes) == {(8, 28, 28, 1)}


def test_sessions_keep_neither_memory_nor_a_cpu_between_runs() -> None:
    """Sessions use neither an arena nor spinning threads; measurements can switch both on."""
    assert not session_module.options(2).enable_cpu_mem_arena
    assert session_module.options(2).get_session_config_entry("session.intra_op.allow_spinning") == "0"
    options = session_module.options(3, spinning=True, arena=True)
    assert (options.intra_op_num_threads, options.enable_cpu_mem_arena) == (3, True)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"


@pytest.mark.parametrize(("limit_s", "quick"), [(0.0, 0), (1e9, 256)])
def test_the_extent_of_quick_batches_is_measured(
    version: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float, quick: int
) -> None:
    """No batch is quick before the warm-up; after it, those that ran within the limit."""
    monkeypatch.setattr(session_module, "QUICK_S", limit_s)
    session = open_session(version)
    assert not session.is_quick(1)
    session.warm_up()
    assert [session.is_quick(size) for size in (1, 256, 257)] == [quick >= 1, quick >= 256, False]
