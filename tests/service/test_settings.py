"""The environment, read once."""

import pytest

from service.settings import PREFIX, Settings, SettingsError, allowed, described, from_environment, unknown


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MAX_ITEM", "MAX_ITEMS"), ("WORKER", "WORKERS"), ("BODY_TIMEOUT", "BODY_TIMEOUT_S"), ("THREDS", "THREADS")],
)
def test_a_misspelt_name_is_refused(name: str, meant: str) -> None:
    """A limit that was set and does not hold would be found out too late."""
    with pytest.raises(SettingsError, match=rf"CONVOKE_{name};.*CONVOKE_{meant}[?]$"):
        from_environment({f"CONVOKE_{name}": "1"})


def test_other_names_are_known_or_told() -> None:
    """Training's variables and those of a Kubernetes Service called `convoke` are passed over, all else is told."""
    others = {"CONVOKE_DATA", "CONVOKE_CACHE", "CONVOKE_PORT", "CONVOKE_SERVICE_HOST", "CONVOKE_PORT_3000_TCP_ADDR"}
    others |= {"CONVOKE_SERVICE_PORT_HTTP", "CONVOKE_MAX_SERVICE_HOST", "THREADS", "_CONVOKE_FLEET"}
    given = dict.fromkeys([*others, "CONVOKE_COLOUR"], "1")
    assert from_environment(given) == Settings()
    assert list(unknown(given)) == [("CONVOKE_COLOUR", None)]


def test_settings_are_described_as_they_are_set() -> None:
    """What the log says of all settings could be set again, and gives the same."""
    chosen = Settings(max_items=7, access_log=False)
    given = dict(pair.split("=", 1) for pair in described(chosen).split())
    assert len(given) == len(Settings.model_fields)
    assert from_environment(given) == chosen


def test_bounds_in_words_are_the_bounds() -> None:
    """What lies beyond either end of a range is refused, by name."""
    ranges = 0
    for field in Settings.model_fields:
        words = allowed(field).removeprefix("above ").split(" to ")
        if len(words) == 2:
            ranges += 1
            for value in (int(words[0]) - 1, int(words[1]) + 1):
                with pytest.raises(SettingsError, match=f"^{PREFIX}{field.upper()}="):
                    from_environment({PREFIX + field.upper(): str(value)})
    assert ranges >= 10
