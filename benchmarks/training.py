"""How many photos a second `alexnet` trains on, beside the script that everyone writes first.

    .venv/train/bin/python -m benchmarks.training        # or: make bench-training (not by its path: it is called as
                                                         # the package that it measures)

The usual script: ImageFolder, a DataLoader with a worker a processor, torchvision's transforms, float32; same network,
batch size, resolution, augmentation and optimiser. Then the parts of Convoke's recipe are switched on one after the
other. Real photos where the data set lies in CONVOKE_DATA, drawn ones elsewhere. Saves the figures as JSON.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from PIL import Image as Pillow
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from training.data import photos
from training.data.dataset import folder
from training.data.schema import Image
from training.fit.augment import augment
from training.fit.optimise import optimiser
from training.fit.precision import layout, prepare
from training.network.build import build, normalise
from training.recipe import schema as recipes
from training.recipe.schema import Recipe

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Contender:
    """One way to train: what it adds to the one above it, and photos a second."""

    name: str
    images_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1280, help="photos a measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processor threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-training.json"), help="where the figures go")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    recipe = recipes.load("alexnet")
    with tempfile.TemporaryDirectory() as scratch:
        root = folder() / "cats-vs-dogs" / "train"
        drawn = not (root / "cat").is_dir()
        if drawn:
            root = _draw(Path(scratch), words.photos)
        found = _measure_all(recipe, root, words.photos)
    what = f"{words.photos} {'drawn' if drawn else 'real'} photos"
    print(f"alexnet, {recipe.input.height} px, batch {recipe.batch_size}, {words.threads} threads, {what}\n")  # type: ignore[union-attr]
    print("| training | images/s | beside the usual script |\n| --- | --- | --- |")
    for one in found:
        print(f"| {one.name} | {one.images_per_s:.0f} | {one.images_per_s / found[0].images_per_s:.1f}x |")
    record = {"machine": platform.processor() or platform.machine(), "threads": words.threads, "photos": what}
    words.out.write_text(
        json.dumps({**record, "images_per_s": {one.name: one.images_per_s for one in found}}, indent=2)
    )


def _measure_all(recipe: Recipe, root: Path, count: int) -> list[Contender]:
    spec = recipe.input
    assert isinstance(spec, Image)
    data = ImageFolder(str(root), _usual_transforms(recipe, spec))
    chosen = np.random.default_rng(0).permutation(len(data))[:count].tolist()
    loader: DataLoader[Batch] = DataLoader(
        Subset(data, chosen), int(recipe.batch_size), shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True
    )
    found = [Contender("the usual script", _rate(_Trainer(recipe), lambda: iter(loader)))]
    side = recipe.data.stored_side
    files = [photos.Photo(Path(data.samples[i][0]), data.samples[i][1], str(i)) for i in chosen]
    began = time.perf_counter()
    pictures = torch.stack([torch.tensor(_decode(file, photos.contract_of(spec, side))) for file in files])
    decode_s = time.perf_counter() - began
    labels = torch.tensor([file.label for file in files])
    print(f"decoding once: {len(files) / decode_s:.0f} photos/s on one thread, {decode_s:.1f} s in all")

    def batches(at: int, *, last: bool) -> Callable[[], Iterator[Batch]]:
        return lambda: _batches(recipe, pictures, labels, channels_last=last, side=at)

    plain = _Trainer(recipe)
    found.append(
        Contender("+ photos decoded once, batches augmented whole", _rate(plain, batches(spec.height, last=False)))
    )
    wide = _Trainer(recipe, channels_last=True)
    found.append(Contender("+ channels last", _rate(wide, batches(spec.height, last=True))))
    mixed = _Trainer(recipe, channels_last=True, bfloat16=True)
    found.append(Contender("+ bfloat16", _rate(mixed, batches(spec.height, last=True))))
    rates = [_rate(mixed, batches(at, last=True)) for at in recipe.resolutions or [spec.height]]
    mean = len(rates) / sum(1 / rate for rate in rates)  # equal shares of the epochs
    found.append(Contender(f"+ progressive resolution {recipe.resolutions}", mean))
    return found


class _Trainer:
    """A network with its optimiser; a call is one step."""

    def __init__(self, recipe: Recipe, *, channels_last: bool = False, bfloat16: bool = False) -> None:
        torch.manual_seed(0)
        self._recipe, self._bfloat16 = recipe, bfloat16
        self._network = build(recipe)
        if channels_last:
            prepare(self._network, recipe, torch.device("cpu"))
        self._network.train()
        self._optimiser = optimiser(recipe.optimiser, self._network.parameters())
        self._average = AveragedModel(self._network, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)  # type: ignore[no-untyped-call]

    def __call__(self, pictures: Tensor, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            outputs = self._network(pictures)
        loss = F.cross_entropy(outputs.float(), labels, label_smoothing=self._recipe.loss.label_smoothing)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._average.update_parameters(self._network)


def _rate(train: _Trainer, batches: Callable[[], Iterator[Batch]]) -> float:
    """Photos a second over one pass, after two steps that warm up; the loader's start counts, as in every epoch."""
    for _, batch in zip(range(2), batches(), strict=False):
        train(*batch)
    began, seen = time.perf_counter(), 0
    for pictures, labels in batches():
        train(pictures, labels)
        seen += len(labels)
    return seen / (time.perf_counter() - began)


def _usual_transforms(recipe: Recipe, spec: Image) -> Callable[[Pillow.Image], Tensor]:
    how = recipe.augment
    change: Callable[[Pillow.Image], Tensor] = transforms.Compose(
        [
            transforms.RandomResizedCrop(spec.height, scale=(how.crop, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(how.rotate_deg),
            transforms.ColorJitter(0.2, 0.2, 0.1),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    return change


def _batches(recipe: Recipe, pictures: Tensor, labels: Tensor, *, channels_last: bool, side: int) -> Iterator[Batch]:
    scale, size = normalise(recipe), int(recipe.batch_size)
    for chosen in torch.randperm(len(labels)).split(size)[: len(labels) // size]:  # type: ignore[no-untyped-call]
        batch = augment(scale(pictures[chosen]), recipe.augment, side=side)
        yield layout(batch, recipe) if channels_last else batch.contiguous(), labels[chosen]


def _decode(photo: photos.Photo, spec: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from contract.inputs import image_to_pixels  # noqa: PLC0415

    return image_to_pixels(photo.path.read_bytes(), spec)  # type: ignore[arg-type]


def _draw(root: Path, count: int) -> Path:
    """JPEGs of 500 x 375 pixels, as large as the data set's: clouds of colour under some noise."""
    draw = np.random.default_rng(0)
    for index in range(count):
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Pillow.fromarray(coarse).resize((500, 375), Pillow.Resampling.BICUBIC)
        noisy = np.asarray(image, np.int16) + draw.integers(-12, 13, (375, 500, 3))
        place = root / ("cat", "dog")[index % 2] / f"{index}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place, quality=85)
    return root


if __name__ == "__main__":
    main()
