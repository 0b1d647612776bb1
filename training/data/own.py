"""The user's own data: a folder or a table -> splits, by content, in proportion to the labels.

What `class_folders` and `columns` find is compared first. Of equal contents, the first is kept; those with several
labels are left out. Near-duplicates of an image, and rows of one group, stay in one split. Which
examples are held out depends on their content and on `data.split_seed` alone, not on names, order or machine.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from contract.errors import ConvokeError
from contract.inputs import image_to_pixels
from contract.manifest import sha256
from contract.spec import ImageInput, TextInput
from training.data import class_folders, columns, folders, photos, similar, vocabulary
from training.data.dataset import Dataset, Split, check_complete, parts
from training.data.examples import Example, Found, LeftOut, SplitName, listed, natural
from training.data.photos import Photo
from training.data.schema import Data, Image, Input, Part, Text, count_of
from training.errors import DataError, RecipeError
from training.progress import say

THUMBNAIL = ImageInput(height=similar.SIDE, width=similar.SIDE, mode="RGB", framing="squash")
_FEW = 5  # groups of a label, from which each split gets at least one


@dataclass
class Compared:
    """Examples that can be read, each content once, with the groups that must stay together."""

    found: Found
    examples: list[Example]
    keys: list[str]
    """The SHA-256 of each content; of texts, that of the letters and digits."""
    groups: list[str]
    """Equal for examples that must stay in one split; it depends on their contents alone."""
    copies: int = 0
    """How many examples had the content of another with the same label."""
    conflicts: list[list[Example]] = field(default_factory=list)
    """Examples with one content and several labels."""
    near: int = 0
    """How many examples are near-duplicates of another: the same image in another size, the same words."""
    thumbnails: torch.Tensor | None = None
    """Of images, uint8 (N, 16, 16, 3)."""


def find(data: Data) -> Found:
    """The labelled examples of the user's data.

    Raises:
        DataError: the data are missing or cannot be understood.
    """
    assert data.path is not None, "the schema requires it"
    path = folders.locate(data.path)
    found = class_folders.scan(path) if data.name == "folder" else columns.examples(data, path)
    columns.renamed(found, data.label_names)
    return found


def compare(found: Found, data: Data) -> Compared:
    """Read all examples and compare their contents.

    Raises:
        DataError: too many files cannot be read.
    """
    if found.kind == "text":
        texts = list(map(text_of, found.examples))
        keys = [_sha256(" ".join(text.casefold().split())) for text in texts]
        return _compared(found, found.examples, keys, list(map(_letters, texts)), None)
    readable, keys, thumbnails = _images(found, data.max_unreadable)
    return _compared(found, readable, keys, [""] * len(keys), thumbnails)


def _images(found: Found, max_unreadable: float) -> tuple[list[Example], list[str], torch.Tensor]:
    """The images that can be decoded, the SHA-256 of their bytes, and their thumbnails."""
    hashed: list[tuple[Example, str]] = []
    for example, digest in zip(found.examples, photos.parallel(_digest, found.examples, "reading images"), strict=True):
        if isinstance(digest, LeftOut):
            found.left_out.append(digest)
        else:
            hashed.append((example, digest))
    spots = [Photo(Path(example.content), row, digest) for row, (example, digest) in enumerate(hashed)]
    split = photos.decode(spots, THUMBNAIL, "compared", report=lambda _line: None) if spots else None
    rows = [] if split is None else split.labels.tolist()
    lost = sorted(set(range(len(hashed))) - set(rows))
    found.left_out += photos.parallel(_undecodable, [hashed[row][0] for row in lost], "checking")
    total = len(found.examples)
    if split is None or ((lost or len(hashed) < total) and total - len(rows) > max_unreadable * total):
        raise DataError(
            f"{total - len(rows):,} of {total:,} images cannot be read, more than the {max_unreadable:.0%} that "
            f"data.max_unreadable allows: {'; '.join(map(str, found.left_out[:3]))}"
        )
    return [hashed[row][0] for row in rows], [hashed[row][1] for row in rows], split.inputs


def _digest(example: Example) -> str | LeftOut:
    try:
        return sha256(Path(example.content))
    except OSError as error:
        return LeftOut(example.source, f"the file cannot be read: {error.strerror}")


def _undecodable(example: Example) -> LeftOut:
    try:
        image_to_pixels(Path(example.content).read_bytes(), THUMBNAIL)
    except (ConvokeError, OSError) as error:
        return LeftOut(example.source, str(error))
    return LeftOut(example.source, "the file changed while it was read")


def text_of(example: Example) -> str:
    """The text of an example, from the table or from its file in UTF-8.

    Raises:
        DataError: the file cannot be read.
    """
    if isinstance(example.content, str):
        return example.content
    try:
        return example.content.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise DataError(f"{example.source}: the file cannot be read: {error.strerror}") from error


def _letters(text: str) -> str:
    """Equal for texts that differ in nothing but case, spaces and punctuation; "" for one without letters or digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _compared(
    found: Found, examples: list[Example], keys: list[str], near: Sequence[str], thumbnails: torch.Tensor | None
) -> Compared:
    """The examples without copies; those with equal `keys` are copies, those with equal `near` stay together."""
    labels: dict[str, set[str]] = {}
    for example, key in zip(examples, keys, strict=True):
        labels.setdefault(key, set()).add(example.label)
    conflicts: dict[str, list[Example]] = {}
    kept: dict[tuple[str, SplitName], int] = {}  # copies in two given splits are both kept, and parted later
    for row, (example, key) in enumerate(zip(examples, keys, strict=True)):
        if len(labels[key]) > 1:
            conflicts.setdefault(key, []).append(example)
        else:
            kept.setdefault((key, example.split), row)
    rows = sorted(kept.values())
    chosen, chosen_keys = [examples[row] for row in rows], [keys[row] for row in rows]
    thumbs = None if thumbnails is None else thumbnails[torch.tensor(rows, dtype=torch.int64)]
    alike = [] if thumbs is None else similar.pairs(thumbs, [example.label for example in chosen])
    alike += similar.equal([near[row] for row in rows])
    same = [*similar.equal(chosen_keys), *alike, *similar.equal([example.group for example in chosen])]
    roots = similar.groups(len(chosen), same)
    lowest: dict[int, str] = {}
    for root, key in zip(roots, chosen_keys, strict=True):
        lowest[root] = min(lowest.get(root, key), key)
    return Compared(
        found,
        chosen,
        chosen_keys,
        [lowest[root] for root in roots],
        copies=len(examples) - len(rows) - sum(map(len, conflicts.values())),
        conflicts=list(conflicts.values()),
        near=len({row for pair in alike for row in pair}),
        thumbnails=thumbs,
    )


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
    hold_out = partial(_hold_out, compared, splits, data.split_seed)
    if data.test != "given":
        hold_out("test", data.test)
    if data.validation != "given":
        hold_out("validation", data.validation)
    return splits


def _check_given(name: str, part: Part | None, has_split: bool, total: int) -> None:  # noqa: FBT001
    if part == "given" and not has_split:
        raise DataError(f"data.{name} = 'given', but the data have no {name} split; set a share like 0.15")
    if part != "given" and has_split:
        raise DataError(f"data.{name} = {part}, but the data have a {name} split; set data.{name} = 'given'")
    if isinstance(part, int) and part >= total:
        raise DataError(f"data.{name}: cannot hold out {part} of {total} examples; set it below {total}")


def _hold_out(compared: Compared, splits: list[SplitName], seed: int, name: SplitName, part: Part | None) -> None:
    """Move a part of the training examples of each label to another split, in place, by groups."""
    rows = [row for row, split in enumerate(splits) if split == "train"]
    share = count_of(part, len(rows)) / max(len(rows), 1)
    members: dict[str, list[int]] = {}
    for row in rows:
        members.setdefault(compared.groups[row], []).append(row)
    strata: dict[str, list[str]] = {}
    for group, each in members.items():
        first = min(each, key=lambda row: compared.keys[row])
        strata.setdefault(compared.examples[first].label, []).append(group)
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


def load(data: Data, spec: Input, labels: Sequence[str]) -> Dataset:
    """The splits of the user's data, numbered in the order of `labels`.

    Raises:
        DataError: the data are missing, unreadable or too few.
        RecipeError: the labels or the kind of input are not those of the data.
    """
    compared, splits = _prepare(data, spec.kind, labels)
    return _dataset(compared, splits, data, spec, labels)


def fold(data: Data, spec: Input, labels: Sequence[str], number: int) -> Dataset:
    """Fold `number`, from 0, of a cross-validation over all examples but those of a test split that the data have.

    Raises:
        DataError, RecipeError: as `load`.
    """
    assert data.folds is not None, "no cross-validation"
    compared, splits = _prepare(
        data.model_copy(update={"validation": 0.5, "test": 0.5}), spec.kind, labels, given=False
    )
    part_of = parts(compared.groups, [example.label for example in compared.examples], data.folds)
    for row, group in enumerate(compared.groups):
        splits[row] = "test" if part_of[group] == number else "train"
    _hold_out(compared, splits, data.split_seed, "validation", data.validation)
    return _dataset(compared, splits, data, spec, labels)


def tests(data: Data, spec: ImageInput | TextInput, labels: Sequence[str], tokenizer: str | None) -> dict[str, Split]:
    """The test split, as a published model takes it.

    Raises:
        DataError, RecipeError: as `load`.
    """
    compared, splits = _prepare(data, spec.kind, labels)
    chosen = [example for example, split in zip(compared.examples, splits, strict=True) if split == "test"]
    if isinstance(spec, TextInput):
        assert tokenizer is not None, "texts need a tokenizer"
        return {data.title: _encode(chosen, tokenizer, spec, labels)}
    return {data.title: photos.decode(_photos(compared, splits, "test", labels), spec, "test")}


def _prepare(data: Data, kind: str, labels: Sequence[str], *, given: bool = True) -> tuple[Compared, list[SplitName]]:
    """The compared examples of `labels`, and the split of each."""
    found = find(data)
    if found.kind != kind:
        raise RecipeError(f"input.kind: got {kind!r}, but {data.path} has {found.kind}s")
    if not given:
        found.examples = [replace(each, split="") for each in found.examples if each.split != "test"]
    compared = compare(found, data)
    _check_labels({each.label for each in compared.examples}, labels)
    if found.left_out:
        say(f"{len(found.left_out):,} left out: {'; '.join(map(str, found.left_out[:3]))}")
    return compared, assign(compared, data) if given else [""] * len(compared.examples)


def _check_labels(present: set[str], labels: Sequence[str]) -> None:
    if present != set(labels):
        unknown = listed([label for label in labels if label not in present]) or "none"
        missing = listed(natural(present - set(labels))) or "none"
        raise RecipeError(
            f"labels: not those of the data (only in the recipe: {unknown}; only in the data: {missing}). Change the "
            "labels and the size of the last layer, or make the recipe again with: python -m training new"
        )


def _dataset(compared: Compared, splits: list[SplitName], data: Data, spec: Input, labels: Sequence[str]) -> Dataset:
    chosen = {
        name: [each for each, split in zip(compared.examples, splits, strict=True) if split == name]
        for name in ("train", "validation", "test")
    }
    for name, each in chosen.items():
        if not each:
            raise DataError(
                f"the {name} split has no example: {len(compared.examples):,} examples are too few for data.test = "
                f"{data.test} and data.validation = {data.validation}; add examples"
            )
    check_complete([labels.index(each.label) for each in chosen["train"]], labels)
    fingerprint = _fingerprint(compared, splits)
    if isinstance(spec, Text):
        return _texts(chosen, data, spec, labels, fingerprint)
    assert isinstance(spec, Image), spec
    stored, served = spec.served(data.stored_side), spec.served()
    of = {name: _photos(compared, splits, name, labels) for name in ("train", "validation", "test")}
    return Dataset(
        train=photos.decode(of["train"], stored, "training"),
        validation=photos.decode(of["validation"], served, "validation"),
        tests={data.title: photos.decode(of["test"], served, "test")},
        fingerprint=fingerprint,
        stored_validation=photos.decode(of["validation"], stored, "validation")
        if data.refit and stored != served
        else None,
    )


def _texts(
    chosen: dict[str, list[Example]], data: Data, spec: Text, labels: Sequence[str], fingerprint: str
) -> Dataset:
    tokenizer = vocabulary.build(map(text_of, chosen["train"]), spec)
    encode = partial(_encode, tokenizer=tokenizer, spec=spec.served(), labels=labels)
    return Dataset(
        train=encode(chosen["train"]),
        validation=encode(chosen["validation"]),
        tests={data.title: encode(chosen["test"])},
        fingerprint=fingerprint,
        tokenizer=tokenizer,
    )


def _encode(examples: list[Example], tokenizer: str, spec: TextInput, labels: Sequence[str]) -> Split:
    tokens, counts = vocabulary.encode(list(map(text_of, examples)), tokenizer, spec)
    kept = counts > 0
    if not kept.any():
        raise DataError("no text of a split has a word; check the column of the texts")
    if not kept.all():
        empty = next(each for each, has_word in zip(examples, kept.tolist(), strict=True) if not has_word)
        say(f"{int((~kept).sum()):,} of {len(kept):,} texts have no word and are left out, like {empty.source}")
    numbers = {label: number for number, label in enumerate(labels)}
    truth = torch.tensor([numbers[example.label] for example in examples])
    sources = tuple(each.source for each, has_word in zip(examples, kept.tolist(), strict=True) if has_word)
    return Split(tokens[kept], truth[kept], sources, token_counts=counts[kept])


def _photos(compared: Compared, splits: list[SplitName], name: str, labels: Sequence[str]) -> list[Photo]:
    numbers = {label: number for number, label in enumerate(labels)}
    return [
        Photo(Path(example.content), numbers[example.label], key)
        for example, key, split in zip(compared.examples, compared.keys, splits, strict=True)
        if split == name
    ]


def _fingerprint(compared: Compared, splits: Sequence[str]) -> str:
    """SHA-256 over split, content and label of each example, in the order of the contents."""
    digest = hashlib.sha256()
    for line in sorted(
        f"{split} {key} {example.label}\n"
        for example, key, split in zip(compared.examples, compared.keys, splits, strict=True)
    ):
        digest.update(line.encode())
    return f"sha256:{digest.hexdigest()}"
