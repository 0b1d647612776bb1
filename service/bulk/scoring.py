"""Items -> rows, by the predictor of the service, with little memory and without a row lost or written twice."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract import inputs
from contract.errors import ConvokeError, ModelRefused
from contract.manifest import MANIFEST, Manifest
from contract.manifest import read as read_manifest
from service.bulk.reading import Item, Source
from service.bulk.writing import Done, Output, Row, read_done, scores_of
from service.inference import withdrawn
from service.inference.predictor import Predictor
from service.inference.repository import Repository
from service.inference.version import open_version
from service.settings import Settings
from service.telemetry.metrics import Metrics

TIMEOUT_S = 3600.0
"""Of a batch: nobody waits for a response here."""

_BATCH_BYTES, _BATCH_IMAGES, _BATCH_TEXTS = 16 << 20, 64, 512
_BATCHES = 3  # that are read, predicted and written at the same time
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


def score(
    source: Source, output: Output, folder: Path, settings: Settings, on_progress: OnProgress = lambda _: None
) -> Summary:
    """Score the items that have no row yet.

    Args:
        source: the items.
        output: where the rows go; its `open` was called.
        folder: that of the version.
        settings: as for the service: models, limits, threads, provider.
        on_progress: called about twice a second, from the event loop.

    Raises:
        ModelRefused, ProviderError: the version cannot be run.
        InputError: the inputs name nothing, or a table cannot be read.
    """
    scorer = Scorer(folder, settings)
    done, errors = read_done(output)
    run = _Run(source, output, scorer, done, Summary(errors=errors), on_progress)
    try:
        asyncio.run(run.run())
    finally:
        scorer.close()
    return run.summary


class Scorer:
    """One version and its predictor: items -> rows."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Open the version in `folder`.

        Raises:
            ModelRefused, ProviderError: it cannot be run.
        """
        inputs.warm_up()
        self.version = open_version(folder, settings)
        self.max_bytes = settings.max_body_bytes
        patient = settings.model_copy(update={"request_timeout_s": TIMEOUT_S})
        metrics = Metrics()
        self._predictor = Predictor(Repository(patient, metrics), patient, metrics)

    def score(self, items: list[tuple[str, Item]]) -> list[Row]:
        """The rows of items with their ids, one batch after the other."""

        async def run() -> list[Row]:
            rows: list[Row] = []
            for start in range(0, len(items), _BATCH_IMAGES):
                rows += await self.predict(items[start : start + _BATCH_IMAGES])
            return rows

        return asyncio.run(run())

    async def predict(self, batch: list[tuple[str, Item]]) -> list[Row]:
        """The rows of one batch."""
        answer = await self._predictor.predict(self.version, [item.content for _, item in batch])
        rows = [
            row_of(self.version.manifest, name, item.source, result)
            for (name, item), result in zip(batch, answer.rows, strict=True)
        ]
        for place, (read, total) in answer.truncated.items():
            rows[place] = rows[place]._replace(tokens_read=read, tokens=total)
        return rows

    def close(self) -> None:
        """End its threads."""
        self._predictor.close()


class _Run:
    """Reads ahead in one thread, predicts a few batches at a time, and writes parts in another thread."""

    def __init__(
        self, source: Source, output: Output, scorer: Scorer, done: Done, summary: Summary, on_progress: OnProgress
    ) -> None:
        self.summary = summary
        self._source, self._output, self._scorer = source, output, scorer
        self._done, self._on_progress = done, on_progress
        self._rows: list[Row] = []
        self._part_rows = max(1, min(_PART_ROWS, _PART_SCORES // len(scorer.version.manifest.labels)))
        self._written_at = time.monotonic()

    async def run(self) -> None:
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        batches = _batches(self._source, self._done, self.summary)
        running: asyncio.Queue[asyncio.Task[list[Row]]] = asyncio.Queue()
        with ThreadPoolExecutor(1, "read") as reader:
            while True:
                batch = await loop.run_in_executor(reader, next, batches, None)
                if batch is not None:
                    running.put_nowait(asyncio.create_task(self._scorer.predict(batch)))
                while running.qsize() >= (_BATCHES if batch is not None else 1):
                    await self._keep(await running.get_nowait())
                    self.summary.seconds = time.monotonic() - start
                    self._on_progress(self.summary)
                if batch is None:
                    break
            await self._write()
        self.summary.seconds = time.monotonic() - start

    async def _keep(self, rows: list[Row]) -> None:
        self._rows += rows
        self.summary.scored += len(rows)
        self.summary.errors.update(row.error for row in rows if row.error)
        if len(self._rows) >= self._part_rows or time.monotonic() - self._written_at > _PART_S:
            await self._write()

    async def _write(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            await asyncio.to_thread(self._output.write, rows)
        self._written_at = time.monotonic()


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
        size += len(item.content) if isinstance(item.content, bytes | str) else 0
        if len(batch) >= limit or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
