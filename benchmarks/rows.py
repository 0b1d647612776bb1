"""Bulk scoring of many rows: memory as it goes on, a kill -9 in the middle, and what the resumed run leaves.

    .venv/bench/bin/python -m benchmarks.rows --rows 1000000

It writes a CSV of short texts that all differ, scores it with `reviews` by `python -m service.score`, kills it at half
of the rows, starts the same command again, and compares the output's ids with the input's. The exit status is 1 if a
row is missing or there twice.
"""

import argparse
import csv
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks import items
from benchmarks.contender import ROOT
from service.bulk.writing import Output

_SHARES = (0.1, 0.5, 1.0)
_POLL_S = 0.2


def write(path: Path, rows: int) -> None:
    """A CSV of texts of about 20 words."""
    texts = [text.decode().split()[:19] for text in items.reviews(500)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text",))
        writer.writerows((" ".join([*texts[row % len(texts)], str(row)]),) for row in range(rows))


def run(command: list[str], log: Path, rows: int, shares: tuple[float, ...], *, kill: bool) -> None:
    """Run the command, print its memory when it has done each share of the rows, and kill it at the last, if asked."""
    waiting, start, peak = list(shares), time.monotonic(), 0
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(_POLL_S)
        lines = [line for line in log.read_text(errors="replace").splitlines() if " rows, " in line]
        done = int(lines[-1].split()[0].replace(",", "")) if lines else 0
        try:
            memory = watched.memory_info().rss >> 20
        except psutil.NoSuchProcess:
            break
        peak = max(peak, memory)
        while waiting and done >= waiting[0] * rows:
            seconds = time.monotonic() - start
            print(f"{waiting.pop(0):.0%} of {rows:,} rows: {memory} MiB resident, {seconds:.0f} s", flush=True)
        if kill and not waiting:
            process.kill()
    process.wait()
    print(f"peak {peak} MiB; {'killed' if kill else log.read_text().splitlines()[-1]}", flush=True)


def main() -> int:
    """Write, score, kill, resume and compare."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows (default: %(default)s)")
    parser.add_argument("--kill-at", type=float, default=0.5, help="share of rows at which it is killed (default: 0.5)")
    rows, kill_at = (args := parser.parse_args()).rows, args.kill_at
    with tempfile.TemporaryDirectory(prefix="rows") as name:
        folder = Path(name)
        table, out = folder / "texts.csv", folder / "out.csv"
        write(table, rows)
        code = "import service.score as s; s._REPORT_S = (0.5, 0.5); s.main()"  # progress twice a second
        command = [sys.executable, "-c", code, str(table), "--model", "reviews", "--output", str(out)]
        before = tuple(share for share in _SHARES if share < kill_at)
        run(command, folder / "first.log", rows, (*before, kill_at), kill=True)
        run(command, folder / "second.log", rows, tuple(share for share in _SHARES if share > kill_at), kill=False)
        ids = [row["id"] for row in Output(out).rows(("id",))]
        with table.open(newline="", encoding="utf-8") as file:
            expected = {hashlib.sha256(row["text"].encode()).hexdigest() for row in csv.DictReader(file)}
    missing, twice = len(expected - set(ids)), len(ids) - len(set(ids))
    print(f"{len(ids):,} rows in the output; missing: {missing}; twice: {twice}")
    return 1 if missing or twice else 0


if __name__ == "__main__":
    sys.exit(main())
