"""Runs a foreign graph on generated inputs: whether it takes batches of any size, and what its scores are."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from training.errors import PublishError
from training.release.foreign import PREFIX
from training.release.plausible import Note, Options
from training.release.wrap import Ids, Kind, Pixels, Scores, open_session, spec_of, without_fixed_batch, wrap

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float64]

ITEMS = 3
_GAP = 1e-3  # of scores that should be equal, relative to the largest
_SUM_GAP = 1e-2
_SHAPERS = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"}


def settle(
    model: onnx.ModelProto, inputs: Pixels | Ids, items: Array, note: Note
) -> tuple[onnx.ModelProto, Pixels | Ids, Values]:
    """Find out how many items the graph takes at once, and make it any number if that changes nothing.

    Args:
        model: from `foreign.prepare`.
        inputs: how it is fed.
        items: what it is fed, uint8 (N, H, W, C) or int64 (N, L) without padding.
        note: called with what was found.

    Returns:
        The graph, perhaps changed; how it is fed; and its scores (N, columns) for the items.

    Raises:
        PublishError: ONNX Runtime cannot run it on one item, or it takes several at once that depend on each other.
    """
    if isinstance(inputs, Pixels) and not inputs.has_batch:
        return model, inputs, run(model, inputs, items)
    batch = inputs.batch
    if batch is None:
        alone = _attempt(model, inputs, items, 1)
        if not isinstance(alone, Exception):
            together = _attempt(model, inputs, items, len(items))
            if not isinstance(together, Exception) and _is_close(alone, together):
                return model, inputs, alone
        batch = 1
    fixed = replace(inputs, batch=batch)
    scores = run(model, fixed, items)
    opened = without_fixed_batch(model, batch)
    together = _attempt(opened, replace(inputs, batch=None), items, len(items))
    if not isinstance(together, Exception) and _is_close(scores, together):
        note(f"batch: the graph was made for {batch} at a time, and now takes any number")
        return opened, replace(inputs, batch=None), scores
    note(f"batch: the graph takes {batch} at a time, so batches do not make it faster")
    return model, fixed, scores


def run(model: onnx.ModelProto, inputs: Pixels | Ids, items: Array) -> Values:
    """The scores (N, columns) of items, in the batches that the graph takes.

    Raises:
        PublishError: ONNX Runtime cannot run the graph.
    """
    scores = _attempt(model, inputs, items, inputs.batch or 1)
    if isinstance(scores, Exception):
        raise PublishError(
            f"ONNX Runtime cannot run the graph on {len(items[0].shape)}-dimensional items: {scores}"
        ) from scores
    return scores


def _attempt(model: onnx.ModelProto, inputs: Pixels | Ids, items: Array, size: int) -> Values | Exception:
    try:
        session = open_session(wrap(model, inputs, None))
        tensor = session.get_inputs()[0].name
        rows = []
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            output = np.asarray(session.run(None, {tensor: batch})[0], np.float64)
            count = inputs.batch or len(batch)
            if output.size % count or (output.ndim > 1 and output.shape[0] != count):
                return ValueError(f"gives {list(output.shape)} for {count} items, not a row of scores for each")
            rows.append(output.reshape(count, -1)[: len(batch)])
        return np.concatenate(rows)
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime's own exceptions share no base class
        return error


def _is_close(one: Values, other: Values) -> bool:
    scale = max(float(np.abs(one).max(initial=0)), 1e-3)
    return one.shape == other.shape and bool(np.abs(one - other).max(initial=0) <= _GAP * scale)


def random_images(pixels: Pixels) -> Array:
    """A few images: noise, a gradient, and a dark one."""
    spec = spec_of(pixels)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, spec.shape(ITEMS), dtype=np.uint8)
    images[1] = np.linspace(0, 255, spec.height, dtype=np.uint8)[:, None, None]
    images[2] //= 8
    return images


def scores_kind(model: onnx.ModelProto, name: str, values: Values, options: Options, note: Note) -> Scores:
    """What the scores are, by the operator that makes them and by their values (N, columns).

    Raises:
        PublishError: they are no class scores, or the options do not fit them.
    """
    if not np.isfinite(values).all():
        raise PublishError(f"the output {name!r} is not finite (NaN or infinite) for generated inputs")
    columns = values.shape[1]
    last = _last_operator(model, name)
    tell = _kind_of_one if columns == 1 else _kind_of_several
    kind, reason = tell(values, last, softmax=options.softmax)
    classes = 2 if kind in {"score", "logit"} else columns
    if classes < 2:  # noqa: PLR2004 -- of two labels
        raise PublishError(f"the output {name!r} has {columns} score(s); expected one for each label")
    if options.softmax is None:
        note(f"scores: {_MEANING[kind]}, {reason}; --softmax yes or no decides")
    return Scores(name, kind, columns)


_MEANING: dict[Kind, str] = {
    "probabilities": "probabilities",
    "logits": "logits, so softmax is added",
    "log-probabilities": "logarithms of probabilities, so softmax is added, which inverts them",
    "shares": "positive scores, which are divided by their sum",
    "score": "one probability, of the second label",
    "logit": "one logit, of the second label, so the sigmoid is added",
}


def _kind_of_one(values: Values, last: str, *, softmax: bool | None) -> tuple[Kind, str]:
    """What one score is, and why."""
    is_share = bool((values >= 0).all() and (values <= 1 + _SUM_GAP).all())
    if softmax is True:
        return "logit", "as stated"
    if softmax is False and not is_share:
        raise PublishError(f"--softmax no: the score is not between 0 and 1, but up to {np.abs(values).max():.3g}")
    if softmax is False or (is_share and last == "Sigmoid"):
        return "score", "since a sigmoid makes it"
    if is_share:
        raise PublishError(
            "the graph gives one score from 0 to 1 that no sigmoid makes; say whether it is a probability: "
            "--softmax no, or a logit: --softmax yes"
        )
    return "logit", f"since no sigmoid makes it and its values are from {values.min():.3g} to {values.max():.3g}"


def _kind_of_several(values: Values, last: str, *, softmax: bool | None) -> tuple[Kind, str]:
    """What several scores are, and why."""
    sums, is_positive = values.sum(axis=1), bool((values >= 0).all())
    if softmax is True:
        return "logits", "as stated"
    if is_positive and np.abs(sums - 1).max() < _SUM_GAP:
        return "probabilities", "since they are from 0 to 1 and their sum is 1"
    if softmax is False:
        if not is_positive or (sums <= 0).any():
            raise PublishError(
                f"--softmax no: some scores are below 0 ({values.min():.3g}): they are not probabilities"
            )
        return "shares", "as stated"
    if last == "Sigmoid":
        raise PublishError(
            f"the graph gives {values.shape[1]} scores by a sigmoid each, whose sum is not 1: it was trained to find "
            "several labels in an item, and the service names one. If one is right for each item: --softmax no divides "
            "them by their sum"
        )
    if (values <= 0).all() and np.abs(np.exp(values).sum(axis=1) - 1).max() < _SUM_GAP:
        return "log-probabilities", "since the sum of their exponentials is 1"
    return "logits", f"since they are from {values.min():.3g} to {values.max():.3g} and their sum is not 1"


def _last_operator(model: onnx.ModelProto, name: str) -> str:
    """The operator that makes an output, before those that only change its shape."""
    made = {output: node for node in model.graph.node for output in node.output}
    node = made.get(PREFIX + name)
    while node is not None and node.op_type in _SHAPERS:
        node = made.get(node.input[0])
    return re.sub("^HardSigmoid$", "Sigmoid", node.op_type) if node is not None else ""
