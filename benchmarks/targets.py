"""Convoke's performance targets, compared with the figures of one run.

The ceiling of a workload is the fastest loop without HTTP, on one thread or on one thread for each processor.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contender import CONVOKE
from benchmarks.results import CEILING, Row, best_ceiling, find, markdown_table, number

SPEEDUPS = {"bentoml": 5.0, "litserve": 4.0, "ray": 10.0, "mlserver": 2.0, "fastapi": 1.2, "starlette": 0.9}
"""One digit for each request, 16 and 64 connections: Convoke's least requests per second, as a multiple of a peer's."""
_DEADLINE_MS = 30_000.0


@dataclass(frozen=True)
class Target:
    """One target: what is measured, its value, the value required, and whether it is met."""

    name: str
    actual: str
    required: str
    is_met: bool


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table of all targets for which figures exist."""
    targets = [target for check in (_digits, _ceilings, _peers, _overload, _rest) for target in check(rows)]
    if not targets:
        return []
    return [
        "**Targets**",
        "",
        *markdown_table(
            ("target", "measured", "required", "met"),
            ((target.name, target.actual, target.required, "yes" if target.is_met else "**no**") for target in targets),
        ),
        "",
    ]


def _ratio(name: str, ours: float, theirs: float, required: float) -> Target:
    if not theirs:
        return Target(name, "no response from the peer", f"at least {required:g}x", is_met=ours > 0)
    return Target(name, f"{ours / theirs:.2f}x", f"at least {required:g}x", ours / theirs >= required)


def _digits(rows: Sequence[Row]) -> Iterator[Target]:
    for connections in (16, 64):
        workload = f"digits-{connections}"
        ours = {row.form: row for row in rows if row.contender == CONVOKE and row.workload == workload}
        for row in rows:
            if row.contender in SPEEDUPS and row.workload == workload and ours:
                same = ours.get(row.form) or next(iter(ours.values()))
                name = f"one digit, {connections} connections, compared with {row.name} ({row.form})"
                yield _ratio(name, same.items_per_s, row.items_per_s, SPEEDUPS[row.contender])
        if main := find(rows, CONVOKE, workload):
            spread = main.p99_ms / main.p50_ms
            name = f"one digit, {connections} connections, p99 / p50"
            yield Target(name, f"{spread:.2f}x", "at most 3x", spread <= 3)  # noqa: PLR2004
    if many := find(rows, CONVOKE, "digits-256"):
        yield Target("one digit, 256 connections, failed requests", str(many.errors), "none", many.errors == 0)


def _ceilings(rows: Sequence[Row]) -> Iterator[Target]:
    for workload, family, required in (
        ("many-4", "many", 0.7),
        ("photo-16", "photo", 0.85),
        ("review-16", "review", 0.6),
    ):
        ours, ceiling = find(rows, CONVOKE, workload), best_ceiling(rows, family)
        if ours and ceiling:
            name = f"{workload}, compared with the ceiling ({ceiling.form}: {number(ceiling.items_per_s)} items/s)"
            yield _ratio(name, ours.items_per_s, ceiling.items_per_s, required)


def _peers(rows: Sequence[Row]) -> Iterator[Target]:
    for workload, required in (("photo-16", 1.0), ("large-16", 2.0), ("review-16", 1.0)):
        ours = find(rows, CONVOKE, workload)
        peers = [row for row in rows if row.workload == workload and row.contender not in {CONVOKE, CEILING}]
        best = max(peers, key=lambda row: row.items_per_s, default=None)
        if ours and best:
            name = f"{workload}, compared with the fastest peer ({best.name})"
            yield _ratio(name, ours.items_per_s, best.items_per_s, required)


def _overload(rows: Sequence[Row]) -> Iterator[Target]:
    for workload in ("overload-digits", "overload-photo"):
        row = find(rows, CONVOKE, workload)
        if row is None:
            continue
        more = row.more
        checks: tuple[tuple[str, float, str, Callable[[float], bool]], ...] = (
            ("p99 of accepted requests, ms", more["accepted_p99_ms"], f"under {_DEADLINE_MS:g}",
             lambda ms: ms < _DEADLINE_MS),
            ("p99 of 429s, ms", more["refused_p99_ms"], "at most 50", lambda ms: ms <= 50),  # noqa: PLR2004
            ("429s without Retry-After", more["refused"] - more["refused_with_retry_after"], "none", lambda n: not n),
            ("lost or other errors", more["lost"] + more["other"], "none", lambda n: not n),
        )  # fmt: skip
        for name, actual, required, is_met in checks:
            yield Target(f"{workload}: {name}", number(actual), required, is_met(actual))


def _rest(rows: Sequence[Row]) -> Iterator[Target]:
    if idle := find(rows, CONVOKE, "idle"):
        percent = idle.more["percent"]
        yield Target("idle, % of one processor", number(percent), "under 1", percent < 1)
    if start := find(rows, CONVOKE, "start"):
        seconds = start.more["seconds"]
        yield Target("start to ready, s", number(seconds), "at most 3", seconds <= 3)  # noqa: PLR2004
    largest = max((row.largest_mib for row in rows if row.contender == CONVOKE), default=0.0)
    if largest:
        yield Target("peak memory of a worker, MiB", number(largest), "at most 400", largest <= 400)  # noqa: PLR2004
