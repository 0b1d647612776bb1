"""A folder of images or texts -> examples: the name of a subfolder is the label of the files below it.

Folders of splits (`train/`, `val/`, `test/`, in the usual spellings) may stand above the subfolders, and folders that
hold nothing but one other folder are passed through. Files that systems and people leave between the data
(`.DS_Store`, `Thumbs.db`, `__MACOSX`, a README) are passed over and named once.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from contract.picture import has_signature
from training.data import file_names, masks, not_read
from training.data.examples import SPLITS, Example, Found, LeftOut, SplitName, listed
from training.errors import DataError

IMAGES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"})
"""Of the formats in `contract.picture.FORMATS`, in lower case."""
FOREIGN = frozenset({".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".ico", ".cr2", ".nef", ".dng", ".dcm"})
"""Images in formats that the service does not read: left out with what to do."""
TEXTS = frozenset({".txt", ".text"})
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"})

_JUNK = re.compile(
    r"\..*|thumbs\.db|desktop\.ini|__macosx|lost\+found|__pycache__|(readme|licen[cs]e|copying|citation)([._-].*)?",
    re.IGNORECASE,
)
_UNLABELLED = frozenset({"unsup", "unsupervised", "unlabeled", "unlabelled"})
_WORDS = re.compile(r"[^a-z]+")


@dataclass
class _Walk:
    """The files below a folder, and what was passed over on the way."""

    root: Path
    files: list[Path] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    junk: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    def folder(self, folder: Path, above: tuple[Path, ...]) -> None:
        """Collect the files of `folder`; `above` are the real paths of the folders that lead to it."""
        before = len(self.files)
        try:
            entries = sorted(folder.iterdir(), key=lambda path: path.name)
        except OSError as error:
            self._leave_out(folder, f"the folder cannot be opened: {error.strerror}")
            return
        for path in entries:
            if _JUNK.fullmatch(path.name):
                self.junk["._*" if path.name.startswith("._") else path.name] += 1
            elif path.is_symlink() and (fault := self._link_fault(path, above)):
                self._leave_out(path, fault)
            elif path.is_dir():
                self.folder(path, (*above, path.resolve()))
            elif path.is_file():
                self.files.append(path)
            else:
                self._leave_out(path, "not a regular file")
        if len(self.files) == before and folder != self.root:
            self.empty.append(shown(folder.relative_to(self.root)))

    def _link_fault(self, path: Path, above: tuple[Path, ...]) -> str:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # a loop is a RuntimeError before Python 3.13
            return "a symbolic link that leads to nothing or to itself"
        if not target.is_relative_to(above[0]):
            return "a symbolic link that leads out of the folder; copy what it leads to into the folder"
        return "a symbolic link to a folder above it, which is a loop; remove it" if target in above else ""

    def _leave_out(self, path: Path, reason: str) -> None:
        self.left_out.append(LeftOut(shown(path), reason))


def shown(path: Path | str) -> str:
    """A path for people, also one whose bytes are not UTF-8."""
    return str(path).encode("utf-8", "replace").decode()


def scan(root: Path) -> Found:
    """The examples of a folder.

    Raises:
        DataError: the folder is missing or has no labelled files; the message says what was expected.
    """
    walk = _walk(root)
    images = [path for path in walk.files if _is_image(path)]
    aside = masks.find(images, root)
    images = [path for path in images if path not in aside]
    texts = [path for path in walk.files if path.suffix.lower() in TEXTS]
    boxes = next((path for path in texts if path.parent.name == "labels" or path.parent.parent.name == "labels"), None)
    if boxes and images and any("images" in path.relative_to(root).parts for path in images):
        raise DataError(
            f"{shown(root)}: {shown(boxes)} has boxes for an image, as YOLO reads them; a classifier needs one label "
            "for each image: cut the boxes out, or put the images into a subfolder for each class"
        )
    is_text = len(texts) > len(images)
    chosen = texts if is_text else images
    if not chosen:
        raise _nothing(root, walk)
    found = Found("text" if is_text else "image", left_out=walk.left_out)
    if aside:
        found.notes.append(f"{len(aside):,} images are masks of others, like {shown(min(aside))}, and are left out")
    rest = sorted(set(walk.files) - set(chosen) - aside)
    others = Counter(path.suffix.lower() or shown(path.name) for path in rest)
    if others:
        names = listed([f"{name} ({count:,})" for name, count in others.most_common()])
        found.notes.append(f"files that are not {found.kind}s, not read: {names}")
    if walk.junk:
        found.notes.append(f"passed over: {listed(sorted(walk.junk), 8)}")
    _label(root, chosen, found)
    if walk.empty:
        found.notes.append(f"folders without files, which give no label: {listed(walk.empty)}")
    return found


def flat_images(root: Path) -> list[Path]:
    """The image files below a folder, whatever subfolders they are in."""
    return [path for path in _walk(root).files if _is_image(path)]


def _walk(root: Path) -> _Walk:
    if not root.is_dir():
        fault = "this is a file" if root.exists() else "the folder does not exist"
        raise DataError(f"{shown(root)}: {fault}; expected a folder with a subfolder for each class")
    walk = _Walk(root)
    walk.folder(root, (root.resolve(),))
    return walk


def _is_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in IMAGES or suffix in FOREIGN:
        return True
    if suffix in TEXTS | TABLES or not_read.advice(path):
        return False
    try:
        with path.open("rb") as file:
            return has_signature(file.read(16))
    except OSError:
        return False


def _label(root: Path, files: list[Path], found: Found) -> None:
    """Give each file the label and the split that its folders name."""
    parts = {path: path.relative_to(root).parts for path in files}
    wrappers = _unwrap(parts)
    if wrappers:
        found.notes.append(f"the classes are in {'/'.join(wrappers)}/")
    parts, has_splits = _with_splits(parts)
    is_unsorted = not has_splits and all(split_of(each[0]) for each in parts.values() if len(each) > 1)
    unlabelled: Counter[str] = Counter()
    unsplit: Counter[str] = Counter()
    by_split: dict[SplitName, dict[Path, tuple[str, ...]]] = {}
    for path, each in parts.items():
        split = split_of(each[0]) if has_splits and len(each) > 1 else ""
        rest = each[1:] if has_splits and len(each) > 1 else each
        if has_splits and not split:
            unsplit[each[0]] += 1
        elif len(rest) < 2 or is_unsorted or rest[0].lower() in _UNLABELLED:  # noqa: PLR2004 -- a class and a file
            unlabelled["/".join([*each[:-2], each[-2], ""]) if len(each) > 1 else "the folder itself"] += 1
        else:
            by_split.setdefault(split, {})[path] = rest
    for split, members in by_split.items():
        _unwrap(members)
        for path, rest in members.items():
            found.examples.append(Example(path, _name(rest[0], path), shown(path), split))
    classes = {each.label for each in found.examples if each.label.lower() not in masks.IMAGES}
    if found.kind == "image" and sum(not split_of(name) for name in classes) < 2:  # noqa: PLR2004 -- labels
        _label_by_names(files, root, found, unlabelled)
    found.examples.sort(key=lambda example: example.source)
    found.notes += _inner_folders(by_split)
    found.notes += [
        f"{count:,} files in {shown(name)} are in no class folder, so they have no label and are left out"
        for name, count in unlabelled.items()
    ]
    found.notes += [
        f"{count:,} files in {shown(name)} are in none of the splits and are left out"
        for name, count in unsplit.items()
    ]
    if not found.examples:
        raise _no_class(root, files, found.kind)


def _no_class(root: Path, files: list[Path], kind: str) -> DataError:
    """The error for files in no folder of a class."""
    start = f"{shown(root)}: {len(files):,} {kind}s, but none of them in a class folder. "
    if kind == "text" and len(files) > 1:
        return DataError(
            f"{start}If each line of a file is an example, make a table of all, with a line like `label<TAB>text` for "
            "each; else put the texts of each class into a subfolder of its name"
        )
    return DataError(
        f"{start}Put the {kind}s of each class into a subfolder of its name, or add a CSV with a column of file names "
        "and one of labels"
    )


def _with_splits(parts: dict[Path, tuple[str, ...]]) -> tuple[dict[Path, tuple[str, ...]], bool]:
    """The folders of each file with the split before the class, and whether the data have splits."""
    if any(split_of(each[0]) == "train" and len(each) > 2 for each in parts.values()):  # noqa: PLR2004
        return parts, True
    inside = [split_of(each[-2]) for each in parts.values() if len(each) > 2]  # noqa: PLR2004 -- class/train/file
    if len(inside) == len(parts) and "train" in inside and all(inside):
        return {path: (each[-2], *each[:-2], each[-1]) for path, each in parts.items()}, True
    return parts, False


def _label_by_names(files: list[Path], root: Path, found: Found, unlabelled: Counter[str]) -> None:
    """Take the labels from the names of the files, like `cat.123.jpg`, if these have labels."""
    labels = file_names.labels(files)
    if not labels:
        return
    found.examples.clear()
    unlabelled.clear()
    found.notes.append(f"the names of the files have the labels, like {shown(min(labels).name)}")
    for path in files:
        folder = path.relative_to(root).parts[0]
        if path in labels:
            split = split_of(folder) if folder != path.name else ""
            found.examples.append(Example(path, _name(labels[path], path), shown(path), split))
        else:
            unlabelled["" if folder == path.name else f"{folder}/"] += 1
    if not any(example.split == "train" for example in found.examples):
        found.examples = [replace(example, split="") for example in found.examples]


def _inner_folders(by_split: dict[SplitName, dict[Path, tuple[str, ...]]]) -> Iterator[str]:
    """A sentence about folders within the classes, whose names are not labels."""
    inner: dict[str, set[str]] = {}
    for members in by_split.values():
        for rest in members.values():
            if len(rest) > 2:  # noqa: PLR2004 -- a class, a folder and a file
                inner.setdefault(rest[0], set()).add(rest[1])
    names = {name for each in inner.values() for name in each}
    if len(names) > 1:
        shown_names = listed(sorted(map(shown, names)))
        yield (
            f"folders within the classes are not labels: {shown_names}; if they are the classes, move them side by "
            "side into one folder"
        )


def _unwrap(parts: dict[Path, tuple[str, ...]]) -> list[str]:
    """Remove folders that all files share and that have folders below, in place; return their names."""
    removed: list[str] = []
    while parts:
        firsts = {each[0] for each in parts.values()}
        if len(firsts) > 1 or any(len(each) < 3 for each in parts.values()):  # noqa: PLR2004 -- folder, class, file
            break
        if len({each[1] for each in parts.values()}) < 2 and min(map(len, parts.values())) == 3:  # noqa: PLR2004
            break  # one class with one folder: nothing says which of them is the label
        removed += firsts
        for path, each in parts.items():
            parts[path] = each[1:]
    return removed


def split_of(name: str) -> SplitName:
    """The split that a folder's name means; also that of `seg_train` or `test-images`."""
    words = [word for word in _WORDS.split(name.lower()) if word]
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 and len(words) <= 2 else ""  # noqa: PLR2004


def _name(folder: str, path: Path) -> str:
    """The label that a folder's name is, in the composed form of Unicode: macOS decomposes umlauts."""
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{shown(path.parent)}: the name of this folder is not UTF-8; rename it") from error
    return unicodedata.normalize("NFC", folder.strip())


def _nothing(root: Path, walk: _Walk) -> DataError:
    if not walk.files:
        what = f"has only empty folders: {listed(walk.empty)}" if walk.empty else "is empty"
        if walk.left_out:
            what = f"has nothing that can be read: {walk.left_out[0]}"
        return DataError(f"{shown(root)}: the folder {what}; expected images in a subfolder for each class")
    suffixes = Counter(path.suffix.lower() or shown(path.name) for path in walk.files)
    names = listed([f"{name} ({count:,})" for name, count in suffixes.most_common()])
    advice = next(filter(None, map(not_read.advice, walk.files)), f"expected {', '.join(sorted(IMAGES))}")
    return DataError(f"{shown(root)}: no images or texts among its files: {names}; {advice}")
