"""What the service must show beside its peers, held against the figures of one run.

The ceiling of a workload is the fastest loop without HTTP, on one thread or on one a processor, as the service decodes
and runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contender import OURS
from benchmarks.results import CEILING, Row, best_ceiling, number

AHEAD = {"bentoml": 5.0, "litserve": 4.0, "ray": 10.0, "mlserver": 2.0, "fastapi": 1.2, "starlette": 0.9}
"""One digit a request, 16 and 64 connections: how many times a contender's requests per second ours must be."""
IN_FULL = ("bentoml", "fastapi", "litserve", "mlserver", "ray", "starlette")
"""Those that decode a JPEG in full; none of them drafts."""
_DEADLINE_MS = 30_000.0


@dataclass(frozen=True)
class Bar:
    """One thing to show: the figure, what it must be, and whether it is."""

    what: str
    found: str
    wanted: str
    is_met: bool


def lines(rows: Sequence[Row]) -> list[str]:
    """A table of all bars for which there are figures."""
    found = [bar for one in (_digits, _ceilings, _peers, _overload, _rest) for bar in one(rows)]
    if not found:
        return []
    return [
        "**What it must show**",
        "",
        "| | found | wanted | |",
        "| --- | --: | --: | --- |",
        *(f"| {bar.what} | {bar.found} | {bar.wanted} | {'yes' if bar.is_met else '**no**'} |" for bar in found),
        "",
    ]


def _find(rows: Sequence[Row], contender: str, workload: str, form: str | None = None) -> Row | None:
    return next(
        (row for row in rows if row.contender == contender and row.workload == workload and form in {None, row.form}),
        None,
    )


def _at_least(what: str, ours: float, theirs: float, wanted: float) -> Bar:
    if not theirs:
        return Bar(what, "it had no answer", f"at least {wanted:g}x", is_met=ours > 0)
    return Bar(what, f"{ours / theirs:.2f}x", f"at least {wanted:g}x", ours / theirs >= wanted)


def _digits(rows: Sequence[Row]) -> Iterator[Bar]:
    for connections in (16, 64):
        workload = f"digits-{connections}"
        ours = {row.form: row for row in rows if row.contender == OURS and row.workload == workload}
        for row in rows:
            if row.contender in AHEAD and row.workload == workload and ours:
                same = ours.get(row.form) or next(iter(ours.values()))
                what = f"one digit, {connections} connections, beside {row.name} ({row.form})"
                yield _at_least(what, same.items_per_s, row.items_per_s, AHEAD[row.contender])
        if main := _find(rows, OURS, workload):
            spread = main.p99_ms / main.p50_ms
            yield Bar(f"one digit, {connections} connections, p99 / p50", f"{spread:.2f}x", "at most 3x", spread <= 3)  # noqa: PLR2004
    if many := _find(rows, OURS, "digits-256"):
        yield Bar("one digit, 256 connections, failed requests", str(many.errors), "none", many.errors == 0)


def _ceilings(rows: Sequence[Row]) -> Iterator[Bar]:
    for workload, family, wanted in (
        ("many-4", "many", 0.7),
        ("photo-16", "photo", 0.85),
        ("review-16", "review", 0.6),
    ):
        ours, ceiling = _find(rows, OURS, workload), best_ceiling(rows, family)
        if ours and ceiling:
            what = f"{workload}, beside the ceiling ({ceiling.form}: {number(ceiling.items_per_s)} items/s)"
            yield _at_least(what, ours.items_per_s, ceiling.items_per_s, wanted)


def _peers(rows: Sequence[Row]) -> Iterator[Bar]:
    for workload, wanted in (("photo-16", 1.0), ("large-16", 2.0), ("review-16", 1.0)):
        ours = _find(rows, OURS, workload)
        others = [row for row in rows if row.workload == workload and row.contender not in {OURS, CEILING}]
        best = max(others, key=lambda row: row.items_per_s, default=None)
        if ours and best:
            what = f"{workload}, beside the best contender ({best.name})"
            yield _at_least(what, ours.items_per_s, best.items_per_s, wanted)


def _overload(rows: Sequence[Row]) -> Iterator[Bar]:
    for workload in ("overload-digits", "overload-photo"):
        row = _find(rows, OURS, workload)
        if row is None:
            continue
        more = row.more
        checks: tuple[tuple[str, float, str, Callable[[float], bool]], ...] = (
            ("accepted p99, ms", more["accepted_p99_ms"], f"under {_DEADLINE_MS:g}", lambda ms: ms < _DEADLINE_MS),
            ("429's p99, ms", more["refused_p99_ms"], "at most 50", lambda ms: ms <= 50),  # noqa: PLR2004
            ("429 without Retry-After", more["refused"] - more["refused_with_retry_after"], "none", lambda n: not n),
            ("lost or failed otherwise", more["lost"] + more["other"], "none", lambda n: not n),
        )  # fmt: skip
        for what, found, wanted, is_met in checks:
            yield Bar(f"{workload}: {what}", number(found), wanted, is_met(found))


def _rest(rows: Sequence[Row]) -> Iterator[Bar]:
    if idle := _find(rows, OURS, "idle"):
        percent = idle.more["percent"]
        yield Bar("idle, % of one processor", number(percent), "under 1", percent < 1)
    if start := _find(rows, OURS, "start"):
        seconds = start.more["seconds"]
        yield Bar("start to ready, s", number(seconds), "at most 3", seconds <= 3)  # noqa: PLR2004
    largest = max((row.largest_mib for row in rows if row.contender == OURS), default=0.0)
    if largest:
        yield Bar("peak memory of a worker, MiB", number(largest), "at most 400", largest <= 400)  # noqa: PLR2004
