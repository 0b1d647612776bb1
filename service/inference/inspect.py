"""What each layer of a served version makes of an item, by a twin of its graph whose layers are outputs.

Twins are made when they are needed, and the last ones are kept within a bound of bytes. One thread of low priority
makes them, runs them and draws, so that predictions have the processors first.
"""

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from contract.errors import ConvokeError, NotInspectable
from contract.inputs import Array
from contract.manifest import GRAPH
from contract.twin import Inspection, Twin
from service.errors import ClientGone, DeadlineExceeded, Overloaded
from service.inference.decoding import Item
from service.inference.predictor import Predictor
from service.inference.repository import Repository
from service.inference.version import Version
from service.settings import Settings

Result = TypeVar("Result")
Shown = Callable[[Inspection, list[str]], Result]
"""What is made of an inspection and the tokens of a text, in the same thread."""

_KEPT, _KEPT_BYTES = 6, 8 << 20  # inspections that are kept, since their sheets are requested one by one; bytes of each
_NICE = 10


@dataclass(frozen=True)
class Inspected:
    """What was shown of an item, and the seconds that it took."""

    content: bytes
    decode_s: float
    infer_s: float


class Inspector:
    """Inspects items, one at a time."""

    def __init__(self, predictor: Predictor, repository: Repository, settings: Settings) -> None:
        self._predictor = predictor
        self._repository = repository
        self._settings = settings
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inspect", initializer=_lower_priority)
        self._active = 0
        self._turn = asyncio.Lock()
        self._twins: OrderedDict[Version, tuple[Twin, int]] = OrderedDict()
        """The twins and the bytes of their graphs, the last one that was used at the end. Only the thread uses it."""
        self._recent: OrderedDict[tuple[Version, bytes], Inspection] = OrderedDict()

    async def inspect(
        self, version: Version, item: Item, show: Shown[bytes], *, is_gone: Callable[[], bool] = lambda: False
    ) -> Inspected:
        """Run an encoded item through the twin of a version, and show something of its layers.

        Args:
            version: the version that answers.
            item: the encoded item.
            show: makes the content of the response; it runs in the thread of inspections.
            is_gone: whether the client has closed its connection.

        Raises:
            ConvokeError: the item cannot be read.
            NotInspectable: the graph is too large, or its layers cannot be shown.
            Overloaded: as many inspections wait as the settings allow.
            DeadlineExceeded, ClientGone: it took too long, or the client left.
        """
        if isinstance(item, ConvokeError):
            raise item
        limit, timeout_s = self._settings.max_inspections, self._settings.request_timeout_s
        if self._active >= limit:
            raise Overloaded(f"{limit} inspections are being made already; try again in a moment")
        self._active += 1
        start = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                decoded = await self._predictor.in_decoder(version, partial(version.preprocessor.decode, item))
                decode_s = time.perf_counter() - start
                async with self._turn:
                    if is_gone():
                        raise ClientGone("the client closed its connection while its request waited")
                    work = partial(self._inspect, version, decoded, show)
                    content = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the inspection timed out after {timeout_s:g} s; the service is busy") from error
        finally:
            self._active -= 1
        return Inspected(content, decode_s, time.perf_counter() - start - decode_s)

    def close(self) -> None:
        """Start no more inspections."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _inspect(self, version: Version, decoded: Array, show: Shown[Result]) -> Result:
        key = version, hashlib.sha256(decoded.tobytes()).digest()
        inspection = self._recent.pop(key, None) or self._twin(version).run(decoded)
        if sum(values.nbytes for values in inspection.tensors.values()) <= _KEPT_BYTES:
            self._recent[key] = inspection
        loaded = set(self._repository.loaded())
        for other in [other for other in self._recent if other[0] not in loaded]:
            del self._recent[other]
        while len(self._recent) > _KEPT:
            self._recent.popitem(last=False)
        return show(inspection, version.preprocessor.units(decoded))

    def _twin(self, version: Version) -> Twin:
        """The twin of a version: one that is kept, or a new one, for which others may have to go."""
        loaded = set(self._repository.loaded())
        for other in [other for other in self._twins if other not in loaded]:
            del self._twins[other]
        twin, size = self._twins.pop(version, (None, 0))
        if twin is None:
            content = self._read(version)
            size = len(content)
            while self._twins and sum(kept for _, kept in self._twins.values()) + size > self._limit:
                self._twins.popitem(last=False)
            twin = Twin(content, version.manifest)
        self._twins[version] = twin, size
        return twin

    @property
    def _limit(self) -> int:
        return self._settings.max_inspected_bytes

    def _read(self, version: Version) -> bytes:
        """The file with a version's graph, as it was verified when the version was loaded."""
        path = self._settings.models / version.name / version.number / GRAPH
        try:
            size = path.stat().st_size
            if size > self._limit:
                raise NotInspectable(
                    f"the graph of {version.name} has {size:,} bytes; the setting CONVOKE_MAX_INSPECTED_BYTES allows "
                    f"{self._limit:,}"
                )
            content = path.read_bytes()
        except OSError as error:
            raise NotInspectable(f"the graph of {version.name} cannot be read any more: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != version.manifest.files[GRAPH]:
            raise NotInspectable(
                f"the graph of {version.name} version {version.number} was changed after it was loaded"
            )
        return content


def _lower_priority() -> None:
    """Let the other threads of this machine run first. On Linux each thread has a priority of its own."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
