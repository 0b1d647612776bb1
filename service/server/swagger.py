"""Where the files of Swagger UI are: BentoML has them for its own page, which we do not serve."""

from importlib.util import find_spec
from pathlib import Path

from service.routes.docs import SWAGGER

_PLACE = "_internal/server/static_content"


def folder() -> Path | None:
    """The folder; None if BentoML does not have it any more."""
    package = find_spec("bentoml")
    places = package.submodule_search_locations if package is not None else None
    found = (Path(place) / _PLACE for place in places or ())
    return next((place for place in found if all((place / name).is_file() for name in SWAGGER)), None)
