"""The training speed of `alexnet`, in photos per second, beside the usual script.

    .venv/train/bin/python -m benchmarks.training        # or: make bench-training

The usual script: ImageFolder, a DataLoader with one worker for each processor, torchvision's transforms, float32, and
the same network, batch size, resolution, augmentation and optimiser. Then the parts of Convoke's recipe are added step
by step. Each is measured in several passes, in alternation, since machines drift: the figure is the median. Uses real
photos if CONVOKE_DATA has the data set, else drawn ones. Saves the figures as JSON.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean, median

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.results import markdown_table
from contract import processors
from contract.inputs import image_to_pixels
from training.data.folders import data_folder
from training.data.schema import Image
from training.fit.augment import augment
from training.fit.optimise import optimiser
from training.fit.precision import layout, prepare, resolve
from training.fit.state import average_of
from training.network.build import Normalise, build
from training.recipe import schema as recipes
from training.recipe.schema import Recipe

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to train: what it adds to the previous variant, and photos per second in each pass."""

    name: str
    rates: list[float]

    @property
    def images_per_s(self) -> float:
        return median(self.rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1280, help="photos for each measurement (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=processors.count(), help="torch's threads (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-training.json"), help="output file (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = recipes.load("alexnet")
    with tempfile.TemporaryDirectory() as scratch:
        root = data_folder() / "cats-vs-dogs" / "train"
        is_drawn = not (root / "cat").is_dir()
        if is_drawn:
            root = _draw(Path(scratch), args.photos)
        variants = _measure_all(recipe, root, args.photos, args.passes)
    source = f"{args.photos} {'drawn' if is_drawn else 'real'} photos"
    print(f"alexnet, {recipe.input.height} px, batch {recipe.batch_size}, {args.threads} threads, {source}\n")  # type: ignore[union-attr]
    usual = variants[0].images_per_s
    cells = [
        (
            variant.name,
            f"{variant.images_per_s:.0f}",
            f"{min(variant.rates):.0f} to {max(variant.rates):.0f}",
            f"{variant.images_per_s / usual:.1f}x",
        )
        for variant in variants
    ]
    print(*markdown_table(("training", "images/s", "spread", "compared with the usual script"), cells), sep="\n")
    record = {
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "photos": source,
        "images_per_s": {variant.name: variant.images_per_s for variant in variants},
        "passes": {variant.name: variant.rates for variant in variants},
    }
    args.out.write_text(json.dumps(record, indent=2))


def _measure_all(recipe: Recipe, root: Path, count: int, passes: int) -> list[Variant]:
    spec = recipe.input
    assert isinstance(spec, Image)
    data = ImageFolder(str(root), _usual_transforms(recipe, spec))
    chosen = np.random.default_rng(0).permutation(len(data))[:count].tolist()
    loader: DataLoader[Batch] = DataLoader(
        Subset(data, chosen), int(recipe.batch_size), shuffle=True, num_workers=processors.count(), drop_last=True
    )
    usual = _Trainer(recipe)
    ways: dict[str, Callable[[], float]] = {"the usual script": lambda: _rate(usual, lambda: iter(loader))}
    stored = spec.served(recipe.data.stored_side)
    start = time.perf_counter()
    paths = [Path(data.samples[index][0]) for index in chosen]
    images = torch.stack([torch.tensor(image_to_pixels(path.read_bytes(), stored)) for path in paths])  # (N, H, W, 3)
    decode_s = time.perf_counter() - start
    labels = torch.tensor([data.samples[index][1] for index in chosen])
    print(f"decoding once: {len(paths) / decode_s:.0f} photos/s on one thread, {decode_s:.1f} s in total")

    def batches(side: int, *, channels_last: bool) -> Callable[[], Iterator[Batch]]:
        return lambda: _batches(recipe, images, labels, channels_last=channels_last, side=side)

    def add(name: str, train: _Trainer, *sides: int, channels_last: bool = True) -> None:
        """Add a variant; with several sides, each has the same number of epochs."""
        ways[name] = lambda: harmonic_mean(_rate(train, batches(side, channels_last=channels_last)) for side in sides)

    add("+ photos decoded once, whole batches augmented at once", _Trainer(recipe), spec.height, channels_last=False)
    add("+ channels last", _Trainer(recipe, channels_last=True), spec.height)
    fastest = _Trainer(recipe, channels_last=True)
    if resolve(recipe, torch.device("cpu")) == "bfloat16":
        fastest = _Trainer(recipe, channels_last=True, bfloat16=True)
        add("+ bfloat16", fastest, spec.height)
    else:
        print("bfloat16 is slower than float32 on this processor, so a run would not use it")
    add(f"+ progressive resolution {recipe.resolutions}", fastest, *(recipe.resolutions or [spec.height]))
    variants = [Variant(name, []) for name in ways]
    for _ in range(passes):
        for variant in variants:
            variant.rates.append(ways[variant.name]())
    return variants


class _Trainer:
    """A network and its optimiser; a call does one training step."""

    def __init__(self, recipe: Recipe, *, channels_last: bool = False, bfloat16: bool = False) -> None:
        torch.manual_seed(0)
        self._recipe, self._bfloat16 = recipe, bfloat16
        self._network = build(recipe)
        if channels_last:
            prepare(self._network, recipe, torch.device("cpu"))
        self._network.train()
        self._optimiser = optimiser(recipe.optimiser, self._network.parameters())
        self._average = average_of(self._network, 0.998)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            outputs = self._network(images)
        loss = F.cross_entropy(outputs.float(), labels, label_smoothing=self._recipe.loss.label_smoothing)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._average.update_parameters(self._network)


def _rate(train: _Trainer, batches: Callable[[], Iterator[Batch]]) -> float:
    """Photos per second over one epoch, after two warm-up steps; includes the loader's start, as in every epoch."""
    for _, batch in zip(range(2), batches(), strict=False):
        train(*batch)
    start, count = time.perf_counter(), 0
    for images, labels in batches():
        train(images, labels)
        count += len(labels)
    return count / (time.perf_counter() - start)


def _usual_transforms(recipe: Recipe, spec: Image) -> Callable[[Pillow.Image], Tensor]:
    settings = recipe.augment
    transform: Callable[[Pillow.Image], Tensor] = transforms.Compose(
        [
            transforms.RandomResizedCrop(spec.height, scale=(settings.crop, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(settings.rotate_deg),
            transforms.ColorJitter(0.2, 0.2, 0.1),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    return transform


def _batches(recipe: Recipe, images: Tensor, labels: Tensor, *, channels_last: bool, side: int) -> Iterator[Batch]:
    assert isinstance(recipe.input, Image)
    scale, size = Normalise(recipe.input.mean, list(recipe.input.std)), int(recipe.batch_size)
    for chosen in torch.randperm(len(labels)).split(size)[: len(labels) // size]:  # type: ignore[no-untyped-call]
        pixels = images[chosen].permute(0, 3, 1, 2).to(torch.float32)  # (N, H, W, 3) -> (N, 3, H, W)
        batch = augment(pixels, recipe.augment, size=(side, side), scale=scale.scaled)
        yield layout(batch, recipe) if channels_last else batch.contiguous(), labels[chosen]


def _draw(root: Path, count: int) -> Path:
    """Write JPEGs of 500 x 375 pixels, as large as the data set's: coloured clouds with noise."""
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Pillow.fromarray(coarse).resize((500, 375), Pillow.Resampling.BICUBIC)
        noisy = np.asarray(image, np.int16) + random.integers(-12, 13, (375, 500, 3))
        path = root / ("cat", "dog")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=85)
    return root


if __name__ == "__main__":
    main()
