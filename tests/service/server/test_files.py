"""The limit of open files and the connections that fit into it."""

import resource

import pytest

from service.server import files

RESERVED = files.RESERVED


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The soft and the hard limit of a process that is not this one."""
    values = [256, 256]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(values))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: values.__setitem__(slice(None), list(wanted)))
    return values


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "fitting"),
    [
        (256, 1 << 20, 900 + RESERVED, 900),
        (256, resource.RLIM_INFINITY, 900 + RESERVED, 900),
        (256, 512, 512, 512 - RESERVED),
        (256, 256, 256, 256 - RESERVED),
        (16, 16, 16, 1),
        (4096, 4096, 4096, 900),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 900),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_connections_need(
    limits: list[int], soft: int, hard: int, raised: int, fitting: int
) -> None:
    """It never falls, the hard limit stays, and what does not fit is not accepted."""
    limits[:] = soft, hard
    files.raise_limit(900)
    assert limits == [raised, hard]
    assert files.fit(900) == fitting
