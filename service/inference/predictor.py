"""Model name + items -> predictions: the one door behind every front end."""

import asyncio
import logging
import math
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from contract.batches import MAX_BATCH_TOKENS
from contract.errors import ConvokeError, TooLarge, UnsupportedMediaType
from contract.inputs import image_to_pixels, is_tiny
from contract.spec import ImageInput
from contract.text import Tokens, pad, text_to_tokens
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed
from service.inference.batching import PATIENCE_S, Batcher, Items, Observer
from service.inference.decoding import Decoders
from service.inference.repository import Repository, Version
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

Kind = Literal["image", "text"]
Array = npt.NDArray[Any]
Item = bytes | str | Array | ConvokeError
"""An encoded picture, a text, what the graph takes of either, or why a front end could read nothing."""
Row = npt.NDArray[np.float32]

_STRETCH, _SLACK = 1.25, 8  # tokens of padding that cost less than another run
_PART = 1 << 15  # bytes or characters that take far longer to decode than a thread takes to be asked
_PIECE = 4096  # characters
_TINY_CHARACTERS = 2000  # fewer become tokens in less time than another thread takes to be asked


@dataclass(frozen=True)
class Answer:
    """The answer to one request: a row (classes,) or an error an item, in order, and where the seconds went."""

    version: Version
    rows: Sequence[Row | ConvokeError]
    decode_s: float
    queue_s: float
    infer_s: float


@dataclass(frozen=True)
class Probabilities:
    """A row (classes,) an item, in order, and where the seconds went."""

    rows: list[Row]
    decode_s: float
    queue_s: float
    infer_s: float


class Predictor:
    """Predicts with whatever versions its repository serves."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._batchers: dict[Version, Batcher] = {}
        self._decoders = Decoders(settings.decode_threads)
        self.answered = 0
        """Requests so far."""

    def resolve(self, model: str, version: str | None = None) -> Version:
        """The version that answers a request: resolved once, before the body is read, and then passed on.

        Args:
            model: the model's name.
            version: the number of a loaded version; the one that is served where it is None.

        Raises:
            ModelNotFound, NotReady: no such version can answer.
        """
        return self._repository.get(model, version)

    async def classify(
        self,
        version: Version,
        items: list[Item],
        *,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Classify encoded pictures or texts, whichever the model takes.

        Args:
            version: the one that answers, from `resolve`.
            items: one picture or text each; an error stays in its place. Emptied once they are decoded, so that what
                waits for its turn holds no body.
            is_gone: whether the caller has gone away; asked where it had to wait.

        Raises:
            TooLarge: more items than a request may hold.
            Overloaded, DeadlineExceeded, ClientGone: the queue is full, the answer came too late, nobody waits for it.
        """
        return await self._predict(version, items, is_gone)

    async def infer(
        self, version: Version, items: list[Item] | Array, *, is_gone: Callable[[], bool] = lambda: False
    ) -> Probabilities:
        """Probabilities (classes,) of each item: encoded, or what the graph takes, (H, W, C) or (L).

        Pictures that are what the graph takes may come as one array, (N, H, W, C).

        Raises:
            ConvokeError: as `classify`; or that of the first item that failed, since none can have it in its place.
        """
        found = await self._predict(version, items, is_gone)
        rows: list[Row] = []
        for place, row in enumerate(found.rows):
            if isinstance(row, ConvokeError):
                raise type(row)(f"item {place}: {row}") from row
            rows.append(row)
        return Probabilities(rows, found.decode_s, found.queue_s, found.infer_s)

    async def _predict(self, version: Version, items: list[Item] | Array, is_gone: Callable[[], bool]) -> Answer:
        if len(items) > self._settings.max_items:
            raise TooLarge(f"the request holds {len(items)} items; at most {self._settings.max_items} are taken")
        timeout_s = self._settings.request_timeout_s
        began = time.perf_counter()
        count = len(items)
        decoded: Items | Sequence[Array | ConvokeError]
        if _are_decoded(items):
            decoded = items
        else:
            assert isinstance(items, list)
            decoded = await self._decode(version, items, timeout_s, is_gone)
            items.clear()
        readable = decoded if isinstance(decoded, np.ndarray) else [item for item in decoded if _is_array(item)]
        decode_s = time.perf_counter() - began
        if len(readable) == 0:
            errors = [item for item in decoded if isinstance(item, ConvokeError)]
            return self._count(Answer(version, errors, decode_s, 0.0, 0.0))
        left_s = max(timeout_s - decode_s, 0.0)
        outcome = await self._batcher(version).submit(readable, timeout_s=left_s, is_gone=is_gone)
        if len(readable) == count:
            return self._count(Answer(version, outcome.rows, decode_s, outcome.queue_s, outcome.infer_s))
        remaining = iter(outcome.rows)
        rows = [item if isinstance(item, ConvokeError) else next(remaining) for item in decoded]
        return self._count(Answer(version, rows, decode_s, outcome.queue_s, outcome.infer_s))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is decoded, runs or waits."""
        return all(batcher.is_idle for batcher in self._batchers.values())

    def close(self) -> None:
        """Start no more batches."""
        self._decoders.close()
        for batcher in self._batchers.values():
            batcher.close()

    async def _decode(
        self, version: Version, items: Sequence[Item], timeout_s: float, is_gone: Callable[[], bool]
    ) -> list[Array | ConvokeError]:
        """Pixels, token ids or an error an item. It leaves the event loop, but for one short text or tiny picture.

        Raises:
            Overloaded, DeadlineExceeded, ClientGone: as `classify`.
        """
        if len(items) == 1 and _is_quick(items[0]):
            return _decode_each(version, items, self._settings, math.inf)
        until = time.perf_counter() + timeout_s
        try:
            with self._batcher(version).room(len(items)):
                async with asyncio.timeout(timeout_s):
                    parts = await asyncio.gather(
                        *(self._decode_in_turn(version, part, until, is_gone) for part in _parts(items))
                    )
        except TimeoutError as error:
            raise DeadlineExceeded(f"not decoded within {timeout_s:g} s; the service is overloaded") from error
        return [item for part in parts for item in part]

    async def _decode_in_turn(
        self, version: Version, items: Sequence[Item], until: float, is_gone: Callable[[], bool]
    ) -> list[Array | ConvokeError]:
        began = time.perf_counter()
        async with self._decoders.turn(version.name):
            if time.perf_counter() - began > PATIENCE_S and is_gone():
                raise ClientGone("the client went away before its turn came")
            return await self._decoders.run(partial(_decode_each, version, items, self._settings, until))

    def _batcher(self, version: Version) -> Batcher:
        batcher = self._batchers.get(version)
        if batcher is None:
            self._retire()
            batcher = self._batchers[version] = Batcher(
                partial(_run, version),
                max_batch=version.manifest.max_batch,
                max_items=self._settings.max_queue_items,
                max_tokens=MAX_BATCH_TOKENS if version.tokenizer else None,
                lanes=version.session.lanes,
                is_quick=lambda batch: version.session.is_quick(*_extent(version, batch)),
                runs_alone=lambda batch: version.session.runs_alone(*_extent(version, batch)),
                observer=self._observer(version),
            )
        return batcher

    def _retire(self) -> None:
        """Let go of versions that are not loaded any more, once nobody waits for them."""
        loaded = set(self._repository.loaded())
        for version, batcher in list(self._batchers.items()):
            if version not in loaded and batcher.is_idle:
                batcher.close()
                del self._batchers[version]

    def _observer(self, version: Version) -> Observer:
        labels = (version.name, version.number)
        batch_items = self._metrics.batch_items.labels(*labels)
        compute_seconds = self._metrics.compute_seconds.labels(*labels)
        queue_seconds = self._metrics.queue_seconds.labels(*labels)
        busy_seconds = self._metrics.busy_seconds.labels(*labels)

        def batch(items: int, seconds: float) -> None:
            batch_items.observe(items)
            compute_seconds.observe(seconds, items)
            busy_seconds.inc(seconds)

        def waited(items: int, seconds: float) -> None:
            queue_seconds.observe(seconds, items)

        return Observer(self._metrics.queue_items.labels(*labels).set, batch, waited)

    def _count(self, found: Answer) -> Answer:
        """Enter what became of the items into the metrics, and failures of ours into the log."""
        self.answered += 1
        version = found.version
        errors = [row for row in found.rows if isinstance(row, ConvokeError)]
        for error in errors:
            self._metrics.item_errors.labels(version.name, version.number, error.code).inc()
            if error.status >= 500:  # noqa: PLR2004 -- ours, not the caller's
                logger.error("model %s version %s: %s", version.name, version.number, error, exc_info=error)
        self._metrics.items.labels(version.name, version.number).inc(len(found.rows) - len(errors))
        return found


def _are_decoded(items: list[Item] | Array) -> TypeGuard[Items]:
    return isinstance(items, np.ndarray) or all(map(_is_array, items))


def _is_array(item: Item) -> TypeGuard[Array]:
    return isinstance(item, np.ndarray)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items in parts that are each worth a thread's while: one large picture, or many small ones."""
    start = size = 0
    for stop, item in enumerate(items, start=1):
        size += len(item) if isinstance(item, bytes | str) else 0
        if size >= _PART or stop == len(items):
            yield items[start:stop]
            start, size = stop, 0


def _is_quick(item: Item) -> bool:
    """Whether an item is certainly decoded in less time than another thread takes to be asked."""
    match item:
        case bytes():
            return is_tiny(item)
        case str():
            return len(item) <= _TINY_CHARACTERS
        case _:
            return True


def _decode_each(
    version: Version, items: Sequence[Item], settings: Settings, until: float
) -> list[Array | ConvokeError]:
    """Decode items, as long as somebody can still be waiting for them: until `time.perf_counter()` says so."""

    def one(item: Item) -> Array | ConvokeError:
        if time.perf_counter() > until:
            return DeadlineExceeded("not decoded in time")
        try:
            return _decode_one(version, item, settings)
        except ConvokeError as error:
            return error

    return [one(item) for item in items]


def _decode_one(version: Version, item: Item, settings: Settings) -> Array:
    """A picture -> pixels (H, W, C), a text -> token ids (L)."""
    spec = version.manifest.input
    match item:
        case ConvokeError():
            raise item
        case np.ndarray():
            return item
        case bytes() if isinstance(spec, ImageInput):
            return image_to_pixels(item, spec, max_pixels=settings.max_pixels)
        case str() if not isinstance(spec, ImageInput):
            return _tokens(version, item, settings.max_characters)
        case _:
            takes, given = ("texts", "a picture") if spec.kind == "text" else ("pictures", "a text")
            raise UnsupportedMediaType(f"model {version.name!r} takes {takes}, this is {given}")


def _tokens(version: Version, text: str, max_characters: int) -> Tokens:
    """The token ids of a text, int64 (L).

    Raises:
        TooLarge: more than `max_characters`.
        Unreadable: as `preprocess.text_to_tokens`.
        InferenceFailed: the model's tokenizer cannot take it.
    """
    spec, tokenizer = version.manifest.input, version.tokenizer
    assert tokenizer is not None, "a version that takes texts has a tokenizer"
    assert not isinstance(spec, ImageInput)
    if len(text) > max_characters:
        raise TooLarge(f"the text has {len(text)} characters; at most {max_characters} are read")
    if not text.isascii() and _grows_beyond(text, max_characters):
        raise TooLarge(f"the text has more than {max_characters} characters once its ligatures are written out")
    try:
        return text_to_tokens(text, tokenizer, spec)
    except ConvokeError:
        raise
    except Exception as error:  # the library raises bare exceptions
        raise InferenceFailed(f"the tokenizer failed on this text: {error}") from error


def _grows_beyond(text: str, most: int) -> bool:
    """Whether a tokenizer that takes characters apart, of which one can become 18, would have more than `most`."""
    length = 0
    for start in range(0, len(text), _PIECE):
        length += len(unicodedata.normalize("NFKD", text[start : start + _PIECE]))
        if length > most:
            return True
    return False


def _extent(version: Version, items: Items) -> tuple[int, int]:
    """Pictures and 1, or 1 text and the tokens of all: what the time of a run depends on."""
    return (len(items), 1) if version.tokenizer is None else (1, sum(map(len, items)))


def _run(version: Version, items: Items) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of N items, put together into what the graph takes."""
    run = version.session.run
    if version.tokenizer is None:
        return run(items if isinstance(items, np.ndarray) else _stack(items))  # N x (H, W, C) -> (N, H, W, C)
    if len(items) == 1:
        return run(items[0][None])
    assert not isinstance(items, np.ndarray), "texts come one by one"
    order = sorted(range(len(items)), key=lambda row: len(items[row]))
    rows = np.empty((len(items), len(version.manifest.labels)), np.float32)
    for group in _alike(order, items):
        rows[group] = run(pad([items[row] for row in group]))  # N x (L) -> (N, longest L)
    return rows


def _stack(items: Sequence[Array]) -> Array:
    """As np.stack, in a fifth of the time for hundreds of small pictures."""
    return np.concatenate(items).reshape(len(items), *items[0].shape)


def _alike(order: Sequence[int], items: Sequence[Array]) -> Iterator[list[int]]:
    """Texts, the shortest first, in groups of like length, so that little padding is computed."""
    group: list[int] = []
    for row in order:
        if group and len(items[row]) > _STRETCH * len(items[group[0]]) + _SLACK:
            yield group
            group = []
        group.append(row)
    yield group
