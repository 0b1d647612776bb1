"""What was found in the user's own data, as lines for the terminal."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data import label_files
from training.data.class_folders import shown
from training.data.examples import SplitName, listed
from training.recipe.look import Look
from training.table import columns as aligned

FEW, UNEVEN = 20, 3
"""Classes with fewer examples are named; from this ratio of the largest to the smallest class, classes are weighted."""
_MAX_SHOWN = 10
_MAX_ROWS = 30


def report(seen: Look) -> Iterator[str]:
    """What was found, as lines for the terminal."""
    compared, found = seen.compared, seen.compared.found
    labels = seen.labels
    rows = [
        ["kind", f"{seen.kind}s, {len(compared.examples):,} in {len(labels):,} classes"],
        *(
            [["size", _size_text(seen.sizes)], ["modes", _shares(Counter(filter(None, seen.compared.modes)))]]
            if seen.sizes
            else []
        ),
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
            "the classes (loss.class_weights), and versions are compared by their balanced accuracy (gate.metric)"
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
    if all(label.lstrip("-").isdecimal() for label in seen.labels):
        names = ",".join(f"{label}=NAME" for label in seen.labels[:3])
        path = Path(str(seen.data.path))
        file = label_files.find(path if path.is_dir() else path.parent, seen.labels)
        yield f"the labels are numbers; give them names with --labels {shlex.quote(shown(file)) if file else names}"


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
