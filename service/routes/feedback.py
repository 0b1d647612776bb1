"""POST and DELETE /feedback/{request_id}: keep an item of an answered request with its right label, or delete it."""

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.errors import FeedbackOff, InvalidRequest, RequestNotFound
from service.http import body, limited
from service.http.route import Route
from service.inference.feedback import Feedback
from service.settings import Settings


class Right(BaseModel):
    """The right label of an item; `item` is its place in the request, from 0, if the request has several."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: str
    item: int | None = None


class Deleted(BaseModel):
    """How many items were deleted."""

    deleted: int


PATH = "/feedback/{request_id}"
_FORM = '{"label": "..."}'


def routes(feedback: Feedback | None, settings: Settings) -> list[Route]:
    """The routes of this front end; without `feedback` they say that it is switched off."""

    async def keep(request: Request) -> Response:
        kept = _switched_on(feedback)
        label, item = _parse(await body.read(request, settings), settings)
        return JSONResponse((await kept.keep(request.path_params["request_id"], label, item)).model_dump())

    async def delete(request: Request) -> Response:
        request_id = request.path_params["request_id"]
        deleted = await _switched_on(feedback).delete(request_id)
        if not deleted:
            raise RequestNotFound(f"no feedback about a request with the id {request_id!r} was kept")
        return JSONResponse({"deleted": deleted})

    return [Route(PATH, "POST", keep, needs="predict"), Route(PATH, "DELETE", delete, needs="predict")]


def _switched_on(feedback: Feedback | None) -> Feedback:
    if feedback is None:
        raise FeedbackOff("the service keeps no feedback; its operator switches this on with CONVOKE_FEEDBACK_DIR")
    return feedback


def _parse(content: bytes, settings: Settings) -> tuple[str, int | None]:
    """The label and the place of the item in the JSON of a request.

    Raises:
        InvalidRequest: it does not have the form.
    """
    try:
        right = Right.model_validate(limited.loads(content, settings, form=_FORM))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the JSON"
        raise InvalidRequest(
            f'{where}: {fault["msg"]}; expected {_FORM}, and beside it "item", the place of one of several items'
        ) from error
    return right.label, right.item
