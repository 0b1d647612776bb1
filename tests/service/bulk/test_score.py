"""`python -m service.score`: items of every kind, rows of every format, a kill, a moved file, a new version."""

import csv
import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service import score
from service.bulk import scoring
from service.bulk.reading import InputError, Item, Source
from service.bulk.writing import COLUMNS, Done, Output, OutputError, Row, schema
from service.settings import Settings
from tests.drawing import draw, encode, mnist_like
from tests.serving import ROOT, client

DIGITS = [encode(mnist_like(digit)) for digit in range(10)]
SMALL_PARTS = (
    "import service.bulk.scoring as s, service.score; s._PART_ROWS = 20; s._BATCH_IMAGES = 10; service.score.main()"
)
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command in this process, and returns its exit status and output."""
    monkeypatch.setenv("CONVOKE_PROVIDER", "cpu")

    def call(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["score", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            score.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    return call


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A folder of ten digits, in folders of their labels, beside a hidden file and one of another kind."""
    folder = tmp_path / "digits"
    for label, data in enumerate(DIGITS):
        (folder / str(label)).mkdir(parents=True)
        (folder / str(label) / "one.PNG").write_bytes(data)
    (folder / ".hidden.png").write_bytes(DIGITS[0])
    (folder / "notes.md").write_text("not an image")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, in the order of their sources."""
    return sorted(Output(path).rows(), key=lambda row: row["source"])


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet", "folder"])
def test_rows_are_those_of_the_service(run: Run, digits: Path, tmp_path: Path, name: str) -> None:
    """Each item has its label, score and scores as POST /classify gives them, in every format."""
    out = tmp_path / name
    status, text = run(digits, "--model", "digits", "--output", out)
    assert status == 0, text
    assert "10 rows" in text
    result = rows(out)
    send = client()
    for label, (row, data) in enumerate(zip(result, DIGITS, strict=True)):
        expected = send("POST", "/classify/digits", content=data).json()["predictions"][0]
        assert {key: row[key] for key in ("label", "score", "scores")} == expected
        assert (row["source"], row["version"], row["error"]) == (str(digits / str(label) / "one.PNG"), 1, None)
    assert run(digits, "--model", "digits", "--output", out)[0] == 0
    assert rows(out) == result
    assert not list(tmp_path.glob("*.parts"))


def test_errors_are_rows_and_make_the_status_1(run: Run, digits: Path, tmp_path: Path) -> None:
    """A damaged file, a blank one, one without permission and one that is too large do not hurt their neighbours."""
    for name, data in (("damaged", DIGITS[3][:60]), ("empty", b""), ("blank", encode(draw(1).point(lambda _: 255)))):
        (digits / f"{name}.png").write_bytes(data)
    (digits / "gone.png").symlink_to("nowhere")
    with (digits / "large.png").open("wb") as file:
        file.truncate((32 << 20) + 1)
    out = tmp_path / "out.jsonl"
    status, text = run(digits, "--model", "digits", "--output", out)
    errors = {Path(row["source"]).stem: row["error"] for row in rows(out) if row["error"]}
    assert status == 1
    assert set(errors) == {"damaged", "empty", "blank", "gone", "large"}
    assert errors["large"] == "too_large"
    assert all(code in text for code in errors.values())
    assert sum(row["label"] is not None for row in rows(out)) == 10
    assert run(digits, "--model", "digits", "--output", out)[0] == 1


def test_duplicates_keep_their_rows_and_new_items_get_one(run: Run, digits: Path, tmp_path: Path) -> None:
    """A row belongs to content: a moved file is not scored again, a copy is, once, and so is a new file."""
    out = tmp_path / "out.csv"
    assert run(digits, "--model", "digits", "--output", out)[0] == 0
    (digits / "7/one.PNG").rename(digits / "moved.png")
    shutil.copy(digits / "moved.png", digits / "copy.png")
    (digits / "new.png").write_bytes(encode(mnist_like(4), "GIF"))
    _, text = run(digits, "--model", "digits", "--output", out)
    assert "2 rows" in text
    assert "10 were scored before" in text
    assert len(rows(out)) == 12
    assert "0 rows" in run(digits, "--model", "digits", "--output", out)[1]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("content", ["texts", "paths", "bytes"])
def test_tables(run: Run, digits: Path, tmp_path: Path, form: str, content: str) -> None:
    """A column of texts, of paths relative to the table, or of bytes; an empty cell is a row with an error."""
    if content == "bytes" and form != "parquet":
        return
    cells: dict[str, list[Any]] = {
        "texts": ['A warm, funny film,\nwith a "quote".', "Dull.", None],
        "paths": ["digits/3/one.PNG", None],
    }
    values = cells.get(content) or [DIGITS[3], None]
    table = digits.parent / f"table.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"x": values, "n": range(len(values))}), table)
    elif form == "jsonl":
        table.write_text("".join(json.dumps({"n": 1, "x": value}) + "\n" for value in values))
    else:
        with table.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if form == "tsv" else ",")
            writer.writerows([("n", "x"), *((1, value) for value in values)])
    out, model = tmp_path / "out.jsonl", "reviews" if content == "texts" else "digits"
    status, text = run(table, "--model", model, "--output", out, "--column", "x")
    assert status == 1, text
    result = rows(out)
    assert [row["label"] for row in result[:-1]] == (["positive", "negative"] if content == "texts" else ["3"])
    assert result[-1]["error"]
    assert [row["source"] for row in result] == [f"{table}:{number}" for number in range(1, len(values) + 1)]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["nothing", "--model", "digits"], "nothing"),
        ([ROOT / "tests/service/bulk", "--model", "digits"], ".png"),
        (["table.csv", "--model", "reviews"], "'a', 'b'"),
        (["table.csv", "--model", "reviews", "--column", "c"], "'c'"),
        ([ROOT / "examples", "--model", "nothing"], "cats-vs-dogs, digits, reviews"),
        ([ROOT / "examples", "--model", "digits", "--version", "9"], "versions: 1"),
    ],
)
def test_mistakes_are_explained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[object], expected: str
) -> None:
    """The status is 2, and the message has what was expected."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    status, text = run(*args, "--output", tmp_path / "out.csv")
    assert status == 2
    assert expected in text


def test_an_output_of_something_else_is_kept(run: Run, tmp_path: Path) -> None:
    """A file or folder that this program has not written, and an unknown ending, are refused, unchanged."""
    (tmp_path / "out.csv").write_text("name,value\nx,1\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes").write_text("mine")
    for name in ("out.csv", "folder", "out.xlsx"):
        status, text = run(ROOT / "examples", "--model", "digits", "--output", tmp_path / name)
        assert status == 2
        assert name in text
    assert (tmp_path / "out.csv").read_text() == "name,value\nx,1\n"
    with pytest.raises(OutputError):
        Output(tmp_path / "out.csv", "parquet")


def test_the_version_is_pinned(
    run: Run, digits: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that appears later does not change an output, may not be chosen for it, and is that of a new one."""
    monkeypatch.setenv("CONVOKE_MODELS", str(version.parents[1]))
    out = tmp_path / "out.csv"
    assert run(digits / "1", "--model", "digits", "--output", out)[0] == 0
    second = Path(shutil.copytree(version, version.parent / "2"))
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    assert run(digits, "--model", "digits", "--output", out)[0] == 0
    assert {row["version"] for row in rows(out)} == {1}
    assert run(digits, "--model", "digits", "--output", out, "--version", "2")[0] == 2
    assert run(digits, "--model", "digits", "--output", tmp_path / "new.csv")[0] == 0
    assert {row["version"] for row in rows(tmp_path / "new.csv")} == {2}


def test_a_killed_run_continues(digits: Path, tmp_path: Path) -> None:
    """After kill -9 no row is lost or there twice, copies included, and what was written is not scored again."""
    for number in range(600):
        (digits / f"{number}.png").write_bytes(DIGITS[number % 10])
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-c", SMALL_PARTS, digits, "--model", "digits", "--output", out]
    process = subprocess.Popen([str(arg) for arg in command], cwd=ROOT, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.parquet.parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    before = list(Output(out).rows(("id",)))
    assert 0 < len(before) < 610
    done = subprocess.run([str(arg) for arg in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"{len(before)} were scored before" in done.stdout, done.stderr
    sources = [row["source"] for row in rows(out)]
    assert len(sources) == len(set(sources)) == 610


def test_a_run_that_is_killed_while_it_joins_has_no_row_twice(run: Run, digits: Path, tmp_path: Path) -> None:
    """The joined file is complete, but its parts are still there."""
    out = tmp_path / "out.csv"
    output = Output(out)
    pinned = output.open({"model": "digits", "version": 1, "format": "csv"})
    folder = scoring.find_version(Settings(models=ROOT / "models"), "digits")
    source = Source((str(digits),), scoring.manifest_of(folder).input)
    scoring.score(source, output, scoring.Scorer(folder, Settings(models=ROOT / "models", provider="cpu")))
    shutil.copytree(output.folder, tmp_path / "copy")
    output.finish(pinned, 10)
    shutil.copytree(tmp_path / "copy", output.folder)
    (output.folder / "_score.json").write_text(json.dumps({**pinned, "joining": 10}))
    assert run(digits, "--model", "digits", "--output", out)[0] == 0
    assert len(rows(out)) == 10


def test_each_row_counts_for_one_item() -> None:
    """Also those whose ids have bytes of 0 at the end of what is compared, which is one id in 256."""
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(300)]
    ids += [f"{name[:start]}{'0' * (32 - start)}{name[32:]}" for name in ids[:5] for start in (2, 28, 30, 31)]
    done = Done([*ids, ids[7]])
    assert all(done.take(name) for name in [*ids, ids[7]])
    assert not any(done.take(name) for name in ids)
    assert not Done([]).take(ids[0])


def test_the_limits_of_requests_do_not_stop_a_run(run: Run, digits: Path, tmp_path: Path) -> None:
    """How long requests wait, and how many items they hold, is about clients: files are never refused as too many."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_ITEMS", "1"), ("MAX_QUEUE_ITEMS", "1"), ("MAX_WAIT_S", "0.000001")):
            patch.setenv(f"CONVOKE_{name}", value)
        assert run(digits, "--model", "digits", "--output", tmp_path / "out.csv")[0] == 0


def test_an_item_on_which_the_model_fails_is_a_row_with_an_error() -> None:
    """Its neighbours in the batch have the rows that they have without it, whether decoding or running fails."""
    chosen = Settings(models=ROOT / "models", provider="cpu")
    scorer = scoring.Scorer(scoring.find_version(chosen, "digits"), chosen)
    batch = [(str(index), Item(f"{index}.png", data)) for index, data in enumerate(DIGITS)]
    good = scorer.predict(batch)
    preprocessor = scorer.version.preprocessor
    bad = preprocessor.decode(DIGITS[4])

    class Failing:
        def decode(self, data: Any) -> Any:
            if data == DIGITS[2]:
                raise RuntimeError("out of decoders")
            return preprocessor.decode(data)

        def run(self, session_run: Any, arrays: Any) -> Any:
            if any((array == bad).all() for array in arrays):
                raise RuntimeError("out of memory")
            return preprocessor.run(session_run, arrays)

    scorer.version = replace(scorer.version, preprocessor=Failing())  # type: ignore[arg-type]
    result = scorer.predict(batch)
    assert [row.error for row in result] == [
        "inference_failed" if index in {2, 4} else None for index in range(len(DIGITS))
    ]
    assert [row for row in result if not row.error] == [row for index, row in enumerate(good) if index not in {2, 4}]
    assert "out of memory" in str(result[4].message)


def test_a_full_disk_ends_the_run_with_what_to_do(run: Run, digits: Path, tmp_path: Path) -> None:
    """The exit status is 2, and the message says that the same command continues."""
    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(Output, "write", fail)
        status, text = run(digits, "--model", "digits", "--output", tmp_path / "out.csv")
    assert status == 2
    assert "No space left on device" in text
    assert "continues" in text
    assert run(digits, "--model", "digits", "--output", tmp_path / "out.csv")[0] == 0


def test_the_schema_does_not_depend_on_the_rows(tmp_path: Path) -> None:
    """A part whose rows have no error, or no label, has the types of every other part."""
    output = Output(tmp_path / "folder")
    output.open({})
    output.write([Row("0" * 64, "x", "m", 1, "a", 0.5, {"a": 0.5, "b": 0.5}, None, None)])
    output.write([Row("1" * 64, "y", "m", 1, None, None, None, "unreadable", "no")])
    parts = output.parts()
    assert len(parts) == 2
    assert all(pq.read_schema(part).equals(schema()) for part in parts)
    assert [list(row) for row in output.rows()] == [list(COLUMNS)] * 2


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_truncated_texts_say_so(run: Run, tmp_path: Path, form: str) -> None:
    """The row of a text that is longer than the model reads has the tokens that were read and of how many."""
    table, out = tmp_path / "table.jsonl", tmp_path / f"out.{form}"
    texts = ["A masterpiece.", "film " * 1500, "Dull."]
    table.write_text("".join(json.dumps({"x": text}) + "\n" for text in texts))
    assert run(table, "--model", "reviews", "--output", out)[0] == 0
    result = sorted(Output(out).rows(), key=lambda row: row["source"])
    assert [(row["tokens_read"], row["tokens"]) for row in result] == [(None, None), (1000, 1500), (None, None)]


def test_an_unreadable_table_is_named(tmp_path: Path) -> None:
    """A line that is not JSON, and a file that is not Parquet, are named with their path."""
    spec = scoring.manifest_of(ROOT / "models/reviews/2").input
    for name, content in (("x.jsonl", '{"a": 1}\n{'), ("x.parquet", "no")):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(InputError, match=name):
            list(Source((str(path),), spec, "a").items())


def test_progress_has_the_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on a terminal a line now and then; the rest of the time once the items are counted."""
    monkeypatch.setattr(score, "_REPORT_S", (0.0, 0.0))
    spec = scoring.manifest_of(ROOT / "models/digits/1").input
    progress = score.Progress(Source((str(ROOT / "examples"),), spec))
    deadline = time.monotonic() + 10
    while progress.total is None and time.monotonic() < deadline:
        time.sleep(0.01)
    progress(scoring.Summary(scored=1))
    assert "1 of 2 rows" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _no_columns() -> Iterator[None]:
    """Tests leave the limit of csv's cells as it is."""
    limit = csv.field_size_limit()
    yield
    csv.field_size_limit(limit)
