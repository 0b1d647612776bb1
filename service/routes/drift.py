"""GET /models/{model}/drift: how what a model does now differs from what it did with its test data."""

import asyncio
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contract.reference import MIN_ITEMS
from service.http.route import Route
from service.inference.repository import Repository
from service.telemetry.drift import LARGE, MODERATE, compare
from service.telemetry.metrics import Metrics

State = Literal["too few items", "stable", "moderate", "large"]


class Bin(BaseModel):
    """A bin of a histogram: its upper edge or its label, and its share of the items, from 0 to 1."""

    bin: str
    expected: float
    actual: float


class QuantityDrift(BaseModel):
    """One quantity: `index` is the population stability index, null with too few items."""

    quantity: str
    index: float | None
    state: State
    bins: list[Bin]


class ModelDrift(BaseModel):
    """The quantities of the served version; empty if it has no reference."""

    model: str
    version: str
    reference: str | None
    """The data of the reference."""
    reference_items: int
    items: int
    """Those in the window, of all workers."""
    min_items: int
    quantities: list[QuantityDrift]


def routes(repository: Repository, total: Callable[[], Metrics]) -> list[Route]:
    """The routes of this front end; `total` gives the metrics of all workers and may block for a moment."""

    async def drift(request: Request) -> Response:
        version = repository.get(request.path_params["model"])
        reference = version.reference
        found = compare(await asyncio.to_thread(total), version.name, version.number, reference) if reference else []
        quantities = []
        for each in found:
            counts = zip(each.histogram.bins, each.histogram.counts, each.counts, strict=True)
            expected, actual = sum(each.histogram.counts), max(sum(each.counts), 1)
            bins = [
                Bin(bin=name, expected=round(before / expected, 6), actual=round(now / actual, 6))
                for name, before, now in counts
            ]
            index = None if each.index is None else round(each.index, 6)
            quantities.append(QuantityDrift(quantity=each.quantity, index=index, state=_state(each.index), bins=bins))
        content = ModelDrift(
            model=version.name,
            version=version.number,
            reference=reference.data if reference else None,
            reference_items=reference.n if reference else 0,
            items=sum(found[0].counts) if found else 0,
            min_items=MIN_ITEMS,
            quantities=quantities,
        )
        return JSONResponse(content.model_dump())

    return [Route("/models/{model}/drift", "GET", drift, needs="look")]


def _state(index: float | None) -> State:
    if index is None:
        return "too few items"
    return "large" if index >= LARGE else "moderate" if index >= MODERATE else "stable"
