"""The contract between training and serving: what a model version is, how to feed it, and what it is worth.

`training` writes a manifest, `service` reads it, both through `Manifest`. It binds the graph to its preprocessing,
its labels and the SHA-256 of every file beside it, and it is refused, by name, when any of that does not hold.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ManifestError, ModelRefused

SCHEMA_VERSION: Final = 2
PREPROCESSING_VERSION = 1
"""Raised whenever `service.preprocess` turns the same bytes into other pixels: models trained before are refused."""

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
CARD = "card.md"
GOLDEN = "golden.npz"
TOKENIZER = "tokenizer.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ImageInput(_Section):
    """A picture as the graph wants it: uint8 (height, width, channels).

    `framing` says how a picture comes to that size: `squash` resizes both sides; `mnist` makes light ink on black
    of it, fitted into a 20 x 20 box and centred by its mass in 28 x 28.
    """

    kind: Literal["image"] = "image"
    height: Count
    width: Count
    mode: Literal["L", "RGB"]
    framing: Literal["mnist", "squash"]
    resample: Literal["bilinear"] = "bilinear"

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    @model_validator(mode="after")
    def _framing_fits(self) -> "ImageInput":
        if self.framing == "mnist" and (self.height, self.width, self.mode) != (28, 28, "L"):
            raise ValueError("framing 'mnist' makes 28 x 28 pictures of mode 'L'")
        return self


class TextInput(_Section):
    """A text as the graph wants it: token ids int64 (L), 1 <= L <= `length`, each below `vocabulary`.

    Id 0 is padding: it stands behind the end of the shorter texts of a batch, (N, L), and changes nothing. `tokenizer`
    is the file, a `tokenizer.json` of Hugging Face `tokenizers`, that turns text into ids.
    """

    kind: Literal["text"] = "text"
    length: Count
    vocabulary: Annotated[int, Field(ge=2)]
    tokenizer: FileName = TOKENIZER


class Metrics(_Section):
    """What a model is worth on the n examples of a split.

    accuracy and ece (expected calibration error, 15 bins) are shares of 1; nll is in nats an example.
    """

    n: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    nll: Annotated[float, Field(ge=0)]
    ece: Annotated[float, Field(ge=0, le=1)]


class Manifest(_Section):
    """Everything that serving must know of a model version."""

    schema_version: Literal[2] = SCHEMA_VERSION
    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    version: Count
    task: Literal["classification"] = "classification"
    input: Annotated[ImageInput | TextInput, Field(discriminator="kind")]
    labels: Annotated[list[str], Field(min_length=2)]
    preprocessing_version: int
    max_batch: Count
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
    files: dict[FileName, Sha256]

    @model_validator(mode="after")
    def _whole(self) -> "Manifest":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels stand twice in the list")
        if GRAPH not in self.files:
            raise ValueError(f"files does not name {GRAPH}")
        if isinstance(self.input, TextInput) and self.input.tokenizer not in self.files:
            raise ValueError(f"files does not name {self.input.tokenizer}")
        return self

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
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: there is no manifest") from error
    except (OSError, ValueError, RecursionError) as error:
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
        ModelRefused: a file is missing, is a link, or does not have the SHA-256 that the manifest names.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ModelRefused(f"{path}: the manifest names this file, but it is no regular file")
        found = sha256(path)
        if found != expected:
            raise ModelRefused(f"{path}: has SHA-256 {found}, the manifest says {expected}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
