"""The figures as text: a Markdown table for each workload, with ratios to Convoke, and Convoke's targets."""

from collections.abc import Mapping, Sequence

from benchmarks import targets
from benchmarks.contender import CONVOKE
from benchmarks.results import CEILING, Record, Row, best_ceiling, markdown_table, number
from benchmarks.workloads import CLOSED, OVERLOADS, Workload

_QUIET = 0.9
"""The machine was quiet if its slowest moment reached this share of its fastest."""


def report(record: Record) -> str:
    """All tables, Convoke's targets, and the contenders that failed."""
    about, rows = record.about, record.rows
    lines = [
        f"{about['cpu']}, {about['processors']} processors, Python {about['python']}.",
        f"Medians of {about['passes']} passes of {about['seconds']} s in which the contenders take turns.",
        "One worker or replica for each contender, where no other number is given.",
        f"ONNX Runtime: {about['precision']}, {about['threads']} thread(s) for each run.",
        *_disturbance(about.get("loops_per_s", {})),
        "",
    ]
    for workload in CLOSED:
        if any(row.workload == workload.key for row in rows):
            lines += [f"**{workload.title}**", "", *table(rows, workload), ""]
    for overload in OVERLOADS:
        if overloads := [row for row in rows if row.workload == overload.key]:
            lines += [f"**{overload.title}**", "", *_overload_table(overloads), ""]
    if any(row.workload in {"start", "idle"} for row in rows):
        lines += ["**Start and idle**", "", *_rest_table(rows), ""]
    if any(row.contender == CONVOKE for row in rows):
        lines += targets.table(rows)
    reasons = [*record.failures.values(), *record.skipped.values()]
    return "\n".join([*lines, *(f"Not measured: {reason}" for reason in reasons)])


def _disturbance(loops_per_s: Mapping[str, float]) -> list[str]:
    """A warning if the same loop ran at different speeds before the contenders."""
    if not loops_per_s:
        return []
    slow, fast = min(loops_per_s, key=loops_per_s.__getitem__), max(loops_per_s, key=loops_per_s.__getitem__)
    share = loops_per_s[slow] / loops_per_s[fast]
    if share >= _QUIET:
        return []
    return [f"**The machine was not quiet**: before {slow}, a loop ran at {share:.0%} of its speed before {fast}."]


def table(rows: Sequence[Row], workload: Workload) -> list[str]:
    """Lines of a Markdown table: every contender under one workload.

    The last column is Convoke's items per second divided by the contender's; for connections that are opened at once,
    the contender's slowest answer divided by Convoke's. A row is compared with Convoke's row in the same request
    format, or with Convoke's first row if Convoke has no row in that format.
    """
    ours = {row.form: row for row in rows if row.contender == CONVOKE and row.workload == workload.key}
    measured = [row for row in rows if row.workload == workload.key]
    ceiling = best_ceiling(rows, workload.ceiling)
    is_burst = workload.family == "burst"
    header = (
        "server", "request format", "requests/s", "spread", "items/s", "p50 ms", "p99 ms", "slowest ms", "errors",
        "memory MiB", "requests / CPU s", "Convoke's lead",
    )  # fmt: skip
    cells = [
        (
            row.name, row.form, number(row.requests_per_s), f"{row.spread:.0%}" if len(row.passes) > 1 else "",
            number(row.items_per_s), number(row.p50_ms), number(row.p99_ms), number(row.slowest_ms), f"{row.errors:,}",
            f"{row.memory_mib:,.0f}" if row.memory_mib else "",
            number(row.requests_per_cpu_s) if row.requests_per_cpu_s else "",
            _ratio(ours.get(row.form) or next(iter(ours.values()), None), row, is_burst=is_burst),
        )
        for row in [*measured, *([ceiling] if ceiling else [])]
    ]  # fmt: skip
    return markdown_table(header, cells, text_columns=2)


def _ratio(ours: Row | None, theirs: Row, *, is_burst: bool) -> str:
    if is_burst and ours and ours.slowest_ms:
        return f"{theirs.slowest_ms / ours.slowest_ms:.2f}x"
    if ours is None or not theirs.items_per_s:
        return "-"
    return f"{ours.items_per_s / theirs.items_per_s:.2f}x"


def _overload_table(rows: Sequence[Row]) -> list[str]:
    columns = {
        "late, p99 ms": "driver_late_p99_ms",
        "accepted": "accepted",
        "p50 ms": "accepted_p50_ms",
        "p99 ms": "accepted_p99_ms",
        "429s": "refused",
        "with Retry-After": "refused_with_retry_after",
        "p99 ms of 429s": "refused_p99_ms",
        "other errors": "other",
        "lost": "lost",
    }
    cells = [
        (
            row.name, number(row.more["rate"]), f"{row.more['goodput']:.0%}",
            *(f"{row.more[name]:,.0f}" for name in columns.values()), f"{row.memory_mib:,.0f}",
        )
        for row in rows
    ]  # fmt: skip
    return markdown_table(["server", "sent/s", "goodput / capacity", *columns, "memory MiB"], cells)


def _rest_table(rows: Sequence[Row]) -> list[str]:
    header = (
        "server", "start to ready, s", "CPU s until ready", "peak MiB, all processes", "peak MiB, largest process",
        "idle, % of a processor",
    )  # fmt: skip
    cells = []
    for name in dict.fromkeys(row.name for row in rows if row.contender != CEILING):
        own = {row.workload: row for row in rows if row.name == name and not row.workload.startswith("workers-")}
        if not own:
            continue
        peak = max(row.memory_mib for row in own.values())
        largest = max(row.largest_mib for row in own.values())
        start = number(own["start"].more["seconds"]) if "start" in own else ""
        cpu = number(own["start"].cpu_s) if "start" in own else ""
        idle = number(own["idle"].more["percent"]) if "idle" in own else ""
        cells.append((name, start, cpu, f"{peak:,.0f}", f"{largest:,.0f}", idle))
    return markdown_table(header, cells)
