"""The contract between training and serving: what a model version is, how to feed it, and what it is worth.

`training` writes a manifest, `service` reads it, both through `Manifest`. It binds the graph to its preprocessing,
its labels and the SHA-256 of every file beside it, and it is refused, by name, when any of that does not hold.
"""

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from contract.errors import ManifestError, ModelRefused
from contract.spec import FileName, Input, Section

SCHEMA_VERSION: Final = 2
PREPROCESSING_VERSION = 1
"""Raised whenever `contract.inputs` turns the same bytes into other pixels: models trained before are refused."""

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
CARD = "card.md"
GOLDEN = "golden.npz"

Label = Annotated[str, Field(max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, lt=1 << 63)]
Precision = Literal["float32", "int8", "float16"]

MAX_FILE_BYTES = 1 << 31
"""What a file of a version may have; ONNX holds no more."""
MAX_TEXT_BYTES = 64 << 20
"""What a file that is read as text may have: manifest, card and tokenizer."""
MAX_BATCH_VALUES = 1 << 30
"""How many values, such as pixels, the largest batch may hold; it is run once before a version is served."""


class Metrics(Section):
    """What a model is worth on the n examples of a split.

    accuracy and ece (expected calibration error, 15 bins) are shares of 1; nll is in nats an example.
    """

    n: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    nll: Annotated[float, Field(ge=0)]
    ece: Annotated[float, Field(ge=0, le=1)]


class Variant(Section):
    """The same network in another precision: a graph with the same ends, beside `model.onnx`, which is in float32.

    What it gives for the golden inputs stands in the golden file under its precision's name.
    """

    precision: Literal["int8", "float16"]
    graph: FileName
    test_metrics: Annotated[dict[str, Metrics], Field(min_length=1)]


class Manifest(Section):
    """Everything that serving must know of a model version."""

    schema_version: Literal[2] = SCHEMA_VERSION
    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=100)]
    version: Annotated[int, Field(ge=1, lt=10**9)]
    task: Literal["classification"] = "classification"
    input: Input
    labels: Annotated[list[Label], Field(min_length=2, max_length=100_000)]
    preprocessing_version: int
    max_batch: Annotated[int, Field(ge=1, le=1 << 16)]
    temperature: Annotated[float, Field(gt=0)]
    """What the graph divides its logits by, for calibration."""
    length_exponent: float = 0.0
    """A text of L tokens has the temperature times (L / 64) to this power."""
    test_metrics: Annotated[dict[str, Metrics], Field(min_length=1)]
    """What the model is worth on each test split that was held back for it, by the data set's name."""
    dataset: str
    dataset_fingerprint: str
    recipe: dict[str, Any]
    parameters: Count
    commit: str
    created: str
    files: Annotated[dict[FileName, Sha256], Field(max_length=100)]
    variants: list[Variant] = Field(default=[])
    """The network in other precisions; versions without any need not say so."""

    @model_validator(mode="after")
    def _whole(self) -> "Manifest":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels stand twice in the list")
        for name in (GRAPH, *self.input.files):
            if name not in self.files:
                raise ValueError(f"files does not name {name}")
        if prod(self.input.shape(self.max_batch)) > MAX_BATCH_VALUES:
            raise ValueError(f"a batch of {self.max_batch} items has more than {MAX_BATCH_VALUES} values")
        for variant in self.variants:
            if variant.graph not in self.files or variant.graph == GRAPH:
                raise ValueError(f"files does not name {variant.graph} as a graph of its own")
        if len({variant.precision for variant in self.variants}) != len(self.variants):
            raise ValueError("a precision stands twice in variants")
        return self

    @property
    def precisions(self) -> list[Precision]:
        """All that this version holds the network in; float32 always."""
        return ["float32", *(variant.precision for variant in self.variants)]

    def variant(self, precision: Precision) -> Variant | None:
        """The network in that precision, where this version holds it beside its float32."""
        return next((one for one in self.variants if one.precision == precision), None)

    def graph(self, precision: Precision) -> str:
        """The name of the file that holds the network in that precision."""
        variant = self.variant(precision)
        return GRAPH if variant is None else variant.graph

    def metrics(self, precision: Precision) -> dict[str, Metrics]:
        """What the network in that precision is worth on each test split."""
        variant = self.variant(precision)
        return self.test_metrics if variant is None else variant.test_metrics

    def write(self, folder: Path) -> None:
        """Write the manifest into a version's folder."""
        (folder / MANIFEST).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Read the manifest of a version's folder, without looking at the other files.

    Raises:
        ManifestError: missing, no JSON, of another schema or preprocessing version, or with a faulty entry.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: there is no manifest") from error
    except ModelRefused as error:
        raise ManifestError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise ManifestError(
            f"{path}: schema version {found!r} is not read here, {SCHEMA_VERSION} is: publish the model again"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "manifest"
        raise ManifestError(f"{path}: {where}: {fault['msg']}") from error
    if manifest.preprocessing_version != PREPROCESSING_VERSION:
        raise ManifestError(
            f"{path}: was made for preprocessing version {manifest.preprocessing_version}, this is version "
            f"{PREPROCESSING_VERSION}: train and publish the model again"
        )
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file of a version against its manifest.

    Raises:
        ModelRefused: a file that is read is not named, or one that is named is missing, is a link, is too large, or
            does not have the SHA-256 that the manifest names.
    """
    unnamed = {CARD, GOLDEN} - set(manifest.files)
    if unnamed:
        raise ModelRefused(f"{folder}: the manifest's files do not name {min(unnamed)}")
    for name, expected in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ModelRefused(f"{path}: the manifest names this file, but it is no regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelRefused(f"{path}: has {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are read")
        found = sha256(path)
        if found != expected:
            raise ModelRefused(f"{path}: has SHA-256 {found}, the manifest says {expected}")


def read_text(path: Path) -> str:
    """A file of a version as text.

    Raises:
        FileNotFoundError: it is missing.
        ModelRefused: it is no regular file, too large, unreadable, or not in UTF-8.
    """
    try:
        size = path.lstat().st_size
        if path.is_symlink() or not path.is_file() or size > MAX_TEXT_BYTES:
            raise ModelRefused(f"{path}: is no regular file of up to {MAX_TEXT_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path}: cannot be read: {error}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
