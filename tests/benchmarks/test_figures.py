"""From the output of wrk to rows, tables, targets and the plot; and the program's arguments."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import load, measure, plot, serving, tables, targets
from benchmarks.contender import CONTENDERS, CONVOKE
from benchmarks.results import CEILING, Record, Row, best_ceiling, number
from benchmarks.server import BenchmarkError, Usage
from benchmarks.workloads import CLOSED

ABOUT = {
    "cpu": "a processor",
    "processors": 2,
    "python": "3.11",
    "seconds": 1,
    "passes": 3,
    "threads": 1,
    "precision": "float32",
    "load": 0.0,
}
WRK = (
    '{"requests": 1010, "duration_us": 2000000, "p50_us": 1500, "p99_us": 9000, "slowest_us": 20000, '
    '"bad_status": 10, "broken": 2}'
)


LOOPS = {loop.key: loop for loop in CLOSED}


def row(contender: str, workload: str, items_per_s: float, form: str = "raw body", **more: Any) -> Row:
    """A row with these figures, p50 10 ms and p99 20 ms."""
    base = Row(contender, contender.title(), form, workload, items_per_s, items_per_s, 10.0, 20.0)
    return replace(base, **more)


def test_the_output_of_wrk_is_parsed() -> None:
    """Successful responses per second, times in milliseconds, and errors: bad statuses and broken connections."""
    assert load.parse(f"Running 2s test\n\n{WRK}") == load.Load(500.0, 1.5, 9.0, 12, 1000, 20.0)


@pytest.mark.parametrize(("output", "code"), [("", 0), ("unable to connect", 1), (WRK, 1)])
def test_a_failure_of_wrk_is_reported(output: str, code: int) -> None:
    """Without its JSON, or with an exit code, the result is an error with the message of wrk."""
    with pytest.raises(BenchmarkError, match="the reason"):
        load.parse(output, "the reason", code)


def test_passes_become_medians() -> None:
    """Figures are medians of the passes, errors and processor time sums, and the spread is their range."""
    loads = [load.Load(speed, 1.0 * speed, 2.0 * speed, 1, int(speed), 3.0 * speed) for speed in (80, 120, 100)]
    usages = [Usage(cpu_s, 1, 1) for cpu_s in (0.1, 0.5, 0.2)]
    passes = [measure.Pass(*both) for both in zip(loads, usages, strict=True)]
    combined = measure.with_passes(row(CONVOKE, "many-4", 0, cpu_s=0.8), passes, 256)
    assert (combined.requests_per_s, combined.items_per_s) == (100, 25_600)
    assert (combined.p50_ms, combined.p99_ms, combined.slowest_ms) == (100, 200, 300)
    assert combined.requests_per_cpu_s == 500  # of 800, 240 and 500
    assert (combined.errors, combined.passes) == (3, [80, 120, 100])
    assert combined.spread == 0.4
    assert row(CONVOKE, "idle", 0).spread == 0


def test_bursts_compare_the_slowest_answers() -> None:
    """For connections that are opened at once, the lead is the peer's slowest answer divided by Convoke's."""
    rows = [
        row(CONVOKE, "burst-64", 100.0, slowest_ms=20.0),
        row("starlette", "burst-64", 100.0, slowest_ms=500.0),
        row(CEILING, "digits", 240.0, more={"threads": 1, "batch": 1}),
    ]
    leads = [line.rsplit("|", 2)[1].strip() for line in tables.table(rows, LOOPS["burst-64"])[2:]]
    assert leads == ["1.00x", "25.00x"]


def test_raw_digits_are_for_servers_that_take_binary_tensors() -> None:
    """A contender takes a workload in the formats that fit: tensors for raw digits, encoded items for the others."""
    takes = {key: [contender.key for contender in CONTENDERS if loop.forms(contender)] for key, loop in LOOPS.items()}
    assert takes["raw-16"] == [CONVOKE, "triton"]
    assert "triton" not in takes["digits-16"]
    assert {"starlette-batched", CONVOKE, "ray"} < set(takes["digits-16"])
    assert {"triton", CONVOKE, "ray"} < set(takes["many-4"])
    assert LOOPS["workers-review"].ceiling == LOOPS["review-16"].ceiling == "review"
    assert LOOPS["raw-64x4"].ceiling is None


def test_old_requests_are_removed(tmp_path: Path) -> None:
    """A folder holds the requests of one workload, and none of the previous workload."""
    load.write([b"a", b"b", b"c"], tmp_path)
    load.write([b"d"], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"0.request": b"d"}


def test_rows_are_saved_one_by_one(tmp_path: Path) -> None:
    """Each added row is in the file, and a run with the same settings resumes from it."""
    path = tmp_path / "runs/serving.json"
    record = Record(path, ABOUT)
    record.add(row(CONVOKE, "digits-16", 100))
    record.add(row(CONVOKE, "idle", 0, more={"percent": 0.5}))
    record.fail("ray", "did not start")
    assert json.loads(path.read_text())["failures"] == {"ray": "did not start"}
    resumed = Record(path, ABOUT)
    resumed.resume()
    assert resumed.rows == record.rows
    assert resumed.has(CONVOKE, "raw body", "digits-16")
    assert not resumed.has(CONVOKE, "multipart", "digits-16")
    for change in ({"seconds": 4}, {"precision": "int8"}):
        other = Record(path, {**ABOUT, **change})
        other.resume()
        assert other.rows == []


def test_ratios_compare_the_same_format() -> None:
    """A contender is compared with Convoke's row in the same request format, else with Convoke's first row."""
    rows = [
        row(CONVOKE, "digits-16", 120.0),
        row(CONVOKE, "digits-16", 80.0, "multipart"),
        row("fastapi", "digits-16", 40.0),
        row("fastapi", "digits-16", 40.0, "multipart"),
        row("litserve", "digits-16", 60.0, "base64 in JSON"),
        row("ray", "digits-16", 0.0),
        row(CEILING, "digits", 240.0, more={"threads": 1, "batch": 1}),
    ]
    ratios = [line.rsplit("|", 2)[1].strip() for line in tables.table(rows, LOOPS["digits-16"])[2:]]
    assert ratios == ["1.00x", "1.00x", "3.00x", "2.00x", "2.00x", "-", "0.50x"]


def test_the_ceiling_is_the_fastest_loop() -> None:
    """Of all loops over a family's items, on any number of threads."""
    slow, fast, single = (
        row(CEILING, "photo", speed, more={"threads": threads, "batch": 1})
        for speed, threads in ((5, 2), (9, 2), (7, 1))
    )
    rows = [slow, fast, single, row(CEILING, "review", 99, more={"threads": 2, "batch": 1}), row(CONVOKE, "photo", 50)]
    assert best_ceiling(rows, "photo") == fast
    assert best_ceiling(rows, "mix") is None


def verdicts(rows: list[Row]) -> dict[str, bool]:
    """Whether each target is met, by its name."""
    lines = targets.table(rows)[4:-1]
    return {line.split("|")[1].strip(): line.split("|")[4].strip() == "yes" for line in lines}


@pytest.mark.parametrize(("factor", "met"), [(1.01, True), (0.99, False)])
def test_targets_have_the_right_limits(factor: float, met: bool) -> None:
    """A figure slightly better than each limit meets the target, a slightly worse one does not."""
    rows = [
        *(row(CONVOKE, workload, 100.0 * factor, p99_ms=30 / factor) for workload in targets.SPEEDUPS),
        *(
            row(peer, workload, 100 / speedup)
            for workload, speedups in targets.SPEEDUPS.items()
            for peer, speedup in speedups.items()
        ),
        row(CONVOKE, "burst-64", 1, slowest_ms=50 / factor),
        row(CONVOKE, "burst-256", 1, slowest_ms=100 / factor),
        row(CONVOKE, "many-4", 90.0 * factor),
        row(CEILING, "many", 100.0, more={"threads": 1, "batch": 1}),
        row(CEILING, "many", 60.0, more={"threads": 2, "batch": 1}),
        row(CONVOKE, "photo-16", 90.0 * factor),
        row("fastapi", "photo-16", 90.0),
        row(CEILING, "photo", 100.0, more={"threads": 2, "batch": 1}),
        row(CONVOKE, "large-16", 40.0 * factor),
        row("fastapi", "large-16", 20.0),
        row(CONVOKE, "idle", 0, more={"percent": 1 / factor}),
        row(CONVOKE, "start", 0, more={"seconds": 3 / factor}, largest_mib=400 / factor),
        row("bentoml", "start", 0, more={"seconds": 3}),
    ]
    results = verdicts(rows)
    peers = sum(map(len, targets.SPEEDUPS.values()))
    assert len(results) == peers + 2 + 2 + 2 + 2 + 3  # p99 / p50, bursts, ceilings, fastest peers, idle, start, memory
    assert set(results.values()) == {met}


def overload(**change: float) -> Row:
    """An overload that meets its targets, changed."""
    more = {
        "rate": 9, "goodput": 0.95, "driver_late_p99_ms": 1, "sent": 9, "accepted": 5, "refused": 4,
        "refused_with_retry_after": 4, "lost": 0, "other": 0, "accepted_p50_ms": 90, "accepted_p99_ms": 900,
        "refused_p50_ms": 2, "refused_p99_ms": 9,
    }  # fmt: skip
    return row(CONVOKE, "overload-digits-4", 0, more={**more, **change})


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, None),
        ({"goodput": 0.89}, "goodput / capacity"),
        ({"accepted_p99_ms": 1501.0}, "p99 of accepted requests, ms"),
        ({"refused_p99_ms": 51.0}, "p99 of 429s, ms"),
        ({"refused_with_retry_after": 3.0}, "429s without Retry-After"),
        ({"lost": 1.0}, "lost or other errors"),
        ({"other": 1.0}, "lost or other errors"),
    ],
)
def test_an_overload_misses_the_right_target(change: dict[str, float], failed: str | None) -> None:
    """Each fault under overload misses its own target and no other."""
    results = verdicts([overload(**change)])
    assert [name.split(": ")[1] for name, met in results.items() if not met] == ([failed] if failed else [])


def test_the_report_is_complete(tmp_path: Path) -> None:
    """Tables of every kind of row, a warning about a disturbed machine, and the reasons of failed contenders."""
    record = Record(tmp_path / "serving.json", ABOUT)
    record.about["loops_per_s"] = {CONVOKE: 100.0, "ray": 50.0}
    for added in (row(CONVOKE, "digits-16", 100), overload(), row(CONVOKE, "idle", 0, more={"percent": 0.1})):
        record.add(added)
    record.fail("litserve", "its environment is missing")
    record.skip("triton", "no debootstrap")
    report = tables.report(record)
    for text in (
        "one digit, 16 connections",
        "Overload: digits at 4 times the capacity",
        "idle",
        "before ray, a loop ran at 50%",
        "is missing",
        "no debootstrap",
    ):
        assert text in report


def test_figures_keep_three_digits() -> None:
    """Small figures have three digits; large ones are whole, with commas."""
    assert [number(value) for value in (0.01234, 1.234, 99.94, 123.4, 12345.6)] == [
        "0.0123",
        "1.23",
        "99.9",
        "123",
        "12,346",
    ]


def test_the_plot_has_a_panel_for_each_workload(tmp_path: Path) -> None:
    """The PNG is larger for more workloads, also if a contender has no figures; without rows no file is written."""
    few = [row(CONVOKE, "digits-16", 100), row("ray", "digits-16", 10, errors=3)]
    many = [row(CONVOKE, workload.key, 50) for workload in CLOSED] + few[1:]
    many.append(row(CEILING, "digits", 200, more={"threads": 1, "batch": 1}))
    sizes = []
    for name, rows in (("few.png", few), ("many.png", many)):
        plot.draw(rows, ABOUT, tmp_path / name)
        with Image.open(tmp_path / name) as image:
            sizes.append(image.size)
    assert sizes[1][0] > 2 * sizes[0][0]
    assert sizes[1][1] > 2 * sizes[0][1]
    plot.draw([], ABOUT, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_missing_wrk_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without wrk the program exits before it starts a server, and says how to install wrk."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(load, "is_installed", lambda: False)
    assert serving.main() == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def test_missing_models_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder of models is an error that names the folder."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(load, "is_installed", lambda: True)
    monkeypatch.setenv("CONVOKE_MODELS", str(tmp_path))
    assert serving.main() == 1
    assert f"no model found in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--only", "convoke,nobody"], ["--workloads", "digit"], ["--seconds", "0"]])
def test_wrong_arguments_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown contender or workload, or no time at all, is refused with the value that is wrong."""
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit, match="2"):
        serving.main()
    assert arguments[1].split(",")[-1] in capsys.readouterr().err
