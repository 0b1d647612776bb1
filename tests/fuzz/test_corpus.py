"""A short run of `python -m tests.fuzz.corpus`, and tests of its seed corpus and mutations."""

import random

import pytest

from contract.picture import decode
from contract.spec import ImageInput
from tests.fuzz import seed_corpus
from tests.fuzz.corpus import Corpus, run
from tests.fuzz.mutate import MUTATIONS, mutate, segments, with_valid_checksums
from tests.fuzz.target import Limits

SIDE = 600


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(seed=1, side=SIDE)


def test_mutated_inputs_are_read_or_refused(corpus: Corpus) -> None:
    """Every outcome is an array of the right shape or an error below 500, within limits; the HTTP response agrees."""
    report = run(corpus, range(300), Limits(max_pixels=SIDE * SIDE, cpu_s=3))
    assert not report.failures, str(report)
    assert report.inputs > 300
    assert {"image read", "image unreadable", "image unsupported_kind", "text read"} <= set(report.outcomes)
    assert {"HTTP 200", "HTTP 415", "HTTP 422"} <= set(report.outcomes)


@pytest.mark.parametrize("name", list(seed_corpus.images()))
def test_every_seed_is_valid(name: str) -> None:
    """The files that are mutated are read, so the tests show the effect of the mutations."""
    spec = ImageInput(height=30, width=40, mode="RGB", framing="squash")
    assert decode(seed_corpus.images()[name], spec).mode == "RGB"


def test_the_corpus_is_reproducible(corpus: Corpus) -> None:
    """Corpora with the same seed are equal, with different seeds they differ."""
    same, other = Corpus(seed=1, side=SIDE), Corpus(seed=2, side=SIDE)
    numbers = range(40)
    assert [corpus[number] for number in numbers] == [same[number] for number in numbers]
    assert [corpus[number] for number in numbers] != [other[number] for number in numbers]


@pytest.mark.parametrize("name", list(seed_corpus.images()))
def test_a_file_is_the_sum_of_its_segments(name: str) -> None:
    """Segments leave nothing out, and a valid PNG keeps its checksums."""
    data = seed_corpus.images()[name]
    assert b"".join(segments(data)) == data
    assert len(segments(data)) > 1
    if data.startswith(seed_corpus.SIGNATURE):
        assert with_valid_checksums(data) == data


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutations_take_any_file(mutation: object) -> None:
    """Each mutation changes most files, and accepts empty and tiny ones."""
    assert callable(mutation)
    files = [b"", b"x", *seed_corpus.images().values()]
    generator = random.Random(0)
    changed = [mutation(data, generator, files) != data for data in files for _ in range(5)]
    assert sum(changed) > len(changed) / 2
    assert mutate(b"", generator, files)
