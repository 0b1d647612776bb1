"""From a stranger's data to a served version: the seconds of each command, and the accuracy beside a linear model.

    CONVOKE_DATA=data .venv/dev/bin/python -m benchmarks.own_data photos     # 1,000 photos in two class folders
    CONVOKE_DATA=data .venv/dev/bin/python -m benchmarks.own_data texts      # a CSV with 5,000 film reviews

Runs the commands of docs/own-data.md as they are, in a folder of their own, with the photos of cats-vs-dogs or the
reviews of IMDB as somebody would have them. The linear model is logistic regression by scikit-learn on the same split:
over pixels of 32 x 32, or over TF-IDF.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F  # noqa: N812 -- its usual name
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.results import markdown_table
from contract import processors
from contract.manifest import read as read_manifest
from training.data import catalogue
from training.data.dataset import Split
from training.data.folders import data_folder
from training.evaluation.linear import LinearBaseline
from training.evaluation.metrics import baseline
from training.recipe import schema

ROOT = Path(__file__).resolve().parent.parent
PHOTOS, TEXTS = 1000, 5000
_DEADLINE_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["photos", "texts"])
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--threads", type=int, default=processors.count(), help="of the training (default: all)")
    args = parser.parse_args()
    source = data_folder().resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {"PYTHONPATH": str(ROOT), "CONVOKE_CACHE": str(folder / "cache")}
        name, item = _photos(source, folder) if args.kind == "photos" else _reviews(source, folder)
        os.chdir(folder)
        _measure(name, item, args.threads)


def _photos(source: Path, folder: Path) -> tuple[str, Path]:
    """Copy photos into a folder for each class; and one more, which is asked about in the end."""
    for label in ("cat", "dog"):
        (folder / "pets" / label).mkdir(parents=True)
        files = sorted((source / "cats-vs-dogs" / "train" / label).iterdir())[: PHOTOS // 2]
        for file in files:
            shutil.copyfile(file, folder / "pets" / label / file.name)
    return "pets", next((source / "cats-vs-dogs" / "test" / "dog").iterdir())


def _reviews(source: Path, folder: Path) -> tuple[str, Path]:
    """Write reviews of the training part as a table; and one of the test part."""
    rows: dict[str, list[str]] = {"pos": [], "neg": []}
    with tarfile.open(source / "imdb" / "aclImdb_v1.tar.gz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if len(parts) == 4 and parts[1] == "train" and parts[2] in rows:  # noqa: PLR2004 -- aclImdb/train/pos/ID
                content = archive.extractfile(member)
                if content is not None and len(rows[parts[2]]) < TEXTS // 2:
                    rows[parts[2]].append(content.read().decode())
            if all(len(each) == TEXTS // 2 for each in rows.values()):
                break
    with (folder / "films.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        writer.writerows(
            (text, label) for pair in zip(*rows.values(), strict=True) for text, label in zip(pair, rows, strict=True)
        )
    (folder / "new.txt").write_text("A warm, funny film that earns every one of its tears.", encoding="utf-8")
    return "films.csv", folder / "new.txt"


def _measure(source: str, item: Path, threads: int) -> None:
    """Run the commands, then print their seconds and the accuracies."""
    name = source.partition(".")[0]
    python = [sys.executable, "-m"]
    rows: list[tuple[str, ...]] = []

    def step(title: str, work: Callable[[], object]) -> None:
        before, start = _processor_s(), time.perf_counter()
        work()
        rows.append((title, f"{time.perf_counter() - start:.0f}", f"{_processor_s() - before:.0f}"))

    def command(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([*python, "training", *arguments], check=True)

    step(f"new {name} {source}", command("new", name, source))
    step(f"train recipes/{name}.toml", command("train", f"recipes/{name}.toml", "--threads", str(threads)))
    (run,) = Path("runs", name).iterdir()
    step(f"publish runs/{name}/TIME", command("publish", str(run)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path("service.log").open("wb")  # noqa: SIM115 -- the server writes to it until it is stopped
    server = subprocess.Popen(
        [*python, "service", "--port", str(port)],
        env={**os.environ, "CONVOKE_MODELS": "models"}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        step("start the service", lambda: _await_ready(port))
        kind = "image/jpeg" if item.suffix == ".jpg" else "text/plain"
        url = f"http://127.0.0.1:{port}/classify/{name}"
        step(
            "curl",
            lambda: subprocess.run(
                ["curl", "--fail", "--silent", "--data-binary", f"@{item}", "-H", f"Content-Type: {kind}", url],
                check=True,
            ),
        )
    finally:
        server.terminate()
        server.wait(30)
        log.close()
    print("\n", *markdown_table(("command", "s", "processor s"), rows), *_accuracies(name), sep="\n")


def _processor_s() -> float:
    """Processor time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return
        time.sleep(0.05)
    raise SystemExit("the service is not ready; see service.log")


def _accuracies(name: str) -> list[str]:
    """The accuracy of the version on its test split, and of what is simpler on the same split."""
    manifest = read_manifest(Path("models", name, "1"))
    recipe = schema.load(f"recipes/{name}.toml")
    data = catalogue.load(recipe.data, recipe.input, recipe.labels)
    (test,) = data.tests.values()
    (metrics,) = manifest.test_metrics.values()
    linear = LinearBaseline(data.train).accuracy(test) if data.tokenizer else _linear_of_pixels(data.train, test)
    figures = {"n": metrics.n, "network": metrics.accuracy, "logistic regression": linear}
    return [json.dumps({**figures, "largest class": baseline(test.labels)}), f"epochs: {recipe.epochs}"]


def _linear_of_pixels(train: Split, test: Split) -> float:
    """The test accuracy of logistic regression over the images in 32 x 32 pixels."""
    scaler = StandardScaler()
    model = LogisticRegression(C=0.001, max_iter=500).fit(scaler.fit_transform(_pixels(train.inputs)), train.labels)
    return float(np.mean(model.predict(scaler.transform(_pixels(test.inputs))) == test.labels.numpy()))


def _pixels(images: Tensor) -> npt.NDArray[np.float32]:
    small = F.interpolate(images.permute(0, 3, 1, 2).float(), (32, 32), mode="area")
    pixels: npt.NDArray[np.float32] = small.flatten(1).numpy()
    return pixels


if __name__ == "__main__":
    main()
