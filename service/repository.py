"""models/ -> verified, warmed-up versions.

`models/NAME/VERSION/` holds one version, VERSION a positive integer. Of each model the highest version that passes
its checks is served; the others are remembered with the reason.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from service import manifest as contract
from service import preprocess
from service.errors import ModelNotFound, ModelRefused, NotReady
from service.manifest import Manifest, TextInput
from service.metrics import Metrics
from service.session import Session
from service.settings import Settings

logger = logging.getLogger("bentoml.convoke")


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a model, ready to run; a model that takes texts has a tokenizer."""

    manifest: Manifest
    session: Session
    card: str
    tokenizer: Tokenizer | None = None

    @property
    def name(self) -> str:
        return self.manifest.model

    @property
    def number(self) -> str:
        """The version as it stands in URLs, answers and metric labels."""
        return str(self.manifest.version)


@dataclass
class Repository:
    """The models that are served, and the versions that are not, with the reason."""

    settings: Settings
    metrics: Metrics
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    """Model name -> version -> why it is not served."""
    _serving: dict[str, Version] = field(default_factory=dict)
    _loaded: bool = False

    @property
    def ready(self) -> bool:
        """Whether every model was looked at and each has a version to serve."""
        return self._loaded and bool(self._serving) and not set(self.refused) - set(self._serving)

    def load(self) -> None:
        """Load, verify and warm up the highest good version of every model. Blocks; run it off the event loop.

        Raises:
            ProviderError: the execution provider that was asked for cannot be had.
        """
        preprocess.warm_up()
        root = self.settings.models
        for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
            version = self._highest_good(folder)
            if version is not None:
                self._serving[version.name] = version
        self._loaded = True
        if not self._serving:
            logger.error("%s holds no model that can be served", root)

    def get(self, name: str) -> Version:
        """The version that is served under a name.

        Raises:
            NotReady: the models are still being loaded, or this one has no good version.
            ModelNotFound: there is no such model.
        """
        try:
            return self._serving[name]
        except KeyError:
            pass
        if not self._loaded:
            raise NotReady("the models are still being loaded; ask /readyz when they are there")
        if name in self.refused:
            raise NotReady(f"no version of model {name!r} passed its checks; GET /models says why")
        served = ", ".join(sorted(self._serving)) or "none"
        raise ModelNotFound(f"there is no model {name!r}; served are: {served}")

    def serving(self) -> list[Version]:
        """The versions that are served, by name."""
        return [self._serving[name] for name in sorted(self._serving)]

    def _highest_good(self, folder: Path) -> Version | None:
        versions = sorted((path for path in folder.iterdir() if _is_version(path)), key=lambda path: int(path.name))
        for path in reversed(versions):
            try:
                version = open_version(path, self.settings)
            except ModelRefused as error:
                logger.error(  # noqa: TRY400 -- the reason is the message, not the traceback
                    "model %s version %s is refused: %s", folder.name, path.name, error
                )
                self.refused.setdefault(folder.name, {})[path.name] = str(error)
                self.metrics.model_loads.labels(folder.name, "refused").inc()
                continue
            self.metrics.model_loads.labels(folder.name, "served").inc()
            logger.info("model %s version %s is served by %s", version.name, version.number, version.session.provider)
            return version
        return None


def open_version(folder: Path, settings: Settings) -> Version:
    """Read, verify, load, replay and warm up the version in models/NAME/VERSION.

    Raises:
        ModelRefused: anything about it is not as its manifest says.
        ProviderError: the execution provider that was asked for cannot be had.
    """
    manifest = contract.read(folder)
    if (manifest.model, str(manifest.version)) != (folder.parent.name, folder.name):
        raise ModelRefused(
            f"{folder}: the manifest is of {manifest.model} version {manifest.version}; the folder names must agree"
        )
    contract.verify(folder, manifest)
    spec = manifest.input
    tokenizer = _read_tokenizer(folder / spec.tokenizer, spec) if isinstance(spec, TextInput) else None
    session = Session(folder / contract.GRAPH, manifest, provider=settings.provider, threads=settings.threads)
    session.replay(folder)
    session.warm_up()
    return Version(manifest, session, (folder / contract.CARD).read_text(encoding="utf-8"), tokenizer)


def _read_tokenizer(path: Path, spec: TextInput) -> Tokenizer:
    """The tokenizer of a model that takes texts, once it is found to fit the graph.

    Raises:
        ModelRefused: it cannot be read, gives ids that the graph has no embedding for, or cuts and pads by itself.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare exceptions
        raise ModelRefused(f"{path}: cannot be read as a tokenizer: {error}") from error
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= spec.vocabulary:
        raise ModelRefused(f"{path}: holds id {highest}, but the graph takes ids below {spec.vocabulary} only")
    if tokenizer.padding is not None or tokenizer.truncation is not None:
        raise ModelRefused(f"{path}: pads or truncates by itself; the service does both, so save it without")
    return tokenizer


def _is_version(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit() and not path.name.startswith("0")
