"""The figures as text: a Markdown table a workload, each row beside Convoke's, and what the service must show."""

from collections.abc import Sequence

from benchmarks import bars
from benchmarks.contender import OURS
from benchmarks.results import CEILING, Record, Row, best_ceiling, number
from benchmarks.workloads import CLOSED

QUIET = 0.9
"""A machine whose slowest moment was below this share of its fastest was not quiet."""


def report(record: Record) -> str:
    """All tables, and where Convoke stands against what it must show."""
    about, rows = record.about, record.rows
    lines = [
        f"{about['cpu']}, {about['processors']} processors, Python {about['python']}. {about['seconds']} s a workload,",
        f"{about['threads']} thread(s) a run of ONNX Runtime, {about['precision']}, one server or replica each.",
        *_disturbance(about.get("loops_per_s", {})),
        "",
    ]
    for workload in CLOSED:
        if any(row.workload == workload.key for row in rows):
            lines += [f"**{workload.title}**", "", *table(rows, workload.key, workload.family), ""]
    lines += other_tables(rows)
    if any(row.contender == OURS for row in rows):
        lines += bars.lines(rows)
    return "\n".join([*lines, *(f"Not measured: {reason}" for reason in record.failures.values())])


def _disturbance(loops_per_s: dict[str, float]) -> list[str]:
    """A warning where one and the same loop ran at differing speeds before the contenders."""
    if not loops_per_s:
        return []
    slow, fast = min(loops_per_s, key=loops_per_s.__getitem__), max(loops_per_s, key=loops_per_s.__getitem__)
    share = loops_per_s[slow] / loops_per_s[fast]
    if share >= QUIET:
        return []
    return [f"**The machine was not quiet**: before {slow} a loop ran at {share:.0%} of its speed before {fast}."]


def table(rows: Sequence[Row], workload: str, family: str) -> list[str]:
    """Lines of a table in Markdown: every contender under one workload, and how Convoke compares.

    The ratio is Convoke's requests per second over the contender's, each form beside the same form of ours where there
    is one, else beside our first.
    """
    ours = {row.form: row for row in rows if row.contender == OURS and row.workload == workload}
    shown = [row for row in rows if row.workload == workload]
    ceiling = best_ceiling(rows, family)
    lines = [
        "| | form | requests/s | items/s | p50 ms | p99 ms | errors | MiB | processor s / 1,000 items | Convoke is |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in [*shown, *([ceiling] if ceiling else [])]:
        same = ours.get(row.form) or next(iter(ours.values()), None)
        cells = [
            row.name, row.form, number(row.requests_per_s), number(row.items_per_s), number(row.p50_ms),
            number(row.p99_ms), f"{row.errors:,}", f"{row.memory_mib:,.0f}" if row.memory_mib else "",
            number(row.cpu_s_per_1000) if row.cpu_s_per_1000 else "", ratio(same, row),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratio(ours: Row | None, theirs: Row) -> str:
    """How many times as many items a second ours has."""
    if ours is None or not theirs.items_per_s:
        return "-"
    return f"{ours.items_per_s / theirs.items_per_s:.2f}x"


def other_tables(rows: Sequence[Row]) -> list[str]:
    """Lines of the tables of overloads, idleness and starts."""
    lines: list[str] = []
    for key, title in (("overload-digits", "digits"), ("overload-photo", "photos")):
        shown = [row for row in rows if row.workload == key]
        if shown:
            lines += [f"**Overload: {title} at twice the capacity, open loop**", "", *_overload_table(shown), ""]
    shown = [row for row in rows if row.workload in {"start", "idle"}]
    if shown:
        lines += ["**Start and rest**", "", *_rest_table(rows), ""]
    return lines


def _overload_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| | sent/s | accepted | p50 ms | p99 ms | 429 | with Retry-After | 429's p99 ms | other | lost | MiB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        more = row.more
        cells = [
            number(more["rate"]),
            *(f"{more[name]:,.0f}" for name in ("accepted", "accepted_p50_ms", "accepted_p99_ms")),
        ]
        cells += [
            f"{more[name]:,.0f}" for name in ("refused", "refused_with_retry_after", "refused_p99_ms", "other", "lost")
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.memory_mib:,.0f} |")
    return lines


def _rest_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| | start to ready, s | processor s of it | peak MiB, all processes | the largest | idle, % of a processor |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name in dict.fromkeys(row.name for row in rows if row.contender != CEILING):
        mine = {row.workload: row for row in rows if row.name == name}
        peak = max(row.memory_mib for row in mine.values())
        largest = max(row.largest_mib for row in mine.values())
        start = number(mine["start"].more["seconds"]) if "start" in mine else ""
        spent = number(mine["start"].cpu_s) if "start" in mine else ""
        idle = number(mine["idle"].more["percent"]) if "idle" in mine else ""
        lines.append(f"| {name} | {start} | {spent} | {peak:,.0f} | {largest:,.0f} | {idle} |")
    return lines
