"""Screens an ONNX file before ONNX Runtime reads it, so that a harmful file costs nothing.

Such a file can refer to weights in other files, which no hash covers; use operators that load code, loop forever or
call back; or request a tensor of any size in a few bytes. So only the operators of classifiers are allowed, and those
that can connect them, all in ONNX's own domains and without graphs inside of nodes. Weights must be inside the file,
and no larger than it. What a graph computes from its inputs is not limited here.
"""

import mmap
from math import prod
from pathlib import Path

from contract.errors import ModelRefused
from contract.protobuf import Malformed, Value, fields, numbers

MAX_BYTES = (1 << 31) - 1
"""The largest message of protobuf."""
MAX_NODES = 20_000
MAX_CONSTANT_VALUES = 1 << 26
"""The largest tensor that a constant shape may request: 256 MiB of float32."""

_NAMES = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape
    Conv ConvInteger Cos CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN
    LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger
    Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RNN Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Round Selu Shape Shrink Sigmoid Sign Sin Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
ML_OPERATORS = frozenset(
    [
        "Binarizer",
        "FeatureVectorizer",
        "Imputer",
        "LinearClassifier",
        "Normalizer",
        "SVMClassifier",
        "Scaler",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    ]
)
"""Of the domain ai.onnx.ml, as scikit-learn's models are exported; ONNX Runtime checks that their attributes fit."""
_ARITHMETIC = {"Mul", "Mod"}  # hashes have large factors, which do not become the size of a tensor
DOMAINS = {"": OPERATORS, "ai.onnx": OPERATORS, "ai.onnx.ml": ML_OPERATORS}
"""The operators that are allowed, by their domain."""

# The fields that are read from each message (onnx.proto of ONNX 1.19; field numbers never change).
_MODEL = {7: "graph", 8: "opset_import", 20: "training_info", 25: "functions"}
_OPSET = {1: "domain"}
_GRAPH = {1: "node", 5: "initializer", 15: "sparse_initializer"}
_NODE = {1: "input", 4: "op_type", 5: "attribute", 7: "domain"}
_ATTRIBUTE = {3: "i", 5: "t", 6: "g", 8: "ints", 10: "tensors", 11: "graphs", 22: "sparse", 23: "sparse"}
_TENSOR = {
    1: "dims", 2: "data_type", 7: "int64_data", 8: "name", 9: "raw_data", 13: "external_data", 14: "data_location"
}  # fmt: skip
_ONCE = {"graph", "domain", "op_type", "i", "t", "data_type", "name", "raw_data"}

_INT64 = 7  # of data_type
_MAX_RANK = 6  # more numbers than these do not count as a shape
_MAX_DIMS = 16
_MAX_NAME_BYTES = 1024


def inspect(path: Path) -> None:
    """Refuse an ONNX file that is harmful. Takes milliseconds and no memory.

    Raises:
        ModelRefused: the file is harmful, cannot be read, or is not an ONNX file.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise ModelRefused(f"{path}: has {size} bytes; expected 1 to {MAX_BYTES}")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            fault = _fault(view)
    except OSError as error:
        raise ModelRefused(f"{path}: cannot be read: {error.strerror or error}") from error
    if fault:
        raise ModelRefused(f"{path}: {fault}")


def _fault(model: memoryview) -> str | None:
    """What is wrong with a model. No exception leaves this function, since its traceback would keep the file open."""
    try:
        _check_model(model)
    except Malformed as error:
        return f"is not an ONNX file, or is cut off: {error}"
    except ValueError as error:
        return str(error)
    return None


def _check_model(model: memoryview) -> None:
    """Check a file. Like the functions below, it raises a ValueError that says what is wrong."""
    for name, value in fields(model, _MODEL, _ONCE):
        match name, value:
            case "graph", memoryview():
                _check_graph(value, len(model))
            case "opset_import", memoryview():
                domain = _text(value, _OPSET, "domain")
                if domain not in DOMAINS:
                    raise ValueError(f"uses operators of the domain {domain!r}; only ONNX's own are supported")
            case (("training_info" | "functions"), _):
                raise ValueError("contains functions or a training graph, which are not supported")


def _check_graph(graph: memoryview, file_bytes: int) -> None:
    large: set[str] = set()
    nodes = 0
    for name, value in fields(graph, _GRAPH):
        match name, value:
            case "node", memoryview():
                nodes += 1
                if nodes > MAX_NODES:
                    raise ValueError(f"has too many nodes (maximum {MAX_NODES})")
            case "initializer", memoryview():
                if (label := _large_number(value, file_bytes)) is not None:
                    large.add(label)
            case "sparse_initializer", _:
                raise ValueError("contains sparse weights, which are not supported")
    for name, value in fields(graph, _GRAPH):
        if name == "node" and isinstance(value, memoryview):
            _check_node(value, file_bytes, large)


def _check_node(node: memoryview, file_bytes: int, large: set[str]) -> None:
    """Check a node; `large` names the weights that are a single large number, which only arithmetic may use."""
    operator, domain = _text(node, _NODE, "op_type"), _text(node, _NODE, "domain")
    if operator not in DOMAINS.get(domain, ()):
        suffix = f" of the domain {domain[:60]!r}" if domain else ""
        raise ValueError(f"has a node with the unsupported operator {operator[:60]!r}{suffix}")
    for name, value in fields(node, _NODE):
        match name, value:
            case "input", memoryview() if large and operator not in _ARITHMETIC:
                if _decoded(value) in large:
                    raise _too_large(_decoded(value))
            case "attribute", memoryview():
                _check_attribute(value, operator, file_bytes)


def _check_attribute(attribute: memoryview, operator: str, file_bytes: int) -> None:
    sizes: list[int] = []
    for name, value in fields(attribute, _ATTRIBUTE, _ONCE):
        match name, value:
            case (("t" | "tensors"), memoryview()):
                if (label := _large_number(value, file_bytes)) is not None:
                    raise _too_large(label)
            case (("g" | "graphs" | "sparse"), memoryview()):
                raise ValueError(f"has a node {operator!r} with a graph or a sparse tensor inside")
            case (("i" | "ints"), _) if operator == "Constant" and len(sizes) <= _MAX_RANK:
                sizes += numbers(value, _MAX_RANK + 1)
    if _is_large(sizes):
        raise _too_large("")


def _large_number(tensor: memoryview, file_bytes: int) -> str | None:
    """Check a tensor. Returns its name if it is a single large number, which is harmful only as a size."""
    label = ""
    data_type: Value = 0
    raw: list[int] = []
    read: dict[str, list[int]] = {"dims": [], "int64_data": []}
    for name, value in fields(tensor, _TENSOR, _ONCE):
        match name, value:
            case (("external_data" | "data_location"), _) if value != 0:
                raise ValueError("has weights in another file, which the manifest's hash does not cover")
            case (("dims" | "int64_data"), _) if len(read[name]) <= _MAX_DIMS:
                read[name] += numbers(value, _MAX_DIMS + 1)
            case "data_type", _:
                data_type = value
            case "name", memoryview():
                label = _decoded(value)
            case "raw_data", memoryview() if len(value) <= 8 * _MAX_RANK:
                raw = [int.from_bytes(value[place : place + 8], "little") for place in range(0, len(value), 8)]
    dims, values = read["dims"], read["int64_data"]
    if len(dims) > _MAX_DIMS or prod(dims) > file_bytes:
        raise ValueError(f"declares weights {label[:60]!r} of shape {dims[:8]}, more values than the file has bytes")
    if data_type != _INT64 or not (_is_large(values) or _is_large(raw)):
        return None
    if dims:
        raise _too_large(label)
    return label


def _is_large(sizes: list[int]) -> bool:
    """Whether numbers, as a shape, request too large a tensor; huge numbers mean 'to the end' and do not count."""
    return len(sizes) <= _MAX_RANK and prod(size for size in sizes if 0 < size < 1 << 62) > MAX_CONSTANT_VALUES


def _too_large(label: str) -> ValueError:
    return ValueError(f"requests by the constant {label[:60]!r} a tensor of more than {MAX_CONSTANT_VALUES} values")


def _text(message: memoryview, names: dict[int, str], wanted: str) -> str:
    """A field of text, empty if the message does not have it."""
    text = ""
    for name, value in fields(message, names, _ONCE):
        if name == wanted and isinstance(value, memoryview):
            text = _decoded(value)
    return text


def _decoded(value: memoryview) -> str:
    if len(value) > _MAX_NAME_BYTES:
        raise ValueError(f"contains a name of {len(value)} bytes (maximum {_MAX_NAME_BYTES})")
    return bytes(value).decode("utf-8", "replace")
