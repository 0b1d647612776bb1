"""One version of a model: read, verified, replayed and warmed up, ready to answer."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contract import inputs, reference
from contract.errors import ModelRefused
from contract.inputs import Preprocessor
from contract.manifest import CARD, Manifest, read_text, verify
from contract.manifest import read as read_manifest
from contract.reference import Reference
from contract.session import Session
from service.inference import precision
from service.settings import Settings

MAX_SCORES, DEFAULT_TOP = 20, 10
"""An answer has the scores of all labels, if they are up to 20; else the 10 highest, unless `top` is sent."""


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a model, ready to run."""

    manifest: Manifest
    preprocessor: Preprocessor
    session: Session
    card: str
    reference: Reference | None = None
    """What this version does with its test data, if that was measured."""

    @cached_property
    def name(self) -> str:
        """The name of the model."""
        return self.manifest.model

    @cached_property
    def number(self) -> str:
        """The version as URLs, answers and metric labels show it."""
        return str(self.manifest.version)

    @cached_property
    def quoted_labels(self) -> list[str]:
        """The labels in order, each in JSON."""
        return [json.dumps(label) for label in self.manifest.labels]

    @cached_property
    def default_top(self) -> int | None:
        """How many labels get a score in an answer unless the request says it: None for all, 10 of more than 20."""
        return DEFAULT_TOP if len(self.manifest.labels) > MAX_SCORES else None

    @cached_property
    def json_prefix(self) -> str:
        """The start of each answer of this version in JSON."""
        return f'{{"model":{json.dumps(self.name)},"version":{json.dumps(self.number)},'

    @cached_property
    def default_json_prefix(self) -> str:
        """The start of an answer with the default number of scores, which it states if it is not all of them."""
        if self.default_top is None:
            return self.json_prefix
        return f'{self.json_prefix}"top":{self.default_top},"labels":{len(self.manifest.labels)},'


def open_version(folder: Path, settings: Settings) -> Version:
    """Read, verify, load, replay and warm up the version in models/NAME/VERSION.

    Raises:
        ModelRefused: the version does not match its manifest.
        ProviderError: this machine does not have the configured execution provider.
    """
    if not folder.resolve().is_relative_to(settings.models.resolve()):
        raise ModelRefused(f"{folder}: is a link to a place outside of {settings.models}")
    manifest = read_manifest(folder)
    if (manifest.model, str(manifest.version)) != (folder.parent.name, folder.name):
        raise ModelRefused(
            f"{folder}: the manifest is of model {manifest.model} version {manifest.version}; "
            "both must equal the names of the folders"
        )
    verify(folder, manifest)
    preprocessor = inputs.load_preprocessor(
        folder, manifest.input, max_pixels=settings.max_pixels, max_characters=settings.max_characters
    )
    session = precision.open_session(folder, manifest, settings)
    session.warm_up()
    return Version(manifest, preprocessor, session, read_text(folder / CARD), reference.read(folder, manifest))
