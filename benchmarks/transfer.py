"""Small sets of images: training from nothing beside a start from a published version's body.

    CONVOKE_DATA=data .venv/dev/bin/python -m benchmarks.transfer pets --counts 200 500
    .venv/dev/bin/python -m benchmarks.transfer flowers --counts 200

For each number of images and each seed, three recipes are trained: the one that `training new` writes, and two that
start from models/cats-vs-dogs/3, with its layers frozen or at a tenth of the learning rate. `pets` are photos of the
test split of cats-vs-dogs, which that version was not trained on: other photos, but the same question. `flowers` are
drawn with few and many petals: another question. Each is measured on 500 images that no network was trained on.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.results import markdown_table
from contract import processors
from training.data.folders import data_folder
from training.evaluation import metrics as evaluate
from training.network.build import normalise
from training.recipe import new, schema
from training.recipe.look import Options, look
from training.runs import run

ROOT = Path(__file__).resolve().parent.parent
VERSION = ROOT / "models" / "cats-vs-dogs" / "3"
TESTED = 500
WAYS: dict[str, dict[str, object]] = {
    "from nothing": {},
    "frozen body": {"freeze": True},
    "body at a tenth": {"body_rate": 0.1},
}
_PETALS = {"few": (3, 4, 5), "many": (8, 9, 10), "round": (0,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=["pets", "flowers"])
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 500, 1000], help="images to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=processors.count(), help="of the training (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = data_folder().resolve()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CONVOKE_CACHE"] = f"{scratch}/cache"
        os.chdir(scratch)
        for count in args.counts:
            folder = Path(f"{args.set}-{count}")
            (_pets if args.set == "pets" else _flowers)(source, folder, count)
            for way in args.ways:
                found = [_accuracy(folder, WAYS[way], seed) for seed in range(args.seeds)]
                print(json.dumps({"set": args.set, "images": count, "way": way, "accuracy": found}), flush=True)
                mean = statistics.mean(found)
                rows.append((str(count), way, f"{mean:.1%}", " ".join(f"{each:.1%}" for each in found)))
    print(*markdown_table(("images", "start", "mean", "seeds"), rows), sep="\n")


def _pets(source: Path, folder: Path, count: int) -> None:
    """Photos of the published test split, in folders for splits and classes."""
    for label in ("cat", "dog"):
        files = sorted((source / "cats-vs-dogs" / "test" / label).iterdir())
        for split, chosen in (("train", files[: count // 2]), ("test", files[-TESTED // 2 :])):
            (folder / split / label).mkdir(parents=True)
            for file in chosen:
                shutil.copyfile(file, folder / split / label / file.name)


def _flowers(_source: Path, folder: Path, count: int) -> None:
    """Drawn flowers of random colours on a spotted ground."""
    random = np.random.default_rng(0)
    for split, total in (("train", count), ("test", TESTED)):
        for number in range(total):
            label = list(_PETALS)[number % len(_PETALS)]
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            _flower(random, int(random.choice(_PETALS[label]))).save(folder / split / label / f"{number}.png")


def _flower(random: np.random.Generator, petals: int) -> Image.Image:
    """A flower with a number of petals, or a plain disc for none: 128 x 128 pixels."""
    ground = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)
    noise = random.normal(0, 20, (128, 128, 3))
    image = Image.fromarray((np.asarray(ground) * 0.6 + noise).clip(0, 255).astype(np.uint8))
    draw, colour = ImageDraw.Draw(image), tuple(random.integers(100, 256, 3).tolist())
    x, y, size = random.uniform(50, 78), random.uniform(50, 78), random.uniform(25, 45)
    turn = random.uniform(0, 2 * math.pi)
    for place in range(petals):
        angle, width = turn + place * 2 * math.pi / petals, size * min(2.2 / petals, 0.5)
        middle = x + math.cos(angle) * size * 0.6, y + math.sin(angle) * size * 0.6
        draw.ellipse([middle[0] - width, middle[1] - width, middle[0] + width, middle[1] + width], fill=colour)
    radius = size * (0.3 if petals else 0.8)
    fill = tuple(random.integers(100, 256, 3).tolist()) if petals else colour
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
    return image


def _accuracy(folder: Path, initialise: dict[str, object], seed: int) -> float:
    """The test accuracy of one training."""
    seen = look(folder, Options())
    recipe, _ = new.recipe("small", seen, [f"seed={seed}"])
    if initialise:
        source = json.loads((VERSION / "manifest.json").read_text(encoding="utf-8"))["recipe"]
        table = recipe.model_dump(exclude_defaults=True, exclude_none=True)
        layers = [*source["layers"][:-1], {"dense": len(seen.labels), "activation": "softmax"}]
        start = {"name": "version", "path": str(VERSION), **initialise}
        table |= {"layers": layers, "input": source["input"], "initialise": start}
        recipe = schema.parse(table)
    data = run.prepare(recipe)
    place = run.start(recipe, Path("runs"))
    run.train(place, data=data)
    network, _ = run.finished(place)
    (test,) = data.tests.values()
    with torch.inference_mode():
        logits = evaluate.logits(network, normalise(recipe), test)
    return float((logits.argmax(dim=1) == test.labels).double().mean())


if __name__ == "__main__":
    main()
