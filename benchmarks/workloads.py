"""The workloads: what is asked, how much of it at once, and over how many connections."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import ceiling, items
from benchmarks.ceiling import Work
from benchmarks.contender import Batch, Form, Request
from benchmarks.items import Kind, Model
from benchmarks.server import BenchmarkError, Server
from contract import manifest as contract
from contract.errors import ManifestError

MANY = 256
_COUNTS = {"digits": 50, "photos": 24, "large": 4, "reviews": 64}
_NAMES: dict[Kind, str] = {"digits": "digits", "photos": "cats-vs-dogs"}


class Exam:
    """All that may be asked of the models that are there, and the right answers."""

    def __init__(self, models: Mapping[Kind, Model]) -> None:
        """Draw pictures and write texts; items of which a model is not sure are left out."""
        self.models = models
        self.encoded: dict[str, list[bytes]] = {}
        for name, kind, made in self._drawn():
            sure = [item for item in made if models[kind].is_sure(item)]
            if len({models[kind].label(item) for item in sure}) < 2:  # noqa: PLR2004 -- else any constant would pass
                raise BenchmarkError(f"{models[kind].folder}: gives all of {len(made)} generated items one label")
            self.encoded[name] = sure
        self.batches = self._batches() if "digits" in models else []

    def _drawn(self) -> Iterator[tuple[str, Kind, list[bytes]]]:
        if "digits" in self.models:
            yield "digits", "digits", items.digits(_COUNTS["digits"])
        if "photos" in self.models:
            yield "photos", "photos", items.photos(_COUNTS["photos"], items.SMALL)
            yield "large", "photos", items.photos(_COUNTS["large"], items.LARGE)
        if "reviews" in self.models:
            yield "reviews", "reviews", items.reviews(_COUNTS["reviews"])

    def _batches(self) -> list[Batch]:
        """Requests of many digits, each beginning with another."""
        encoded, model = self.encoded["digits"], self.models["digits"]
        rows = [[(first * 7 + place) % len(encoded) for place in range(MANY)] for first in range(4)]
        pixels = [model.decode(item) for item in encoded]
        return [
            Batch(tuple(encoded[place] for place in row), np.stack([pixels[place] for place in row])) for row in rows
        ]

    def requests(self, form: Form, name: str) -> list[Request]:
        """One request an item of `digits`, `photos`, `large` or `reviews`."""
        kind = _kind(name)
        return [form.one(kind, self.models[kind].manifest.model, item) for item in self.encoded[name]]

    def check(self, server: Server, form: Form, name: str) -> None:
        """Hold a contender's answers to all items against the model's own.

        Raises:
            BenchmarkError: one differs.
        """
        if name == "many":
            assert form.many
            for batch in self.batches:
                expected = [self.models["digits"].label(item) for item in batch.encoded]
                server.check(form, form.many(self.models["digits"].manifest.model, batch), expected)
            return
        for request, item in zip(self.requests(form, name), self.encoded[name], strict=True):
            server.check(form, request, [self.models[_kind(name)].label(item)])


@dataclass(frozen=True)
class Workload:
    """A closed loop: which items (several names are asked in turn), how many a request, over how many connections."""

    key: str
    title: str
    names: tuple[str, ...]
    connections: int
    per_request: int = 1
    longer: int = 1
    """How many times as long as the others it is measured, where few requests fit into a second."""
    every_form: bool = False

    @property
    def family(self) -> str:
        """What --workloads calls it: its key without the connections."""
        return self.key.split("-")[0]

    def requests(self, exam: Exam, form: Form) -> list[Request] | None:
        """What is sent, in turn; None where a contender takes it in no way."""
        if self.per_request > 1:
            if form.many is None:
                return None
            model = exam.models["digits"].manifest.model
            return [form.many(model, batch) for batch in exam.batches]
        each = [exam.requests(form, name) for name in self.names if name in exam.encoded]
        turns = max(map(len, each))
        return [requests[turn % len(requests)] for turn in range(turns) for requests in each]

    def work(self, exam: Exam, batch: int) -> Work:
        """The same without HTTP, `batch` items a run."""
        if self.per_request > 1:
            return ceiling.run_tensor(exam.models["digits"], [one.tensor for one in exam.batches])
        names = [name for name in self.names if name in exam.encoded]
        return ceiling.decode_and_run(
            [exam.models[_kind(name)] for name in names], [exam.encoded[name] for name in names], batch
        )

    def items(self, exam: Exam) -> int:
        """Items in one piece of `work` of one a run."""
        return self.per_request if self.per_request > 1 else sum(name in exam.encoded for name in self.names)

    def is_possible(self, exam: Exam) -> bool:
        """Whether the models for it are there; a mix needs two."""
        there = [name for name in self.names if name in exam.encoded]
        return len(there) >= min(len(self.names), 2)


CLOSED = (
    *(
        Workload(f"digits-{n}", f"one digit, {n} connections", ("digits",), n, every_form=n in {16, 64})
        for n in (1, 16, 64, 256)
    ),
    Workload("many-4", f"{MANY} digits a request, 4 connections", ("digits",), 4, per_request=MANY),
    Workload("review-16", "one review, 16 connections", ("reviews",), 16),
    Workload("photo-16", "one photo of 500 x 375, 16 connections", ("photos",), 16),
    Workload("mix-16", "a digit, a review and a photo in turn, 16 connections", ("digits", "reviews", "photos"), 16),
    Workload("large-16", "one photo of 12 megapixels, 16 connections", ("large",), 16, longer=3),
)
OVERLOADS = {"overload-digits": "digits-64", "overload-photo": "photo-16"}
"""Open loops at twice the requests a second of a closed one, by its key."""
FAMILIES = (*dict.fromkeys(workload.family for workload in CLOSED), "overload", "idle")


def _kind(name: str) -> Kind:
    return "photos" if name == "large" else name  # type: ignore[return-value]


def find(root: Path) -> dict[Kind, Path]:
    """The highest version's folder, by kind: digits, cats and dogs, and any model that takes texts.

    Raises:
        BenchmarkError: there is none of the three.
    """
    found: dict[Kind, Path] = {}
    for folder in sorted(root.glob("*/*"), key=lambda path: int(path.name) if path.name.isdecimal() else 0):
        if not folder.name.isdecimal():
            continue
        try:
            manifest = contract.read(folder)
        except ManifestError:
            continue
        kinds = [kind for kind, name in _NAMES.items() if name == manifest.model]
        kind: Kind | None = "reviews" if manifest.input.kind == "text" else kinds[0] if kinds else None
        if kind:
            found[kind] = folder.resolve()
    if not found:
        raise BenchmarkError(f"there is no model in {root}; publish one with `make train RECIPE=lenet`")
    return found


def thread_counts() -> Sequence[int]:
    """How many threads the ceiling is measured with: one, and one a processor."""
    return sorted({1, os.cpu_count() or 1})
