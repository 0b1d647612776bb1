"""models/ -> verified, warmed-up versions.

`models/NAME/VERSION/` holds one version, VERSION a positive integer. Of each model the highest version that passes
its checks is served; those that fail are remembered with the reason. A new version is read, verified, replayed and
warmed up beside the one that serves, then takes over; `models/NAME/withdrawn.json` lists versions that must not.
"""

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from contract import inputs, providers
from contract import manifest as contract
from contract.errors import ModelRefused
from contract.inputs import Preprocessor
from contract.manifest import Manifest
from contract.session import Session
from service.errors import ModelNotFound, NotReady, ReadOnly
from service.inference import precision
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

WITHDRAWN = "withdrawn.json"


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a model, ready to run."""

    manifest: Manifest
    preprocessor: Preprocessor
    session: Session
    card: str

    @property
    def name(self) -> str:
        return self.manifest.model

    @property
    def number(self) -> str:
        """The version as it stands in URLs, answers and metric labels."""
        return str(self.manifest.version)

    @cached_property
    def quoted_labels(self) -> list[str]:
        """The labels in order, each as it stands in JSON."""
        return [json.dumps(label) for label in self.manifest.labels]

    @cached_property
    def head(self) -> str:
        """How each answer of this version begins in JSON."""
        return f'{{"model":{json.dumps(self.name)},"version":{json.dumps(self.number)},'


@dataclass
class Repository:
    """The models that are served, and the versions that are not, with the reason.

    Of each model the highest good versions are loaded, `settings.versions` of them, and the highest is served. What is
    served changes in one step, from one loaded version to another, and never because a folder is gone.
    """

    settings: Settings
    metrics: Metrics
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    """Model name -> version -> why it is not served."""
    _loaded: dict[str, dict[int, Version]] = field(default_factory=dict)
    _serving: dict[str, Version] = field(default_factory=dict)
    _tried: dict[Path, int] = field(default_factory=dict)
    """What a refused version's folder looked like: it is tried again once that has changed."""
    _ahead: dict[Path, tuple[int, Future["Version"]]] = field(default_factory=dict)
    """Versions that are being loaded beside each other, when the service starts, and how each looked before."""
    _scanned: bool = False
    _complete: bool = False
    """Whether the versions below those that are served are loaded, too."""
    _retired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ready(self) -> bool:
        """Whether every model was looked at and each has a version to serve, and the service is not going."""
        return (
            self._scanned and not self._retired and bool(self._serving) and not set(self.refused) - set(self._serving)
        )

    def retire(self) -> None:
        """Not be ready any more; what is served is served until the end."""
        self._retired = True

    def load(self, when_ready: Callable[[], object] = lambda: None) -> None:
        """Load, verify and warm up all versions, for the first time. Blocks; run it off the event loop.

        Args:
            when_ready: called once what is to be served is there, before the versions below it are loaded.

        Raises:
            ProviderError: the execution provider that was asked for cannot be had.
        """
        inputs.warm_up()
        folders = _folders(self.settings.models)
        highest = [path for path in map(_highest, folders) if path]
        with self._lock, ThreadPoolExecutor(_loaders(self.settings), thread_name_prefix="load") as pool:
            for path in highest:
                self._ahead[path] = _looks(path), pool.submit(open_version, path, self.settings)
            try:
                for folder in folders:
                    self._scan(folder, most=1)
            finally:
                self._ahead = {}
        self._scanned = True
        if not self._serving:
            logger.error("%s holds no model that can be served", self.settings.models)
        when_ready()
        self.scan()

    def scan(self) -> None:
        """Look for versions that came, changed or were withdrawn since the last time. Blocks.

        Raises:
            ProviderError: as `load`.
        """
        with self._lock:
            for folder in _folders(self.settings.models):
                self._scan(folder, self.settings.versions)
            self._complete = True

    def get(self, name: str, number: str | None = None) -> Version:
        """The version that is served under a name, or another one that is loaded.

        Raises:
            NotReady: the models are still being loaded, or this one has no good version.
            ModelNotFound: there is no such model, or no such version of it.
        """
        version = self._serving.get(name)
        if version is not None and number in {None, version.number}:
            return version
        if not self._scanned:
            raise NotReady("the models are still being loaded; ask /readyz when they are there")
        if number is not None:
            other = next((one for one in self._loaded.get(name, {}).values() if one.number == number), None)
            if other is not None:
                return other
            if version is not None and not self._complete:
                raise NotReady(f"other versions of model {name!r} than {version.number} are still being loaded")
            if version is not None:
                loaded = ", ".join(self.numbers(name))
                raise ModelNotFound(
                    f"model {name!r} has no version {number[:20]!r} that is loaded; loaded are: {loaded}"
                )
        if name in self.refused:
            raise NotReady(f"no version of model {name!r} passed its checks; GET /models says why")
        served = ", ".join(sorted(self._serving)) or "none"
        raise ModelNotFound(f"there is no model {name!r}; served are: {served}")

    def serving(self) -> list[Version]:
        """The versions that are served, by name."""
        return [version for _, version in sorted(self._serving.items())]

    def loaded(self) -> list[Version]:
        """The versions that can be asked, served or beside that."""
        return [version for versions in list(self._loaded.values()) for version in list(versions.values())]

    def numbers(self, name: str) -> list[str]:
        """The versions of a model that are loaded, the lowest first."""
        return [str(number) for number in sorted(self._loaded.get(name, {}))]

    def withdraw(self, name: str, number: str | None = None) -> None:
        """Take a version out of service, by default the one that is served, until it is restored; the next one follows.

        It is noted in models/NAME/withdrawn.json, for other workers and later starts. Blocks.

        Raises:
            ModelNotFound: no such version is loaded.
            ReadOnly: the note cannot be written.
        """
        version = self.get(name, number)
        folder = self.settings.models / version.name
        with _one_worker(folder):
            _write_withdrawn(folder, _read_withdrawn(folder) | {int(version.number)})
        logger.info("model %s version %s is withdrawn", version.name, version.number)
        self.scan()

    def restore(self, name: str, number: str | None = None) -> Version:
        """Put a version of a model into service again, by default the highest, and say what is served then. Blocks.

        Raises:
            ModelNotFound: there is no such version in models/.
            ModelRefused: it failed its checks.
            ReadOnly: the note that it was withdrawn cannot be changed.
        """
        root = self.settings.models
        folder = next((path for path in _folders(root) if path.name == name), None)
        there = _versions(folder) if folder else []
        chosen = next((path for path in reversed(there) if number in {None, path.name}), None)
        if folder is None or chosen is None:
            wanted = name if number is None else f"{name}/{number[:20]}"
            raise ModelNotFound(f"{root} holds no version {wanted!r}")
        with _one_worker(folder):
            withdrawn = _read_withdrawn(folder)
            if int(chosen.name) in withdrawn:
                _write_withdrawn(folder, withdrawn - {int(chosen.name)})
        with self._lock:
            self._tried.pop(chosen, None)
        self.scan()
        reason = self.refused.get(name, {}).get(chosen.name)
        if reason is not None:
            raise ModelRefused(reason)
        return self.get(name)

    def _scan(self, folder: Path, most: int) -> None:
        """Load the highest good versions of a model, so many at most, then serve the highest of them."""
        name = folder.name
        withdrawn, loaded = _read_withdrawn(folder), self._loaded.get(name, {})
        there = [path for path in _versions(folder) if int(path.name) not in withdrawn]
        refused = {path.name: self.refused.get(name, {}).get(path.name) for path in there}
        kept: dict[int, Version] = {}
        for path in reversed(there):
            if len(kept) == most:
                break
            version = loaded.get(int(path.name)) or self._try(path)
            if version is not None:
                kept[int(path.name)] = version
                refused.pop(path.name, None)
            elif isinstance(reason := self.refused.get(name, {}).get(path.name), str):
                refused[path.name] = reason
        served = self._serving.get(name)
        if served is not None and int(served.number) not in {*kept, *withdrawn}:
            kept[int(served.number)] = served  # its folder is gone; it is what there is
        self._loaded[name] = kept
        self._tell(loaded.values(), kept.values())
        reasons = {number: reason for number, reason in refused.items() if reason is not None}
        self.refused = {**self.refused, name: reasons}
        if not reasons:
            del self.refused[name]
        self._serve(name, kept)

    def _try(self, path: Path) -> Version | None:
        """Load a version, unless it failed before and nothing about it has changed since."""
        looks, ahead = self._ahead.get(path) or (_looks(path), None)
        if self._tried.get(path) == looks:
            return None
        name = path.parent.name
        try:
            version = ahead.result() if ahead else open_version(path, self.settings)
        except ModelRefused as error:
            logger.error(  # noqa: TRY400 -- the reason is the message, not the traceback
                "model %s version %s is refused: %s", name, path.name, error
            )
            self._tried[path] = looks
            self.refused = {**self.refused, name: {**self.refused.get(name, {}), path.name: str(error)}}
            self.metrics.model_loads.labels(name, "refused").inc()
            return None
        self._tried.pop(path, None)
        self.metrics.model_loads.labels(name, "loaded").inc()
        return version

    def _tell(self, before: Iterable[Version], now: Iterable[Version]) -> None:
        """Enter what is loaded into the metrics; with several workers a label can be set to 0, not removed."""
        for versions, value in ((before, 0), (now, 1)):
            for version in versions:
                session = version.session
                labels = (version.name, version.number, session.provider, session.precision)
                self.metrics.model_info.labels(*labels).set(value)

    def _serve(self, name: str, loaded: dict[int, Version]) -> None:
        served = self._serving.get(name)
        if not loaded:
            if self._serving.pop(name, None) is not None:
                self._note_served(served, serves=False)
                logger.warning("model %s is served no more: no version of it is left", name)
            return
        version = loaded[max(loaded)]
        if version is not served:
            self._serving[name] = version
            self._note_served(served, serves=False)
            self._note_served(version, serves=True)
            instead = f" instead of version {served.number}" if served else ""
            session = version.session
            logger.info(
                "model %s version %s is served in %s by %s%s",
                name,
                version.number,
                session.precision,
                session.provider,
                instead,
            )

    def _note_served(self, version: Version | None, *, serves: bool) -> None:
        if version is not None:
            self.metrics.served.labels(version.name, version.number).set(serves)


def _folders(root: Path) -> list[Path]:
    """The folders of models, as far as they can be read."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        logger.warning("%s cannot be read: %s", root, error)
        return []


def _loaders(settings: Settings) -> int:
    """How many versions are loaded at once: on a GPU one, which others' loading would disturb while it is captured."""
    return min(os.cpu_count() or 1, 4) if providers.choose(settings.provider) == providers.CPU else 1


def _highest(folder: Path) -> Path | None:
    """The folder of the version of a model that is likely to be served."""
    withdrawn = _read_withdrawn(folder)
    return next((path for path in reversed(_versions(folder)) if int(path.name) not in withdrawn), None)


def _versions(folder: Path) -> list[Path]:
    """The folders of a model's versions, the lowest first."""
    try:
        return sorted((path for path in folder.iterdir() if _is_version(path)), key=lambda path: int(path.name))
    except OSError as error:
        logger.warning("%s cannot be read: %s", folder, error)
        return []


def _looks(path: Path) -> int:
    """A number that changes with any file of a version."""
    try:
        return hash(tuple(sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in path.iterdir())))
    except OSError:
        return 0


@contextmanager
def _one_worker(folder: Path) -> Iterator[None]:
    """Let other workers wait that would change a model's note at the same time, where the file system can do that."""
    with ExitStack() as stack:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _read_withdrawn(folder: Path) -> set[int]:
    """The versions of a model that were taken out of service."""
    path = folder / WITHDRAWN
    if not path.is_file():  # nor a pipe, which would never end
        return set()
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        return {number for number in numbers if type(number) is int}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s cannot be read, nothing counts as withdrawn: %s", path, error)
        return set()


def _write_withdrawn(folder: Path, numbers: set[int]) -> None:
    """Note which versions are out of service, in one step.

    Raises:
        ReadOnly: the folder cannot be written.
    """
    path = folder / WITHDRAWN
    new = folder / f".{WITHDRAWN}-{os.getpid()}"
    try:
        new.write_text(json.dumps(sorted(numbers)) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ReadOnly(f"{path} cannot be written: {error.strerror}; what is served stays as it is") from error


def open_version(folder: Path, settings: Settings) -> Version:
    """Read, verify, load, replay and warm up the version in models/NAME/VERSION.

    Raises:
        ModelRefused: anything about it is not as its manifest says.
        ProviderError: the execution provider that was asked for cannot be had.
    """
    if not folder.resolve().is_relative_to(settings.models.resolve()):
        raise ModelRefused(f"{folder}: is a link that leads out of {settings.models}")
    manifest = contract.read(folder)
    if (manifest.model, str(manifest.version)) != (folder.parent.name, folder.name):
        raise ModelRefused(
            f"{folder}: the manifest is of {manifest.model} version {manifest.version}; the folder names must agree"
        )
    contract.verify(folder, manifest)
    preprocessor = inputs.load_preprocessor(
        folder, manifest.input, max_pixels=settings.max_pixels, max_characters=settings.max_characters
    )
    session = precision.open_session(folder, manifest, settings)
    session.warm_up()
    return Version(manifest, preprocessor, session, contract.read_text(folder / contract.CARD))


def _is_version(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit() and not path.name.startswith("0")
