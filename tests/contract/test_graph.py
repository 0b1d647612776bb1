"""Graphs, golden files and manifests that were made to harm."""

import io
import json
import os
import random
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Regex, pre_tokenizers

from contract import golden, graph
from contract import manifest as contract
from contract.errors import ModelRefused, Unreadable
from contract.spec import TOKENIZER, TextInput
from contract.text import text_to_tokens
from service.inference.repository import Repository
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests import reviews
from tests.serving import ROOT

ADD = helper.make_node("Add", ["image", "w"], ["probabilities"])
WEIGHT = helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4])


def model(nodes: list[Any], weights: list[Any], domains: tuple[tuple[str, int], ...] = (("", 20),)) -> onnx.ModelProto:
    """A model of these nodes and weights."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("image", "probabilities")]
    content = helper.make_graph(nodes, "made", ends[:1], ends[1:], weights)
    return helper.make_model(content, opset_imports=[helper.make_opsetid(*one) for one in domains], ir_version=10)


def external(location: str) -> TensorProto:
    """A weight that lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def hidden() -> TensorProto:
    """A weight whose other file is named, but whose place is not said to be there."""
    tensor = external("../secret")
    tensor.ClearField("data_location")
    return tensor


def sized(*dims: int) -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)


def made_of(*sizes: int) -> onnx.ModelProto:
    """A model that asks, in a few bytes, for a tensor of this shape."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [len(sizes)], sizes)
    return model([helper.make_node("ConstantOfShape", ["shape"], ["w"]), ADD], [shape])


def made_inside(*sizes: int) -> onnx.ModelProto:
    """As above, its shape in a node and as raw bytes."""
    value = helper.make_tensor("v", TensorProto.INT64, [len(sizes)], np.array(sizes, "<i8").tobytes(), raw=True)
    constant = helper.make_node("Constant", [], ["shape"], value=value)
    return model([constant, helper.make_node("Expand", ["image", "shape"], ["w"]), ADD], [])


def counting(*, inside: bool = False) -> onnx.ModelProto:
    """A model that asks for it by a number that stands alone, which may be an attribute."""
    end = helper.make_tensor("end" * 30, TensorProto.INT64, [], [1 << 28])
    few = [helper.make_tensor(name, TensorProto.INT64, [], [size]) for name, size in (("start", 0), ("step", 1))]
    nodes = [helper.make_node("Range", ["start", "end" * 30, "step"], ["w"]), ADD]
    if not inside:
        return model(nodes, [end, *few])
    return model([helper.make_node("Constant", [], ["end" * 30], value_int=1 << 28), *nodes], few)


def hashing() -> onnx.ModelProto:
    """A model with large numbers in its arithmetic, as hashes have."""
    prime = helper.make_tensor("w", TensorProto.INT64, [], [(1 << 31) - 1])
    nodes = [helper.make_node("Mul", ["image", "w"], ["x"]), helper.make_node("Mod", ["x", "w"], ["probabilities"])]
    return model(nodes, [prime])


def looping() -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("image", "probabilities")]
    body = helper.make_graph([], "body", [], ends[1:])
    return model([helper.make_node("Loop", ["image"], ["probabilities"], body=body)], [])


def nested() -> onnx.ModelProto:
    """A harmless operator that carries a graph."""
    body = helper.make_graph([ADD], "body", [], [])
    return model([helper.make_node("Add", ["image", "w"], ["probabilities"], more=body)], [WEIGHT])


def with_function() -> onnx.ModelProto:
    whole = model([ADD], [WEIGHT])
    whole.functions.append(helper.make_function("", "Mine", ["a"], ["b"], [ADD], [helper.make_opsetid("", 20)]))
    return whole


def with_sparse() -> onnx.ModelProto:
    whole = model([ADD], [WEIGHT])
    whole.graph.sparse_initializer.add()
    return whole


HARMFUL: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "weights outside": (lambda: model([ADD], [external("../../secret")]), "weights in another file"),
    "weights in /etc": (lambda: model([ADD], [external("/etc/passwd")]), "weights in another file"),
    "weights beside": (lambda: model([ADD], [external("weights.bin")]), "weights in another file"),
    "weights in a node": (
        lambda: model([helper.make_node("Constant", [], ["probabilities"], value=external("x"))], []),
        "weights in another file",
    ),
    "weights half outside": (lambda: model([ADD], [hidden()]), "weights in another file"),
    "weights of terabytes": (lambda: model([ADD], [sized(1 << 20, 1 << 20)]), "more values than the file has bytes"),
    "negative weights": (lambda: model([ADD], [sized(-1)]), "more values than the file has bytes"),
    "a million axes": (lambda: model([ADD], [sized(*[1] * 1_000_000)]), "more values than the file has bytes"),
    "another domain": (lambda: model([ADD], [WEIGHT], (("", 20), ("evil", 1))), "domain 'evil'"),
    "a custom operator": (
        lambda: model([helper.make_node("Evil", ["image"], ["probabilities"], domain="evil")], []),
        "operator 'Evil' of the domain 'evil'",
    ),
    "an operator of Microsoft's": (
        lambda: model([helper.make_node("Add", ["image", "w"], ["probabilities"], domain="com.microsoft")], [WEIGHT]),
        "operator 'Add' of the domain 'com.microsoft'",
    ),
    "a loop": (looping, "operator 'Loop'"),
    "a graph in a node": (nested, "a graph or a sparse tensor inside"),
    "a function": (with_function, "functions"),
    "sparse weights": (with_sparse, "sparse"),
    "a constant of gigabytes": (lambda: made_of(400_000_000), "a tensor of more than"),
    "a constant of many axes": (lambda: made_of(70_000, 70_000), "a tensor of more than"),
    "an expansion": (lambda: made_inside(100_000, 1, 100_000), "a tensor of more than"),
    "a range": (counting, "a tensor of more than"),
    "a range by an attribute": (lambda: counting(inside=True), "a tensor of more than"),
    "a shape by attributes": (
        lambda: model(
            [
                helper.make_node("Constant", [], ["shape"], value_ints=[1 << 20, 1 << 20]),
                helper.make_node("ConstantOfShape", ["shape"], ["w"]),
                ADD,
            ],
            [],
        ),
        "a tensor of more than",
    ),
    "a name of megabytes": (
        lambda: model([helper.make_node("Add" * 1_000_000, ["image", "w"], ["probabilities"])], [WEIGHT]),
        "a name of 3000000 bytes",
    ),
    "too many nodes": (lambda: model([ADD] * (graph.MAX_NODES + 1), [WEIGHT]), "nodes"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_graph_made_to_harm_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    """What it asks for is named, before ONNX Runtime sees it."""
    make, said = HARMFUL[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelRefused, match=said):
        graph.inspect(path)


def in_two_parts() -> dict[str, bytes]:
    """Harmful models, each with a message in two parts, which protobuf merges; neither part is harmful."""
    counted = counting()
    weights = onnx.ModelProto(graph=onnx.GraphProto(initializer=counted.graph.initializer))
    del counted.graph.initializer[:]
    value = made_inside(1 << 20, 1 << 20).graph.node[0].attribute[0]
    raw = onnx.AttributeProto(t=TensorProto(raw_data=value.t.raw_data))
    value.t.ClearField("raw_data")
    number = helper.make_attribute("value_int", 1)
    return {
        "a graph": counted.SerializeToString() + weights.SerializeToString(),
        "a tensor": spliced(value.SerializeToString() + raw.SerializeToString()),
        "an operator": spliced(ADD.SerializeToString() + onnx.NodeProto(op_type="Loop").SerializeToString(), field=1),
        "a number": spliced(number.SerializeToString() + onnx.AttributeProto(i=1 << 28).SerializeToString()),
    }


def spliced(content: bytes, field: int = 5) -> bytes:
    """A model of one node: of these bytes (1), or a constant with the attribute of these bytes (5)."""
    constant: bytes = helper.make_node("Constant", [], ["shape"]).SerializeToString()
    return delimited(7, delimited(1, content if field == 1 else constant + delimited(field, content)))


def delimited(field: int, content: bytes) -> bytes:
    """A field of a message that holds bytes."""
    length, prefix = len(content), b""
    while length > 127:
        prefix, length = prefix + bytes([length & 127 | 128]), length >> 7
    return bytes([field << 3 | 2]) + prefix + bytes([length]) + content


@pytest.mark.parametrize("name", ["a graph", "a tensor", "an operator", "a number"])
def test_what_comes_in_two_parts_is_refused(tmp_path: Path, name: str) -> None:
    """Parsers merge a message that is repeated, and take the last of a name; no part alone shows what will be run."""
    path = tmp_path / "model.onnx"
    path.write_bytes(in_two_parts()[name])
    assert onnx.load(path).ByteSize(), "a model all the same"
    with pytest.raises(ModelRefused, match="repeats the field"):
        graph.inspect(path)


def test_both_forms_of_a_tensor_s_values_are_read(tmp_path: Path) -> None:
    """A harmless shape beside the harmful one in raw bytes, which ONNX Runtime prefers, hides nothing."""
    whole = made_of(1 << 20, 1 << 20)
    shape = whole.graph.initializer[0]
    shape.raw_data = np.array(shape.int64_data, "<i8").tobytes()
    shape.int64_data[:] = [1, 1]
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(ModelRefused, match="a tensor of more than"):
        graph.inspect(path)


def test_a_file_of_empty_nodes_is_refused_at_once(tmp_path: Path) -> None:
    """Two bytes a node, of which objects would take a hundred times as much memory as the file has bytes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(delimited(7, b"\x0a\x00" * 4_000_000))
    started = time.process_time()
    with pytest.raises(ModelRefused, match="nodes"):
        graph.inspect(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", ["weights beside", "a constant of gigabytes", "a loop"])
def test_a_harmful_version_is_refused_and_takes_nothing(version: Path, name: str) -> None:
    """As a version with the right hash: the reason stands in what is refused, at no price in memory or open files."""
    (version / contract.GRAPH).write_bytes(HARMFUL[name][0]().SerializeToString())
    (version / "weights.bin").write_bytes(bytes(16))
    rehash(version)
    shelf, before = repository(version.parents[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    shelf.load()
    assert HARMFUL[name][1] in shelf.refused["digits"]["1"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kibibytes, on Linux
    assert not opened or len(list(Path("/proc/self/fd").iterdir())) <= opened


@pytest.mark.parametrize("name", ["digits", "cats-vs-dogs", "reviews"])
def test_published_graphs_pass(name: str) -> None:
    """What training publishes is not refused, nor are usual shapes, or 'up to the end'."""
    graph.inspect(ROOT / "models" / name / "1" / contract.GRAPH)


def test_usual_constants_pass(tmp_path: Path) -> None:
    """Shapes of pictures, an axis left open, the largest number, which slices have for an end, a hash's factors."""
    path = tmp_path / "model.onnx"
    for sizes in ((256, 3, 224, 224), (-1, 800), ((1 << 63) - 1,), (1,) * 6, tuple(range(1, 2000))):
        path.write_bytes(made_of(*sizes).SerializeToString())
        graph.inspect(path)
    path.write_bytes(hashing().SerializeToString())
    graph.inspect(path)


def test_damaged_graphs_give_a_refusal_or_pass(tmp_path: Path) -> None:
    """Cut off anywhere, with any bit turned, or of random bytes: never another exception."""
    whole = model([ADD, ADD], [WEIGHT, sized(2, 2)]).SerializeToString()
    draw, path = random.Random(0), tmp_path / "model.onnx"
    inputs = [whole[:length] for length in range(1, len(whole), 3)]
    for _ in range(200):
        spoilt = bytearray(whole)
        spoilt[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        inputs += [bytes(spoilt), draw.randbytes(draw.randrange(1, 60))]
    refused = 0
    for content in inputs:
        path.write_bytes(content)
        try:
            graph.inspect(path)
        except ModelRefused:
            refused += 1
    assert refused > len(inputs) // 4


def test_files_of_no_graph_are_refused(tmp_path: Path) -> None:
    """An empty file, a sparse one of terabytes, and none at all."""
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelRefused, match="cannot be read"):
        graph.inspect(path)
    path.touch()
    with pytest.raises(ModelRefused, match="has 0 bytes"):
        graph.inspect(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelRefused, match="has 1099511627776 bytes"):
        graph.inspect(path)


def repository(models: Path) -> Repository:
    return Repository(Settings(models=models, provider="cpu"), Metrics())


def rehash(version: Path, **change: Any) -> None:
    """Let a manifest name the files as they are now, itself changed."""
    content = json.loads((version / contract.MANIFEST).read_text())
    content["files"] = {name: contract.sha256(version / name) for name in content["files"]}
    (version / contract.MANIFEST).write_text(json.dumps({**content, **change}))


def reason(version: Path) -> str:
    """Why a version is refused."""
    shelf = repository(version.parents[1])
    shelf.load()
    return shelf.refused[version.parent.name][version.name]


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)


def array(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """The head of an array file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


def test_golden_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros beyond the bound, arrays that say more than there is, many arrays, and objects, which are pickles."""
    monkeypatch.setattr(golden, "MAX_BYTES", 1 << 20)
    path = tmp_path / contract.GOLDEN
    cases = [
        ({"inputs": array((1 << 22,)) + bytes(1 << 22), "probabilities": array((1,)) + b"x"}, "at most"),
        ({"inputs": array((1 << 50,)), "probabilities": array((1,)) + b"x"}, "cannot be read"),
        ({f"a{number}": b"" for number in range(20)}, "holds 20 arrays"),
        ({"inputs": array((1,), "|O") + b"cos\nsystem\n(S'true'\ntR.", "probabilities": b""}, "allow_pickle=False"),
    ]
    for members, said in cases:
        archive(path, **members)
        with pytest.raises(ModelRefused, match=said):
            golden.read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_batch": 10**9}, "max_batch"),
        ({"version": 10**30}, "version"),
        ({"labels": ["x" * 300, "y"]}, "labels"),
        ({"labels": [str(number) for number in range(100_001)]}, "labels"),
        ({"input": {"kind": "image", "height": 10**6, "width": 10**6, "mode": "RGB", "framing": "squash"}}, "height"),
        ({"input": {"kind": "image", "height": 4096, "width": 4096, "mode": "RGB", "framing": "squash"}}, "batch of"),
        ({"input": {"kind": "text", "length": 10**12, "vocabulary": 2}}, "length"),
        ({"input": {"kind": "text", "length": 1, "vocabulary": 2, "tokenizer": "../../etc/passwd"}}, "tokenizer"),
        ({"files": {"../model.onnx": "0" * 64}}, "files"),
        ({"files": {"model.onnx\n": "0" * 64}}, "files"),
        ({"files": {"model.onnx": "0" * 64}}, "do not name card.md"),
        ({"model": "../digits"}, "model"),
        ({"model": "x" * 101}, "model"),
    ],
)
def test_manifests_that_ask_for_too_much_are_refused(version: Path, change: dict[str, Any], said: str) -> None:
    """Sizes beyond all measure, and names that lead elsewhere, are refused by the entry's name."""
    content = json.loads((version / contract.MANIFEST).read_text())
    (version / contract.MANIFEST).write_text(json.dumps({**content, **change}))
    assert said in reason(version)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" * 100_000, '{"schema_version":' + "9" * 5000 + "}", "\ufeff{}", "NaN", '"', "\0"]
)
def test_manifests_of_no_form_are_refused(version: Path, text: str) -> None:
    """Nested without end, numbers without end, and no JSON at all."""
    (version / contract.MANIFEST).write_text(text)
    assert contract.MANIFEST in reason(version)


def test_files_that_are_none_are_refused(version: Path, tmp_path: Path) -> None:
    """A link, a pipe, which would never end, and more than a text may have, in the place of each file."""
    outside = tmp_path / "outside"
    for name in (contract.MANIFEST, contract.CARD, contract.GOLDEN, contract.GRAPH):
        path = version / name
        content = path.read_bytes()
        outside.write_bytes(content)
        for spoil in (
            lambda path=path: path.symlink_to(outside),
            lambda path=path: os.mkfifo(path),
            lambda path=path: path.mkdir(),
        ):
            path.unlink()
            spoil()
            assert "no regular file" in reason(version)
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
            path.write_bytes(content)
    with (version / contract.MANIFEST).open("wb") as file:
        file.truncate(1 << 40)
    assert "no regular file of up to" in reason(version)


def test_links_out_of_the_folder_are_refused(version: Path, tmp_path: Path) -> None:
    """A version, or a whole model, that lies elsewhere is not served; models/ itself may be a link."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "more").mkdir(parents=True)
    version.rename(elsewhere / "1")
    version.symlink_to(elsewhere / "1")
    assert "is a link that leads out of" in reason(version)
    version.unlink()
    version.parent.rmdir()
    version.parent.symlink_to(elsewhere)
    shelf = repository(version.parents[1])
    shelf.load()
    assert "is a link that leads out of" in shelf.refused["digits"]["1"]
    version.parent.unlink()
    (elsewhere / "more").rmdir()
    elsewhere.rename(version.parent)
    door = tmp_path / "door"
    door.symlink_to(version.parents[1])
    shelf = repository(door)
    shelf.load()
    assert shelf.ready


def test_an_absurd_tokenizer_is_refused(tmp_path: Path) -> None:
    """One nested without end, with an id beyond the vocabulary, or larger than a text may be."""
    huge = json.loads(reviews.tokenizer().to_str())
    huge["model"]["vocab"]["far"] = 4_000_000_000
    for number, words in enumerate(('{"a":' * 100_000, json.dumps(huge), '{"model": 7}')):
        folder = reviews.publish(tmp_path / str(number), tokenizer_json=words)
        assert TOKENIZER in reason(folder)
    folder = reviews.publish(tmp_path / "large")
    with (folder / TOKENIZER).open("r+b") as file:
        file.truncate(contract.MAX_TEXT_BYTES + 1)
    rehash(folder)
    assert "no regular file of up to" in reason(folder)


def test_a_pattern_that_never_ends_is_a_refusal_of_the_text() -> None:
    """A tokenizer whose pattern tries without end panics inside its library; the text is told, the worker lives."""
    tokenizer = reviews.tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), behavior="removed", invert=True)
    with pytest.raises(Unreadable, match="gave up"):
        text_to_tokens("a" * 40 + "!", tokenizer, TextInput(length=8, vocabulary=7))
