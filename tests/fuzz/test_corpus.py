"""The short form of `python -m tests.fuzz.corpus`, and what makes its inputs."""

import random

import pytest

from contract.inputs import image_to_pixels
from contract.spec import ImageInput
from tests.fuzz import seeds
from tests.fuzz.corpus import Corpus, run
from tests.fuzz.mutate import MUTATIONS, mended, mutated, pieces
from tests.fuzz.target import Limits

SIDE = 600


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(seed=1, side=SIDE)


def test_a_few_hundred_broken_inputs_break_nothing(corpus: Corpus) -> None:
    """Every outcome is an array of the right shape or an error below 500, in bounds; HTTP says the same."""
    report = run(corpus, range(300), Limits(max_pixels=SIDE * SIDE, cpu_s=3))
    assert not report.failures, str(report)
    assert report.inputs > 300
    assert {"image read", "image unreadable", "image unsupported_kind", "text read"} <= set(report.outcomes)
    assert {"HTTP 200", "HTTP 415", "HTTP 422"} <= set(report.outcomes)


@pytest.mark.parametrize("name", list(seeds.pictures()))
def test_every_seed_is_good(name: str) -> None:
    """What the broken files are made of is read, so that it is the spoiling which is tested."""
    spec = ImageInput(height=30, width=40, mode="RGB", framing="squash")
    assert image_to_pixels(seeds.pictures()[name], spec).shape == (30, 40, 3)


def test_a_number_is_always_the_same_input(corpus: Corpus) -> None:
    """A corpus of the same seed repeats itself, one of another does not."""
    again, other = Corpus(seed=1, side=SIDE), Corpus(seed=2, side=SIDE)
    numbers = range(40)
    assert [corpus[number] for number in numbers] == [again[number] for number in numbers]
    assert [corpus[number] for number in numbers] != [other[number] for number in numbers]


@pytest.mark.parametrize("name", list(seeds.pictures()))
def test_a_file_is_the_sum_of_its_pieces(name: str) -> None:
    """Pieces leave out nothing, and mending a PNG that is whole changes nothing."""
    data = seeds.pictures()[name]
    assert b"".join(pieces(data)) == data
    assert len(pieces(data)) > 1
    if data.startswith(seeds.SIGNATURE):
        assert mended(data) == data


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_every_mutation_takes_what_others_leave(mutation: object) -> None:
    """Each changes most files, and none stumbles over an empty or a tiny one."""
    assert callable(mutation)
    files = [b"", b"x", *seeds.pictures().values()]
    draw = random.Random(0)
    changed = [mutation(data, draw, files) != data for data in files for _ in range(5)]
    assert sum(changed) > len(changed) / 2
    assert mutated(b"", draw, files)
