"""Items -> rows, with the decoding and the session of the service, little memory, and no row lost or written twice.

Each thread decodes a batch and runs it. The queues of the service are for requests, which come at any time, may wait
only so long and may be refused; here all work is known, and nobody waits for a response.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract import inputs
from contract.errors import ConvokeError, ModelRefused
from contract.inputs import Array
from contract.manifest import MANIFEST, Manifest
from contract.manifest import read as read_manifest
from contract.text import Beginning
from service.bulk.reading import Item, Source
from service.bulk.writing import Done, Output, Row, read_done, scores_of
from service.errors import InferenceFailed
from service.inference import withdrawn
from service.inference.version import open_version
from service.settings import Settings

_BATCH_BYTES, _BATCH_IMAGES, _BATCH_TEXTS = 8 << 20, 64, 256
_BATCHES_AHEAD = 2  # that are read while each thread has one
_PART_ROWS, _PART_SCORES, _PART_S = 20_000, 1_000_000, 30.0


@dataclass
class Summary:
    """What a run has done."""

    scored: int = 0
    """Rows of this run."""
    skipped: int = 0
    """Rows of earlier runs."""
    errors: Counter[str] = field(default_factory=Counter)
    """Rows with an error, of this run and of earlier ones, by the code."""
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.scored / self.seconds if self.seconds else 0.0
        earlier = f"; {self.skipped:,} were scored before" if self.skipped else ""
        failed = ", ".join(f"{count:,} {code}" for code, count in self.errors.most_common()) or "none"
        return f"{self.scored:,} rows in {self.seconds:.1f} s, {rate:,.0f}/s{earlier}; rows with an error: {failed}"


OnProgress = Callable[[Summary], None]


def find_version(settings: Settings, model: str, number: int | None = None) -> Path:
    """The folder of a version: the given one, or the highest that is not withdrawn.

    Raises:
        ModelRefused: it does not exist.
    """
    folder = settings.models / model
    names = [path.parent.name for path in folder.glob(f"*/{MANIFEST}")]
    numbers = sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0")
    if number is not None and number not in numbers:
        listed = ", ".join(map(str, numbers)) or "none"
        raise ModelRefused(f"model {model!r} has no version {number} in {settings.models}; versions: {listed}")
    left = [one for one in numbers if one not in withdrawn.read(folder)] if number is None else [number]
    if not left:
        models = sorted({path.parts[-3] for path in settings.models.glob(f"*/*/{MANIFEST}")})
        raise ModelRefused(
            f"model {model!r} has no version in {settings.models} that may be used; "
            f"models: {', '.join(models) or 'none'}"
        )
    return folder / str(left[-1])


def score(source: Source, output: Output, scorer: "Scorer", on_progress: OnProgress = lambda _: None) -> Summary:
    """Score the items that have no row yet.

    Args:
        source: the items.
        output: where the rows go; its `open` was called.
        scorer: the version.
        on_progress: called after each batch, from the calling thread.

    Raises:
        InputError: the inputs name nothing, or a table cannot be read.
        OSError: a part cannot be written.
    """
    done, errors = read_done(output)
    run = _Run(source, output, scorer, done, Summary(errors=errors), on_progress)
    run.run()
    return run.summary


class Scorer:
    """One version: items -> rows. Several threads may call it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Open the version in `folder`.

        Raises:
            ModelRefused, ProviderError: it cannot be run.
        """
        inputs.warm_up()
        self.version = open_version(folder, settings)
        self.max_bytes = settings.max_body_bytes
        runs = self.version.session.parallel_runs
        self.threads = max(runs, settings.decode_threads)
        """How many threads keep the machine busy."""
        self._run = threading.BoundedSemaphore(runs)

    def score(self, items: list[tuple[str, Item]]) -> list[Row]:
        """The rows of items with their ids, one batch after the other."""
        starts = range(0, len(items), _BATCH_IMAGES)
        return [row for start in starts for row in self.predict(items[start : start + _BATCH_IMAGES])]

    def predict(self, batch: list[tuple[str, Item]]) -> list[Row]:
        """The rows of one batch."""
        manifest = self.version.manifest
        decoded = [self._decode(item.content) for _, item in batch]
        arrays = [item for item in decoded if isinstance(item, np.ndarray)]
        results = iter(self._probabilities(arrays))
        rows = []
        for (name, item), array in zip(batch, decoded, strict=True):
            result = array if isinstance(array, ConvokeError) else next(results)
            row = row_of(manifest, name, item.source, result)
            if type(array) is Beginning:
                row = row._replace(tokens_read=len(array), tokens=array.total)
            rows.append(row)
        return rows

    def _decode(self, content: bytes | str | ConvokeError) -> Array | ConvokeError:
        """A decoded item, or why there is none: whatever a decoder raises, the other items get their rows."""
        if isinstance(content, ConvokeError):
            return content
        try:
            return self.version.preprocessor.decode(content)
        except ConvokeError as error:
            return error
        except Exception as error:  # noqa: BLE001
            return InferenceFailed(f"preprocessing failed on this item: {error}")

    def _probabilities(self, arrays: Sequence[Array]) -> Sequence[npt.NDArray[np.float32] | ConvokeError]:
        """Probabilities (classes,) of each decoded item; a batch that fails is halved until the bad item is alone."""
        if not arrays:
            return []
        try:
            with self._run:
                return [*self.version.preprocessor.run(self.version.session.run, arrays)]
        except Exception as error:  # noqa: BLE001 -- whatever a model raises
            if len(arrays) == 1:
                return [InferenceFailed(f"the model failed on this item: {error}")]
        half = len(arrays) // 2
        return [*self._probabilities(arrays[:half]), *self._probabilities(arrays[half:])]


class _Run:
    """Reads in the calling thread, predicts batches in threads, and writes parts in a thread of its own."""

    def __init__(
        self, source: Source, output: Output, scorer: Scorer, done: Done, summary: Summary, on_progress: OnProgress
    ) -> None:
        self.summary = summary
        self._source, self._output, self._scorer = source, output, scorer
        self._done, self._on_progress = done, on_progress
        self._rows: list[Row] = []
        self._part_rows = max(1, min(_PART_ROWS, _PART_SCORES // len(scorer.version.manifest.labels)))
        self._start = self._written_at = time.monotonic()
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[None] | None = None

    def run(self) -> None:
        threads = self._scorer.threads
        running: deque[Future[list[Row]]] = deque()
        with self._writer, ThreadPoolExecutor(threads, "score") as pool:
            try:
                for batch in _batches(self._source, self._done, self.summary):
                    running.append(pool.submit(self._scorer.predict, batch))
                    while len(running) > threads + _BATCHES_AHEAD or (running and running[0].done()):
                        self._keep(running.popleft().result())
                while running:
                    self._keep(running.popleft().result())
                self._write()
                self._await_written()
            finally:
                for future in running:
                    future.cancel()
        self.summary.seconds = time.monotonic() - self._start

    def _keep(self, rows: list[Row]) -> None:
        self._rows += rows
        self.summary.scored += len(rows)
        self.summary.errors.update(row.error for row in rows if row.error)
        now = time.monotonic()
        self.summary.seconds = now - self._start
        self._on_progress(self.summary)
        if len(self._rows) >= self._part_rows or now - self._written_at > _PART_S:
            self._write()

    def _write(self) -> None:
        """Start to write the rows, once those before them are on the disk."""
        self._await_written()
        if self._rows:
            self._writing = self._writer.submit(self._output.write, self._rows)
        self._rows = []
        self._written_at = time.monotonic()

    def _await_written(self) -> None:
        """Wait for the part that is being written.

        Raises:
            OSError: it cannot be written.
        """
        if self._writing is not None:
            self._writing.result()


def row_of(manifest: Manifest, name: str, source: str, result: npt.NDArray[np.float32] | ConvokeError) -> Row:
    """The row of one item, from its probabilities (classes,) or its error."""
    key = name, source, manifest.model, manifest.version
    if isinstance(result, ConvokeError):
        return Row(*key, None, None, None, result.code, str(result))
    scores = scores_of(result, manifest.labels)
    label, value = next(iter(scores.items()))
    return Row(*key, label, value, scores, None, None)


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a version.

    Raises:
        ManifestError: it cannot be read.
    """
    return read_manifest(folder)


def _batches(source: Source, done: Done, summary: Summary) -> Iterator[list[tuple[str, Item]]]:
    """The items without a row, each with its id, in batches of a few megabytes. Runs in a thread."""
    limit = _BATCH_TEXTS if source.spec.is_text else _BATCH_IMAGES
    batch: list[tuple[str, Item]] = []
    size = 0
    for item in source.items():
        name = item.digest()
        if done.take(name):
            summary.skipped += 1
            continue
        batch.append((name, item))
        size += 0 if isinstance(item.content, ConvokeError) else len(item.content)
        if len(batch) >= limit or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
