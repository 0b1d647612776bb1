"""An answer of POST /classify/{model} in JSON, written straight from the rows of probabilities.

It says the same as json.dumps over dictionaries would, in a third of the time, which is a tenth of a digit's.
"""

import json
from collections.abc import Sequence

from contract.errors import ConvokeError
from service.inference.predictor import Answer, Row


def render(answer: Answer, *, top: int | None = None, min_score: float = 0.0) -> bytes:
    """An answer as callers see it.

    Args:
        answer: what the predictor gave.
        top: how many labels to give a probability for; all where it is None.
        min_score: predictions below it abstain: their label is null, their guess what it would have been.
    """
    names = answer.version.quoted_labels
    predictions = ",".join(
        [_error(row) if isinstance(row, ConvokeError) else _one(row, names, top, min_score) for row in answer.rows]
    )
    return f'{answer.version.head}"predictions":[{predictions}]}}'.encode()


def _error(error: ConvokeError) -> str:
    return json.dumps({"error": error.body()}, separators=(",", ":"))


def _one(row: Row, names: Sequence[str], top: int | None, min_score: float) -> str:
    """A row of probabilities (classes,) -> label and scores, the highest first, to six decimals."""
    values: list[float] = row.tolist()
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)  # stable: of equals the first
    best = order[0]
    scores = ",".join([f"{names[index]}:{values[index]:.6f}" for index in order[:top]])
    if min_score and round(values[best], 6) < min_score:
        return f'{{"label":null,"score":{values[best]:.6f},"scores":{{{scores}}},"guess":{names[best]}}}'
    return f'{{"label":{names[best]},"score":{values[best]:.6f},"scores":{{{scores}}}}}'
