"""The command line: its arguments, its exit status and its errors."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.manifest import read as read_manifest
from training.__main__ import main
from training.runs import run

ROOT = Path(__file__).parents[2]


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_the_commands() -> None:
    """`python -m training --help` exits with 0 and shows each command and how to use it."""
    done = python("-m", "training", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("data", "shapes", "train", "lr", "publish", "quantise", "compare", "inspect", "evaluate"):
        assert re.search(rf"^    {command} +\w", done.stdout, re.MULTILINE)
    assert "CONVOKE_DATA" in done.stdout


def test_shapes_are_printed_without_loading_torch() -> None:
    """The arithmetic of a recipe appears at once, since it does not import torch."""
    done = python(
        "-c",
        "import sys; from training.__main__ import main; main(['shapes', 'lenet']); sys.exit('torch' in sys.modules)",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "OH = (28 + 2*2 - 5)/1 + 1 = 28" in done.stdout
    assert done.stdout.endswith("62,026 parameters\n")


def test_an_error_ends_the_program_with_one_line_and_status_2() -> None:
    """A misspelt optimiser gives no traceback: one line on stderr that names both spellings, nothing on stdout."""
    done = python("-m", "training", "shapes", "lenet", "--set", "optimiser.name=adagrda")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match("error: lenet: optimiser.name: .*'adagrda'.*'adagrad'", done.stderr)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["shapes", "lenett"], r"'lenett'.*'lenet'"),
        (["shapes", "lenet", "--set", "epochs"], "KEY=VALUE"),
        (
            ["shapes", "lenet", "--set", "input.height=4", "--set", "input.framing=squash"],
            r"lenet: layers\[3\]: .*5",
        ),
        (["train", "--resume", "nowhere"], "nowhere: not a run"),
        (["publish", "nowhere"], "nowhere: not a run"),
        (["evaluate", "nowhere"], "nowhere/manifest.json"),
        (["quantise", "nowhere"], "nowhere/manifest.json"),
    ],
)
def test_an_error_of_the_user_is_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command exits with 2 and prints one line, `error: ` and what is wrong, before any other output."""
    assert main(args) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert re.search(message, output.err)
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "lenet", "--resume", "runs/lenet/1"],
        ["train", "--resume", "x", "--set", "epochs=1"],
    ],
)
def test_wrong_arguments_are_answered_with_the_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No command, an unknown command, or both a recipe and a run: status 2 and the usage."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert "usage: python -m training" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An interruption gives no traceback."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.recipe.shapes.table", interrupted)
    assert main(["shapes", "lenet"]) == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.usefixtures("use_stripes")
def test_a_recipe_is_trained_and_resumed_from_the_command_line(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train` prints the shapes, the folder and the next commands; `--resume` leaves a finished run as it is."""
    args = ["train", str(recipe_file), "--runs", str(tmp_path / "runs"), "--threads", "1", "--set", "epochs=2"]
    assert main(args) == 0
    output = capsys.readouterr()
    (folder,) = (tmp_path / "runs" / "mine").iterdir()
    assert run.recipe_of(folder).epochs == 2
    assert f"python -m training train --resume {folder}" in output.out
    assert f"python -m training publish {folder}" in output.out
    assert re.search(r"validation accuracy \d+\.\d\d% \(n = 30\)", output.out)
    lines = [line.split(":")[0] for line in output.err.splitlines() if line.startswith("epoch")]
    assert "baseline on the validation split" in output.err
    assert lines == ["epoch 1/2", "epoch 2/2"]
    assert re.search(r"^training +60 +20 +20 +20$", output.out, re.MULTILINE)
    before = (folder / "fit.pt").read_bytes()
    assert main(["train", "--resume", str(folder), "--threads", "1"]) == 0
    assert (folder / "fit.pt").read_bytes() == before
    assert "epoch" not in capsys.readouterr().err
    assert main(["train", "--resume", str(folder), "--epochs", "+1", "--threads", "1"]) == 0
    assert re.findall(r"^epoch \d/\d", capsys.readouterr().err, re.MULTILINE) == ["epoch 3/3"]
    assert main(["train", "--resume", str(folder), "--epochs", "2"]) == 2
    assert "3 epochs already" in capsys.readouterr().err


def test_what_cannot_be_trained_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set that is missing, other labels, a failure in the first epoch: one line, no folder, no `--resume`."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path / "nowhere"))
    runs = ["--runs", str(tmp_path / "runs"), "--threads", "1"]
    for more, message in (
        ([], f"{tmp_path}/nowhere.* python -m training data mnist"),
        (["--set", 'labels=["a","b","c","d","e","f","g","h","i","j"]'], "labels: .*missing: 0"),
    ):
        assert main(["train", "mlp", *runs, *more]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert re.search(message, output.err)
        assert output.err.count("\n") == 1
        assert not list(tmp_path.iterdir())


def test_recipe_and_data_are_checked_without_torch(tmp_path: Path) -> None:
    """A misspelt key and a missing data set are reported at once, since torch is not imported for them."""
    code = (
        "import os, sys; from training.__main__ import main; status = main(sys.argv[1:]); "
        "sys.exit(3 if 'torch' in sys.modules else status)"
    )
    (tmp_path / "data").mkdir()
    for override in ("optimiser.name=adma", "epochs=1"):
        done = subprocess.run(
            [sys.executable, "-c", code, "train", "lenet", "--set", override],
            cwd=ROOT,
            env={**os.environ, "CONVOKE_DATA": str(tmp_path / "data")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")


@pytest.mark.usefixtures("use_stripes")
def test_a_failure_in_the_first_epoch_leaves_no_run(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a checkpoint there is nothing to resume, so the folder goes; after an epoch it stays."""
    args = ["train", str(recipe_file), "--runs", str(tmp_path / "runs"), "--threads", "1"]
    assert main([*args, "--set", "optimiser.learning_rate=1e38"]) == 2
    assert "No epoch was finished" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "mine").exists()
    monkeypatch.setattr("training.runs.report.write", interrupted)
    assert main([*args, "--set", "epochs=1"]) == 130
    assert "all finished epochs are saved" in capsys.readouterr().out
    assert len(list((tmp_path / "runs" / "mine").iterdir())) == 1


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.data
@pytest.mark.usefixtures("mnist_folder")
def test_the_published_digits_have_the_accuracy_of_their_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    """models/digits/1 has at most 70,000 parameters and at least 99.3 % on the 10,000 test digits."""
    folder = ROOT / "models" / "digits" / "1"
    assert main(["evaluate", str(folder)]) == 0
    output = capsys.readouterr().out
    match = re.search(r"([\d,]+) parameters\n\n.* n = 10,000\n +accuracy +[\d.]+% \((\d+) of 10,000 wrong\)", output)
    assert match is not None
    parameters, mistakes = match.groups()
    assert int(parameters.replace(",", "")) <= 70_000
    accuracy = 1 - int(mistakes) / 10_000
    assert accuracy >= 0.993
    assert accuracy == pytest.approx(read_manifest(folder).test_metrics["mnist"].accuracy, abs=2e-4)
