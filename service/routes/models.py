"""GET /models and GET /models/{model}: what is served, and what is refused and why."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from service.http.route import Route
from service.inference.repository import Repository, Version


def routes(repository: Repository) -> list[Route]:
    """The routes of this front end."""

    async def listing(_request: Request) -> JSONResponse:
        models = [_summary(version) for version in repository.serving()]
        return JSONResponse({"models": models, "refused": repository.refused})

    async def one(request: Request) -> JSONResponse:
        version = repository.get(request.path_params["model"])
        return JSONResponse({**_summary(version), **_details(version)})

    return [
        Route("/models", "GET", listing, needs="look"),
        Route("/models/{model}", "GET", one, needs="look"),
    ]


def _summary(version: Version) -> dict[str, Any]:
    manifest, precision = version.manifest, version.session.precision
    return {
        "name": version.name,
        "version": version.number,
        "task": manifest.task,
        "labels": manifest.labels,
        "input": manifest.input.model_dump(),
        "max_batch": manifest.max_batch,
        "test_metrics": {name: metrics.model_dump() for name, metrics in manifest.metrics(precision).items()},
        "provider": version.session.provider,
        "precision": precision,
    }


def _details(version: Version) -> dict[str, Any]:
    fields = {
        "dataset",
        "dataset_fingerprint",
        "recipe",
        "parameters",
        "temperature",
        "length_exponent",
        "commit",
        "created",
        "files",
        "variants",
    }
    return {**version.manifest.model_dump(include=fields), "card": version.card}
