"""ONNX files that are harmful, damaged, or neither."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contract import graph
from contract.errors import ModelRefused
from tests.serving import ROOT

ADD = helper.make_node("Add", ["image", "w"], ["probabilities"])
WEIGHT = helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4])


def model(nodes: list[Any], weights: list[Any], domains: tuple[tuple[str, int], ...] = (("", 20),)) -> onnx.ModelProto:
    """A model with these nodes and weights; `domains` are pairs of a domain and its version."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in ("image", "probabilities")
    )
    content = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opsets = [helper.make_opsetid(*domain) for domain in domains]
    return helper.make_model(content, opset_imports=opsets, ir_version=10)


def external(location: str) -> TensorProto:
    """A weight whose values are in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def undeclared() -> TensorProto:
    """A weight that names another file, but does not declare that its values are there."""
    tensor = external("../secret")
    tensor.ClearField("data_location")
    return tensor


def sized(*dims: int) -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)


def constant_of(*sizes: int) -> onnx.ModelProto:
    """A model of a few bytes that asks for a constant of this shape."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [len(sizes)], sizes)
    return model([helper.make_node("ConstantOfShape", ["shape"], ["w"]), ADD], [shape])


def expanded_to(*sizes: int) -> onnx.ModelProto:
    """A model that expands its input to this shape, which is a node's attribute in raw bytes."""
    value = helper.make_tensor("v", TensorProto.INT64, [len(sizes)], np.array(sizes, "<i8").tobytes(), raw=True)
    constant = helper.make_node("Constant", [], ["shape"], value=value)
    return model([constant, helper.make_node("Expand", ["image", "shape"], ["w"]), ADD], [])


def large_range(*, as_attribute: bool = False) -> onnx.ModelProto:
    """A model that asks for a large range by a single number: a weight, or a node's attribute."""
    end = helper.make_tensor("end" * 30, TensorProto.INT64, [], [1 << 28])
    few = [helper.make_tensor(name, TensorProto.INT64, [], [size]) for name, size in (("start", 0), ("step", 1))]
    nodes = [helper.make_node("Range", ["start", "end" * 30, "step"], ["w"]), ADD]
    if not as_attribute:
        return model(nodes, [end, *few])
    return model([helper.make_node("Constant", [], ["end" * 30], value_int=1 << 28), *nodes], few)


def hashing() -> onnx.ModelProto:
    """A model with large numbers in arithmetic, as hashes have."""
    prime = helper.make_tensor("w", TensorProto.INT64, [], [(1 << 31) - 1])
    nodes = [helper.make_node("Mul", ["image", "w"], ["x"]), helper.make_node("Mod", ["x", "w"], ["probabilities"])]
    return model(nodes, [prime])


def looping() -> onnx.ModelProto:
    body = helper.make_graph([], "body", [], [])
    return model([helper.make_node("Loop", ["image"], ["probabilities"], body=body)], [])


def nested() -> onnx.ModelProto:
    """A harmless operator with a graph inside."""
    body = helper.make_graph([ADD], "body", [], [])
    return model([helper.make_node("Add", ["image", "w"], ["probabilities"], more=body)], [WEIGHT])


def with_function() -> onnx.ModelProto:
    made = model([ADD], [WEIGHT])
    made.functions.append(helper.make_function("", "Own", ["a"], ["b"], [ADD], [helper.make_opsetid("", 20)]))
    return made


def with_sparse() -> onnx.ModelProto:
    made = model([ADD], [WEIGHT])
    made.graph.sparse_initializer.add()
    return made


HARMFUL: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "weights outside": (lambda: model([ADD], [external("../../secret")]), "weights in another file"),
    "weights in /etc": (lambda: model([ADD], [external("/etc/passwd")]), "weights in another file"),
    "weights beside": (lambda: model([ADD], [external("weights.bin")]), "weights in another file"),
    "weights in a node": (
        lambda: model([helper.make_node("Constant", [], ["probabilities"], value=external("x"))], []),
        "weights in another file",
    ),
    "weights undeclared outside": (lambda: model([ADD], [undeclared()]), "weights in another file"),
    "weights of terabytes": (lambda: model([ADD], [sized(1 << 20, 1 << 20)]), "more values than the file has bytes"),
    "negative weights": (lambda: model([ADD], [sized(-1)]), "more values than the file has bytes"),
    "a million axes": (lambda: model([ADD], [sized(*[1] * 1_000_000)]), "more values than the file has bytes"),
    "another domain": (lambda: model([ADD], [WEIGHT], (("", 20), ("evil", 1))), "domain 'evil'"),
    "a custom operator": (
        lambda: model([helper.make_node("Evil", ["image"], ["probabilities"], domain="evil")], []),
        "operator 'Evil' of the domain 'evil'",
    ),
    "an operator of Microsoft": (
        lambda: model([helper.make_node("Add", ["image", "w"], ["probabilities"], domain="com.microsoft")], [WEIGHT]),
        "operator 'Add' of the domain 'com.microsoft'",
    ),
    "a loop": (looping, "operator 'Loop'"),
    "a graph in a node": (nested, "a graph or a sparse tensor inside"),
    "a function": (with_function, "functions"),
    "sparse weights": (with_sparse, "sparse"),
    "a constant of gigabytes": (lambda: constant_of(400_000_000), "a tensor of more than"),
    "a constant of many axes": (lambda: constant_of(70_000, 70_000), "a tensor of more than"),
    "an expansion": (lambda: expanded_to(100_000, 1, 100_000), "a tensor of more than"),
    "a range": (large_range, "a tensor of more than"),
    "a range by an attribute": (lambda: large_range(as_attribute=True), "a tensor of more than"),
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
def test_a_harmful_graph_is_refused(tmp_path: Path, name: str) -> None:
    """The message says what is harmful, before ONNX Runtime reads the file."""
    make, fact = HARMFUL[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelRefused, match=fact):
        graph.inspect(path)


def in_two_parts() -> dict[str, bytes]:
    """Harmful models, each with a message in two parts, which protobuf merges; neither part is harmful."""
    ranged = large_range()
    weights = onnx.ModelProto(graph=onnx.GraphProto(initializer=ranged.graph.initializer))
    del ranged.graph.initializer[:]
    value = expanded_to(1 << 20, 1 << 20).graph.node[0].attribute[0]
    raw = onnx.AttributeProto(t=TensorProto(raw_data=value.t.raw_data))
    value.t.ClearField("raw_data")
    number = helper.make_attribute("value_int", 1)
    return {
        "a graph": ranged.SerializeToString() + weights.SerializeToString(),
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
def test_a_repeated_field_is_refused(tmp_path: Path, name: str) -> None:
    """Parsers merge repeated messages and take the last of repeated names; no single part shows what will be run."""
    path = tmp_path / "model.onnx"
    path.write_bytes(in_two_parts()[name])
    assert onnx.load(path).graph.node, "a model nevertheless"
    with pytest.raises(ModelRefused, match="repeats the field"):
        graph.inspect(path)


def test_both_forms_of_values_are_read(tmp_path: Path) -> None:
    """A harmless shape does not hide a harmful one in raw bytes, which ONNX Runtime prefers."""
    made = constant_of(1 << 20, 1 << 20)
    shape = made.graph.initializer[0]
    shape.raw_data = np.array(shape.int64_data, "<i8").tobytes()
    shape.int64_data[:] = [1, 1]
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelRefused, match="a tensor of more than"):
        graph.inspect(path)


def test_a_file_of_empty_nodes_is_refused_at_once(tmp_path: Path) -> None:
    """Each node has two bytes; a parser that builds objects would need a hundred times as much memory."""
    path = tmp_path / "model.onnx"
    path.write_bytes(delimited(7, b"\x0a\x00" * 4_000_000))
    started = time.process_time()
    with pytest.raises(ModelRefused, match="nodes"):
        graph.inspect(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*/*/*.onnx")), ids=lambda path: path.parts[-3])
def test_published_graphs_pass(path: Path) -> None:
    """The graphs that training publishes are accepted."""
    graph.inspect(path)


def test_usual_constants_pass(tmp_path: Path) -> None:
    """Shapes of images, an open axis, the largest number (the end of a slice), and the factors of a hash."""
    path = tmp_path / "model.onnx"
    for sizes in ((256, 3, 224, 224), (-1, 800), ((1 << 63) - 1,), (1,) * 6, tuple(range(1, 2000))):
        path.write_bytes(constant_of(*sizes).SerializeToString())
        graph.inspect(path)
    path.write_bytes(hashing().SerializeToString())
    graph.inspect(path)


def test_damaged_graphs_are_refused_or_pass(tmp_path: Path) -> None:
    """Files that are cut off, have a flipped bit or are random bytes never raise another exception."""
    intact = model([ADD, ADD], [WEIGHT, sized(2, 2)]).SerializeToString()
    draw, path = random.Random(0), tmp_path / "model.onnx"
    inputs = [intact[:length] for length in range(1, len(intact), 3)]
    for _ in range(200):
        damaged = bytearray(intact)
        damaged[draw.randrange(len(intact))] ^= 1 << draw.randrange(8)
        inputs += [bytes(damaged), draw.randbytes(draw.randrange(1, 60))]
    refused = 0
    for content in inputs:
        path.write_bytes(content)
        try:
            graph.inspect(path)
        except ModelRefused:
            refused += 1
    assert refused > len(inputs) // 4


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A missing file, an empty file, and a sparse file of a terabyte."""
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelRefused, match="cannot be read"):
        graph.inspect(path)
    path.touch()
    with pytest.raises(ModelRefused, match="0 bytes"):
        graph.inspect(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelRefused, match="1099511627776 bytes"):
        graph.inspect(path)
