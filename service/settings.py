"""The service's settings. The environment is read here, once, when a worker starts.

Each field is the environment variable CONVOKE_<FIELD> in capitals; its description gives unit and meaning.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PREFIX = "CONVOKE_"

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
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="processor threads for one run of a model"
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
        default=900, description="open connections of one worker; what comes on top is answered 503"
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
        SettingsError: a value that cannot be used, with the variable's name and what is allowed.
    """
    environment = os.environ if environment is None else environment
    given = {field: value for field in Settings.model_fields if (value := environment.get(PREFIX + field.upper()))}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors()))) from error


def _explain(fault: object) -> str:
    assert isinstance(fault, dict)
    if not fault["loc"]:
        return str(fault["ctx"]["error"])
    field = str(fault["loc"][0])
    description = Settings.model_fields[field].description
    return f"{PREFIX}{field.upper()}={fault['input']!r}: {fault['msg']} ({description})"
