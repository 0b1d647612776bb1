"""The workloads: which items are sent, how many in each request, and over how many connections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import ceiling, items
from benchmarks.ceiling import Work
from benchmarks.contender import TENSORS, Batch, Contender, Form, Request
from benchmarks.items import Kind, Model
from benchmarks.server import BenchmarkError, Server
from benchmarks.versions import latest_versions
from contract import processors

MANY = 256
"""Digits in one request of the workload `many`."""
_SOME = 64
_BATCHES = {1: 20, _SOME: 4, MANY: 4}
"""How many batches of each size are made."""

_COUNTS = {"digits": 50, "photos": 24, "large": 4, "reviews": 64}
_KINDS: Mapping[str, Kind] = {"digits": "digits", "cats-vs-dogs": "photos"}


class ItemSet:
    """The generated items by name (`digits`, `photos`, `large`, `reviews`), and the correctness check against them.

    Items for which a model is not confident of its label are left out.
    """

    def __init__(self, models: Mapping[Kind, Model]) -> None:
        self.models = models
        self.encoded: dict[str, list[bytes]] = {}
        for name, generated in self._generate():
            model = self.model(name)
            confident = [item for item in generated if model.is_confident(item)]
            if len({model.label(item) for item in confident}) < 2:  # noqa: PLR2004 -- else any constant would pass
                raise BenchmarkError(f"{model.folder}: the model gives all {len(generated)} generated items one label")
            self.encoded[name] = confident
        self.batches = {size: self._batches(size) for size in _BATCHES} if "digits" in models else {}

    def _generate(self) -> Iterator[tuple[str, list[bytes]]]:
        if "digits" in self.models:
            yield "digits", items.digits(_COUNTS["digits"])
        if "photos" in self.models:
            yield "photos", items.photos(_COUNTS["photos"], items.SMALL)
            yield "large", items.photos(_COUNTS["large"], items.LARGE)
        if "reviews" in self.models:
            yield "reviews", items.reviews(_COUNTS["reviews"])

    def _batches(self, size: int) -> list[Batch]:
        """Batches of digits, each starting with a different digit."""
        encoded, model = self.encoded["digits"], self.models["digits"]
        rows = [[(start * 7 + offset) % len(encoded) for offset in range(size)] for start in range(_BATCHES[size])]
        pixels = [model.decode(item) for item in encoded]
        return [
            Batch(tuple(encoded[index] for index in row), np.stack([pixels[index] for index in row])) for row in rows
        ]

    def model(self, name: str) -> Model:
        """The model that takes the items of a name."""
        return self.models[_kind(name)]

    def requests(self, form: Form, name: str) -> list[Request]:
        """One request for each item of a name, in a format that takes single items."""
        model = self.model(name)
        assert form.single is not None
        return [form.single(model.kind, model.manifest.model, item) for item in self.encoded[name]]

    def batch_requests(self, form: Form, size: int) -> list[Request]:
        """One request for each batch of a size, in a format that takes them."""
        assert form.batch is not None
        return [form.batch(self.models["digits"].manifest.model, batch) for batch in self.batches[size]]

    def first_requests(self, form: Form) -> list[Request]:
        """One request for each name that a format takes."""
        if form.single is None:
            return self.batch_requests(form, 1)[:1] if self.batches else []
        return [self.requests(form, name)[0] for name in self.encoded]

    def check(self, server: Server, form: Form) -> None:
        """Correctness check: compare a server's labels for everything that a format takes with the models' own.

        Raises:
            BenchmarkError: a label differs, or a request failed.
        """
        for name in self.encoded if form.single else ():
            self.check_items(server, form, name)
        for size in self.batches if form.batch else ():
            for request, batch in zip(self.batch_requests(form, size), self.batches[size], strict=True):
                server.check(form, request, [self.models["digits"].label(item) for item in batch.encoded])

    def check_items(self, server: Server, form: Form, name: str) -> None:
        """The same for one name: compare a server's labels for all items of a name with the model's own.

        Raises:
            BenchmarkError: a label differs, or a request failed.
        """
        model = self.model(name)
        for request, item in zip(self.requests(form, name), self.encoded[name], strict=True):
            server.check(form, request, [model.label(item)])


@dataclass(frozen=True)
class Workload:
    """A closed loop: names of its items (several are sent in turn), connections, and items for each request.

    A workload in which few requests fit into a second is measured in one pass of a multiple of the time,
    `duration_factor`. Digits of a `raw` workload are sent as tensors, which nobody decodes.
    """

    key: str
    title: str
    names: tuple[str, ...]
    connections: int
    per_request: int = 1
    duration_factor: int = 1
    every_form: bool = False
    raw: bool = False
    workers: int = 1

    @property
    def family(self) -> str:
        """The name for --workloads: the key without the connections."""
        return self.key.split("-")[0]

    @property
    def ceiling(self) -> str | None:
        """The family of loops without HTTP that do the same work; None if no loop does."""
        if self.raw or self.family == "burst":
            return None
        return self.key.split("-")[1] if self.workers > 1 else self.family

    def forms(self, contender: Contender) -> list[Form]:
        """The formats in which a contender takes the requests; empty if it does not take them."""
        if self.raw:
            return [form for form in contender.forms if form.name == TENSORS]
        forms = [form for form in contender.forms if (form.batch if self.per_request > 1 else form.single)]
        return forms if self.every_form else forms[:1]

    def requests(self, item_set: ItemSet, form: Form) -> list[Request]:
        """The requests, to be sent in turn."""
        if self.raw or self.per_request > 1:
            return item_set.batch_requests(form, self.per_request)
        lists = [item_set.requests(form, name) for name in self._available(item_set)]
        return [requests[turn % len(requests)] for turn in range(max(map(len, lists))) for requests in lists]

    def work(self, item_set: ItemSet, batch: int) -> Work:
        """The same work without HTTP, `batch` items of each name in a run."""
        if self.per_request > 1:
            return ceiling.run_tensor(item_set.models["digits"], [digits.tensor for digits in item_set.batches[MANY]])
        names = self._available(item_set)
        return ceiling.decode_and_run(
            [item_set.model(name) for name in names], [item_set.encoded[name] for name in names], batch
        )

    def items_per_step(self, item_set: ItemSet) -> int:
        """Items in one step of `work` with `batch` 1."""
        return self.per_request if self.per_request > 1 else len(self._available(item_set))

    def is_possible(self, item_set: ItemSet) -> bool:
        """Whether its models are available; a mix needs at least two."""
        return len(self._available(item_set)) >= min(len(self.names), 2)

    def _available(self, item_set: ItemSet) -> list[str]:
        return [name for name in self.names if name in item_set.encoded]


CLOSED = (
    *(
        Workload(f"digits-{n}", f"one digit, {n} connection{'s' * (n > 1)}", ("digits",), n, every_form=n in {16, 64})
        for n in (1, 16, 64, 256)
    ),
    *(
        Workload(f"raw-{n}", f"one raw digit as a tensor, {n} connection{'s' * (n > 1)}", ("digits",), n, raw=True)
        for n in (1, 16, 64)
    ),
    Workload("raw-64x4", f"{_SOME} raw digits in each request, 4 connections", ("digits",), 4, _SOME, raw=True),
    Workload("many-4", f"{MANY} digits in each request, 4 connections", ("digits",), 4, per_request=MANY),
    Workload("review-16", "one review, 16 connections", ("reviews",), 16),
    Workload("photo-16", "one photo of 500 x 375, 16 connections", ("photos",), 16),
    Workload("mix-16", "a digit, a review and a photo in turn, 16 connections", ("digits", "reviews", "photos"), 16),
    Workload("large-16", "one photo of 12 megapixels, 16 connections", ("large",), 16, duration_factor=3),
    *(Workload(f"burst-{n}", f"{n} connections opened at once, one digit after another", ("digits",), n)
      for n in (64, 256)),
    *(
        Workload(f"workers-{family}", f"{title}, 16 connections, two workers", (name,), 16, workers=2)
        for family, name, title in (
            ("digits", "digits", "one digit"),
            ("review", "reviews", "one review"),
            ("photo", "photos", "one photo of 500 x 375"),
        )
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Overload:
    """An open loop: its key, the closed loop whose requests per second are the capacity, and how much more is sent.

    All contenders are measured at twice the capacity, Convoke also at four times.
    """

    key: str
    loop: Workload
    factor: int

    @property
    def title(self) -> str:
        """The heading of its table."""
        return f"Overload: {self.loop.names[0]} at {self.factor} times the capacity, open loop"


OVERLOADS = tuple(
    Overload(f"overload-{name}-{factor}", next(loop for loop in CLOSED if loop.key == key), factor)
    for name, key in (("digits", "digits-64"), ("photo", "photo-16"))
    for factor in (2, 4)
)
QUICK = frozenset({"digits-16", "raw-16", "review-16", "photo-16", "burst-64", "overload-digits-4"})
"""The workloads of --quick."""
ALL = frozenset({loop.key for loop in CLOSED} | {overload.key for overload in OVERLOADS} | {"idle"})
FAMILIES = (*dict.fromkeys(workload.family for workload in CLOSED), "overload", "idle")


def workload_keys(families: Sequence[str]) -> frozenset[str]:
    """The keys of all workloads of some families."""
    return frozenset(key for key in ALL if key.split("-")[0] in families)


def _kind(name: str) -> Kind:
    return "photos" if name == "large" else name  # type: ignore[return-value]


def find_models(root: Path) -> dict[Kind, Path]:
    """The folder of the highest version of each kind: digits, cats and dogs, and any model that takes texts.

    Raises:
        BenchmarkError: the folder holds no such model.
    """
    folders: dict[Kind, Path] = {}
    for folder, manifest in latest_versions(root).items():
        kind = "reviews" if manifest.input.kind == "text" else _KINDS.get(manifest.model)
        if kind:
            folders[kind] = folder.resolve()
    if not folders:
        raise BenchmarkError(f"no model found in {root}; publish one with `make train RECIPE=lenet`")
    return folders


def thread_counts() -> Sequence[int]:
    """The numbers of threads for the ceiling: one, and one for each processor."""
    return sorted({1, processors.count()})
