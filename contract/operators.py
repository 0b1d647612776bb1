"""The operators of a graph that may be layers, and which of them follow each other."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from contract.onnx_file import Constant, Node, OnnxFile

Kind = Literal[
    "conv",
    "windows",
    "pool",
    "dense",
    "embedding",
    "flatten",
    "norm",
    "activation",
    "sum",
    "concat",
    "softmax",
    "other",
]

ACTIVATIONS = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "LeakyRelu": "leaky relu", "Elu": "elu", "Selu": "selu",
    "Gelu": "gelu", "HardSwish": "hard swish", "HardSigmoid": "hard sigmoid", "Clip": "clip", "PRelu": "prelu",
    "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish", "Swish": "swish", "Celu": "celu",
    "ThresholdedRelu": "thresholded relu",
}  # fmt: skip
NORMS = {
    "BatchNormalization": "batch norm", "LayerNormalization": "layer norm", "GroupNormalization": "group norm",
    "InstanceNormalization": "instance norm", "LRN": "local response norm", "LpNormalization": "norm",
}  # fmt: skip
POOLS = {"MaxPool": "max", "AveragePool": "average", "LpPool": "lp"}
GLOBAL_POOLS = {
    "GlobalMaxPool": "max", "GlobalAveragePool": "average", "GlobalLpPool": "lp",
    "ReduceMax": "max", "ReduceMean": "average",
}  # fmt: skip
OTHERS = {
    "LSTM", "GRU", "RNN", "ConvInteger", "QLinearConv", "QLinearMatMul", "MatMulInteger", "Einsum", "TreeEnsemble",
    "TreeEnsembleClassifier", "TreeEnsembleRegressor", "SVMClassifier", "LinearClassifier", "Scaler", "Normalizer",
}  # fmt: skip
_PLAIN = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"}
"""Operations behind which a stored tensor is still the same weights."""

_KINDS: dict[str, Kind] = {
    "Conv": "conv", "ConvTranspose": "conv", "Gemm": "dense", "MatMul": "dense", "Gather": "embedding",
    "Reshape": "flatten", "Flatten": "flatten", "Add": "sum", "Sum": "sum", "Concat": "concat", "Softmax": "softmax",
    "LogSoftmax": "softmax", **dict.fromkeys([*POOLS, *GLOBAL_POOLS], "pool"), **dict.fromkeys(NORMS, "norm"),
    **dict.fromkeys(ACTIVATIONS, "activation"), **dict.fromkeys(OTHERS, "other"),
}  # fmt: skip


def kind_of(node: Node) -> Kind | None:
    """Which kind of layer an operation may be; None if it is none."""
    return _KINDS.get(node.operator)


def is_activation(node: Node) -> bool:
    """Whether an operation that belongs to a layer is its activation."""
    return node.operator in ACTIVATIONS or node.operator == "Mul"


class Candidates:
    """What may be a layer of a graph, before the shapes of its tensors are known."""

    def __init__(self, file: OnnxFile, inputs: Iterable[str]) -> None:
        self.file = file
        self.inputs = set(inputs)
        self.varying = set(self.inputs)
        self._consumers: dict[str, list[Node]] = defaultdict(list)
        for node in file.nodes:
            for name in node.inputs:
                self._consumers[name].append(node)
            if node.operator != "Shape" and not self.varying.isdisjoint(node.inputs):
                self.varying.update(node.outputs)
        self._makers = {name: node for node in file.nodes for name in node.outputs}

    def tensors(self) -> list[str]:
        """The tensors that must be known: the outputs and inputs of all operations that may be or may end a layer."""
        wanted: dict[str, None] = {}
        for node in self.file.nodes:
            if node.outputs[0] in self.varying and (kind_of(node) or node.operator == "Mul"):
                wanted.update(dict.fromkeys([node.outputs[0], *node.inputs]))
        return [name for name in wanted if name in self._makers and name in self.varying]

    def constant(self, name: str) -> Constant | None:
        """The stored tensor behind a name, also through operations that leave its values as they are."""
        while name not in self.file.constants:
            node = self._makers.get(name)
            if node is None or node.operator not in _PLAIN:
                return None
            name = node.inputs[0]
        return self.file.constants[name]

    def end(self, node: Node) -> tuple[str, list[Node]]:
        """Where the layer of a node ends: the tensor after its bias, norm and activation, and these operations."""
        output, merged = node.outputs[0], list[Node]()
        while True:
            consumers = self._consumers[output]
            following = consumers[0] if len(consumers) == 1 else _swish(consumers, self._makers)
            if following is None or not self._belongs(following, merged):
                return output, merged
            merged.append(following)
            output = following.outputs[0]

    def _belongs(self, node: Node, merged: Sequence[Node]) -> bool:
        """Whether an operation is a part of the layer before it."""
        if any(map(is_activation, merged)):
            return False
        if node.operator in ACTIVATIONS or node.operator in NORMS:
            return True
        if node.operator == "Mul":
            return all(name in self.varying for name in node.inputs)  # x * sigmoid(x), as `_swish` finds it
        return node.operator == "Add" and not merged and sum(name in self.varying for name in node.inputs) == 1


def _swish(consumers: Sequence[Node], makers: Mapping[str, Node]) -> Node | None:
    """The product of a tensor and its own sigmoid, if these two are all that it is used for."""
    if {node.operator for node in consumers} != {"Sigmoid", "Mul"} or len(consumers) != 2:  # noqa: PLR2004
        return None
    sigmoid, product = sorted(consumers, key=lambda node: node.operator, reverse=True)
    return product if any(makers.get(name) is sigmoid for name in product.inputs) else None
