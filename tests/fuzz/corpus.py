"""Broken pictures and texts by the thousand, through the decoders and through the service.

`python -m tests.fuzz.corpus --inputs 20000` makes them from small good files (`seeds`), by cutting each at every 64th
byte, by spoiling it (`mutate`), and adds files that ask for much (`bombs`). What comes out of a decoder must be an
array of the right shape or an error below 500, within bounds of time and memory; over HTTP, an answer that agrees.
Input N of a seed is always the same: `--only N` gives it alone.
"""

import argparse
import faulthandler
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from tests.fuzz import seeds
from tests.fuzz.bombs import bombs
from tests.fuzz.measure import resident
from tests.fuzz.mutate import mutated
from tests.fuzz.target import Input, Kind, Limits, Report, Target

_STEP = 64
_TEXTS = 0.15  # the share of texts among what is spoilt at random
_HANGS_S = 120  # an input that takes so long ends the run, with where it stands


class Corpus:
    """Inputs without end: in turn one of the fixed ones, as long as there are, and one spoilt at random.

    Args:
        seed: where chance starts.
        side: a picture of side x side pixels is just within the limits.
    """

    def __init__(self, seed: int, side: int) -> None:
        self._seed = seed
        self._seeds: dict[Kind, dict[str, bytes]] = {
            "image": seeds.pictures(),
            "text": seeds.texts(),
        }
        self._fixed: list[tuple[str, Kind, bytes, int]] = [
            *self._cuts(),
            *((f"bomb {name}", "image", data, len(data)) for name, data in bombs(side).items()),
        ]
        random.Random(seed).shuffle(self._fixed)

    def __getitem__(self, number: int) -> Input:
        half, is_odd = divmod(number, 2)
        if not is_odd and half < len(self._fixed):
            name, of, data, length = self._fixed[half]
            return Input(number, name, of, data[:length])
        draw = random.Random(f"{self._seed} {number}")
        kind: Kind = "text" if draw.random() < _TEXTS else "image"
        name, data = draw.choice(list(self._seeds[kind].items()))
        how, spoilt = mutated(data, draw, list(self._seeds[kind].values()))
        return Input(number, f"{name} {how}", kind, spoilt)

    @property
    def good(self) -> Iterator[Input]:
        """The files and texts that all others are made of."""
        for kind, files in self._seeds.items():
            yield from (Input(-1, name, kind, data) for name, data in files.items())

    def _cuts(self) -> Iterator[tuple[str, Kind, bytes, int]]:
        for kind, files in self._seeds.items():
            for name, data in files.items():
                step = max(_STEP, len(data) // 500)
                for length in chain(range(0, len(data), step), [len(data)]):
                    yield f"{name}[:{length}]", kind, data, length


def run(corpus: Corpus, numbers: Iterable[int], limits: Limits, at: "Synchronized[int] | None" = None) -> Report:
    """Try inputs by their numbers; `at` tells another process which one it is now."""
    with tempfile.TemporaryDirectory() as folder, Target(Path(folder), limits) as target:
        report = Report()
        for one in corpus.good:  # also loads what the decoders load at their first use
            target.try_out(report, one)
        before = resident()
        for number in numbers:
            if at is not None:
                at.value = number
                faulthandler.dump_traceback_later(_HANGS_S, exit=True)
            target.try_out(report, corpus[number])
        faulthandler.cancel_dump_traceback_later()
        report.grown_bytes = resident() - before
    return report


def _work(seed: int, side: int, numbers: range, limits: Limits, at: "Synchronized[int]") -> None:
    report = run(Corpus(seed, side), numbers, limits, at)
    print(report)
    sys.exit(bool(report.failures))


def main() -> int:
    """Run in a process of its own, so that an input that ends it is told by its number; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.corpus", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="how many to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="where chance starts (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="try input N alone")
    parser.add_argument("--side", type=int, default=7000, help="of pictures just within the limits (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a processor for one input (%(default)s)")
    chosen = parser.parse_args()
    limits = Limits(max_pixels=max(chosen.side**2, 784), cpu_s=chosen.seconds)
    numbers = range(chosen.inputs) if chosen.only is None else range(chosen.only, chosen.only + 1)
    context = multiprocessing.get_context("spawn")
    at = context.Value("q", -1)
    process = context.Process(target=_work, args=(chosen.seed, chosen.side, numbers, limits, at))
    process.start()
    process.join()
    if process.exitcode not in {0, 1}:
        print(f"input {at.value} ended the process with {process.exitcode}; again with --seed {chosen.seed} --only N")
    return int(process.exitcode != 0)


if __name__ == "__main__":
    sys.exit(main())
