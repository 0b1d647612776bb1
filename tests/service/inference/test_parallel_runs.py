"""How many runs of a model happen at the same time."""

from typing import Any

import pytest

from contract import processors
from service.inference.batching import Batcher
from tests.serving import ROOT, parts


@pytest.mark.parametrize(("settings", "expected"), [({"parallel_runs": 3}, 3), ({}, processors.count())])
def test_the_setting_bounds_the_runs(settings: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a model of one thread has a run for each processor."""
    given: list[int] = []
    make = Batcher.__init__

    def spy(self: Batcher, *args: Any, **kwargs: Any) -> None:
        given.append(kwargs["parallel_runs"])
        make(self, *args, **kwargs)

    monkeypatch.setattr(Batcher, "__init__", spy)
    served = parts(models=ROOT / "models", **settings).predictor
    served._batcher(served.resolve("digits"))  # noqa: SLF001 -- made at the first request
    served.close()
    assert given == [expected]
