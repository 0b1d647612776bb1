"""Images that show the same: copies in another size, format or quality, which must not be on both sides of a split.

Two images are near-duplicates if their thumbnails of 16 x 16 have a correlation of at least 0.99, and mean colours that
differ by at most 3 of 255. What many images share is taken away first, since X-rays, parts before one camera and pages
of a document are alike without being copies: of 20 images or more, the differences from their mean, and from the mean
of their label, must have a correlation of at least 0.98 as well. Images that differ in nothing, or of a single colour,
have nothing to correlate and are compared by their bytes alone.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIDE = 16
_CORRELATION = 0.99
_OWN_CORRELATION = 0.98
_MEAN_GAP = 3.0  # of 255
_MANY = 20  # images, from which on their mean shows what they share
_FLAT = 2.0  # the standard deviation of a thumbnail with nothing on it
_BLOCK = 1024


def pairs(thumbnails: npt.NDArray[np.uint8], labels: Sequence[str] = ()) -> list[tuple[int, int]]:
    """The near-duplicates among thumbnails, uint8 (N, 16, 16, C), as pairs of their numbers, the lower first.

    Thumbnails are sorted by brightness, and only those of nearly the same brightness are compared. `labels` (N) are
    those of the images.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)  # (N, 256 * C)
    means = flat.mean(axis=1)
    unit, has_content = _unit(flat)
    own, is_own = _unit(flat - flat.mean(axis=0)) if len(flat) >= _MANY else (unit, has_content)
    order = means.argsort(kind="stable")
    order = order[(has_content & is_own)[order]]
    means, unit, own = means[order], unit[order], own[order]
    found: list[tuple[int, int]] = []
    for start in range(0, len(order), _BLOCK):
        rows = slice(start, start + _BLOCK)
        highest = means[rows][-1] + _MEAN_GAP
        end = int(np.searchsorted(means, highest, side="right"))
        alike = unit[rows] @ unit[start:end].T >= _CORRELATION  # (block, later)
        alike &= own[rows] @ own[start:end].T >= (_OWN_CORRELATION if len(flat) >= _MANY else _CORRELATION)
        alike &= np.abs(means[rows][:, None] - means[start:end]) <= _MEAN_GAP
        found += [(int(order[start + one]), int(order[start + other])) for one, other in np.argwhere(np.triu(alike, 1))]
    return _beyond_labels(flat, labels, sorted((min(pair), max(pair)) for pair in found))


def _unit(values: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Rows (N, D) without their means, scaled to a length of 1, and whether they have anything but their mean (N)."""
    centred = values - values.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    return centred / np.maximum(norms, 1e-6)[:, None], norms / values.shape[1] ** 0.5 > _FLAT


def _beyond_labels(flat: Floats, labels: Sequence[str], found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs that are alike beyond what the images of a label share: thumbnails (N, D)."""
    by_label: dict[str, list[tuple[int, int]]] = {}
    for pair in found:
        by_label.setdefault(labels[pair[0]] if labels else "", []).append(pair)
    kept: list[tuple[int, int]] = []
    for label, each in by_label.items():
        members = [row for row, name in enumerate(labels) if name == label]
        if len(members) < _MANY:
            kept += each
            continue
        mean = flat[members].mean(axis=0)
        for start in range(0, len(each), _BLOCK):
            one, other = np.array(each[start : start + _BLOCK]).T  # (block)
            (first, has_first), (second, has_second) = _unit(flat[one] - mean), _unit(flat[other] - mean)
            alike = ((first * second).sum(axis=1) >= _OWN_CORRELATION) & has_first & has_second
            kept += [pair for pair, is_alike in zip(each[start:], alike.tolist(), strict=False) if is_alike]
    return kept


def groups(count: int, same: Iterable[tuple[int, int]]) -> list[int]:
    """The lowest number that each of `count` examples is connected with by pairs of `same` ones."""
    roots = list(range(count))

    def root(number: int) -> int:
        while roots[number] != number:
            roots[number] = roots[roots[number]]
            number = roots[number]
        return number

    for one, other in same:
        low, high = sorted((root(one), root(other)))
        roots[high] = low
    return [root(number) for number in range(count)]


def equal(keys: Sequence[str]) -> list[tuple[int, int]]:
    """Each number with the first that has an equal key; an empty key equals no other."""
    first: dict[str, int] = {}
    return [(first[key], number) for number, key in enumerate(keys) if key and first.setdefault(key, number) != number]
