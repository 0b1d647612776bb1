"""The service's settings, read from the environment once, when a process starts.

Each field is the environment variable CONVOKE_FIELD, in capitals; its description gives unit and meaning.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from contract import processors
from contract.providers import has_nvidia_driver
from contract.spec import MAX_CHARACTERS, MAX_PIXELS

PREFIX = "CONVOKE_"

_MAX_PORT = 65535
_MAX_AUTO_WORKERS = 16
_WORKER_BYTES = 384 << 20  # what a worker takes under large photos, and as much again as its models

_OTHERS = {"CONVOKE_DATA", "CONVOKE_CACHE", "CONVOKE_MIRROR", "CONVOKE_HOST"}  # training's and `__main__.py`'s
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT(_\d+_(TCP|UDP|SCTP)(_|$)|$)")
"""Variables that Kubernetes sets in every pod for a Service whose name begins with `convoke`."""

_ORIGIN = r"https?://[A-Za-z0-9.\[\]:-]+"
_ORIGINS = rf"^(|\*|{_ORIGIN}(,{_ORIGIN})*)$"


class SettingsError(ValueError):
    """An invalid setting; the message names it as the user set it."""


class Settings(BaseModel):
    """What an operator can change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Path = Field(
        default=Path(__file__).resolve().parent.parent / "models",
        description="folder of the models, laid out as NAME/VERSION",
    )
    versions: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="versions of each model that stay loaded; the highest is served"
    )
    poll_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=2.0, description="seconds between two scans for new versions; 0 turns scanning off"
    )
    api_keys_file: Path | None = Field(
        default=None, description="file of API keys; without it every route is open, except load and unload"
    )
    public: Literal["metrics", "predict", "predict,metrics", "none"] = Field(
        default="metrics", description="routes that need no key although a file of keys is set"
    )
    cors_origins: Annotated[str, Field(pattern=_ORIGINS)] = Field(
        default="", description="comma-separated origins whose pages may call the service; * allows every origin"
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="execution provider; auto uses CUDA if an NVIDIA driver is installed"
    )
    precision: Literal["auto", "float32", "int8", "float16"] = Field(
        default="auto", description="precision of models that are published in several; auto uses the fastest"
    )
    engine_cache: Path = Field(
        default=Path("~/.cache/convoke/tensorrt"), description="folder in which TensorRT stores its engines"
    )
    cuda_graphs: bool = Field(
        default=False, description="whether CUDA pads image batches to fixed sizes and replays each size as a graph"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto",
        validate_default=True,
        description="worker processes, each with the models and queues of its own; auto: one for each processor, up to "
        f"{_MAX_AUTO_WORKERS} and as memory allows, and one where a GPU serves",
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="CPU threads of one run of a model; several runs share the CPUs"
    )
    parallel_runs: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0,
        description="runs of one model at the same time on CPUs; 0 for one on each CPU that its threads leave free",
    )
    decode_threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=processors.count(), description="threads that decode images and texts"
    )
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=32 << 20, description="bytes of a request body, before and after decompression"
    )
    max_pending_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = Field(
        default=256 << 20,
        description="bytes of all request bodies in memory; requests above it are answered 429",
    )
    max_items: Annotated[int, Field(ge=1, le=65536)] = Field(default=1024, description="items in one request")
    max_pixels: Annotated[int, Field(ge=784, le=178_000_000)] = Field(
        default=MAX_PIXELS, description="pixels of one image, checked before it is decoded"
    )
    max_characters: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=MAX_CHARACTERS, description="characters of one text"
    )
    max_json_values: Annotated[int, Field(ge=16, le=1 << 30)] = Field(
        default=1_000_000, description="values in the JSON of one request: numbers, strings, lists and objects"
    )
    max_json_depth: Annotated[int, Field(ge=8, le=500)] = Field(
        default=32, description="nested lists and objects in the JSON of one request"
    )
    max_part_head_bytes: Annotated[int, Field(ge=256, le=1 << 20)] = Field(
        default=8192, description="bytes of one header of a multipart part"
    )
    max_head_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = Field(
        default=64 << 10, description="bytes of the request line and headers of a request"
    )
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=900,
        description="open connections of one worker; above it requests are answered 429, except health and metrics; "
        "fewer if the limit of open files (ulimit -n) allows fewer",
    )
    max_queue_items: Annotated[int, Field(ge=1, le=1 << 20)] = Field(
        default=4096, description="items that wait for one model; requests above it are answered 429"
    )
    max_wait_s: Annotated[float, Field(gt=0, le=55)] = Field(
        default=1.0,
        description="seconds that a request may wait for others, as measured; above it requests are answered 429",
    )
    max_explanations: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=4,
        description="explanations of one model that a worker makes at the same time; requests above it are answered "
        "429; 0 refuses all",
    )
    max_inspections: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=8,
        description="inspections that wait in a worker, which makes one at a time; requests above it are answered 429; "
        "0 refuses all",
    )
    max_inspected_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = Field(
        default=256 << 20,
        description="bytes of the graphs that a worker keeps loaded for inspections, beside those that predict; a "
        "larger graph is not inspected",
    )
    feedback_dir: Path | None = Field(
        default=None, description="folder that keeps items whose right labels clients send; without it nothing is kept"
    )
    feedback_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = Field(
        default=1 << 30, description="bytes of the folder of feedback; above it feedback is refused with 507"
    )
    feedback_recent_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = Field(
        default=64 << 20, description="bytes of recent items that a worker remembers for feedback; the oldest go first"
    )
    head_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=10.0, description="seconds to receive a request line and headers; on a new connection, from its opening"
    )
    keep_alive_s: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=90.0, description="seconds that a connection stays open without a request; more than a proxy's own time"
    )
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0, description="seconds to receive a request body"
    )
    request_timeout_s: Annotated[float, Field(gt=0, le=55)] = Field(
        default=30.0, description="seconds from the end of the request body to the response"
    )
    fast_path: bool = Field(
        default=True, description="whether small plain requests are answered without ASGI, in a third of the time"
    )
    page: bool = Field(default=True, description="whether GET / is a page that tries the models, for browsers")
    access_log: bool = Field(default=True, description="whether the log has a line for each request")
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="format of log lines; auto is text on a terminal and JSON elsewhere"
    )
    drain_s: Annotated[float, Field(ge=0, le=600)] = Field(
        default=2.0,
        description="seconds after SIGTERM in which requests are still accepted and /readyz is 503; 0 stops at once",
    )

    @field_validator("models", "api_keys_file", "feedback_dir")  # engine_cache is expanded where it is used
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        """Replace ~ by the home folder, as a shell does."""
        try:
            return None if path is None else path.expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    @field_validator("workers", mode="before")
    @classmethod
    def _count_workers(cls, workers: object, info: ValidationInfo) -> object:
        """The number of workers for `auto`."""
        if workers != "auto":
            return workers
        provider = info.data.get("provider", "auto")
        if provider in {"cuda", "tensorrt"} or (provider == "auto" and has_nvidia_driver()):
            return 1
        fitting = processors.free_bytes() // _WORKER_BYTES
        return max(min(processors.count(), fitting, _MAX_AUTO_WORKERS), 1)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _as_browsers_send_them(cls, origins: object) -> object:
        """Origins without blanks around them and without a slash at their end."""
        if not isinstance(origins, str):
            return origins
        return ",".join(origin.strip().removesuffix("/") for origin in origins.split(","))

    @model_validator(mode="after")
    def _largest_request_fits(self) -> "Settings":
        for largest, limit in (("max_body_bytes", "max_pending_bytes"), ("max_items", "max_queue_items")):
            values = getattr(self, largest), getattr(self, limit)
            if values[0] > values[1]:
                raise ValueError(
                    f"{_variable(largest)}={values[0]} is above {_variable(limit)}={values[1]}: "
                    "the largest request would never be accepted"
                )
        return self


def port(text: str) -> int:
    """A port of TCP from its text.

    Raises:
        SettingsError: the text is not a number from 0 to 65535.
    """
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PORT):
        raise SettingsError(f"invalid port {text!r}; expected 0 to {_MAX_PORT}")
    return int(text)


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of an environment, by default this process's; an empty variable counts as not set.

    Raises:
        SettingsError: a variable has an invalid value, or its name is close to that of a setting.
    """
    environment = os.environ if environment is None else environment
    misspelt = [f"unknown setting {name}; did you mean {near}?" for name, near in unknown(environment) if near]
    if misspelt:
        raise SettingsError("\n".join(misspelt))
    values = {field: value for field in Settings.model_fields if (value := _unquoted(environment, _variable(field)))}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors()))) from error


def unknown(environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, str | None]]:
    """The variables with our prefix that are not settings, each with the setting whose name is close, or None."""
    environment = os.environ if environment is None else environment
    known = [field.upper() for field in Settings.model_fields]
    for variable in sorted(environment):
        name = variable.removeprefix(PREFIX)
        if variable in {name, *_OTHERS} or name in known or _SERVICE_LINK.search(variable):
            continue
        matches = difflib.get_close_matches(name, known, 1, 0.8)
        yield variable, PREFIX + matches[0] if matches else None


def described(settings: Settings) -> str:
    """All settings as they would be set, for the log. No setting holds a secret, only the path of the file of keys."""
    return " ".join(f"{_variable(field)}={'' if value is None else value}" for field, value in settings)


def allowed(field: str) -> str:
    """The values that a setting can have, in words."""
    schema = Settings.model_json_schema()["properties"][field]
    match schema:
        case {"type": "boolean"}:
            return "`true`, `false`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"minimum": low, "maximum": high}:
            return f"{'`auto`, ' if schema.get('default') == 'auto' else ''}{low} to {high}"
        case {"exclusiveMinimum": low, "maximum": high}:
            return f"above {low} to {high}"
        case {"pattern": _}:
            return "text"
        case _:
            return "a path"


def paths(settings: Settings) -> dict[str, str]:
    """The variables of the paths, made absolute: they keep their meaning when the process changes its folder."""
    chosen = (
        (field, getattr(settings, field)) for field in ("models", "api_keys_file", "engine_cache", "feedback_dir")
    )
    return {_variable(field): str(path.expanduser().absolute()) for field, path in chosen if path is not None}


def _unquoted(environment: Mapping[str, str], variable: str) -> str:
    """The value of a variable; blanks and quotes around it, as an env file may pass them on, are left out."""
    value = environment.get(variable, "").strip()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1].strip() if is_quoted else value


def _variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def _explain(fault: Any) -> str:
    """One fault that pydantic reports, as a sentence about the environment variable."""
    if not fault["loc"]:
        return str(fault["ctx"]["error"])
    field = str(fault["loc"][0])
    return f"{_variable(field)}={fault['input']!r}: {fault['msg']} ({Settings.model_fields[field].description})"
