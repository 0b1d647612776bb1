"""Which examples of the user's own data are held out: by content, in proportion to the labels, by groups.

Which these are depends on their content and on `data.split_seed` alone, not on names, order or machine.
"""

import hashlib
from collections import Counter
from functools import partial

from training.data.compare import Compared
from training.data.examples import SplitName
from training.data.schema import Data, Part, count_of
from training.errors import DataError

_FEW = 5  # groups of a label, from which each split gets at least one


def assign(compared: Compared, data: Data) -> list[SplitName]:
    """The split of each example; "" for a training example that is too near to one that is held out.

    Raises:
        DataError: a split that `data` calls given is missing, or there are too few examples.
    """
    examples, groups = compared.examples, compared.groups
    splits: list[SplitName] = [example.split for example in examples]
    if data.validation != "given":  # a validation split that the data have is then a part of the training examples
        splits = ["train" if split == "validation" else split for split in splits]
    given = Counter(splits)
    for name, part in (("test", data.test), ("validation", data.validation)):
        _check_given(name, part, bool(given[name]), len(examples))  # type: ignore[index]
    held = {group for group, split in zip(groups, splits, strict=True) if split == "test"}
    held_validation = {group for group, split in zip(groups, splits, strict=True) if split == "validation"} - held
    for row, group in enumerate(groups):
        if (splits[row] != "test" and group in held) or (splits[row] != "validation" and group in held_validation):
            splits[row] = ""
        elif splits[row] == "":
            splits[row] = "train"
    if "train" not in splits and examples:
        raise DataError(
            "no training example is left: each is nearly the same as one of the test or validation split, so that "
            "accuracies would mean nothing; remove the copies, or the folder of the split, and a share is held out"
        )
    hold = partial(hold_out, compared, splits, data.split_seed)
    if data.test != "given":
        hold("test", data.test)
    if data.validation != "given":
        hold("validation", data.validation)
    return splits


def _check_given(name: str, part: Part | None, has_split: bool, total: int) -> None:  # noqa: FBT001
    if part == "given" and not has_split:
        raise DataError(f"data.{name} = 'given', but the data have no {name} split; set a share like 0.15")
    if part != "given" and has_split:
        raise DataError(f"data.{name} = {part}, but the data have a {name} split; set data.{name} = 'given'")
    if isinstance(part, int) and part >= total:
        raise DataError(f"data.{name}: cannot hold out {part} of {total} examples; set it below {total}")


def hold_out(compared: Compared, splits: list[SplitName], seed: int, name: SplitName, part: Part | None) -> None:
    """Move a part of the training examples of each label to another split, in place, by groups."""
    rows = [row for row, split in enumerate(splits) if split == "train"]
    share = count_of(part, len(rows)) / max(len(rows), 1)
    members: dict[str, list[int]] = {}
    for row in rows:
        members.setdefault(compared.groups[row], []).append(row)
    strata: dict[tuple[str, ...], list[str]] = {}  # by the labels of a group, which can be several
    for group, each in members.items():
        strata.setdefault(tuple(sorted({compared.examples[row].label for row in each})), []).append(group)
    for groups in strata.values():
        total = sum(len(members[group]) for group in groups)
        target = max(share * total, 1.0 if len(groups) >= _FEW else 0.0)
        ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{seed} {name} {group}".encode()).digest())
        taken = 0
        for group in ordered[: len(groups) - 1]:
            if taken + len(members[group]) / 2 > target:  # nearer to the target without it
                continue
            taken += len(members[group])
            for row in members[group]:
                splits[row] = name
