"""One version of a model: read, verified, replayed and warmed up, ready to answer."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contract import inputs
from contract.errors import ModelRefused
from contract.inputs import Preprocessor
from contract.manifest import CARD, Manifest, read_text, verify
from contract.manifest import read as read_manifest
from contract.session import Session
from service.inference import precision
from service.settings import Settings


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a model, ready to run."""

    manifest: Manifest
    preprocessor: Preprocessor
    session: Session
    card: str

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
    def json_prefix(self) -> str:
        """The start of each answer of this version in JSON."""
        return f'{{"model":{json.dumps(self.name)},"version":{json.dumps(self.number)},'


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
    return Version(manifest, preprocessor, session, read_text(folder / CARD))
