"""How many runs of a model happen at the same time."""

from typing import Any

import pytest

from contract import processors
from service.inference import predictor
from tests.serving import ROOT, parts


@pytest.mark.parametrize(("settings", "expected"), [({"parallel_runs": 3}, 3), ({}, processors.count())])
def test_the_setting_bounds_the_runs(settings: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a model of one thread has a run for each processor."""
    given: list[int] = []

    class Batcher(predictor.Batcher):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given.append(kwargs["parallel_runs"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(predictor, "Batcher", Batcher)
    served = parts(models=ROOT / "models", **settings).predictor
    served._batcher(served.resolve("digits"))
    served.close()
    assert given == [expected]
