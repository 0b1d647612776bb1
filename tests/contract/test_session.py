"""ONNX Runtime sessions."""

from collections.abc import Callable
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
from contract.spec import ImageInput, TextInput
from tests import reviews


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


def test_a_processor_computes_few_pictures_at_once(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large batch runs in slices, whose rows come back in order."""
    sizes: list[int] = []
    run = ort.InferenceSession.run

    def recorded(self: Any, names: Any, feed: dict[str, Any]) -> Any:
        sizes.extend(map(len, feed.values()))
        return run(self, names, feed)

    monkeypatch.setattr(ort.InferenceSession, "run", recorded)
    pictures = np.random.default_rng(0).integers(0, 256, (70, 28, 28, 1), dtype=np.uint8)
    session = open_session(version)
    rows = session.run(pictures)
    assert sizes == [32, 32, 6]
    assert np.abs(rows - np.concatenate([session.run(pictures[:30]), session.run(pictures[30:])])).max() < 1e-5


@pytest.mark.parametrize(("side", "channels", "pictures"), [(28, 1, 32), (96, 3, 9), (227, 3, 1), (1000, 3, 1)])
def test_a_slice_holds_fewer_of_large_pictures(side: int, channels: int, pictures: int) -> None:
    """Some 260,000 values at once, one picture at least."""
    spec = ImageInput(height=side, width=side, mode="L" if channels == 1 else "RGB", framing="squash")
    assert spec.max_run_items == pictures


def test_golden_inputs_are_replayed(version: Path) -> None:
    """The published model passes on this machine; one that computes something else is refused."""
    session = open_session(version)
    session.replay(version)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, probabilities = golden["inputs"], golden["probabilities"]
    np.savez(version / contract.GOLDEN, inputs=inputs, probabilities=probabilities[:, ::-1])
    with pytest.raises(ModelRefused, match="golden probabilities differ by"):
        session.replay(version)
    for damaged in (b"PK", b"PK\x03\x04" + bytes(50)):
        (version / contract.GOLDEN).write_bytes(damaged)
        with pytest.raises(ModelRefused, match="cannot be read"):
            session.replay(version)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda inputs, rows: (inputs[:, :5], rows),
            r"expected inputs uint8 of shape \[N, 28, 28, 1\], found uint8 of",
        ),
        (lambda inputs, rows: (inputs[..., 0], rows), r"found uint8 of shape \[16, 28, 28\]"),
        (lambda inputs, rows: (inputs.astype(np.int64), rows), "found int64"),
        (lambda inputs, rows: (inputs[:0], rows[:0]), r"found uint8 of shape \[0, 28, 28, 1\]"),
        (lambda inputs, rows: (inputs, rows[:3]), r"expected probabilities float32 of shape \[16, 10\]"),
        (lambda inputs, rows: (inputs, rows.astype(np.float64)), "found float64"),
        (lambda inputs, rows: (inputs, rows * np.nan), "not finite"),
    ],
)
def test_golden_arrays_of_another_form_are_refused(version: Path, spoil: Callable[..., Any], said: str) -> None:
    """Inputs and outputs of a wrong type or shape, and outputs that are not finite, are refused before they are run."""
    with np.load(version / contract.GOLDEN) as golden:
        inputs, rows = spoil(golden["inputs"], golden["probabilities"])
    np.savez(version / contract.GOLDEN, inputs=inputs, probabilities=rows)
    with pytest.raises(ModelRefused, match=said):
        open_session(version).replay(version)


def test_a_graph_whose_ends_are_not_the_manifests_is_refused(version: Path) -> None:
    """Labels that the graph has no outputs for are found before anybody asks."""
    with pytest.raises(ModelRefused, match=r"expected probabilities tensor\(float\) of shape \[N, 2\]"):
        open_session(version, labels=["cat", "dog"])


def test_tokens_of_any_batch_and_length_give_probabilities(tmp_path: Path) -> None:
    """Both axes are open, padding changes nothing, and the golden tokens replay."""
    version = reviews.publish(tmp_path)
    session = open_session(version)
    session.replay(version)
    session.warm_up()
    rows = session.run(np.array([[3], [5]], np.int64))
    assert rows == pytest.approx(reviews.reference(["good", "bad"]), abs=1e-5)
    padded = session.run(np.array([[3, 0, 0, 0], [5, 0, 0, 0], [4, 4, 4, 4]], np.int64))
    assert np.array_equal(padded[:2], rows)


def test_golden_tokens_of_another_type_are_refused(tmp_path: Path) -> None:
    """The graph takes int64 (N, L), and so must what is stored."""
    version = reviews.publish(tmp_path)
    with np.load(version / contract.GOLDEN) as golden:
        inputs, rows = golden["inputs"], golden["probabilities"]
    for spoilt in (inputs.astype(np.int32), inputs[0], inputs[:, :0]):
        np.savez(version / contract.GOLDEN, inputs=spoilt, probabilities=rows)
        with pytest.raises(ModelRefused, match=r"expected inputs int64 of shape \[N, L\], found"):
            open_session(version).replay(version)
    np.savez(version / contract.GOLDEN, inputs=inputs + 100, probabilities=rows)
    with pytest.raises(ModelRefused, match="cannot be run"):
        open_session(version).replay(version)


@pytest.mark.parametrize("axes", ["N, 64", "8, L"])
def test_a_graph_of_texts_with_a_fixed_axis_is_refused(tmp_path: Path, axes: str) -> None:
    """A batch of any size and length must fit."""
    version = reviews.publish(tmp_path, graph=reviews.GRAPH.replace("int64[N, L]", f"int64[{axes}]"))
    with pytest.raises(ModelRefused, match=r"expected tokens tensor\(int64\) of shape \[N, L\], found"):
        open_session(version)


def test_a_graph_of_the_other_kind_is_refused(version: Path, tmp_path: Path) -> None:
    """A graph of pictures under a manifest of texts is found before anybody asks."""
    texts = contract.read(reviews.publish(tmp_path / "texts")).input
    with pytest.raises(ModelRefused, match=r"expected tokens tensor\(int64\)"):
        open_session(version, input=texts)


@pytest.mark.parametrize(("max_batch", "length"), [(1, 1), (8, 64), (256, 400), (100_000, 3), (4, 1_000_000)])
def test_the_warm_up_of_texts_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_batch: int, length: int
) -> None:
    """One token, the longest text, and the largest batches, none above the bound but a text alone."""
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
    """A text of one token is a text; a graph that cannot take it is found at the warm-up."""
    graph = """
        <ir_version: 10, opset_import: ["" : 21]>
        reviews (int64[N, L] tokens) => (float[N, 2] probabilities)
        <float[7, 2] worth = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, int64 second = {1}> {
            one = Gather <axis = 1> (tokens, second)
            total = Gather (worth, one)
            probabilities = Softmax (total)
        }
    """
    session = open_session(reviews.publish(tmp_path, graph=graph))
    with pytest.raises(ModelRefused, match=r"cannot be run on tokens \(1, 1\)"):
        session.warm_up()


def test_a_damaged_graph_is_refused(version: Path) -> None:
    """A file that is not ONNX is refused with its name."""
    (version / contract.GRAPH).write_bytes(b"not a graph")
    with pytest.raises(ModelRefused, match="not an ONNX file"):
        open_session(version)


def test_a_race_tells_the_faster_session(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions run in turns on the same batch; one that does the work five times takes clearly longer."""
    plain, slow = open_session(version), open_session(version)
    run, turns = slow.run, []

    def five_times(batch: Batch) -> None:
        turns.append(batch.shape)
        for _ in range(5):
            run(batch)

    monkeypatch.setattr(slow, "run", five_times)
    plain_s, slow_s = race([plain, slow], 8)
    assert slow_s > 2 * plain_s
    assert set(turns) == {(8, 28, 28, 1)}


def test_sessions_keep_no_memory_and_no_processor_between_runs() -> None:
    """Neither arena nor spinning threads, as measured; both can be had for a measurement."""
    assert not session_module.options(2).enable_cpu_mem_arena
    assert session_module.options(2).get_session_config_entry("session.intra_op.allow_spinning") == "0"
    chosen = session_module.options(3, spinning=True, arena=True)
    assert (chosen.intra_op_num_threads, chosen.enable_cpu_mem_arena) == (3, True)
    assert chosen.get_session_config_entry("session.intra_op.allow_spinning") == "1"


@pytest.mark.parametrize(("worth_s", "alone"), [(-1.0, False), (10.0, True)])
def test_what_company_saves_is_measured(
    version: Path, monkeypatch: pytest.MonkeyPatch, worth_s: float, alone: bool
) -> None:
    """A run goes alone where it is quick and would save less in a batch than company is worth; never before warm-up."""
    monkeypatch.setattr(session_module, "QUICK_S", 10.0)
    monkeypatch.setattr(session_module, "COMPANY_S", worth_s)
    session = open_session(version)
    assert not session.runs_alone(1)
    session.warm_up()
    assert session.runs_alone(1) is alone
    assert not session.runs_alone(257)


@pytest.mark.parametrize(("limit_s", "quick"), [(0.0, 0), (1e9, 256)])
def test_what_is_quick_is_measured(version: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float, quick: int) -> None:
    """No run is quick before the warm-up; after it those that stayed below the limit."""
    monkeypatch.setattr(session_module, "QUICK_S", limit_s)
    session = open_session(version)
    assert not session.is_quick(1)
    session.warm_up()
    assert [session.is_quick(size) for size in (1, 256, 257)] == [quick >= 1, quick >= 256, False]
