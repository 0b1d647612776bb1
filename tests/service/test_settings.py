"""Settings, which are read from the environment."""

from pathlib import Path

import pytest

from service.settings import PREFIX, Settings, SettingsError, allowed, described, from_environment, paths, unknown


def test_an_empty_environment_gives_the_defaults() -> None:
    """No variable must be set; an empty one counts as not set."""
    assert from_environment({}) == from_environment({"CONVOKE_THREADS": ""}) == Settings()


def test_values_are_read() -> None:
    """Each variable sets its field; other variables are ignored."""
    settings = from_environment({"CONVOKE_MAX_ITEMS": "7", "CONVOKE_PROVIDER": "cpu", "CONVOKE_PORT": "tcp://10.0.0.1"})
    assert (settings.max_items, settings.provider) == (7, "cpu")


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
def test_invalid_values_are_refused_by_name(name: str, value: str) -> None:
    """The message has the variable, its value, and the meaning of the setting."""
    with pytest.raises(SettingsError, match=rf"CONVOKE_{name}='{value}': .*\(.+\)$"):
        from_environment({f"CONVOKE_{name}": value})


def test_a_request_that_never_fits_is_refused() -> None:
    """A queue, or a memory for bodies, that is smaller than the largest request would always refuse it."""
    with pytest.raises(SettingsError, match=r"CONVOKE_MAX_ITEMS=10.*CONVOKE_MAX_QUEUE_ITEMS=9"):
        from_environment({"CONVOKE_MAX_ITEMS": "10", "CONVOKE_MAX_QUEUE_ITEMS": "9"})
    with pytest.raises(SettingsError, match=r"CONVOKE_MAX_BODY_BYTES=4096.*CONVOKE_MAX_PENDING_BYTES=2048"):
        from_environment({"CONVOKE_MAX_BODY_BYTES": "4096", "CONVOKE_MAX_PENDING_BYTES": "2048"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MAX_ITEM", "MAX_ITEMS"), ("WORKER", "WORKERS"), ("BODY_TIMEOUT", "BODY_TIMEOUT_S"), ("THREDS", "THREADS")],
)
def test_a_misspelt_name_is_refused(name: str, meant: str) -> None:
    """A variable whose name is close to a setting's is an error that names the setting."""
    with pytest.raises(SettingsError, match=rf"CONVOKE_{name};.*CONVOKE_{meant}[?]$"):
        from_environment({f"CONVOKE_{name}": "1"})


def test_unknown_names_are_reported() -> None:
    """Training's variables, and those of a Kubernetes Service called `convoke`, are ignored; others are reported."""
    others = {"CONVOKE_DATA", "CONVOKE_CACHE", "CONVOKE_PORT", "CONVOKE_SERVICE_HOST", "CONVOKE_PORT_3000_TCP_ADDR"}
    others |= {"CONVOKE_SERVICE_PORT_HTTP", "CONVOKE_MAX_SERVICE_HOST", "THREADS", "_CONVOKE_FLEET"}
    environment = dict.fromkeys([*others, "CONVOKE_COLOUR"], "1")
    assert from_environment(environment) == Settings()
    assert list(unknown(environment)) == [("CONVOKE_COLOUR", None)]


def test_settings_are_described_as_they_are_set() -> None:
    """The settings in the log, set as variables, give the same settings."""
    settings = Settings(max_items=7, access_log=False)
    environment = dict(pair.split("=", 1) for pair in described(settings).split())
    assert len(environment) == len(Settings.model_fields)
    assert from_environment(environment) == settings


def test_bounds_in_words_are_the_bounds() -> None:
    """Values beyond either end of a range are refused with the name of the variable."""
    ranges = 0
    for field in Settings.model_fields:
        bounds = allowed(field).removeprefix("`auto`, ").removeprefix("above ").split(" to ")
        if len(bounds) == 2:
            ranges += 1
            for value in (int(bounds[0]) - 1, int(bounds[1]) + 1):
                with pytest.raises(SettingsError, match=f"^{PREFIX}{field.upper()}="):
                    from_environment({PREFIX + field.upper(): str(value)})
    assert ranges >= 10


@pytest.mark.parametrize("form", ["{}", '"{}"', "'{}'", " {} ", '"{} "'])
def test_quotes_around_a_value_are_left_out(form: str) -> None:
    """Env files pass them on; this holds for paths, numbers and words, and empty quotes count as not set."""
    values = {"CONVOKE_MODELS": "/a/b", "CONVOKE_THREADS": "3", "CONVOKE_PROVIDER": "cpu"}
    settings = from_environment({name: form.format(value) for name, value in values.items()})
    assert (settings.models, settings.threads, settings.provider) == (Path("/a/b"), 3, "cpu")
    assert from_environment({"CONVOKE_MODELS": form.format("")}) == Settings()


def test_a_home_folder_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde in a path is what it is in a shell; an unknown user is an error by name."""
    monkeypatch.setenv("HOME", "/srv/someone")
    settings = from_environment({"CONVOKE_MODELS": "~/models", "CONVOKE_API_KEYS_FILE": "~/keys"})
    assert (settings.models, settings.api_keys_file) == (Path("/srv/someone/models"), Path("/srv/someone/keys"))
    with pytest.raises(SettingsError, match="CONVOKE_MODELS='~no-such-user/models'"):
        from_environment({"CONVOKE_MODELS": "~no-such-user/models"})


def test_relative_paths_are_those_of_the_folder_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m service` changes its folder, and passes the paths on as they were meant."""
    monkeypatch.chdir(tmp_path)
    passed = paths(from_environment({"CONVOKE_MODELS": "models"}))
    assert passed["CONVOKE_MODELS"] == str(tmp_path / "models")
    assert "CONVOKE_API_KEYS_FILE" not in passed


@pytest.mark.parametrize(
    ("count", "free_mib", "has_gpu", "provider", "expected"),
    [
        (2, 24_000, False, "auto", 2),
        (64, 240_000, False, "auto", 16),
        (8, 1200, False, "auto", 3),
        (4, 100, False, "auto", 1),
        (8, 24_000, True, "auto", 1),
        (8, 24_000, True, "cpu", 8),
        (8, 24_000, False, "cuda", 1),
    ],
)
def test_the_number_of_workers_fits_the_machine(
    monkeypatch: pytest.MonkeyPatch, count: int, free_mib: int, has_gpu: bool, provider: str, expected: int
) -> None:
    """`auto`: a worker for each processor, as memory allows; one where a GPU serves. A number stays as it is."""
    monkeypatch.setattr("contract.processors.count", lambda: count)
    monkeypatch.setattr("contract.processors.free_bytes", lambda: free_mib << 20)
    monkeypatch.setattr("service.settings.has_nvidia_driver", lambda: has_gpu)
    for environment in ({}, {"CONVOKE_WORKERS": "auto"}):
        assert from_environment({"CONVOKE_PROVIDER": provider, **environment}).workers == expected
    assert from_environment({"CONVOKE_WORKERS": "5"}).workers == 5
