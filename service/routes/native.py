"""For BentoML's own clients: the calls of its APIs, thin, over the same predictor. No URL is ever fetched."""

import base64
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException

from service.errors import CallerGone, ServiceError, Unreadable
from service.predictor import Item, Predictor
from service.routes.answer import render


async def classify(predictor: Predictor, model: str, items: Sequence[Item]) -> dict[str, Any]:
    """The answer of POST /classify/{model}; an item that failed has its error in its place, also where it is alone.

    Raises:
        BentoMLException: the request failed; with the status that the other front ends answer.
    """
    try:
        content: dict[str, Any] = json.loads(render(await predictor.classify(model, items)))
    except ServiceError as error:
        status = HTTPStatus.BAD_REQUEST if isinstance(error, CallerGone) else HTTPStatus(error.status)
        raise BentoMLException(f"{error.code}: {error}", error_code=status) from error
    return content


def picture(text: str) -> Item:
    """A picture in base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        return Unreadable(f"the picture is no base64: {error}; send its bytes in base64, not a path or a URL")
