"""From the output of wrk to rows, tables, targets and the plot; and the program's arguments."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import load, plot, serving, tables, targets
from benchmarks.contender import CONVOKE
from benchmarks.results import CEILING, Record, Row, best_ceiling, number
from benchmarks.server import BenchmarkError
from benchmarks.workloads import CLOSED

ABOUT = {
    "cpu": "a processor",
    "processors": 2,
    "python": "3.11",
    "seconds": 1,
    "threads": 1,
    "precision": "float32",
    "load": 0.0,
}
WRK = '{"requests": 1010, "duration_us": 2000000, "p50_us": 1500, "p99_us": 9000, "bad_status": 10, "broken": 2}'


def row(contender: str, workload: str, items_per_s: float, form: str = "raw body", **more: Any) -> Row:
    """A row with these figures, p50 10 ms and p99 20 ms."""
    base = Row(contender, contender.title(), form, workload, items_per_s, items_per_s, 10.0, 20.0)
    return replace(base, **more)


def test_the_output_of_wrk_is_parsed() -> None:
    """Successful responses per second, times in milliseconds, and errors: bad statuses and broken connections."""
    assert load.parse(f"Running 2s test\n\n{WRK}") == load.Load(500.0, 1.5, 9.0, errors=12, succeeded=1000)


@pytest.mark.parametrize(("output", "code"), [("", 0), ("unable to connect", 1), (WRK, 1)])
def test_a_failure_of_wrk_is_reported(output: str, code: int) -> None:
    """Without its JSON, or with an exit code, the result is an error with the message of wrk."""
    with pytest.raises(BenchmarkError, match="the reason"):
        load.parse(output, "the reason", code)


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
    ratios = [line.rsplit("|", 2)[1].strip() for line in tables.table(rows, "digits-16", "digits")[2:]]
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
        row(CONVOKE, "digits-16", 100.0 * factor, p50_ms=10, p99_ms=30 / factor),
        row("bentoml", "digits-16", 20.0, "multipart"),
        row("litserve", "digits-16", 25.0, "base64 in JSON"),
        row("ray", "digits-16", 10.0),
        row("mlserver", "digits-16", 50.0, "JSON"),
        row("fastapi", "digits-16", 100 / 1.2),
        row("starlette", "digits-16", 100 / 0.9),
        row(CONVOKE, "many-4", 70.0 * factor),
        row(CEILING, "many", 100.0, more={"threads": 1, "batch": 1}),
        row(CEILING, "many", 60.0, more={"threads": 2, "batch": 1}),
        row(CONVOKE, "photo-16", 85.0 * factor),
        row("fastapi", "photo-16", 85.0),
        row(CEILING, "photo", 100.0, more={"threads": 2, "batch": 1}),
        row(CONVOKE, "large-16", 40.0 * factor),
        row("fastapi", "large-16", 20.0),
        row(CONVOKE, "idle", 0, more={"percent": 1 / factor}),
        row(CONVOKE, "start", 0, more={"seconds": 3 / factor}, largest_mib=400 / factor),
    ]
    results = verdicts(rows)
    assert len(results) == 14
    assert set(results.values()) == {met}


def overload(**change: float) -> Row:
    """An overload that meets its targets, changed."""
    more = {
        "rate": 9, "sent": 9, "accepted": 5, "refused": 4, "refused_with_retry_after": 4, "lost": 0, "other": 0,
        "accepted_p50_ms": 90, "accepted_p99_ms": 900, "refused_p50_ms": 2, "refused_p99_ms": 9,
    }  # fmt: skip
    return row(CONVOKE, "overload-digits", 0, more={**more, **change})


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, None),
        ({"accepted_p99_ms": 30_001.0}, "p99 of accepted requests, ms"),
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
    report = tables.report(record)
    for text in (
        "one digit, 16 connections",
        "Overload: digits",
        "idle",
        "before ray, a loop ran at 50%",
        "is missing",
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
