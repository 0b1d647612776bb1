"""Convoke's performance targets, compared with the figures of one run.

The ceiling of a workload is the fastest loop without HTTP, on one thread or on one thread for each processor.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contender import CONVOKE
from benchmarks.results import CEILING, Row, best_ceiling, find, markdown_table, number
from benchmarks.workloads import OVERLOADS
from service.settings import Settings

SPEEDUPS = {
    "digits-1": {"starlette": 2.0},
    "digits-16": {
        "starlette": 3.0, "starlette-batched": 3.0, "fastapi": 4.0, "bentoml": 12.0, "litserve": 4.0, "mlserver": 2.0,
        "ray": 10.0,
    },
    "digits-64": {"starlette": 3.0, "starlette-batched": 3.0, "litserve": 4.0, "mlserver": 2.0, "ray": 10.0},
    "raw-1": {"triton": 2.5},
    "raw-16": {"triton": 1.5},
    "raw-64": {"triton": 1.5},
    "raw-64x4": {"triton": 1.2},
}  # fmt: skip
"""Convoke's least requests per second in a workload, as a multiple of a peer's."""
_CEILINGS = {"many-4": 0.9, "photo-16": 0.9, "review-16": 0.8}
"""The least share of the fastest loop without HTTP."""
_SLOWEST_MS = {"burst-64": 50.0, "burst-256": 100.0}
_ACCEPTED_MS = 1500 * Settings.model_fields["max_wait_s"].default
_GOODPUT = 0.9


@dataclass(frozen=True)
class Target:
    """One target: what is measured, its value, the value required, and whether it is met."""

    name: str
    actual: str
    required: str
    is_met: bool


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table of all targets for which figures exist."""
    targets = [target for check in (_digits, _bursts, _ceilings, _peers, _overload, _rest) for target in check(rows)]
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
    for workload, speedups in SPEEDUPS.items():
        ours = {row.form: row for row in rows if row.contender == CONVOKE and row.workload == workload}
        for row in rows:
            if row.contender in speedups and row.workload == workload and ours:
                same = ours.get(row.form) or next(iter(ours.values()))
                name = f"{workload}, compared with {row.name} ({row.form})"
                yield _ratio(name, same.items_per_s, row.items_per_s, speedups[row.contender])
        if workload in {"digits-16", "digits-64"} and (main := find(rows, CONVOKE, workload)):
            spread = main.p99_ms / main.p50_ms
            yield Target(f"{workload}, p99 / p50", f"{spread:.2f}x", "at most 3x", spread <= 3)  # noqa: PLR2004
    if many := find(rows, CONVOKE, "digits-256"):
        yield Target("digits-256, failed requests", str(many.errors), "none", many.errors == 0)


def _bursts(rows: Sequence[Row]) -> Iterator[Target]:
    for workload, slowest_ms in _SLOWEST_MS.items():
        if row := find(rows, CONVOKE, workload):
            is_met = row.slowest_ms <= slowest_ms
            yield Target(f"{workload}, slowest answer, ms", number(row.slowest_ms), f"at most {slowest_ms:g}", is_met)


def _ceilings(rows: Sequence[Row]) -> Iterator[Target]:
    for workload, required in _CEILINGS.items():
        ours, ceiling = find(rows, CONVOKE, workload), best_ceiling(rows, workload.split("-")[0])
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
    for overload in OVERLOADS:
        row = find(rows, CONVOKE, overload.key)
        if row is None:
            continue
        more = row.more
        checks: tuple[tuple[str, float, str, Callable[[float], bool]], ...] = (
            ("goodput / capacity", more["goodput"], f"at least {_GOODPUT:g}", lambda share: share >= _GOODPUT),
            ("p99 of accepted requests, ms", more["accepted_p99_ms"], f"at most {_ACCEPTED_MS:g}",
             lambda ms: ms <= _ACCEPTED_MS),
            ("p99 of 429s, ms", more["refused_p99_ms"], "at most 50", lambda ms: ms <= 50),  # noqa: PLR2004
            ("429s without Retry-After", more["refused"] - more["refused_with_retry_after"], "none", lambda n: not n),
            ("lost or other errors", more["lost"] + more["other"], "none", lambda n: not n),
        )  # fmt: skip
        for name, actual, required, is_met in checks:
            yield Target(f"{overload.key}: {name}", number(actual), required, is_met(actual))


def _rest(rows: Sequence[Row]) -> Iterator[Target]:
    if idle := find(rows, CONVOKE, "idle"):
        percent = idle.more["percent"]
        yield Target("idle, % of one processor", number(percent), "under 1", percent < 1)
    start, bentoml = find(rows, CONVOKE, "start"), find(rows, "bentoml", "start")
    if start and bentoml:
        seconds, theirs = start.more["seconds"], bentoml.more["seconds"]
        yield Target("start to ready, s", number(seconds), f"at most BentoML's, {number(theirs)}", seconds <= theirs)
    largest = max((row.largest_mib for row in rows if row.contender == CONVOKE), default=0.0)
    if largest:
        yield Target("peak memory of a worker, MiB", number(largest), "at most 400", largest <= 400)  # noqa: PLR2004
