"""Reads an ONNX file that was made elsewhere: what it takes and gives, freed of all that serving has no use for.

The file becomes one message with its weights inside, without functions, notes and outputs that are not scores.
Operators that the service does not run are refused by name, with what to do.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, compose, helper, inliner, version_converter

from contract import graph as screen
from training.errors import PublishError

_EXPORT = "export the part of the model from decoded pixels or token ids to scores"
_ADVICE = {
    **dict.fromkeys(
        ("Resize", "Upsample"),
        "the service resizes images itself: export the part behind it, which takes images of the size that it gives",
    ),
    **dict.fromkeys(
        ("Loop", "Scan", "If"),
        "export the model without loops and conditions, such as with torch.onnx.export(model, example, dynamo=True) "
        "or tf2onnx with LSTM and GRU layers that it knows (unroll=False, default activations)",
    ),
}
PREFIX = "adopted/"
"""Before each name of the foreign graph, so that the names around it are free."""
OPSET = 13
"""The lowest version of ONNX's operators that the nodes around a graph need."""

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
_INTEGERS = {
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT16,
    TensorProto.INT16,
}
_LABELS = "classlabels_strings", "classlabels_int64s", "classlabels_ints"


@dataclass(frozen=True)
class End:
    """An input or output of a graph; None is a size that the graph leaves open."""

    name: str
    type: int
    """As `onnx.TensorProto` numbers types; 0 for a map or a sequence."""
    dims: tuple[int | None, ...] | None
    """None if the graph does not even state the number of axes."""

    @property
    def is_float(self) -> bool:
        return self.type in _FLOATS

    @property
    def is_integer(self) -> bool:
        return self.type in _INTEGERS

    def __str__(self) -> str:
        kind = TensorProto.DataType.Name(self.type).lower() if self.type else "map or sequence"
        shape = (
            "unknown shape" if self.dims is None else f"[{', '.join('?' if d is None else str(d) for d in self.dims)}]"
        )
        return f"{self.name} ({kind} {shape})"


@dataclass(frozen=True)
class Foreign:
    """A graph that was made elsewhere."""

    path: Path
    model: onnx.ModelProto
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    labels: list[str] | None
    """The labels that the graph itself names, in the order of its scores."""
    labels_from: str = ""

    @property
    def parameters(self) -> int:
        """The number of values in its weights."""
        tensors = [*self.model.graph.initializer, *(a.t for _, a in _attributes(self.model) if a.type == a.TENSOR)]
        floats = sum(len(a.floats) for node, a in _attributes(self.model) if node.domain == "ai.onnx.ml")
        count: int = sum(prod(tensor.dims) for tensor in tensors) + floats
        return max(count, 1)

    @property
    def producer(self) -> str:
        """The program that wrote the file, as the file says."""
        return f"{self.model.producer_name} {self.model.producer_version}".strip() or "unknown"


def read(path: Path) -> Foreign:
    """Read an ONNX file, with the weights that it keeps in other files.

    Raises:
        PublishError: it cannot be read, or a file with its weights is missing.
    """
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        missing = Path(str(error.filename or path)).name
        if path.exists():
            raise PublishError(
                f"{path}: its weights are in another file, {missing}, which is missing; put it beside {path.name}"
            ) from error
        raise PublishError(f"{path}: the file is missing") from error
    except Exception as error:  # protobuf, onnx.checker and the operating system have no common base
        if re.search("external|location|data file", str(error), re.IGNORECASE):
            raise PublishError(
                f"{path}: its weights are in another file, which cannot be read: {error}; put that file beside "
                f"{path.name}"
            ) from error
        raise PublishError(f"{path}: cannot be read as an ONNX file: {error}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise PublishError(f"{path}: is not an ONNX file, or has no output")
    weights = {tensor.name for tensor in model.graph.initializer}
    if model.graph.sparse_initializer:
        raise PublishError(f"{path}: has sparse weights, which the service does not run; export it with dense ones")
    labels, labels_from = _labels(model)
    return Foreign(
        path,
        model,
        tuple(_end(value) for value in model.graph.input if value.name not in weights),
        tuple(_end(value) for value in model.graph.output),
        labels,
        labels_from,
    )


def prepare(foreign: Foreign, output: str) -> onnx.ModelProto:
    """The graph up to one output, in operators that the service runs, each name with `PREFIX` before it.

    Raises:
        PublishError: it has an operator or a node that the service does not run, or is too large.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _keep(model, output)
    model = _without_conditions(model)
    _check_operators(foreign.path, model)
    model = _raised(foreign.path, model)
    for field in ("training_info", "functions", "metadata_props", "doc_string"):
        model.ClearField(field)
    for field in ("value_info", "metadata_props", "doc_string", "quantization_annotation"):
        model.graph.ClearField(field)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used | {""}]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)
    model.ir_version = max(model.ir_version, 8)
    if model.ByteSize() > screen.MAX_BYTES - (1 << 20):
        raise PublishError(
            f"{foreign.path}: has {model.ByteSize()} bytes with its weights (maximum {screen.MAX_BYTES}); export it "
            "in float16"
        )
    return compose.add_prefix(model, PREFIX)


def _end(value: onnx.ValueInfoProto) -> End:
    kind = value.type
    if not kind.HasField("tensor_type"):
        return End(value.name, 0, None)
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return End(value.name, tensor.elem_type, None)
    dims = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return End(value.name, tensor.elem_type, dims)


def _attributes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.AttributeProto]]:
    return ((node, attribute) for node in model.graph.node for attribute in node.attribute)


def _labels(model: onnx.ModelProto) -> tuple[list[str] | None, str]:
    """The labels that a graph states, and where: attributes of scikit-learn's classifiers, or the file's metadata."""
    for node, attribute in _attributes(model):
        if node.domain == "ai.onnx.ml" and attribute.name in _LABELS and node.op_type != "ZipMap":
            values = helper.get_attribute_value(attribute)
            labels = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
            if len(labels) > 1:
                return labels, f"the node {node.op_type} names them"
    for entry in model.metadata_props:
        if entry.key.lower() in {"names", "labels", "classes", "class_names", "id2label"}:
            labels_read = parse_labels(entry.value)
            if len(labels_read) > 1:
                return labels_read, f"the file's metadata has them under {entry.key!r}"
    return None, ""


def parse_labels(text: str) -> list[str]:
    """Labels from JSON or Python's notation, a list or a dictionary by number, or separated by lines or commas."""
    import ast  # noqa: PLC0415 -- as json, of use here alone
    import json  # noqa: PLC0415

    content: Any = None
    for parse in (json.loads, ast.literal_eval):
        try:
            content = parse(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, dict):
        if all(str(key).isdecimal() for key in content):
            content = [content[key] for key in sorted(content, key=int)]
        elif all(isinstance(value, int) for value in content.values()):  # label -> number
            content = sorted(content, key=content.__getitem__)
    if isinstance(content, list | tuple):
        return [str(each[-1] if isinstance(each, list | tuple) and each else each) for each in content]
    lines = text.splitlines()
    return [part.strip() for part in (lines if len(lines) > 1 else text.split(",")) if part.strip()]


def read_labels(text: str) -> list[str]:
    """Labels from an option: separated by commas, or the path of a file.

    Raises:
        PublishError: the file cannot be read.
    """
    path = Path(text)
    try:
        if "," in text and not path.is_file():
            return [part.strip() for part in text.split(",")]
        return parse_labels(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PublishError(
            f"--labels {text}: cannot be read: {error}; expected A,B,C or a file with one on each line"
        ) from error


def _keep(model: onnx.ModelProto, output: str) -> None:
    """Remove what the output does not depend on, and weights from the list of inputs."""
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    needed, pending, kept = set[str](), [output], set[int]()
    while pending:
        name = pending.pop()
        if name in needed or not name:
            continue
        needed.add(name)
        node = made.get(name)
        if node is not None and id(node) not in kept:
            kept.add(id(node))
            pending += [*node.input, *_captured(node)]
    nodes = [node for node in graph.node if id(node) in kept]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    outputs = [value for value in graph.output if value.name == output]
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    for field, values in (("node", nodes), ("initializer", weights), ("output", outputs), ("input", inputs)):
        copies = [type(value)() for value in values]
        for copy, value in zip(copies, values, strict=True):
            copy.CopyFrom(value)
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """The names that graphs inside of a node use."""
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs] if attribute.type in {attribute.GRAPH, attribute.GRAPHS} else []:
            for each in inner.node:
                yield from each.input
                yield from _captured(each)


def _without_conditions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without those nodes `If` whose condition does not depend on the input, as exporters leave behind."""
    if not any(node.op_type == "If" for node in model.graph.node):
        return model
    with tempfile.TemporaryDirectory() as folder:
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = f"{folder}/model.onnx"
        settings.log_severity_level = 4
        try:
            ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
            return onnx.load(settings.optimized_model_filepath)
        except Exception:  # noqa: BLE001 -- ONNX Runtime's own exceptions share no base class
            return model  # its operators are refused by name


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Refuse operators that the service does not run."""
    for node in model.graph.node:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        if node.op_type == "ZipMap":
            raise PublishError(
                f"{path}: its output is a list of maps, from the operator ZipMap; convert the model with "
                "`options={'zipmap': False}` (skl2onnx), which gives a tensor of scores"
            )
        if node.op_type in {"StringNormalizer", "TfIdfVectorizer", "Tokenizer", "LabelEncoder"}:
            raise PublishError(_strings(path, node))
        if node.domain not in screen.DOMAINS:
            raise PublishError(
                f"{path}: has the custom operator {name}, which runs only where its library is installed; export the "
                "model with ONNX's own operators, without optimisations of a runtime"
            )
        if node.op_type not in screen.DOMAINS[node.domain]:
            raise PublishError(
                f"{path}: has the operator {name}, which the service does not run; {_ADVICE.get(node.op_type, _EXPORT)}"
            )


def _strings(path: Path, node: onnx.NodeProto) -> str:
    locale = next((attribute.s.decode() for attribute in node.attribute if attribute.name == "locale"), "")
    needs = f", which needs the locale {locale} on every machine that serves it" if locale else ""
    return (
        f"{path}: takes strings, with the operator {node.op_type}{needs}, and the service gives numbers; export the "
        "part from token ids to scores and give its words as --tokenizer tokenizer.json, or train on the texts: python "
        "-m training new NAME PATH"
    )


def _raised(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in operators of version `OPSET` at least."""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    version = next((opset.version for opset in model.opset_import if not opset.domain), 0)
    if not version:
        model.opset_import.append(helper.make_opsetid("", OPSET))
        return model
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises bare exceptions
        raise PublishError(
            f"{path}: its operators are of version {version} and cannot be converted to {OPSET}: {error}; export it "
            f"with opset_version={OPSET} or higher"
        ) from error


def scores_of(foreign: Foreign, wanted: str | None, classes: int | None) -> str:
    """The output that has the scores.

    Raises:
        PublishError: none has, or several may have.
    """
    ends = foreign.outputs
    listed = ", ".join(map(str, ends))
    if wanted is not None:
        if wanted not in {end.name for end in ends}:
            raise PublishError(f"--output: {foreign.path} has no output {wanted!r}; its outputs: {listed}")
        ends = tuple(end for end in ends if end.name == wanted)
    if any(not end.type for end in ends) and not any(end.is_float for end in ends):
        raise PublishError(
            f"{foreign.path}: its output is a map or a sequence: {listed}; convert the model with "
            "`options={'zipmap': False}` (skl2onnx), which gives a tensor of scores"
        )
    floats = [end for end in ends if end.is_float]
    if not floats:
        raise PublishError(
            f"{foreign.path}: has no output of scores, but {listed}; export the layer before the decision, whose "
            "scores are float, one for each label"
        )
    fitting = [end for end in floats if classes is None or end.dims is None or end.dims[1:2] in {(classes,), (None,)}]
    named = [end for end in fitting if re.search("prob|softmax|score|logit", end.name, re.IGNORECASE)]
    for group in (floats, fitting, named):
        if len(group) == 1:
            return group[0].name
    raise PublishError(f"{foreign.path}: has several outputs that may be scores: {listed}; choose one: --output NAME")


def is_in(dims: Sequence[int | None] | None, place: int, sizes: set[int]) -> bool:
    """Whether an axis has one of some sizes."""
    return dims is not None and len(dims) > place and dims[place] in sizes


def numpy_type(kind: int) -> np.dtype[Any]:
    """NumPy's type for one of `onnx.TensorProto`."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))
