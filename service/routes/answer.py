"""The response of POST /classify/{model} in JSON, written directly from the rows of probabilities.

It equals json.dumps of dictionaries, in a third of the time; the difference is a tenth of the time of a digit.
"""

import json
from collections.abc import Sequence

import numpy as np

from contract.errors import ConvokeError
from service.inference.predictor import Answer, Row
from service.inference.version import MAX_SCORES


def render(
    answer: Answer, *, top: int | None = None, min_score: float = 0.0, boxes: Sequence[Sequence[int]] = ()
) -> bytes:
    """The body of a response.

    Args:
        answer: the rows of the predictor.
        top: how many labels get a score; if it is None, all of up to 20 labels, and 10 of more, which the body states.
        min_score: predictions with a lower score abstain: their label is null, and their guess is the label.
        boxes: where each row's digit is in the image, if it is one of several.
    """
    labels, prefix = answer.version.quoted_labels, answer.version.json_prefix
    if top is None and len(labels) > MAX_SCORES:
        top, prefix = answer.version.default_top, answer.version.default_json_prefix
    predictions = [
        _render_error(row) if isinstance(row, ConvokeError) else _render_row(row, labels, top, min_score)
        for row in answer.rows
    ]
    for place, (read, total) in answer.truncated.items():
        if not isinstance(answer.rows[place], ConvokeError):
            predictions[place] = f'{predictions[place][:-1]},"truncated":true,"tokens_read":{read},"tokens":{total}}}'
    for place, box in enumerate(boxes):
        predictions[place] = f'{predictions[place][:-1]},"box":{list(box)}}}'
    return f'{prefix}"predictions":[{",".join(predictions)}]}}'.encode()


def _render_error(error: ConvokeError) -> str:
    return json.dumps({"error": error.body()}, separators=(",", ":"))


def _render_row(row: Row, labels: Sequence[str], top: int | None, min_score: float) -> str:
    """A row of probabilities (classes,) -> label and scores, the highest first, to six decimals."""
    values: list[float] = row.tolist()
    if top is None or len(values) <= MAX_SCORES:
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)  # stable: equal ones keep their order
    else:  # NumPy sorts many values sooner
        order = np.argsort(-row, kind="stable")[:top].tolist()
    best = order[0]
    scores = ",".join([f"{labels[index]}:{values[index]:.6f}" for index in order[:top]])
    if min_score and round(values[best], 6) < min_score:
        return f'{{"label":null,"score":{values[best]:.6f},"scores":{{{scores}}},"guess":{labels[best]}}}'
    return f'{{"label":{labels[best]},"score":{values[best]:.6f},"scores":{{{scores}}}}}'
