"""GET /models and GET /models/{model}: the served models, and the refused versions with the reason."""

from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contract.manifest import Metrics, Precision, Sha256, Variant
from contract.spec import FileName, Input
from service.http.route import Route
from service.inference.repository import Repository
from service.inference.version import Version


class ModelSummary(BaseModel):
    """What a client must know to call a model."""

    name: str
    version: str
    task: str
    labels: list[str]
    input: Input
    max_batch: int
    test_metrics: dict[str, Metrics]
    provider: str
    precision: Precision


class Model(ModelSummary):
    """A model with its origin, its files and its card."""

    dataset: str
    dataset_fingerprint: str
    recipe: dict[str, Any]
    parameters: int
    temperature: float
    length_exponent: float
    commit: str
    created: str
    files: dict[FileName, Sha256]
    variants: list[Variant]
    card: str


class Models(BaseModel):
    """The served version of each model, and why other versions are refused: model -> version -> reason."""

    models: list[ModelSummary]
    refused: dict[str, dict[str, str]]


Description = TypeVar("Description", ModelSummary, Model)


def routes(repository: Repository) -> list[Route]:
    """The routes of this front end."""

    async def models(_request: Request) -> Response:
        served = [_describe(version, ModelSummary) for version in repository.serving()]
        return _json(Models(models=served, refused=repository.refused))

    async def model(request: Request) -> Response:
        return _json(_describe(repository.get(request.path_params["model"]), Model))

    return [
        Route("/models", "GET", models, needs="look"),
        Route("/models/{model}", "GET", model, needs="look"),
    ]


def _describe(version: Version, form: type[Description]) -> Description:
    precision = version.session.precision
    return form.model_validate(
        {
            **version.manifest.model_dump(),
            "name": version.name,
            "version": version.number,
            "test_metrics": version.manifest.metrics(precision),
            "provider": version.session.provider,
            "precision": precision,
            "card": version.card,
        }
    )


def _json(content: BaseModel) -> Response:
    return JSONResponse(content.model_dump(mode="json"))
