"""The contract between training and serving: what a model version is, what it takes, and how good it is.

`training` writes a manifest and `service` reads it, both through `Manifest`. It binds the graph to its preprocessing,
its labels and the SHA-256 of every file beside it. A version that does not match its manifest is refused.
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
"""Raised whenever `contract.inputs` turns training examples into other values: models trained before are refused."""

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
CARD = "card.md"
GOLDEN = "golden.npz"

MAX_LABELS = 100_000

ModelName = Annotated[str, Field(pattern=r"^[^\W_][\w.-]*$", max_length=100)]
"""Letters and digits of any script, `-`, `_` and `.`: what stands in a path of a URL and in the name of a folder."""
Label = Annotated[str, Field(min_length=1, max_length=200)]
Labels = Annotated[list[Label], Field(min_length=2, max_length=MAX_LABELS)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, lt=1 << 63)]
Precision = Literal["float32", "int8", "float16"]

MAX_FILE_BYTES = 1 << 31
"""Of any file of a version; ONNX allows no larger graph."""
MAX_TEXT_BYTES = 64 << 20
"""Of a file that is read as text: manifest, card and tokenizer."""
MAX_BATCH_VALUES = 1 << 30
"""Of the largest batch, which is run once before a version is served."""


class Metrics(Section):
    """How good a model is on the n examples of a split.

    accuracy and ece (expected calibration error, 15 bins) range from 0 to 1; nll is in nats per example.
    """

    n: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    nll: Annotated[float, Field(ge=0)]
    ece: Annotated[float, Field(ge=0, le=1)]


class Variant(Section):
    """The same network in another precision: a graph with the same input and output as `model.onnx`, in float32.

    The golden file holds its output for the golden inputs under the name of the precision.
    """

    precision: Literal["int8", "float16"]
    graph: FileName
    test_metrics: Annotated[dict[str, Metrics], Field(min_length=1)]


class Manifest(Section):
    """Everything that serving must know about a model version."""

    schema_version: Literal[2] = SCHEMA_VERSION
    model: ModelName
    version: Annotated[int, Field(ge=1, lt=10**9)]
    task: Literal["classification"] = "classification"
    input: Input
    labels: Labels
    preprocessing_version: int
    max_batch: Annotated[int, Field(ge=1, le=1 << 16)]
    temperature: Annotated[float, Field(gt=0)]
    """The graph divides its logits by it, for calibration."""
    length_exponent: float = 0.0
    """The temperature of a text of L tokens is multiplied by (L / 64) to this power."""
    length_range: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    """The lengths between which this is fitted: L is at least the first and at most the second, if they are given."""
    test_metrics: dict[str, Metrics]
    """The metrics on each held-out test split, by the name of its data set; empty if none were measured."""
    dataset: str
    dataset_fingerprint: str
    recipe: dict[str, Any]
    parameters: Count
    commit: str
    created: str
    files: Annotated[dict[FileName, Sha256], Field(max_length=100)]
    variants: list[Variant] = Field(default=[])
    """The network in other precisions; versions without any may omit the key."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Manifest":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels holds a label twice")
        for name in (GRAPH, *self.input.files):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        if prod(self.input.shape(self.max_batch)) > MAX_BATCH_VALUES:
            raise ValueError(f"a batch of {self.max_batch} items has too many values (maximum {MAX_BATCH_VALUES})")
        for variant in self.variants:
            if variant.graph not in self.files or variant.graph == GRAPH:
                raise ValueError(f"files does not list {variant.graph} as another graph than {GRAPH}")
        if len({variant.precision for variant in self.variants}) != len(self.variants):
            raise ValueError("variants holds a precision twice")
        return self

    @property
    def precisions(self) -> list[Precision]:
        """The precisions in which this version holds the network: float32, and those of the variants."""
        return ["float32", *(variant.precision for variant in self.variants)]

    def variant(self, precision: Precision) -> Variant | None:
        """The variant in a precision; None for float32, or if this version does not have it."""
        return next((variant for variant in self.variants if variant.precision == precision), None)

    def graph(self, precision: Precision) -> str:
        """The name of the file with the graph in a precision."""
        variant = self.variant(precision)
        return GRAPH if variant is None else variant.graph

    def metrics(self, precision: Precision) -> dict[str, Metrics]:
        """The metrics of the network in a precision on each test split."""
        variant = self.variant(precision)
        return self.test_metrics if variant is None else variant.test_metrics

    def write(self, folder: Path) -> None:
        """Write the manifest into a version's folder."""
        (folder / MANIFEST).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Read the manifest in a version's folder, without checking the other files.

    Raises:
        ManifestError: the manifest is missing, is not JSON, is of another schema or preprocessing version, or has an
            invalid entry.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: the manifest is missing") from error
    except ModelRefused as error:
        raise ManifestError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON: {error}") from error
    schema_version = content.get("schema_version") if isinstance(content, dict) else None
    if schema_version != SCHEMA_VERSION or isinstance(schema_version, bool):
        raise ManifestError(
            f"{path}: unsupported schema version {schema_version!r} (expected {SCHEMA_VERSION}); "
            "publish the model again"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "manifest"
        raise ManifestError(f"{path}: {where}: {fault['msg']}") from error
    if manifest.preprocessing_version != PREPROCESSING_VERSION:
        raise ManifestError(
            f"{path}: unsupported preprocessing version {manifest.preprocessing_version} "
            f"(expected {PREPROCESSING_VERSION}); train and publish the model again"
        )
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file of a version against its manifest.

    Raises:
        ModelRefused: the manifest does not list a file that serving reads; or a listed file is missing, leads out of
            the models' folder, is too large or has another SHA-256.
    """
    unlisted = {CARD, GOLDEN} - set(manifest.files)
    if unlisted:
        raise ModelRefused(f"{folder}: the manifest does not list {min(unlisted)} under files")
    for name, expected in manifest.files.items():
        path = folder / name
        if not _is_file_of(folder, path):
            raise ModelRefused(f"{path}: the manifest lists this file, but it is missing or not a regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelRefused(f"{path}: is too large: {path.stat().st_size} bytes (maximum {MAX_FILE_BYTES})")
        actual = sha256(path)
        if actual != expected:
            raise ModelRefused(f"{path}: has SHA-256 {actual}, but the manifest lists {expected}")


def read_text(path: Path) -> str:
    """Read a file of a version as text.

    Raises:
        FileNotFoundError: it is missing.
        ModelRefused: it is not a regular file, too large, unreadable, or not UTF-8.
    """
    try:
        path.lstat()
        if not _is_file_of(path.parent, path) or path.stat().st_size > MAX_TEXT_BYTES:
            raise ModelRefused(f"{path}: is not a regular file of up to {MAX_TEXT_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path}: cannot be read: {error}") from error


def _is_file_of(folder: Path, path: Path) -> bool:
    """Whether a path in a version's folder is a regular file, or a link to a regular file in the same models/.

    Kubernetes mounts ConfigMaps, Secrets and projected volumes as links of this kind: `manifest.json` to
    `..data/manifest.json`, where `..data` is a link to a folder beside it.
    """
    if not path.is_file():  # also for a link to nothing or to itself
        return False
    if not path.is_symlink():
        return True
    target = path.resolve()
    volumes = (place.resolve() for place in (folder, folder.absolute().parent.parent) if place != place.parent)
    return any(target.is_relative_to(volume) for volume in volumes)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
