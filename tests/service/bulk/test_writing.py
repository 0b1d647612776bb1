"""Outputs as strangers have them: in use, of another model, on a full or read-only disk, after a mistake."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bulk.writing import Output, OutputError
from tests.drawing import encode, mnist_like
from tests.service.bulk.test_score import Run, digits, rows, run
from tests.serving import ROOT

__all__ = ["digits", "run"]  # fixtures


def test_two_runs_do_not_write_to_one_output(run: Run, digits: Path, tmp_path: Path) -> None:
    """The second one ends with a message and changes nothing; afterwards the output can be continued."""
    out = tmp_path / "out.csv"
    with Output(out).lock():
        status, text = run(digits, "--model", "digits", "--output", out)
    assert status == 2
    assert "another run" in text
    assert run(digits, "--model", "digits", "--output", out)[0] == 0
    assert len(rows(out)) == 10


def test_a_mistake_pins_nothing_and_leaves_nothing(run: Run, digits: Path, tmp_path: Path) -> None:
    """After a wrong input no file is left, and the output can be used for another model."""
    out = tmp_path / "out.csv"
    (tmp_path / "film.txt").write_text("Dull.")
    assert run(tmp_path / "nothing", "--model", "digits", "--output", out)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "film.txt"]
    assert run(tmp_path / "film.txt", "--model", "reviews", "--output", out)[0] == 0
    status, text = run(digits, "--model", "digits", "--output", out)
    assert status == 2
    assert "holds rows of reviews version" in text
    assert [row["label"] for row in rows(out)] == ["negative"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "film.txt", "out.csv"]


@pytest.mark.parametrize("name", ["file/out.csv", "file/folder", "/proc/out.csv", "/proc/folder"])
def test_an_output_that_cannot_be_made_is_named(run: Run, digits: Path, tmp_path: Path, name: str) -> None:
    """Below a file, or on a file system that refuses it."""
    (tmp_path / "file").write_text("mine")
    status, text = run(digits, "--model", "digits", "--output", tmp_path / name)
    assert status == 2
    assert Path(name).parent.name in text
    assert "--output" in text
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "x", folder], check=False).returncode:
        pytest.skip("a small disk needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_full_disk_loses_no_row(run: Run, small_disk: Path, tmp_path: Path, name: str) -> None:
    """The run ends with 2; with room again, the same command goes on, and each item has one row."""
    table = tmp_path / "texts.jsonl"
    table.write_text("".join(f'{{"x": "A fine film, number {number}."}}\n' for number in range(600)))
    fill = small_disk / "fill"
    fill.write_bytes(b"x" * (48 << 10))
    command = (table, "--model", "reviews", "--output", small_disk / name)
    status, text = run(*command)
    assert status == 2
    assert "No space left" in text
    assert not (small_disk / name).exists()
    fill.unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert run(*command)[0] == 0
    assert len({row["source"] for row in rows(small_disk / name)}) == len(rows(small_disk / name)) == 600


def test_it_needs_no_standard_input_and_stops_by_ctrl_c(digits: Path, tmp_path: Path) -> None:
    """With standard input closed it scores; Ctrl-C ends it with 130 and without a traceback."""
    out, fifo = tmp_path / "out.csv", tmp_path / "table.csv"
    command = [sys.executable, "-m", "service.score", "--model", "digits", "--output", str(out)]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command, str(digits)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    os.mkfifo(fifo)  # which it waits for
    process = subprocess.Popen([*command, str(fifo)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with fifo.open("wb"):  # it has opened the table
        process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in text
    assert "continues" in text


def test_thousands_of_tiny_files_of_one_content(run: Run, tmp_path: Path) -> None:
    """Each file has a row, and a second run has nothing to do."""
    folder = tmp_path / "many"
    folder.mkdir()
    data = [encode(mnist_like(digit)) for digit in range(2)]
    for number in range(3000):
        (folder / f"{number}.png").write_bytes(data[number % 2])
    out = tmp_path / "out.jsonl"
    assert run(folder, "--model", "digits", "--output", out)[0] == 0
    assert [row["label"] for row in rows(out)].count("1") == 1500
    assert "3,000 were scored before" in run(folder, "--model", "digits", "--output", out)[1]


def test_outputs_of_other_programs_are_refused(tmp_path: Path) -> None:
    """A state that is not ours, or damaged, is an error that names the folder."""
    folder = tmp_path / "out.csv.parts"
    folder.mkdir()
    for content in ("no", "[]", "{}"):
        (folder / "_score.json").write_text(content)
        (folder / "part-0.csv").write_text("id\n")
        with pytest.raises(OutputError, match=r"out\.csv"):
            Output(tmp_path / "out.csv").open({"model": "digits", "version": 1, "format": "csv"})


def test_a_folder_has_one_format(run: Run, digits: Path, tmp_path: Path) -> None:
    """Another --format is refused, since rows of the first one would be scored again."""
    assert run(digits, "--model", "digits", "--output", tmp_path / "folder", "--format", "csv")[0] == 0
    status, text = run(digits, "--model", "digits", "--output", tmp_path / "folder")
    assert status == 2
    assert "--format csv" in text
    assert len(Output(tmp_path / "folder", "csv").parts()) == 1
