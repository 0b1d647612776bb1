"""Thousands of broken images and texts, through the decoders and through the service.

`python -m tests.fuzz.corpus --inputs 20000` makes them from small valid files (`seed_corpus`): truncated at every 64th
byte, and mutated at random (`mutate`); and it adds `decompression_bombs`. Each decoder must return an array of the
right shape or an error below 500, within limits of time and memory. The response over HTTP must agree with the decoder.
Input N of a seed is always the same: `--only N` repeats it.
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

from tests.fuzz import seed_corpus
from tests.fuzz.decompression_bombs import decompression_bombs
from tests.fuzz.measure import resident_bytes
from tests.fuzz.mutate import mutate
from tests.fuzz.target import Input, Kind, Limits, Report, Target

_STEP = 64
_TEXT_SHARE = 0.15  # of the inputs that are mutated at random
_HANG_S = 120  # an input that takes longer ends the run with a traceback


class Corpus:
    """An infinite sequence of inputs: alternately a fixed one, as long as they last, and one mutated at random.

    Args:
        seed: the seed of all random choices.
        side: an image of side x side pixels is just within the limits.
    """

    def __init__(self, seed: int, side: int) -> None:
        self._seed = seed
        self._files: dict[Kind, dict[str, bytes]] = {"image": seed_corpus.images(), "text": seed_corpus.texts()}
        self._fixed: list[tuple[str, Kind, bytes, int]] = [
            *self._truncations(),
            *((f"bomb {name}", "image", data, len(data)) for name, data in decompression_bombs(side).items()),
        ]
        random.Random(seed).shuffle(self._fixed)

    def __getitem__(self, number: int) -> Input:
        half, is_odd = divmod(number, 2)
        if not is_odd and half < len(self._fixed):
            name, kind, data, length = self._fixed[half]
            return Input(number, name, kind, data[:length])
        generator = random.Random(f"{self._seed} {number}")
        kind = "text" if generator.random() < _TEXT_SHARE else "image"
        name, data = generator.choice(list(self._files[kind].items()))
        mutations, mutated = mutate(data, generator, list(self._files[kind].values()))
        return Input(number, f"{name} {mutations}", kind, mutated)

    @property
    def seeds(self) -> Iterator[Input]:
        """The valid files and texts that all inputs are made from."""
        for kind, files in self._files.items():
            yield from (Input(-1, name, kind, data) for name, data in files.items())

    def _truncations(self) -> Iterator[tuple[str, Kind, bytes, int]]:
        """Name, kind, data and length of each truncated file."""
        for seed in self.seeds:
            step = max(_STEP, len(seed.data) // 500)
            for length in chain(range(0, len(seed.data), step), [len(seed.data)]):
                yield f"{seed.name}[:{length}]", seed.kind, seed.data, length


def run(corpus: Corpus, numbers: Iterable[int], limits: Limits, current: "Synchronized[int] | None" = None) -> Report:
    """Check inputs by their numbers; `current` tells another process the number of the current one."""
    with tempfile.TemporaryDirectory() as folder, Target(Path(folder), limits) as target:
        report = Report()
        for seed in corpus.seeds:  # also loads what the decoders load at their first use
            target.check(report, seed)
        before = resident_bytes()
        for number in numbers:
            if current is not None:
                current.value = number
                faulthandler.dump_traceback_later(_HANG_S, exit=True)
            target.check(report, corpus[number])
        faulthandler.cancel_dump_traceback_later()
        report.growth_bytes = resident_bytes() - before
    return report


def _work(seed: int, side: int, numbers: range, limits: Limits, current: "Synchronized[int]") -> None:
    report = run(Corpus(seed, side), numbers, limits, current)
    print(report)
    sys.exit(bool(report.failures))


def main() -> int:
    """Run in a separate process, to report the number of an input that crashes it; 0 without failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.corpus", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="number of inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="check only input N")
    parser.add_argument("--side", type=int, default=7000, help="side of the largest image allowed (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="limit of CPU seconds for one input (%(default)s)")
    args = parser.parse_args()
    limits = Limits(max_pixels=max(args.side**2, 784), cpu_s=args.seconds)
    numbers = range(args.inputs) if args.only is None else range(args.only, args.only + 1)
    context = multiprocessing.get_context("spawn")
    current = context.Value("q", -1)
    process = context.Process(target=_work, args=(args.seed, args.side, numbers, limits, current))
    process.start()
    process.join()
    if process.exitcode not in {0, 1}:
        repeat = f"--seed {args.seed} --side {args.side} --only {current.value}"
        print(f"input {current.value} ended the process with exit code {process.exitcode}; repeat it with {repeat}")
    return int(process.exitcode != 0)


if __name__ == "__main__":
    sys.exit(main())
