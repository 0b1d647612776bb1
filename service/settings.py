"""The service's settings. The environment is read here, once, when a worker starts.

Each field is the environment variable CONVOKE_<FIELD> in capitals; its description gives unit and meaning.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PREFIX = "CONVOKE_"

_OTHERS = {"CONVOKE_DATA", "CONVOKE_CACHE", "CONVOKE_MIRROR"}  # training's
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT(_\d+_(TCP|UDP|SCTP)(_|$)|$)")
"""What Kubernetes puts into the environment of every pod beside a Service whose name begins with `convoke`."""

_ORIGIN = r"https?://[A-Za-z0-9.\[\]:-]+"
_ORIGINS = rf"^(|\*|{_ORIGIN}(,{_ORIGIN})*)$"


class SettingsError(ValueError):
    """A setting that cannot be used, named as the user set it."""


class Settings(BaseModel):
    """What an operator can change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Path = Field(
        default=Path(__file__).resolve().parent.parent / "models",
        description="the folder that holds models/NAME/VERSION",
    )
    versions: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="versions of each model that are kept loaded; the highest is served"
    )
    poll_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=2.0, description="seconds between two looks for new versions; 0 for never"
    )
    api_keys_file: Path | None = Field(
        default=None, description="the file of API keys, see Keys; without it all is open, but loading and unloading"
    )
    public: Literal["metrics", "predict", "predict,metrics", "none"] = Field(
        default="metrics", description="what needs no key although there is a file of keys; or none"
    )
    cors_origins: Annotated[str, Field(pattern=_ORIGINS)] = Field(
        default="", description="origins, parted by commas, whose pages may call the service; * for all"
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="execution provider; auto takes CUDA where an NVIDIA driver is installed"
    )
    precision: Literal["auto", "float32", "int8", "float16"] = Field(
        default="auto", description="what models that come in several precisions compute in; auto takes the fastest"
    )
    engine_cache: Path = Field(
        default=Path("~/.cache/convoke/tensorrt"), description="the folder in which TensorRT keeps its engines"
    )
    cuda_graphs: bool = Field(
        default=False, description="whether CUDA pads batches of pictures to fixed sizes and replays each as a graph"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="processes that serve; each loads the models and has queues of its own"
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="processor threads for one run of a model; as many runs at once as processors allow"
    )
    decode_threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=os.cpu_count() or 1, description="threads that decode pictures and texts"
    )
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=32 << 20, description="bytes of a request's body, also once it is unpacked"
    )
    max_pending_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = Field(
        default=256 << 20,
        description="bytes of all bodies read or worked on at once; what comes on top is answered 429",
    )
    max_items: Annotated[int, Field(ge=1, le=65536)] = Field(default=1024, description="items in one request")
    max_pixels: Annotated[int, Field(ge=784, le=178_000_000)] = Field(
        default=50_000_000, description="pixels of one picture, before it is decoded"
    )
    max_characters: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=100_000, description="characters of one text"
    )
    max_json_values: Annotated[int, Field(ge=16, le=1 << 30)] = Field(
        default=1_000_000, description="values in the JSON of one request: numbers, strings, lists and objects"
    )
    max_json_depth: Annotated[int, Field(ge=8, le=500)] = Field(
        default=32, description="lists and objects inside of each other in the JSON of one request"
    )
    max_part_head_bytes: Annotated[int, Field(ge=256, le=1 << 20)] = Field(
        default=8192, description="bytes of one header of a multipart part"
    )
    max_head_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = Field(
        default=64 << 10, description="bytes of a request's line and headers"
    )
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=900, description="open connections of one worker; what comes on top is answered 429"
    )
    max_queue_items: Annotated[int, Field(ge=1, le=1 << 20)] = Field(
        default=4096, description="items waiting for one model; what comes on top is answered 429"
    )
    head_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=10.0, description="seconds to send a request's line and headers in, and until a new connection is used"
    )
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0, description="seconds to send a body in"
    )
    request_timeout_s: Annotated[float, Field(gt=0, le=55)] = Field(
        default=30.0, description="seconds from a read body to its answer"
    )
    access_log: bool = Field(default=True, description="whether each request is a line of the log (true or false)")
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="form of the log's lines; auto is text on a terminal, else JSON"
    )
    drain_s: Annotated[float, Field(ge=0, le=600)] = Field(
        default=2.0,
        description="seconds for which requests are still taken after SIGTERM, /readyz being 503; 0 for none",
    )

    @model_validator(mode="after")
    def _one_request_fits(self) -> "Settings":
        if self.max_body_bytes > self.max_pending_bytes:
            raise ValueError(
                f"{PREFIX}MAX_BODY_BYTES={self.max_body_bytes} is above {PREFIX}MAX_PENDING_BYTES="
                f"{self.max_pending_bytes}: the largest body would never be accepted"
            )
        if self.max_items > self.max_queue_items:
            raise ValueError(
                f"{PREFIX}MAX_ITEMS={self.max_items} is above {PREFIX}MAX_QUEUE_ITEMS={self.max_queue_items}: "
                "the largest request would never be accepted"
            )
        return self


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of an environment, by default this process's; an empty variable counts as not set.

    Raises:
        SettingsError: a value that cannot be used, with the variable's name and what is allowed; or a name that is
            nearly that of a setting.
    """
    environment = os.environ if environment is None else environment
    misspelt = [f"{name} is no setting; did you mean {near}?" for name, near in unknown(environment) if near]
    if misspelt:
        raise SettingsError("\n".join(misspelt))
    given = {field: value for field in Settings.model_fields if (value := environment.get(PREFIX + field.upper()))}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors()))) from error


def unknown(environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, str | None]]:
    """The variables that look like settings and are none, each with the setting that it nearly is."""
    environment = os.environ if environment is None else environment
    known = [field.upper() for field in Settings.model_fields]
    for variable in sorted(environment):
        name = variable.removeprefix(PREFIX)
        if variable in {name, *_OTHERS} or name in known or _SERVICE_LINK.search(variable):
            continue
        near = difflib.get_close_matches(name, known, 1, 0.8)
        yield variable, PREFIX + near[0] if near else None


def described(settings: Settings) -> str:
    """All settings as they would be set, for the log. A secret's value is not shown."""
    return " ".join(f"{PREFIX}{field.upper()}={'' if value is None else value}" for field, value in settings)


def allowed(field: str) -> str:
    """The values that a setting may have, in words."""
    info = Settings.model_fields[field]
    if info.annotation is bool:
        return "`true`, `false`"
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(info.annotation))
    if info.annotation is str:
        return "text"
    low = high = None
    for bound in info.metadata:
        match bound:
            case annotated_types.Ge(ge=least):
                low = f"{least}"
            case annotated_types.Gt(gt=least):
                low = f"above {least}"
            case annotated_types.Le(le=most):
                high = f"{most}"
    return "a path" if low is None else f"{low} to {high}"


def _explain(fault: object) -> str:
    assert isinstance(fault, dict)
    if not fault["loc"]:
        return str(fault["ctx"]["error"])
    field = str(fault["loc"][0])
    description = Settings.model_fields[field].description
    return f"{PREFIX}{field.upper()}={fault['input']!r}: {fault['msg']} ({description})"
