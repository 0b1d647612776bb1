"""models/ -> the versions that are served.

`models/NAME/VERSION/` holds one version; VERSION is a positive integer. The highest version of each model that passes
its checks is served, and refused versions are kept with the reason. A new version is opened beside the served one, then
takes over. `models/NAME/withdrawn.json` lists versions that must not be served.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from contract import inputs, processors, providers
from contract.errors import ModelRefused
from contract.reference import Reference
from service.errors import ModelNotFound, NotReady
from service.inference import withdrawn
from service.inference.models_folder import ModelsFolder, state_of
from service.inference.version import Version, open_version
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")


@dataclass
class Repository:
    """The models that are served, and the versions that are refused.

    The `settings.versions` highest good versions of each model are loaded, and the highest is served. The served
    version changes in one step, from one loaded version to another; it stays if its folder disappears.
    """

    settings: Settings
    metrics: Metrics
    _loaded: dict[str, dict[int, Version]] = field(default_factory=dict)
    _serving: dict[str, Version] = field(default_factory=dict)
    _refused: dict[Path, tuple[int | None, str]] = field(default_factory=dict)
    """The state of a refused version's folder, and the reason; it is tried again when the state has changed.

    The state is None if the operating system was the reason: the version is tried again at each scan.
    """
    _preloaded: dict[Path, tuple[int | None, Future[Version]]] = field(default_factory=dict)
    """Versions that are loaded in parallel at the start, and the state of each folder before."""
    _folder: ModelsFolder = field(init=False)
    _is_scanned: bool = False
    _was_ready: bool = False
    _is_complete: bool = False
    """Whether the versions below the served ones are loaded, too."""
    _is_retired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._folder = ModelsFolder(self.settings.models)

    @property
    def refused(self) -> dict[str, dict[str, str]]:
        """Model name -> version -> the reason why it is refused."""
        reasons: dict[str, dict[str, str]] = {}
        for path, (_, reason) in sorted(self._refused.items(), key=lambda item: int(item[0].name)):
            reasons.setdefault(path.parent.name, {})[path.name] = reason
        return reasons

    @property
    def ready(self) -> bool:
        """Whether the first scan has ended with a model that is served; from then on, until the service shuts down.

        A model whose versions are all refused does not take the others out of service.
        """
        self._was_ready = self._was_ready or (self._is_scanned and bool(self._serving))
        return self._was_ready and not self._is_retired

    def retire(self) -> None:
        """Stop being ready; the served versions still answer."""
        self._is_retired = True

    def load(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Open all versions for the first time. Blocks; call it off the event loop.

        Args:
            on_ready: called when the served versions are loaded, before the versions below them.

        Raises:
            ProviderError: this machine does not have the configured execution provider.
        """
        inputs.warm_up()
        folders = self._folder.models() or []
        with self._lock, ThreadPoolExecutor(_load_threads(self.settings), thread_name_prefix="load") as pool:
            for folder in folders:
                for path in (self._folder.available(folder) or [])[-1:]:
                    self._preloaded[path] = state_of(path), pool.submit(open_version, path, self.settings)
            try:
                for folder in folders:
                    self._scan(folder, limit=1)
            finally:
                self._preloaded = {}
        self._is_scanned = True
        if not self._serving:
            logger.error("%s", self._folder.explain_empty())
        on_ready()
        self.scan()

    def scan(self) -> None:
        """Look for versions that were added, changed or withdrawn since the last scan. Blocks.

        Raises:
            ProviderError: as `load`.
        """
        with self._lock:
            folders = self._folder.models()
            for folder in folders or []:
                self._scan(folder, self.settings.versions)
            if folders is not None:
                for path in [path for path in self._refused if path.parent not in folders]:
                    del self._refused[path]
            self._is_complete = True

    def get(self, name: str, number: str | None = None) -> Version:
        """The served version of a model, or another loaded version of it.

        Raises:
            NotReady: the models are still loading, or no version of this model passed its checks.
            ModelNotFound: no such model, or no such version, is loaded.
        """
        version = self._serving.get(name)
        if version is not None and number in {None, version.number}:
            return version
        if not self._is_scanned:
            raise NotReady("the models are still loading; try again in a moment")
        if version is not None and number is not None:
            for other in list(self._loaded[name].values()):
                if other.number == number:
                    return other
            if not self._is_complete:
                raise NotReady(f"versions of model {name!r} other than {version.number} are still loading")
            loaded = ", ".join(self.numbers(name))
            raise ModelNotFound(f"model {name!r} has no loaded version {number[:20]!r}; loaded versions: {loaded}")
        if name in self.refused:
            raise NotReady(f"no version of model {name!r} passed its checks; GET /models has the reasons")
        served = ", ".join(sorted(self._serving)) or "none"
        raise ModelNotFound(f"unknown model {name!r}; available models: {served}")

    def serving(self) -> list[Version]:
        """The served versions, by name."""
        return [version for _, version in sorted(self._serving.items())]

    def loaded(self) -> list[Version]:
        """All loaded versions, served or not."""
        return [version for versions in list(self._loaded.values()) for version in list(versions.values())]

    def references(self) -> dict[tuple[str, str], Reference]:
        """The references of loaded versions, by model and version, for those that have one."""
        return {
            (version.name, version.number): version.reference
            for version in self.loaded()
            if version.reference is not None
        }

    def numbers(self, name: str) -> list[str]:
        """The loaded versions of a model, the lowest first."""
        return [str(number) for number in sorted(self._loaded.get(name, {}))]

    def withdraw(self, name: str, number: str | None = None) -> None:
        """Stop serving a version, by default the served one, until it is restored; the next lower one follows. Blocks.

        Raises:
            ModelNotFound: no such version is loaded.
            ReadOnly: withdrawn.json cannot be written.
        """
        version = self.get(name, number)
        folder = self.settings.models / version.name
        with withdrawn.lock(folder):
            numbers = self._folder.read_withdrawn(folder)
            assert numbers is not None, "a version is only loaded after the list was read"
            withdrawn.write(folder, numbers | {int(version.number)})
        logger.info("model %s version %s is withdrawn", version.name, version.number)
        self.scan()

    def restore(self, name: str, number: str | None = None) -> Version:
        """Serve a version again, by default the highest, and return the version that is served then. Blocks.

        Raises:
            ModelNotFound: models/ has no such version.
            ModelRefused: it failed its checks, or withdrawn.json cannot be read.
            ReadOnly: withdrawn.json cannot be written.
        """
        root = self.settings.models
        folder = next((path for path in self._folder.models() or [] if path.name == name), None)
        paths = reversed(self._folder.versions(folder) or []) if folder else ()
        path = next((path for path in paths if number in {None, path.name}), None)
        if folder is None or path is None:
            wanted = name if number is None else f"{name}/{number[:20]}"
            raise ModelNotFound(f"{root} has no version {wanted!r}")
        with withdrawn.lock(folder):
            numbers = self._folder.read_withdrawn(folder)
            if numbers is None:
                raise ModelRefused(self._folder.warnings[folder / withdrawn.FILE])
            if int(path.name) in numbers:
                withdrawn.write(folder, numbers - {int(path.name)})
        with self._lock:
            if path in self._refused:
                self._refused[path] = None, self._refused[path][1]
        self.scan()
        if path in self._refused:
            raise ModelRefused(self._refused[path][1])
        return self.get(name)

    def _scan(self, folder: Path, limit: int) -> None:
        """Load the highest good versions of a model, up to `limit`, and serve the highest of them."""
        name = folder.name
        available, before = self._folder.available(folder), self._loaded.get(name, {})
        if available is None:
            return
        for path in [path for path in self._refused if path.parent == folder and path not in available]:
            del self._refused[path]
        loaded: dict[int, Version] = {}
        for path in reversed(available):
            if len(loaded) == limit:
                break
            version = before.get(int(path.name)) or self._open(path)
            if version is not None:
                loaded[int(path.name)] = version
        served = self._serving.get(name)
        if served is not None and int(served.number) not in {*loaded, *self._folder.withdrawn(name)}:
            loaded[int(served.number)] = served  # its folder has disappeared
        self._loaded[name] = loaded
        self._record_loaded(before.values(), is_loaded=False)
        self._record_loaded(loaded.values(), is_loaded=True)
        self._serve(name, loaded[max(loaded)] if loaded else None)

    def _open(self, path: Path) -> Version | None:
        """Open a version, unless it was refused before and its folder has not changed."""
        state, future = self._preloaded.get(path) or (state_of(path), None)
        if path in self._refused and state is not None and self._refused[path][0] == state:
            return None
        name = path.parent.name
        try:
            version = future.result() if future else open_version(path, self.settings)
        except (ModelRefused, OSError) as error:
            reason = f"{path}: cannot be read: {error}" if isinstance(error, OSError) else str(error)
            if self._refused.get(path, (None, None))[1] != reason:
                logger.error(  # noqa: TRY400 -- the reason is the message, not the traceback
                    "model %s version %s is refused: %s", name, path.name, reason
                )
                self.metrics.model_loads.labels(name, "refused").inc()
            self._refused[path] = None if _is_of_system(error) else state, reason
            return None
        self._refused.pop(path, None)
        self.metrics.model_loads.labels(name, "loaded").inc()
        return version

    def _serve(self, name: str, version: Version | None) -> None:
        served = self._serving.get(name)
        if version is served:
            return
        if served is not None:
            self.metrics.served.labels(name, served.number).set(0)
        if version is None:
            del self._serving[name]
            logger.warning("model %s is not served any more: it has no version left", name)
            return
        self._serving[name] = version
        self.metrics.served.labels(name, version.number).set(1)
        replaced = f" instead of version {served.number}" if served else ""
        session = version.session
        logger.info(
            "model %s version %s is served in %s by %s%s",
            name,
            version.number,
            session.precision,
            session.provider,
            replaced,
        )

    def _record_loaded(self, versions: Iterable[Version], *, is_loaded: bool) -> None:
        """Set the metric of versions; with several workers a series can be set to 0, but not removed."""
        for version in versions:
            session = version.session
            labels = (version.name, version.number, session.provider, session.precision)
            self.metrics.model_info.labels(*labels).set(is_loaded)


def _load_threads(settings: Settings) -> int:
    """How many versions are loaded at once; on a GPU only one, since others would disturb the capture of its graphs."""
    return min(processors.count(), 4) if providers.choose(settings.provider) == providers.CPU else 1


def _is_of_system(error: BaseException | None) -> bool:
    """Whether the operating system caused an error, directly or through other errors."""
    return error is not None and (isinstance(error, OSError) or _is_of_system(error.__cause__))
