"""What an ONNX file asks of the machine, looked at before ONNX Runtime is asked: none of our own does more than this.

A file made to harm can name weights in files beside it, which no hash covers; declare operators that load code, loop
without end or call back; or ask in a few bytes for tensors of any size. So operators are those that networks of
`training` are made of and what may stand between them, each in ONNX's own domain, without graphs inside of nodes;
weights are inside the file, and as large as it says. What a graph computes from its inputs is not bounded here.

ONNX is protobuf (onnx.proto of ONNX 1.19, whose field numbers never change); no more of it is read than is named here.
"""

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path

from contract.errors import ModelRefused

MAX_BYTES = (1 << 31) - 1
"""What protobuf holds in one message."""
MAX_NODES = 20_000
MAX_MADE = 1 << 26
"""The most values that a constant shape may ask for: 256 MiB of float32."""

_WORDS = (
    "Abs Add And ArgMax AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape "
    "Conv CumSum Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm "
    "GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity "
    "InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max "
    "MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Selu Shape Sigmoid "
    "Sign Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tanh ThresholdedRelu TopK Transpose "
    "Unsqueeze Where QuantizeLinear DequantizeLinear"
)
OPERATORS = frozenset(_WORDS.split())

# Field numbers, by message.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_WEIGHT, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = {5, 10}, {6, 11}, {22, 23}
_ATTRIBUTE_INTS = {3, 8}
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_INT64 = 1, 2, 8, 9, 7
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DOMAINS = {b"", b"ai.onnx"}
_ARITHMETIC = {b"Mul", b"Mod"}  # of hashes, whose factors are large
_INT64, _INT64_BYTES, _SIGN = 7, 8, 1 << 63
_MAX_RANK = 6  # of a tensor of whole numbers that is taken for a shape
_MAX_DIMS = 16
_MAX_FIELDS = 1 << 20  # of one message: a second of reading

Field = tuple[int, int | memoryview]


def inspect(path: Path) -> None:
    """Refuse an ONNX file that asks for more than our networks do. Takes milliseconds and no memory.

    Raises:
        ModelRefused: what it asks for, or that it is no ONNX file.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise ModelRefused(f"{path}: has {size} bytes; a graph has 1 to {MAX_BYTES}")
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


def _fault(content: memoryview) -> str | None:
    """What is wrong with a model, in words; no exception, which would keep the file open."""
    try:
        return next(_model(content), None)
    except (ValueError, IndexError):
        return "ONNX Runtime cannot load this graph: it is no ONNX file, or cut off"


def _model(content: memoryview) -> Iterator[str]:
    for number, value in _fields(content):
        match number, value:
            case (int(number), memoryview()) if number == _MODEL_GRAPH:
                yield from _graph(value, len(content))
            case (int(number), memoryview()) if number == _MODEL_OPSET:
                domain = _last(value, _OPSET_DOMAIN)
                if domain not in _DOMAINS:
                    yield f"asks for operators of the domain {_shown(domain)}; only ONNX's own are run"
            case (int(number), _) if number in {_MODEL_TRAINING, _MODEL_FUNCTIONS}:
                yield "holds functions or a training graph; only a plain graph is run"


def _graph(content: memoryview, file_bytes: int) -> Iterator[str]:
    nodes = 0
    large: set[bytes] = set()
    sizing: set[bytes] = set()
    for number, value in _fields(content):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH_NODE:
            nodes += 1
            if nodes > MAX_NODES:
                yield f"has more than {MAX_NODES} nodes"
            yield from _node(value, file_bytes)
            sizing |= _may_size(value)
        elif number == _GRAPH_WEIGHT:
            yield from _tensor(value, file_bytes, large)
        elif number == _GRAPH_SPARSE:
            yield "holds sparse weights; only dense ones are read"
    for name in large & sizing:
        yield _too_large(name)


def _may_size(content: memoryview) -> set[bytes]:
    """The inputs of a node that could make a tensor as large as a number says; plain arithmetic does not."""
    if _last(content, _NODE_OPERATOR) in _ARITHMETIC:
        return set()
    return {bytes(value) for number, value in _fields(content) if number == _NODE_INPUT and not isinstance(value, int)}


def _node(content: memoryview, file_bytes: int) -> Iterator[str]:
    operator, domain = _last(content, _NODE_OPERATOR), _last(content, _NODE_DOMAIN)
    if domain not in _DOMAINS or operator.decode("latin-1") not in OPERATORS:
        of = f" of the domain {_shown(domain)}" if domain else ""
        yield f"has a node with the operator {_shown(operator)}{of}, which networks of ours are not made of"
    for number, value in _fields(content):
        if number != _NODE_ATTRIBUTE or not isinstance(value, memoryview):
            continue
        if operator == b"Constant" and _made(_whole_numbers(value)):
            yield _too_large(b"")
        for inner, part in _fields(value):
            if not isinstance(part, memoryview):
                continue
            if inner in _ATTRIBUTE_TENSORS:
                yield from _tensor(part, file_bytes)
            elif inner in _ATTRIBUTE_GRAPHS or inner in _ATTRIBUTE_SPARSE:
                yield f"has a node with the operator {_shown(operator)} and a graph or a sparse tensor inside"


def _whole_numbers(attribute: memoryview) -> list[int]:
    """The first whole numbers that an attribute holds by itself."""
    found: list[int] = []
    for number, value in _fields(attribute):
        if number in _ATTRIBUTE_INTS and len(found) <= _MAX_RANK:
            found += _numbers(value, _MAX_RANK + 1)
    return found


def _tensor(content: memoryview, file_bytes: int, large: set[bytes] | None = None) -> Iterator[str]:
    """Weights: inside of the file, no more values than it has bytes, and no shape beyond all measure.

    A large number that stands alone is put into `large`, where that is given, and is no fault by itself.
    """
    dims: list[int] = []
    ints: list[int] = []
    raw, kind, name = b"", 0, b""
    for number, value in _fields(content):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            yield "keeps weights in another file; they must be inside, where the manifest's hash covers them"
        elif number == _TENSOR_DIMS and len(dims) <= _MAX_DIMS:
            dims += _numbers(value, _MAX_DIMS + 1)
        elif number == _TENSOR_INT64 and len(ints) <= _MAX_RANK:
            ints += _numbers(value, _MAX_RANK + 1)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif isinstance(value, memoryview) and number == _TENSOR_NAME:
            name = bytes(value)
        elif isinstance(value, memoryview) and number == _TENSOR_RAW and len(value) <= _INT64_BYTES * _MAX_RANK:
            raw = bytes(value)
    if len(dims) > _MAX_DIMS or prod(dims) > file_bytes:
        yield f"declares weights {_shown(name)} of shape {dims[:8]}, more values than the file has bytes"
    if kind == _INT64 and _made(ints or [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]):
        yield from _note_large(name, None if dims else large)


def _note_large(name: bytes, large: set[bytes] | None) -> Iterator[str]:
    if large is None:
        yield _too_large(name)
    else:
        large.add(name)


def _too_large(name: bytes) -> str:
    return f"asks by the constant {_shown(name)} for a tensor of more than {MAX_MADE} values"


def _made(sizes: list[int]) -> bool:
    """Whether whole numbers, were they a shape, would make too large a tensor; huge ones stand for 'up to the end'."""
    if len(sizes) > _MAX_RANK:
        return False
    return prod(size for size in sizes if 0 < size < _SIGN >> 1) > MAX_MADE


def _last(content: memoryview, wanted: int) -> bytes:
    """The bytes of a field that stands once, of which protobuf takes the last."""
    found = b""
    for number, value in _fields(content):
        if number == wanted and isinstance(value, memoryview):
            found = bytes(value[:200])
    return found


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", "replace"))


def _fields(content: memoryview) -> Iterator[Field]:
    """The fields of a message: their numbers, and a whole number or the bytes.

    Raises:
        ValueError, IndexError: it is no message.
    """
    place = count = 0
    while place < len(content):
        count += 1
        if count > _MAX_FIELDS:
            raise ValueError("too many fields")
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(content, place)
            yield number, value
        elif wire in {_FIXED64, _FIXED32}:
            place += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            length, place = _varint(content, place)
            yield number, content[place : place + length]
            place += length
        else:
            raise ValueError(f"wire type {wire}")
        if place > len(content):
            raise ValueError("cut off")


def _numbers(value: int | memoryview, most: int) -> list[int]:
    """The first numbers of a repeated field: one that stands alone, or many that are packed."""
    if isinstance(value, int):
        return [value]
    found: list[int] = []
    place = 0
    while place < len(value) and len(found) < most:
        number, place = _varint(value, place)
        found.append(number)
    return found


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7
        if shift > 63:  # noqa: PLR2004 -- ten bytes hold 64 bits
            raise ValueError("a number of more than 64 bits")
