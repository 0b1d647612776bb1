"""Bulk scoring compared with the same work in a plain loop: `make bench-bulk`.

    .venv/bench/bin/python -m benchmarks.bulk [--only photos,texts] [--rounds 3]

The loop has a thread for each processor, each of which reads, decodes and runs one batch after the other, and keeps
nothing. Bulk scoring does the same work through `python -m service.score`, and writes rows, in CSV. Both have the same
files and take turns. Items a second depend on what else runs on the machine; items a second of processor time do not.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import items
from benchmarks.results import markdown_table, number
from contract import processors
from contract.inputs import warm_up
from service import settings
from service.bulk import scoring
from service.bulk.reading import Source
from service.bulk.writing import Output
from service.inference.version import Version
from service.settings import Settings

PHOTOS, TEXTS, SENTENCES, DIGITS = 400, 3000, 20_000, 4000
_BATCH_IMAGES, _BATCH_TEXTS = 16, 64


@dataclass(frozen=True)
class Speed:
    """Items a second, and a second of processor time."""

    per_s: float
    per_cpu_s: float


def measured(work: Callable[[], object], count: int) -> Speed:
    """The speed of work over `count` items."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return Speed(count / (time.perf_counter() - start), count / (time.process_time() - cpu))


def loop(version: Version, source: Source, threads: int) -> None:
    """The work without rows: read, decode and run, a batch at a time in each thread."""
    size = _BATCH_TEXTS if version.manifest.input.is_text else _BATCH_IMAGES
    preprocessor, run = version.preprocessor, version.session.run

    def batches() -> Iterator[list[bytes | str]]:
        batch: list[bytes | str] = []
        for item in source.items():
            assert isinstance(item.content, bytes | str)
            batch.append(item.content)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def work(batch: Sequence[bytes | str]) -> None:
        preprocessor.run(run, [preprocessor.decode(content) for content in batch])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, batches()):
            pass


def write(kind: str, folder: Path) -> tuple[str, Path, int]:
    """Generate the files of a kind: the model, the input, and the number of items."""
    place = folder / kind
    if kind in {"photos", "digits"}:
        place.mkdir()
        count = PHOTOS if kind == "photos" else DIGITS
        encoded = items.photos(count, items.SMALL) if kind == "photos" else items.digits(count)
        for index, data in enumerate(encoded):
            (place / f"{index:06}.{'jpg' if kind == 'photos' else 'png'}").write_bytes(data)
        return ("cats-vs-dogs" if kind == "photos" else "digits"), place, count
    place = place.with_suffix(".csv")
    texts = [text.decode() for text in items.reviews(TEXTS)]
    if kind == "sentences":
        texts = [f"{' '.join(texts[index % TEXTS].split()[:20])} {index}" for index in range(SENTENCES)]
    with place.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text",), *((text,) for text in texts)])
    return "reviews", place, len(texts)


def compare(kind: str, chosen: Settings, folder: Path, rounds: int) -> list[str]:
    """The cells of a kind's line: medians of the loop, of bulk scoring, and of their ratios."""
    model, place, count = write(kind, folder)
    scorer = scoring.Scorer(scoring.find_version(chosen, model), chosen)
    version = scorer.version
    source = Source((str(place),), version.manifest.input)
    pairs = []
    for number_ in range(rounds):
        plain = measured(lambda: loop(version, source, processors.count()), count)
        output = Output(folder / f"{kind}-{number_}.csv")
        pinned = output.open({"model": model, "version": int(version.number), "format": output.format})

        def bulk(output: Output = output, pinned: dict[str, object] = pinned) -> None:
            summary = scoring.score(source, output, scorer)
            output.finish(pinned, summary.scored)

        pairs.append((plain, measured(bulk, count)))
    cells = [kind, *(number(median(pair[side].per_s for pair in pairs)) for side in (0, 1))]
    cells += [f"{median(two.per_s / one.per_s for one, two in pairs):.2f}"]
    cells += [number(median(pair[side].per_cpu_s for pair in pairs)) for side in (0, 1)]
    return [*cells, f"{median(two.per_cpu_s / one.per_cpu_s for one, two in pairs):.2f}"]


def main() -> int:
    """Compare, and print a table."""
    assert __doc__
    kinds = ("photos", "texts", "sentences", "digits")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(kinds), help="items (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both in turn (default: %(default)s)")
    args = parser.parse_args()
    warm_up()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bulk") as folder:
        for kind in args.only.split(","):
            rows.append(compare(kind, settings.from_environment(), Path(folder), args.rounds))
            print(" | ".join(rows[-1]), file=sys.stderr)
    header = ("items", "loop, items/s", "bulk", "ratio", "loop, items/s of processor time", "bulk", "ratio")
    print("\n".join(markdown_table(header, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
