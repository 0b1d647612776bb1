"""Looks at the user's own data and writes a recipe for them: `python -m training new NAME PATH`.

`look` reads everything once and says what it found; `write` chooses a network, a size and a length that suit it. The
choices are in the recipe, with a comment each, and no other program depends on them.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from contract import picture
from contract.errors import ConvokeError
from contract.manifest import ModelName
from training.data import class_folders, columns, own, photos, table_file, vocabulary
from training.data.class_folders import shown
from training.data.examples import Example, SplitName, listed
from training.data.own import Compared
from training.data.schema import Data, Text
from training.errors import DataError, RecipeError
from training.recipe import schema, toml
from training.recipe.optimise import Loss, Schedule
from training.recipe.overrides import apply
from training.table import columns as aligned

HELD_OUT = 0.15
"""The share of the examples that become the test split, and of the rest that become the validation split."""
FEW, UNEVEN = 20, 3
"""Classes with fewer examples are named; from this ratio of the largest to the smallest class, classes are weighted."""
_MIN_EXAMPLES = 10
_FEW_VALIDATION, _SHARE_VALIDATION = 50, 0.05
_MAX_SHOWN = 10
_MAX_ROWS = 30
_STEPS = {"image": 1500, "text": 1000}
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

Table = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the user said about the data that they do not say themselves."""

    text: str | None = None
    image: str | None = None
    images: str | None = None
    label: str | None = None
    group: str | None = None
    label_names: dict[str, str] | None = None
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True)
class Look:
    """What was found, and the table `[data]` that describes it."""

    data: Data
    compared: Compared
    splits: list[SplitName]
    sizes: list[tuple[int, int]]
    """Of images, width and height."""
    modes: Counter[str]

    @property
    def kind(self) -> str:
        return self.compared.found.kind

    @property
    def labels(self) -> list[str]:
        """The labels of the examples that can be read."""
        return self.compared.found.labels

    def of(self, split: SplitName) -> list[Example]:
        """The examples of a split."""
        return [each for each, name in zip(self.compared.examples, self.splits, strict=True) if name == split]


def look(path: Path, options: Options) -> Look:
    """Read the data at `path`: a folder with a subfolder for each class, or a table.

    Raises:
        DataError: there is nothing to train on; the message says what was found and what to do.
    """
    description = _describe(path, options)
    found = own.find(description)
    given = {name: "given" for name in ("validation", "test") if found.splits[name]}
    is_small = 0 < found.splits["validation"] < min(_FEW_VALIDATION, _SHARE_VALIDATION * found.splits["train"])
    if is_small:
        given.pop("validation")
        found.notes.append(
            f"the validation split has only {found.splits['validation']:,} examples, too few for choices and the "
            "calibration; they join the training examples, of which a share is held out (data.validation)"
        )
    data = description.model_copy(update=given)
    _check_classes(found.labels, Counter(each.label for each in found.examples), path)
    compared = own.compare(found, data)
    counts = Counter(each.label for each in compared.examples)
    if not counts and compared.conflicts:
        raise DataError(
            f"{shown(path)}: each of the {len(compared.conflicts):,} contents has several labels, so nothing can be "
            "learned; check the columns of the contents and of the labels"
        )
    found.examples = compared.examples
    _check_classes(found.labels, counts, path)
    sizes, modes = _sizes(compared) if found.kind == "image" else ([], Counter())
    return Look(data, compared, own.assign(compared, data), sizes, modes)


def _describe(path: Path, options: Options) -> Data:
    """The table `[data]` of a recipe for the data at `path`."""
    names = {"label_names": options.label_names} if options.label_names else {}
    place = _relative(path)
    common: Table = {"path": place, "test": HELD_OUT, "validation": HELD_OUT, **names}
    if path.is_dir() and not (options.text or options.image or options.label):
        try:
            labels = class_folders.scan(path).labels
        except DataError:
            if not _has_table(path):
                raise
        else:
            if len(labels) > 1 or not _has_table(path):
                return Data(name="folder", **common)
    files = columns.tables(path)
    file = next((file for file, split in files if split == "train"), files[0][0])
    table = table_file.read(file, options.encoding, options.delimiter)
    chosen: Table = columns.choose(table, options.text, options.image, options.label)
    for key in ("group", "images", "encoding", "delimiter"):
        if getattr(options, key) is not None:
            chosen[key] = getattr(options, key)
    if options.group:
        table.column(options.group)
    if path.is_dir() and len(files) == 1:
        common["path"] = _relative(file)
    return Data(name="table", **common, **chosen)


def _has_table(folder: Path) -> bool:
    return any(file.suffix.lower() in class_folders.TABLES for file in folder.iterdir())


def _relative(path: Path) -> str:
    """A path as it was given; below the working directory without what is above it."""
    absolute = path.absolute()
    return shown(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path)


def _check_classes(labels: Sequence[str], counts: Counter[str], path: Path) -> None:
    total = sum(counts.values())
    if len(labels) == 1:
        raise DataError(
            f"{shown(path)}: one class only, {labels[0]!r}; a classifier chooses between two or more. Add examples of "
            "what is not in it, such as a subfolder `other`"
        )
    if len(labels) > max(total / 3, 2):
        raise DataError(
            f"{shown(path)}: {len(labels):,} classes with {total:,} examples, {total / len(labels):.1f} each. A label "
            "is for many examples; this looks like a name for each. Choose another column with --label, or group the "
            "folders"
        )
    if total < _MIN_EXAMPLES:
        raise DataError(f"{shown(path)}: {total} examples are too few to train on (minimum {_MIN_EXAMPLES}); add some")


def _sizes(compared: Compared) -> tuple[list[tuple[int, int]], Counter[str]]:
    def read(example: Example) -> tuple[int, int, str]:
        try:
            return picture.size_and_mode(Path(example.content).read_bytes())
        except (ConvokeError, OSError, ValueError):  # a kind that is decoded in another way than by its header
            return 0, 0, ""

    read_all = photos.parallel(read, compared.examples, "reading sizes")
    sizes = [(width, height) for width, height, _ in read_all if width]
    return sizes, Counter(mode for *_, mode in read_all if mode)


def report(seen: Look) -> Iterator[str]:
    """What was found, as lines for the terminal."""
    compared, found = seen.compared, seen.compared.found
    labels = seen.labels
    rows = [
        ["kind", f"{seen.kind}s, {len(compared.examples):,} in {len(labels):,} classes"],
        *([["size", _size_text(seen.sizes)], ["modes", _shares(seen.modes)]] if seen.sizes else []),
        *([["length", _length_text(seen)]] if seen.kind == "text" else []),
    ]
    yield from aligned(rows, left={0, 1})
    yield ""
    yield from _class_table(seen)
    yield ""
    for title, lines in (
        (f"{len(found.left_out):,} not used", [str(each) for each in found.left_out]),
        (
            f"{len(compared.conflicts):,} contents have several labels, so none of their examples is used",
            [" and ".join(f"{shown(each.source)} ({each.label})" for each in group) for group in compared.conflicts],
        ),
    ):
        if lines:
            yield f"{title}:"
            yield from (f"  {line}" for line in lines[:_MAX_SHOWN])
            if len(lines) > _MAX_SHOWN:
                yield f"  and {len(lines) - _MAX_SHOWN:,} more"
    yield from found.notes
    yield from _warnings(seen)


def _class_table(seen: Look) -> list[str]:
    names: list[tuple[str, SplitName]] = [("training", "train"), ("validation", "validation"), ("test", "test")]
    counts = {name: Counter(each.label for each in seen.of(name)) for _, name in names}
    totals = Counter(each.label for each in seen.compared.examples)
    rows = [["class", "n", *(title for title, _ in names)]]
    ordered = seen.labels if len(seen.labels) <= _MAX_ROWS else [label for label, _ in totals.most_common(_MAX_ROWS)]
    rows += [[label, f"{totals[label]:,}", *(f"{counts[name][label]:,}" for _, name in names)] for label in ordered]
    rows.append(["all", f"{totals.total():,}", *(f"{counts[name].total():,}" for _, name in names)])
    more = len(seen.labels) - len(ordered)
    return [*aligned(rows, left={0}), *([f"and {more:,} smaller classes"] if more else [])]


def _warnings(seen: Look) -> Iterator[str]:
    compared, counts = seen.compared, Counter(each.label for each in seen.compared.examples)
    if compared.copies:
        yield f"{compared.copies:,} examples have the content of another one and are used once"
    if compared.near:
        yield f"{compared.near:,} examples are nearly the same as another one; these stay in one split"
    dropped = seen.splits.count("")
    if dropped:
        yield f"{dropped:,} training examples are nearly the same as one that is held out, and are not used"
    few = [f"{label} ({counts[label]})" for label in seen.labels if counts[label] < FEW]
    if few:
        yield f"classes with fewer than {FEW} examples, which are hard to learn and to measure: {listed(few)}; add some"
    largest, smallest = max(counts.values()), min(counts.values())
    if largest >= UNEVEN * smallest:
        yield (
            f"the largest class has {largest / smallest:.1f} times the examples of the smallest; the recipe weights "
            "the classes (loss.class_weights)"
        )
    for title, name in (("training", "train"), ("validation", "validation"), ("test", "test")):
        absent = sorted(set(seen.labels) - {each.label for each in seen.of(name)})  # type: ignore[arg-type]
        if absent and len(absent) < len(seen.labels):
            yield f"the {title} split has no example of {listed(absent)}"
    for pair in _alike(seen.labels):
        yield (
            f"labels that differ only in case or space: {' and '.join(map(repr, pair))}; if they are one class, merge "
            f"them with --labels {json.dumps(pair[1] + '=' + pair[0], ensure_ascii=False)}"
        )
    if seen.data.name == "table" and all(label.lstrip("-").isdecimal() for label in seen.labels):
        names = ",".join(f"{label}=NAME" for label in seen.labels[:3])
        yield f"the labels are numbers; give them names with --labels {names}"


def _alike(labels: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(" ".join(label.casefold().split()), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _size_text(sizes: Sequence[tuple[int, int]]) -> str:
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    names = ("smallest", "median", "largest")
    chosen = (by_area[0], by_area[len(by_area) // 2], by_area[-1])
    return ", ".join(f"{name} {width} x {height}" for name, (width, height) in zip(names, chosen, strict=True))


def _shares(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count / counts.total():.0%}" for name, count in counts.most_common())


def _length_text(seen: Look) -> str:
    lengths = sorted(len(str(each.content)) for each in seen.compared.examples)
    return f"shortest {lengths[0]:,}, median {lengths[len(lengths) // 2]:,}, longest {lengths[-1]:,} characters"


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model.

    Raises:
        RecipeError: the message proposes a name that is allowed.
    """
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError as error:
        near = re.sub(r"[^\w.-]+", "-", name.lower()).strip("-_.") or "model"
        raise RecipeError(
            f"name {name[:100]!r}: expected letters, digits, hyphens, underscores and points; for example {near[:50]}"
        ) from error


def recipe(name: str, seen: Look, overrides: Sequence[str] = ()) -> tuple[schema.Recipe, str]:
    """A recipe for the data, and its TOML with comments.

    Raises:
        RecipeError: the name or an override is not allowed.
    """
    check_name(name)
    table = (_image_recipe if seen.kind == "image" else _text_recipe)(seen)
    counts = Counter(each.label for each in seen.of("train"))
    if max(counts.values()) >= UNEVEN * min(counts.values()):
        table["loss"]["class_weights"] = "balanced"
    data = seen.data.model_dump(exclude_defaults=True, exclude_none=True)
    title = seen.data.title
    table = {
        "description": f"{len(seen.labels):,} classes of {seen.kind}s from {title}",
        "task": name,
        "labels": seen.labels,
        **table,
        "data": data,
    }
    apply(
        table,
        list(overrides),
        {"loss": Loss, "schedule": Schedule, "initialise": schema.Initialise},
        lambda _line: None,
    )
    if table["data"].get("sampling") == "balanced" and not any("class_weights" in each for each in overrides):
        table["loss"].pop("class_weights", None)  # one of the two is enough
    checked = schema.parse({"name": name, **table})
    return checked, toml.write(table, _comments(seen))


def _image_recipe(seen: Look) -> Table:
    """A network whose cost fits the size and the number of the images."""
    thumbnails = seen.compared.thumbnails
    assert thumbnails is not None, "images have thumbnails"
    is_grey = int((thumbnails.int().amax(dim=3) - thumbnails.int().amin(dim=3)).max()) <= 8  # noqa: PLR2004 -- rounding
    height, width = _input_size(seen)
    longest = max(height, width)
    channels = [0] if is_grey else [0, 1, 2]
    pixels = thumbnails[..., channels].double().reshape(-1, len(channels)) / 255
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
            "mean": [round(float(value), 4) for value in pixels.mean(dim=0)],
            "std": [max(round(float(value), 4), 0.01) for value in pixels.std(dim=0)],
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


def _text_recipe(seen: Look) -> Table:
    """Parallel windows over words, or over letters for languages without spaces; sizes by the texts' own lengths."""
    texts = [own.text_of(each) for each in seen.of("train")]
    letters = "".join(texts[:1000])
    unit: Literal["word", "character"] = (
        "character" if len(_NO_SPACES.findall(letters)) > 0.2 * max(len(letters), 1) else "word"
    )
    min_count = 1 if len(texts) < 2000 else 2  # noqa: PLR2004
    spec = Text(kind="text", length=1 << 16, vocabulary=1 << 20, min_count=min_count, unit=unit)
    tokenizer = vocabulary.build(texts, spec)
    _, counts = vocabulary.encode(texts, tokenizer, spec.served())
    length = int(counts.double().quantile(0.99)) if len(counts) < 1 << 20 else int(counts.max())
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


def _comments(seen: Look) -> dict[str, str]:
    """A comment for each key that people may want to change."""
    splits = "`given` is the split that the data have; a share like 0.15 is held out by content"
    comments = {
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
        "loss.label_smoothing": "against overconfidence",
        "optimiser.learning_rate": "lower it if the loss rises",
        "augment": "random changes in each epoch; {} switches them off",
    }
    if seen.kind == "image":
        comments["input.height"] = "images are resized to this; more pixels show more and take longer"
        comments["input.mean"] = "of the thumbnails, from 0 to 1"
        comments["augment.flip"] = "remove it if left and right have a meaning, as in letters and signs"
    else:
        comments["input.length"] = "tokens that are read; 99 % of the training texts have no more"
        comments["input.vocabulary"] = "the most frequent tokens, with 2 for padding and unknown words"
    return comments


def check_output(path: Path, *, force: bool) -> None:
    """Refuse a place for a recipe before the work begins.

    Raises:
        RecipeError: the name does not end in .toml, or the file exists and is not to be replaced.
    """
    if path.suffix != ".toml":
        raise RecipeError(f"{shown(path)}: the name of a recipe ends in .toml")
    if path.exists() and not force:
        raise RecipeError(f"{shown(path)}: this recipe exists; --force replaces it, --output PATH writes another one")


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a recipe in one step; an existing file only with `force`.

    Raises:
        RecipeError: the file exists or cannot be written.
    """
    check_output(path, force=force)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RecipeError(f"{shown(path)}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def label_names(pairs: Sequence[str]) -> dict[str, str]:
    """`0=ham,1=spam`, in one option or several, as a table.

    Raises:
        RecipeError: a part is not LABEL=NAME.
    """
    names: dict[str, str] = {}
    for part in (part for pair in pairs for part in pair.split(",")):
        label, sign, name = part.partition("=")
        if not sign or not label.strip() or not name.strip():
            near = difflib.get_close_matches(part, ["0=ham"], n=1)
            raise RecipeError(f"--labels: got {part!r}; expected LABEL=NAME, like --labels 0=ham,1=spam{near and ''}")
        names[label.strip()] = name.strip()
    return names
