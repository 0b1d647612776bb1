"""The network, the size or length and the settings of training that suit the user's own data."""

import json
import re
from statistics import median
from typing import Any, Literal

import numpy as np

from training.data import vocabulary
from training.data.compare import text_of
from training.data.schema import Text
from training.recipe.look import Look

_STEPS = {"image": 1500, "text": 1000}
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

Table = dict[str, Any]


def for_images(seen: Look) -> Table:
    """A network whose cost fits the size and the number of the images."""
    thumbnails = seen.compared.thumbnails
    assert thumbnails is not None, "images have thumbnails"
    is_grey = int((np.ptp(thumbnails, axis=3)).max()) <= 8  # noqa: PLR2004 -- rounding
    height, width = _input_size(seen)
    longest = max(height, width)
    channels = [0] if is_grey else [0, 1, 2]
    pixels = thumbnails[..., channels].astype(np.float64).reshape(-1, len(channels)) / 255
    n = len(seen.of("train"))
    batch = 16 if n < 200 else 32 if n < 3000 else 64  # noqa: PLR2004
    layers: list[Table] = []
    if longest > 40:  # noqa: PLR2004
        layers += [{"conv": 32, "kernel": 5, "stride": 2, "padding": 2, "batch_norm": True}]
        layers += [{"conv": 64, "kernel": 3, "padding": 1, "batch_norm": True}, {"pool": "max", "size": 2}]
        layers += [{"conv": 128, "kernel": 3, "padding": 1, "batch_norm": True}, {"pool": "max", "size": 2}]
        layers += [{"conv": 256, "kernel": 3, "padding": 1, "batch_norm": True}, {"pool": "max", "size": 2}]
    else:
        layers += [{"conv": 32, "kernel": 3, "padding": 1, "batch_norm": True}]
        layers += [{"conv": 32, "kernel": 3, "padding": 1, "batch_norm": True}, {"pool": "max", "size": 2}]
        layers += [{"conv": 64, "kernel": 3, "padding": 1, "batch_norm": True}, {"pool": "max", "size": 2}]
        layers += [{"conv": 128, "kernel": 3, "padding": 1, "batch_norm": True}, {"pool": "max", "size": 2}]
    layers += [{"flatten": True}, {"dropout": 0.3}, {"dense": len(seen.labels), "activation": "softmax"}]
    is_photo = not is_grey and longest > 40  # noqa: PLR2004
    photo = {"crop": 0.5, "flip": True, "rotate_deg": 10, "brightness": 0.2, "contrast": 0.2}
    return {
        "layers": layers,
        "epochs": _epochs("image", n, batch),
        "batch_size": batch,
        "average_decay": 0.99,
        "input": {
            "height": height,
            "width": width,
            "mode": "L" if is_grey else "RGB",
            "framing": "squash",
            "mean": [round(float(value), 4) for value in pixels.mean(axis=0)],
            "std": [max(round(float(value), 4), 0.01) for value in pixels.std(axis=0)],
        },
        "initialise": {"name": "he", "distribution": "normal"},
        "loss": {"label_smoothing": 0.05},
        "optimiser": {"name": "adamw", "learning_rate": 0.002, "weight_decay": 0.05},
        "schedule": {"name": "one-cycle"},
        "augment": photo if is_photo else {"rotate_deg": 8, "scale": 0.1, "shift_px": max(longest // 16, 1)},
    }


def _input_size(seen: Look) -> tuple[int, int]:
    """Height and width of the input: those of small images, and 64 x 64 or 96 x 96 for others, in their usual shape."""
    sides = [max(size) for size in seen.sizes] or [64]
    middle = median(sides)
    side = 96 if middle >= 128 and len(seen.of("train")) >= 1500 else 64  # noqa: PLR2004
    if middle < 64:  # noqa: PLR2004
        side = max(-(-int(middle) // 8) * 8, 16)
    ratios = [width / height for width, height in seen.sizes] or [1.0]
    ratio = median(ratios)
    near = sum(0.85 < each / ratio < 1.15 for each in ratios)  # noqa: PLR2004
    if near < 0.8 * len(ratios) or 0.75 < ratio < 1.33:  # noqa: PLR2004
        return side, side
    ratio = min(max(ratio, 0.25), 4)
    return max(round(side / ratio**0.5 / 8) * 8, 16), max(round(side * ratio**0.5 / 8) * 8, 16)


def for_texts(seen: Look) -> Table:
    """Parallel windows over words, or over letters for languages without spaces; sizes by the texts' own lengths."""
    texts = [text_of(each) for each in seen.of("train")]
    letters = "".join(texts[:1000])
    unit: Literal["word", "character"] = (
        "character" if len(_NO_SPACES.findall(letters)) > 0.2 * max(len(letters), 1) else "word"
    )
    min_count = 1 if len(texts) < 2000 else 2  # noqa: PLR2004
    spec = Text(kind="text", length=1 << 16, vocabulary=1 << 20, min_count=min_count, unit=unit)
    tokenizer = vocabulary.build(texts, spec)
    length = int(np.quantile(vocabulary.lengths(texts, tokenizer, spec.served()), 0.99, method="lower"))
    size = len(json.loads(tokenizer)["model"]["vocab"])
    n = len(texts)
    batch = 16 if n < 500 else 32 if n < 5000 else 64  # noqa: PLR2004
    return {
        "layers": [
            {"embedding": 100, "company": 5},
            {"windows": [1, 2, 3] if unit == "word" else [1, 2, 3, 4], "filters": 100, "over_time": "both"},
            {"dropout": 0.5},
            {"dense": len(seen.labels), "activation": "softmax"},
        ],
        "epochs": _epochs("text", n, batch),
        "batch_size": batch,
        "average_decay": 0.99,
        "input": {
            "kind": "text",
            "length": min(max(-(-length // 8) * 8, 8), 1000),
            "vocabulary": max(min(size, 30000), 3),
            "min_count": min_count,
            **({"unit": unit} if unit != "word" else {}),
        },
        "loss": {"label_smoothing": 0.05},
        "optimiser": {"name": "adamw", "learning_rate": 0.002, "weight_decay": 0.1},
        "schedule": {"name": "one-cycle"},
        "augment": {"word_dropout": 0.3},
    }


def _epochs(kind: str, examples: int, batch: int) -> int:
    """Enough for the usual number of steps, within what few examples bear and many need."""
    fewest, most = (12, 60) if kind == "image" else (6, 100)
    return min(max(round(_STEPS[kind] * batch / max(examples, 1)), fewest), most)


def comments(seen: Look) -> dict[str, str]:
    """A comment for each key that people may want to change."""
    splits = "`given` is the split that the data have; a share like 0.15 is held out by content"
    found = {
        "": f"Written by `python -m training new` for {seen.data.title}: {len(seen.of('train')):,} training, "
        f"{len(seen.of('validation')):,} validation and {len(seen.of('test')):,} test examples. Change what you like; "
        "docs/recipes.md has all keys, and `python -m training shapes` shows what each layer computes.",
        "task": "the name of the model that is published and served",
        "layers": "from first to last; the last has one output for each label",
        "epochs": "times that each training example is seen",
        "batch_size": "examples in a step",
        "average_decay": "the weights are averaged over the last steps",
        "data.test": splits,
        "data.validation": "for choices and the calibration; of the examples that are left",
        "loss.class_weights": "examples of small classes count more",
        "gate.metric": "what later versions are compared by; here small classes count as much as others, too",
        "loss.label_smoothing": "against overconfidence",
        "optimiser.learning_rate": "lower it if the loss rises",
        "augment": "random changes in each epoch; {} switches them off",
    }
    if seen.kind == "image":
        found["input.height"] = "images are resized to this; more pixels show more and take longer"
        found["input.mean"] = "of the thumbnails, from 0 to 1"
        found["augment.flip"] = "remove it if left and right have a meaning, as in letters and signs"
    else:
        found["input.length"] = "tokens that are read; 99 % of the training texts have no more"
        found["input.vocabulary"] = "the most frequent tokens, with 2 for padding and unknown words"
    return found
