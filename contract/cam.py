"""Class activation maps: where in an image the evidence for a label is, from one run of the network.

Where a graph ends in global average pooling and one dense layer, the logit of a label is a sum over the places of the
last feature maps (Zhou et al., 2016, "Learning Deep Features for Discriminative Localization"). With more dense layers
with ReLU in between, it is the same sum with the weights of the units that are active for this image (Selvaraju et al.,
2017, "Grad-CAM", show that both agree for one layer).
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from contract.anatomy import Layer
from contract.twin import Inspection

Weights = npt.NDArray[np.float64]


def activation_map(inspection: Inspection, target: int) -> Weights | None:
    """What each place of the last feature maps adds to a label's logit, against the mean of the others.

    Args:
        inspection: the layers of a network and their values.
        target: the position of the label.

    Returns:
        The map (rows, columns), whose sum and the biases behind it give the difference of the logits; None if the graph
        does not end in global average pooling, dense layers with ReLU or without activation, and softmax.
    """
    layers = inspection.layers
    pools = [place for place, layer in enumerate(layers) if layer.kind == "pool" and not layer.windows]
    if not pools or not _is_average(layers[pools[-1]]):
        return None
    pool, *after = layers[pools[-1] :]
    dense = [layer for layer in after if layer.kind == "dense"]
    if not dense or {layer.kind for layer in after} - {"flatten", "dense", "softmax"}:
        return None
    if dense[-1].shape != inspection.row.shape or dense[-1].activation:
        return None
    slopes = np.full(len(inspection.row), -1 / (len(inspection.row) - 1))
    slopes[target] = 1.0
    for layer in reversed(dense):
        if layer.activation not in {"", "relu"} or layer.weights is None or layer.weights.values is None:
            return None
        if layer.activation:
            slopes = slopes * (inspection.values(layer) > 0)
        matrix = layer.weights.values.astype(np.float64)
        is_turned = layer.node.operator == "Gemm" and layer.node.integer("transB", 0)
        slopes = slopes @ (matrix if is_turned else matrix.T)
    maps = inspection.tensors[pool.input][0].astype(np.float64)  # (C, H, W)
    if not _follow_each_other(inspection, [pool, *dense]) or len(slopes) != len(maps):
        return None
    return np.asarray(np.tensordot(slopes, maps, axes=1) / (maps.shape[1] * maps.shape[2]))


def _is_average(pool: Layer) -> bool:
    return pool.title == "global average pool" and len(pool.input_shape) == 3 and pool.shape[0] == pool.input_shape[0]  # noqa: PLR2004


def _follow_each_other(inspection: Inspection, layers: list[Layer]) -> bool:
    """Whether each layer takes the values of the one before, which may have been moved into another shape."""
    return all(
        np.array_equal(inspection.values(before).ravel(), inspection.tensors[layer.input][0].ravel())
        for before, layer in pairwise(layers)
    )
