"""Every key of a recipe does something, or is refused: in each of several experiments, by going over the schema."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.schema import INPUTS
from training.errors import TrainingError
from training.network.build import Served
from training.recipe.layers import LAYERS
from training.recipe.optimise import OPTIMISERS
from training.recipe.schema import Recipe, parse
from training.runs import run
from training.section import Section

UNIONS: dict[str, dict[str, type[Section]]] = {"layers": LAYERS, "optimiser": OPTIMISERS, "input": INPUTS}

# A value for each key that differs from that of the experiments below.
VALUES: dict[str, Any] = {
    "labels": ["c", "b", "a"],
    "activation": "tanh",
    "epochs": 3,
    "batch_size": 7,
    "seed": 1,
    "precision": "bfloat16",
    "resolutions": [6, 8],
    "early_stopping": 1,
    "average_decay": 0.2,
    "accumulate": 2,
    "clip_gradient": 0.01,
    "l1": 0.1,
    "layers.conv.conv": 5,
    "layers.conv.kernel": 1,
    "layers.conv.stride": 2,
    "layers.conv.padding": 0,
    "layers.conv.dilation": 2,
    "layers.conv.groups": 2,
    "layers.conv.batch_norm": True,
    "layers.conv.group_norm": 2,
    "layers.conv.layer_norm": True,
    "layers.conv.activation": "sigmoid",
    "layers.pool.pool": "average",
    "layers.pool.size": 3,
    "layers.pool.stride": 1,
    "layers.flatten.flatten": False,
    "layers.reshape.reshape": [3, 8, 8],
    "layers.dense.dense": 5,
    "layers.dense.batch_norm": True,
    "layers.dense.group_norm": 2,
    "layers.dense.layer_norm": True,
    "layers.dense.activation": "sigmoid",
    "layers.dense.max_norm": 0.1,
    "layers.dropout.dropout": 0.7,
    "layers.dropout.scale_in": "evaluation",
    "layers.lrn.lrn": 5,
    "layers.lrn.k": 1.0,
    "layers.lrn.alpha": 0.5,
    "layers.lrn.beta": 0.5,
    "layers.embedding.embedding": 5,
    "layers.embedding.company": 2,
    "layers.windows.windows": [3],
    "layers.windows.filters": 5,
    "layers.windows.wide": True,
    "layers.windows.over_time": "both",
    "layers.windows.activation": "tanh",
    "layers.ngrams.ngrams": 1,
    "layers.ngrams.min_count": 4,
    "layers.ngrams.slots": 3000,
    "layers.ngrams.share": 0.2,
    "layers.ngrams.cost": 1.0,
    "input.kind": "video",
    "input.height": 9,
    "input.width": 9,
    "input.mode": "L",
    "input.framing": "mnist",
    "input.trim_bars": True,
    "input.mean": [0.1, 0.2, 0.3],
    "input.std": [0.1, 0.2, 0.3],
    "input.length": 3,
    "input.vocabulary": 9,
    "input.min_count": 20,
    "input.unit": "character",
    "data.name": "mnist",
    "data.path": "elsewhere",
    "data.validation": 0.4,
    "data.test": 0.4,
    "data.split_seed": 1,
    "data.label_names": {"a": "other"},
    "data.max_unreadable": 0.0,
    "data.text": "other",
    "data.image": "other",
    "data.images": "elsewhere",
    "data.label": "other",
    "data.one_hot": ["a", "b", "c"],
    "data.split": "split",
    "data.group": "group",
    "data.encoding": "utf-16",
    "data.delimiter": "|",
    "data.header": False,
    "data.sampling": "balanced",
    "data.refit": True,
    "data.stored_side": 12,
    "data.folds": 3,
    "data.repeat": {"mr": 2},
    "gate.metric": "precision",
    "gate.label": "b",
    "initialise.name": "he",
    "initialise.distribution": "normal",
    "initialise.spread": 0.5,
    "initialise.url": "https://example.org/w.pth",
    "initialise.sha256": "01234567",
    "initialise.path": "models/x/1",
    "initialise.freeze": True,
    "initialise.body_rate": 0.5,
    "loss.name": "mean-absolute-error",
    "loss.gamma": 1.0,
    "loss.label_smoothing": 0.3,
    "loss.class_weights": {"a": 3.0},
    "optimiser.name": "nadam",
    "optimiser.learning_rate": 0.01,
    "optimiser.momentum": 0.5,
    "optimiser.nesterov": True,
    "optimiser.weight_decay": 0.3,
    "optimiser.weight_decay_on": "weights",
    "optimiser.alpha": 0.5,
    "optimiser.rho": 0.5,
    "optimiser.beta1": 0.5,
    "optimiser.beta2": 0.5,
    "optimiser.amsgrad": True,
    "schedule.name": "cosine",
    "schedule.warmup": 0.5,
    "schedule.milestones": [0.25],
    "schedule.factor": 0.7,
    "schedule.decay": 3.0,
    "schedule.patience": 1,
    "augment.rotate_deg": 30.0,
    "augment.scale": 0.3,
    "augment.shear_deg": 20.0,
    "augment.shift_px": 1.0,
    "augment.crop": 0.5,
    "augment.flip": True,
    "augment.flip_vertical": True,
    "augment.brightness": 0.5,
    "augment.contrast": 0.5,
    "augment.tint": 0.5,
    "augment.hue": 0.3,
    "augment.blur_px": 1.0,
    "augment.noise": 0.5,
    "augment.erase": 0.4,
    "augment.word_dropout": 0.4,
    "augment.span": 2,
}
METADATA = {"name", "task", "description"}
"""What a run, a version and a card are called."""


def keys() -> Iterator[str]:
    """Every key of the schema, those of unions with the word that selects the kind of layer."""
    for name, field in Recipe.model_fields.items():
        if name in UNIONS:
            for word, section in UNIONS[name].items():
                where = f"{name}.{word}" if name == "layers" else name
                yield from (f"{where}.{key}" for key in section.model_fields)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from (f"{name}.{key}" for key in field.annotation.model_fields)
        else:
            yield name


def _write(root: Path) -> None:
    """Images and texts of three labels in the layouts that a recipe can name."""
    random = np.random.default_rng(0)
    words = ["gut", "schön", "rot", "blau", "Haus", "Baum", "Weg", "Tag", "Nacht", "Licht"]
    lines, rows = ["text,other,label,group,split"], ["bild,label,group"]
    for number in range(48):
        label = "abc"[number % 3]
        pixels = random.integers(0, 120, (10, 12, 3), dtype=np.uint8)
        pixels[:, 4 * (number % 3) : 4 * (number % 3) + 4] += 100
        if number % 2:
            pixels[:2] = pixels[-2:] = 0  # bars
        path = root / "images" / label / f"ü{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows.append(f"{label}/ü{number}.png,{label},g{number // 2}")
        text, other = (" ".join([words[number % 3], *random.choice(words[3:], number % 4 + 2)]) for _ in range(2))
        split = ("train", "train", "test", "validation")[number // 3 % 4]
        lines.append(f"{text},{other},{label},g{number // 2},{split}")
    (root / "images" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows.append("a/broken.png,a,")
    (root / "i.csv").write_text("\n".join(rows) + "\n")
    (root / "texts.csv").write_text("\n".join(lines) + "\n")
    records = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    (root / "texts.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    two = [lines[0], *(line for line in lines if ",c," not in line and line != lines[0])]
    (root / "two.csv").write_text("\n".join(two) + "\n")


IMAGES: dict[str, Any] = {
    "name": "images",
    "description": "",
    "task": "images",
    "labels": ["a", "b", "c"],
    "layers": [
        {"conv": 4, "kernel": 3, "padding": 1},
        {"lrn": 3},
        {"pool": "max", "size": 2},
        {"dropout": 0.5},
        {"pool": "average", "size": "global"},
        {"flatten": True},
        {"dense": 6},
        {"dense": 3, "activation": "softmax"},
    ],
    "epochs": 2,
    "batch_size": 8,
    "input": {
        "height": 8,
        "width": 8,
        "mode": "RGB",
        "framing": "squash",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.3, 0.3, 0.3],
    },
    "data": {"name": "folder", "path": "images", "validation": 0.25, "test": 0.25},
    "optimiser": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
}
TEXTS: dict[str, Any] = {
    **IMAGES,
    "name": "texts",
    "layers": [
        {"embedding": 4},
        {"windows": [1, 2], "filters": 4},
        {"dropout": 0.5},
        {"dense": 3, "activation": "softmax"},
    ],
    "input": {"kind": "text", "length": 6, "vocabulary": 50},
    "data": {"name": "table", "path": "texts.csv", "text": "text", "label": "label", "validation": 0.25, "test": 0.25},
    "optimiser": {"name": "sgd", "learning_rate": 0.3, "momentum": 0.9},  # whose second epoch is no better
}


def _with(table: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An experiment with other tables or values; those of the data are added to the ones that it has."""
    return {**table, **{key: {**table[key], **value} if key == "data" else value for key, value in changes.items()}}


def _kinds(section: str) -> tuple[str, ...]:
    kinds = get_args(type(getattr(parse(IMAGES), section)).model_fields["name"].annotation)
    return tuple(kind for kind in kinds if kind not in {"pretrained", "version"})  # those are read from files


CONV, *REST = IMAGES["layers"]
EVERY = ("",)
EXPERIMENTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    # an experiment, and the beginnings of the keys that are changed in it
    "images": (IMAGES, EVERY),
    "texts": (TEXTS, EVERY),
    "averaged": (
        _with(
            IMAGES,
            average_decay=0.9,
            resolutions=[4, 8],
            data={"stored_side": 10},
            optimiser={"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
            schedule={"name": "one-cycle"},
            augment={"crop": 0.7, "flip": True},
        ),
        ("input", "resolutions", "average", "accumulate", "clip", "l1", "augment", "optimiser", "schedule", "data"),
    ),
    "reshaped": (
        _with(IMAGES, layers=[{"reshape": [3, 4, 16]}, CONV, *REST], initialise={"name": "fixed", "spread": 0.1}),
        ("layers", "initialise", "input"),
    ),
    "all activations named": (
        _with(IMAGES, layers=[{**CONV, "activation": "elu"}, *REST[:-2], {"dense": 6, "activation": "elu"}, REST[-1]]),
        ("activation",),
    ),
    "stopped": (
        _with(
            IMAGES,
            early_stopping=3,
            epochs=6,
            optimiser={"name": "sgd", "learning_rate": 3.0},
            schedule={"name": "plateau", "patience": 2},
        ),
        ("early_stopping", "schedule", "epochs", "data"),
    ),
    "stopped by another metric": (
        _with(
            IMAGES,
            early_stopping=8,
            epochs=8,
            seed=1,
            gate={"metric": "recall", "label": "a"},
            optimiser={"name": "sgd", "learning_rate": 0.5, "momentum": 0.9},
            data={"validation": 0.4},
        ),
        ("early_stopping", "gate"),
    ),
    "refit": (_with(IMAGES, data={"refit": True}), ("early_stopping", "schedule", "data")),
    "folds": (_with(IMAGES, data={"folds": 2}), ("data",)),
    "full batch": (_with(IMAGES, batch_size="full"), ("batch_size", "accumulate", "data.sampling")),
    "table of images": (
        _with(IMAGES, data={"name": "table", "path": "i.csv", "image": "bild", "images": "images", "label": "label"}),
        ("data",),
    ),
    "given splits": (_with(TEXTS, data={"split": "split", "test": "given", "validation": "given"}), ("data",)),
    "folds of texts": (_with(TEXTS, data={"folds": 2}), ("data",)),
    "JSON": (_with(TEXTS, data={"path": "texts.jsonl"}), ("data",)),
    "n-grams": (
        _with(
            TEXTS,
            labels=["a", "b"],
            layers=[
                *TEXTS["layers"][:3],
                {"dense": 2, "activation": "softmax"},
                {"ngrams": 2, "slots": 2000, "min_count": 2},
            ],
            data={"path": "two.csv"},
        ),
        ("layers", "initialise", "input", "labels"),
    ),
    **{f"loss {name}": (_with(IMAGES, loss={"name": name}), ("loss",)) for name in _kinds("loss")},
    **{
        f"optimiser {name}": (
            _with(IMAGES, optimiser={"name": name, "learning_rate": 0.05, "weight_decay": 0.1}),
            ("optimiser",),
        )
        for name in OPTIMISERS
    },
    **{
        f"schedule {name}": (
            _with(IMAGES, epochs=6, schedule={"name": name}, optimiser={"name": "sgd", "learning_rate": 3.0}),
            ("schedule",),
        )
        for name in _kinds("schedule")
    },
    **{
        f"initialise {name}": (_with(IMAGES, initialise={"name": name}), ("initialise",))
        for name in _kinds("initialise")
    },
}


def outcome(table: dict[str, Any], folder: Path) -> str:
    """What a run leaves: its weights, its history, its metrics, and what the published version would answer."""
    recipe = parse(table)
    data = run.prepare(recipe)
    place = run.start(recipe, folder)
    result = run.train(place, data=data)
    left = result.model_dump(exclude={"seconds", "hardware", "fingerprint"})
    digest = hashlib.sha256(repr((left, recipe.labels, recipe.input.served())).encode())
    for path in sorted(place.glob("metrics*.jsonl")):
        for line in path.read_text().splitlines():
            epoch = json.loads(line)
            digest.update(
                repr([epoch[key] for key in sorted(epoch) if key not in {"seconds", "images_per_s"}]).encode()
            )
    if not result.folds:
        network, _ = run.finished(place)
        served = Served(recipe, network, result.calibration)
        with torch.inference_mode():
            digest.update(
                served(data.validation.inputs.long() if data.tokenizer else data.validation.inputs).numpy().tobytes()
            )
        for weights in network.state_dict().values():
            digest.update(weights.numpy().tobytes())
    return digest.hexdigest()


def changed(table: dict[str, Any], key: str, value: Any) -> dict[str, Any] | None:
    """The experiment with another value of a key; None if it has no such layer, or that value already."""
    table = json.loads(json.dumps(table))
    *path, last = key.split(".")
    if path[:1] == ["layers"]:
        here = next((layer for layer in table["layers"] if path[1] in layer), None)
        if here is None:
            return None
    else:
        here = table
        for part in path:
            here = here.setdefault(part, {})
    if here.get(last) == value:
        return None
    here[last] = value
    return table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the data."""
    folder = tmp_path_factory.mktemp("data")
    _write(folder)
    return folder


def test_every_key_has_a_value_to_change_it_to() -> None:
    """A key that is added to the schema must be added here, too, and is tested then."""
    assert set(keys()) == set(VALUES) | METADATA


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_key_changes_what_a_run_leaves_or_is_refused(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key of the schema, set to another value, gives other weights, figures or answers, or an error."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("CONVOKE_CACHE", str(root / "cache"))
    monkeypatch.setattr("training.runs.run.report.write", lambda *_: None)  # the plots take most of the time
    table, starts = EXPERIMENTS[name]
    before = outcome(table, tmp_path)
    assert outcome(table, tmp_path) == before, "equal recipes leave the same"
    without_effect, changes = [], 0
    for key in sorted(set(VALUES)):
        other = changed(table, key, VALUES[key]) if key.startswith(starts) else None
        if other is None:
            continue
        changes += 1
        try:
            if outcome(other, tmp_path) == before:
                without_effect.append(key)
        except TrainingError:
            continue
    assert changes
    assert without_effect == []
