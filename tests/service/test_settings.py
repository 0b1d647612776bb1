"""The environment, read once."""

import pytest

from service.settings import Settings, SettingsError, from_environment


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing must be set; what is empty counts as not set."""
    assert from_environment({}) == from_environment({"CONVOKE_THREADS": ""}) == Settings()


def test_values_are_read() -> None:
    """Each variable reaches its field; those of others are left alone."""
    chosen = from_environment({"CONVOKE_MAX_ITEMS": "7", "CONVOKE_PROVIDER": "cpu", "CONVOKE_PORT": "tcp://10.0.0.1"})
    assert (chosen.max_items, chosen.provider) == (7, "cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("THREADS", "0"),
        ("THREADS", "two"),
        ("PROVIDER", "gpu"),
        ("MAX_BODY_BYTES", "-1"),
        ("BODY_TIMEOUT_S", "nan"),
        ("PUBLIC", "manage"),
        ("MAX_JSON_DEPTH", "1000"),
        ("CORS_ORIGINS", "example.org"),
        ("MAX_CONNECTIONS", "0"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: str) -> None:
    """The refusal says which variable, which value, and what the setting means."""
    with pytest.raises(SettingsError, match=rf"CONVOKE_{name}='{value}': .*\(.+\)$"):
        from_environment({f"CONVOKE_{name}": value})


def test_a_request_that_never_fits_is_refused() -> None:
    """A queue, or a room for bodies, smaller than the largest request would turn that request away for ever."""
    with pytest.raises(SettingsError, match="CONVOKE_MAX_ITEMS=10 is above CONVOKE_MAX_QUEUE_ITEMS=9"):
        from_environment({"CONVOKE_MAX_ITEMS": "10", "CONVOKE_MAX_QUEUE_ITEMS": "9"})
    with pytest.raises(SettingsError, match="CONVOKE_MAX_BODY_BYTES=4096 is above CONVOKE_MAX_PENDING_BYTES=2048"):
        from_environment({"CONVOKE_MAX_BODY_BYTES": "4096", "CONVOKE_MAX_PENDING_BYTES": "2048"})
