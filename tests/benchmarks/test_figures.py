"""From what drivers print to rows, tables, bars and the plot; and the program's own words."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import bars, load, plot, serving, tables
from benchmarks.contender import OURS
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
    """A row with these figures, and times that are even."""
    plain = Row(contender, contender.title(), form, workload, items_per_s, items_per_s, 10.0, 20.0)
    return replace(plain, **more)


def test_wrk_s_line_is_read() -> None:
    """Good answers a second, times in milliseconds, and errors: bad statuses and broken connections."""
    assert load.parse(f"Running 2s test\n\n{WRK}") == load.Load(500.0, 1.5, 9.0, errors=12, good=1000)


@pytest.mark.parametrize(("output", "code"), [("", 0), ("unable to connect", 1), (WRK, 1)])
def test_what_wrk_complains_of_is_told(output: str, code: int) -> None:
    """Without its line, or with an exit code, there is no figure but an error with what wrk said."""
    with pytest.raises(BenchmarkError, match="it said so"):
        load.parse(output, "it said so", code)


def test_requests_are_written_anew(tmp_path: Path) -> None:
    """A folder holds the requests of one workload, and none of the one before."""
    load.write([b"a", b"b", b"c"], tmp_path)
    load.write([b"d"], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"0.request": b"d"}


def test_rows_are_kept_as_they_come(tmp_path: Path) -> None:
    """Each row is in the file once it is added, and a run of as many seconds goes on from there."""
    path = tmp_path / "runs/serving.json"
    record = Record(path, ABOUT)
    record.add(row(OURS, "digits-16", 100))
    record.add(row(OURS, "idle", 0, more={"percent": 0.5}))
    record.fail("ray", "it does not start")
    assert json.loads(path.read_text())["failures"] == {"ray": "it does not start"}
    again = Record(path, ABOUT)
    again.resume()
    assert again.rows == record.rows
    assert again.has(OURS, "raw body", "digits-16")
    assert not again.has(OURS, "multipart", "digits-16")
    for change in ({"seconds": 4}, {"precision": "int8"}):
        other = Record(path, {**ABOUT, **change})
        other.resume()
        assert other.rows == []


def test_ratios_compare_the_same_form() -> None:
    """A contender stands beside our row of its own form where there is one, else beside our first."""
    rows = [
        row(OURS, "digits-16", 120.0),
        row(OURS, "digits-16", 80.0, "multipart"),
        row("fastapi", "digits-16", 40.0),
        row("fastapi", "digits-16", 40.0, "multipart"),
        row("litserve", "digits-16", 60.0, "base64 in JSON"),
        row("ray", "digits-16", 0.0),
        row(CEILING, "digits", 240.0, more={"threads": 1, "batch": 1}),
    ]
    ends = [line.rsplit("|", 2)[1].strip() for line in tables.table(rows, "digits-16", "digits")[2:]]
    assert ends == ["1.00x", "1.00x", "3.00x", "2.00x", "2.00x", "-", "0.50x"]


def test_the_ceiling_is_the_fastest_loop_on_as_many_threads() -> None:
    """Of all loops over a family's items, or of those on so many threads."""
    slow, fast, one = (
        row(CEILING, "photo", speed, more={"threads": threads, "batch": 1})
        for speed, threads in ((5, 2), (9, 2), (7, 1))
    )
    rows = [slow, fast, one, row(CEILING, "review", 99, more={"threads": 2, "batch": 1}), row(OURS, "photo", 50)]
    assert best_ceiling(rows, "photo") == fast
    assert best_ceiling(rows, "mix") is None


def verdicts(rows: list[Row]) -> dict[str, bool]:
    """Whether each bar is met, by its words."""
    lines = bars.lines(rows)[4:-1]
    return {line.split("|")[1].strip(): line.split("|")[4].strip() == "yes" for line in lines}


@pytest.mark.parametrize(("factor", "met"), [(1.01, True), (0.99, False)])
def test_bars_lie_where_they_should(factor: float, met: bool) -> None:
    """A hair above each ratio is met, a hair below is not."""
    rows = [
        row(OURS, "digits-16", 100.0 * factor, p50_ms=10, p99_ms=30 / factor),
        row("bentoml", "digits-16", 20.0, "multipart"),
        row("litserve", "digits-16", 25.0, "base64 in JSON"),
        row("ray", "digits-16", 10.0),
        row("mlserver", "digits-16", 50.0, "JSON"),
        row("fastapi", "digits-16", 100 / 1.2),
        row("starlette", "digits-16", 100 / 0.9),
        row(OURS, "many-4", 70.0 * factor),
        row(CEILING, "many", 100.0, more={"threads": 1, "batch": 1}),
        row(CEILING, "many", 60.0, more={"threads": 2, "batch": 1}),
        row(OURS, "photo-16", 85.0 * factor),
        row("fastapi", "photo-16", 85.0),
        row(CEILING, "photo", 100.0, more={"threads": 2, "batch": 1}),
        row(OURS, "large-16", 40.0 * factor),
        row("fastapi", "large-16", 20.0),
        row(OURS, "idle", 0, more={"percent": 1 / factor}),
        row(OURS, "start", 0, more={"seconds": 3 / factor}, largest_mib=400 / factor),
    ]
    found = verdicts(rows)
    assert len(found) == 14
    assert set(found.values()) == {met}


def overload(**change: float) -> Row:
    """An overload that meets its bars, changed."""
    more = {
        "rate": 9, "sent": 9, "accepted": 5, "refused": 4, "refused_with_retry_after": 4, "lost": 0, "other": 0,
        "accepted_p50_ms": 90, "accepted_p99_ms": 900, "refused_p50_ms": 2, "refused_p99_ms": 9,
    }  # fmt: skip
    return row(OURS, "overload-digits", 0, more={**more, **change})


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, None),
        ({"accepted_p99_ms": 30_001.0}, "accepted p99, ms"),
        ({"refused_p99_ms": 51.0}, "429's p99, ms"),
        ({"refused_with_retry_after": 3.0}, "429 without Retry-After"),
        ({"lost": 1.0}, "lost or failed otherwise"),
        ({"other": 1.0}, "lost or failed otherwise"),
    ],
)
def test_an_overload_fails_where_it_should(change: dict[str, float], failed: str | None) -> None:
    """Each thing that may go wrong under overload fails the bar that is meant for it, and that alone."""
    found = verdicts([overload(**change)])
    assert [words.split(": ")[1] for words, met in found.items() if not met] == ([failed] if failed else [])


def test_the_report_has_it_all(tmp_path: Path) -> None:
    """Tables of every kind of row, a warning of a machine that was not quiet, and who was not measured and why."""
    record = Record(tmp_path / "serving.json", ABOUT)
    record.about["loops_per_s"] = {OURS: 100.0, "ray": 50.0}
    for one in (row(OURS, "digits-16", 100), overload(), row(OURS, "idle", 0, more={"percent": 0.1})):
        record.add(one)
    record.fail("litserve", "its environment is not there")
    report = tables.report(record)
    for words in (
        "one digit, 16 connections",
        "Overload: digits",
        "idle",
        "before ray a loop ran at 50%",
        "Not measured: its",
    ):
        assert words in report


def test_figures_keep_three_digits() -> None:
    """Small figures to three digits, large ones whole, with commas."""
    assert [number(value) for value in (0.01234, 1.234, 99.94, 123.4, 12345.6)] == [
        "0.0123",
        "1.23",
        "99.9",
        "123",
        "12,346",
    ]


def test_the_plot_has_a_panel_a_workload(tmp_path: Path) -> None:
    """A PNG is drawn, larger for more workloads, also where a contender has no figures; nothing of nothing."""
    few = [row(OURS, "digits-16", 100), row("ray", "digits-16", 10, errors=3)]
    many = [row(OURS, workload.key, 50) for workload in CLOSED] + few[1:]
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


def test_a_missing_wrk_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without wrk the program ends before anything starts, and says how to install it."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(load, "is_installed", lambda: False)
    assert serving.main() == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def test_models_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder of models is an error in words."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(load, "is_installed", lambda: True)
    monkeypatch.setenv("CONVOKE_MODELS", str(tmp_path))
    assert serving.main() == 1
    assert "there is no model" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--only", "convoke,nobody"], ["--workloads", "digit"], ["--seconds", "0"]])
def test_what_cannot_be_asked_for_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contender or workload that is not known, and no time at all, are refused with what there is."""
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit, match="2"):
        serving.main()
    assert words[1].split(",")[-1] in capsys.readouterr().err
