"""The model card of a version, in Markdown."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import numpy.typing as npt

from contract.manifest import Manifest, Metrics, Variant
from training.data import uses
from training.evaluation import classes
from training.evaluation import metrics as evaluate
from training.evaluation.measures import describe, overall
from training.recipe.schema import Recipe
from training.recipe.shapes import table
from training.runs.result import Result

_HEADER = """\
| split | n | accuracy | negative log-likelihood (nats) | expected calibration error |
| --- | --- | --- | --- | --- |"""

_MAX_CLASSES = 30
_MAX_COLUMNS = 12  # labels of a confusion matrix that fits on a page

_VARIANTS = {
    "int8": "convolutions and the values between them have 8 bits, in ranges taken from training examples",
    "float16": "weights and the values between layers have 16 bits",
}


def card(
    manifest: Manifest, recipe: Recipe, result: Result, verdict: str, looks: int, by_class: str, baselines: str
) -> str:
    """The card of a new model (Mitchell et al., 2019).

    Args:
        manifest: the new version's.
        recipe: what it was trained with.
        result: of its run.
        verdict: the gate's.
        looks: how often the test splits were used to decide about a publication, with this one.
        by_class: the figures of each class, from `class_tables`.
        baselines: what simpler models have on the test splits, from `baseline_text`.
    """
    rows = {f"test: {name}": metrics for name, metrics in manifest.test_metrics.items()}
    refit = "" if not recipe.data.refit else (
        " After that, the network was trained again on training and validation split together; the metrics of the"
        " validation split are those of the first training."
    )  # fmt: skip
    choices = (
        "Choices and the calibration were made on the validation split; the temperature, "
        f"{result.calibration_text}, is part of the graph. {_looks(looks)}{refit}{_own_splits(recipe)}"
    )
    training = (
        f"Training took {result.seconds:,.0f} s on {result.hardware}, with seed {recipe.seed}. "
        "This command measures the test splits again:"
    )
    return f"""# {manifest.model}, version {manifest.version}

{recipe.description}, trained with the recipe `{recipe.name}` on `{manifest.dataset}`.

{metrics_table({**rows, "validation": result.validation})}

{_fill(baselines)}

{_fill(choices)}

{_fill(verdict)}

{_fill(training)}

```sh
python -m training evaluate models/{manifest.model}/{manifest.version}
```

{by_class}## Intended use

{uses.of(recipe.data.name)}

## Network

```text
{table(recipe)}
```

Commit {manifest.commit}, data {manifest.dataset_fingerprint}.
"""


def variant_section(
    variant: Variant, exact: Mapping[str, Metrics], speeds: Mapping[int, list[float]], machine: str, verdict: str
) -> str:
    """The section of a card about a variant of the network in another precision.

    Args:
        variant: the variant, with its metrics.
        exact: the metrics of float32 on the same test splits.
        speeds: by batch size, the seconds of a run in float32 and in the variant; empty if they were not timed.
        machine: where they were timed.
        verdict: the gate's.
    """
    name = variant.precision
    rows = {
        f"{test}, {precision}": metrics
        for test in variant.test_metrics
        for precision, metrics in (("float32", exact[test]), (name, variant.test_metrics[test]))
    }
    introduction = (
        f"`{variant.graph}` is the same network in {name}: {_VARIANTS[name]}. The service uses it on machines where it "
        "measures that the variant is faster, and float32 elsewhere."
    )
    return f"""## In {name}

{_fill(introduction)}

{metrics_table(rows)}

{_speeds(name, speeds, machine)}

{_fill(verdict)}
"""


def _speeds(name: str, speeds: Mapping[int, list[float]], machine: str) -> str:
    if not speeds:
        return f"The speed was not measured: {name} is for other machines than the machine of this publication."
    rows = "\n".join(
        f"| {size} | {size / plain_s:,.0f} | {size / variant_s:,.0f} | {plain_s / variant_s:.2f} |"
        for size, (plain_s, variant_s) in speeds.items()
    )
    return (
        f"| batch size | float32, items/s | {name}, items/s | ratio |\n| --- | --- | --- | --- |\n{rows}\n\n"
        f"Items for each second of processor time: medians of alternating runs on {machine}."
    )


def class_tables(measured: Mapping[str, tuple[evaluate.Probabilities, classes.Truth]], labels: Sequence[str]) -> str:
    """The section of a card with the figures of each class, for probabilities (N, classes) and labels (N) of splits.

    Of many classes, those with the lowest F1 and the most frequent confusions are shown.
    """
    parts = ["## Classes"]
    for name, (probabilities, truth) in measured.items():
        cells = [_cell(label) for label in labels]
        header, *rows = classes.rows(probabilities, truth, cells)
        shown = rows if len(rows) <= _MAX_CLASSES else sorted(rows, key=lambda row: _share(row[-1]))[:_MAX_CLASSES]
        figures = [["over all labels", "value", "95 % interval"]]
        for measure in overall(labels, truth):
            title, value, interval = describe(measure, probabilities, truth)
            figures.append([_cell(title), value, interval.removeprefix("95 % interval ")])
        less = f" The {len(shown)} classes of {len(rows):,} with the lowest F1:" if len(shown) < len(rows) else ""
        parts += [f"Test split {name}:", _table(figures), *([less.strip()] if less else []), _table([header, *shown])]
        note = classes.note(truth, cells)
        parts += [_fill(note)] if note else []
        parts += _confusions(classes.confusion(probabilities, truth), cells)
    return "\n\n".join(parts) + "\n\n"


def _confusions(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> list[str]:
    """The confusion matrix (classes, classes), or its largest errors where it is too wide for a page."""
    if len(labels) <= _MAX_COLUMNS:
        rows = [["label \\ prediction", *labels]]
        rows += [[label, *(f"{n:,}" for n in row)] for label, row in zip(labels, counts.tolist(), strict=True)]
        return ["Examples of each label, by prediction:", _table(rows)]
    wrong = counts * (1 - np.eye(len(labels), dtype=np.int64))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_COLUMNS]
    rows = [["label", "prediction", "examples"]]
    rows += [
        [labels[place // len(labels)], labels[place % len(labels)], f"{n:,}"]
        for place in largest.tolist()
        if (n := int(wrong.flat[place]))
    ]
    return ["The most frequent confusions:", _table(rows)] if len(rows) > 1 else ["No example is misclassified."]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its header."""
    header, *others = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *others))


def baseline_text(metrics: Mapping[str, Metrics], majority: Mapping[str, float], linear: Mapping[str, float]) -> str:
    """What always naming the largest class has on each test split, and logistic regression over TF-IDF, for texts."""
    sentences = []
    for name, largest in majority.items():
        text = f"Baselines on {name}: always naming the largest class {largest:.2%}"
        if name in linear:
            text += f", logistic regression over TF-IDF {linear[name]:.2%}"
            if linear[name] > metrics[name].accuracy:
                text += "; **the accuracy of this network is lower**"
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _cell(label: str) -> str:
    """A label as a cell of a table in Markdown."""
    return " ".join(label.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _share(text: str) -> float:
    return float(text.removesuffix("%")) if text != "-" else -1.0


def _own_splits(recipe: Recipe) -> str:
    """How the splits of the user's own data were made."""
    data = recipe.data
    if data.path is None:
        return ""
    seed = f"by content, in proportion to the labels, with the seed {data.split_seed}"
    test = "is that of the data" if data.test == "given" else f"({_part(data.test)}) was made {seed}"
    validation = (
        "is that of the data" if data.validation == "given" else f"({_part(data.validation)} of the rest) likewise"
    )
    group = f"; rows with the same {data.group} are in one split" if data.group else ""
    return f" The test split {test}, and the validation split {validation}; copies are in one split{group}."


def _part(part: float | str | None) -> str:
    return f"{part:.0%}" if isinstance(part, float) else f"{part} examples"


def _looks(count: int) -> str:
    if count == 1:
        return "The test splits were used once, for this publication."
    return (
        f"The test splits were used {count} times so far to decide about a publication of this model, so that the best "
        "of several models may owe its figures to chance."
    )


def metrics_table(rows: Mapping[str, Metrics]) -> str:
    lines = (f"| {title} | {m.n:,} | {m.accuracy:.2%} | {m.nll:.4f} | {m.ece:.4f} |" for title, m in rows.items())
    return "\n".join([_HEADER, *lines])


def _fill(text: str) -> str:
    return fill(text, 120, break_long_words=False, break_on_hyphens=False)
