"""Images that show the same: copies in another size, format or quality, which must not be on both sides of a split.

Two images are near-duplicates if their thumbnails of 16 x 16 have a correlation of at least 0.99, and mean colours that
differ by at most 3 of 255. Images of a single colour have nothing to correlate and are compared by their bytes alone.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SIDE = 16
_CORRELATION = 0.99
_MEAN_GAP = 3.0  # of 255
_FLAT = 2.0  # the standard deviation of a thumbnail with nothing on it
_BLOCK = 1024


def pairs(thumbnails: Tensor) -> list[tuple[int, int]]:
    """The near-duplicates among thumbnails, uint8 (N, 16, 16, C), as pairs of their numbers, the lower first.

    Thumbnails are sorted by brightness, and only those of nearly the same brightness are compared.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).float()  # (N, 256 * C)
    means = flat.mean(dim=1)
    centred = flat - means.unsqueeze(1)
    norms = centred.norm(dim=1)
    has_content = norms / flat.shape[1] ** 0.5 > _FLAT
    order = means.argsort(stable=True)
    order = order[has_content[order]]
    means, unit = means[order], (centred / norms.clamp(min=1e-6).unsqueeze(1))[order]
    found: list[tuple[int, int]] = []
    for start in range(0, len(order), _BLOCK):
        rows = slice(start, start + _BLOCK)
        highest = means[rows][-1] + _MEAN_GAP
        end = int(torch.searchsorted(means, highest, right=True))
        alike = unit[rows] @ unit[start:end].T >= _CORRELATION  # (block, later)
        alike &= (means[rows].unsqueeze(1) - means[start:end]).abs() <= _MEAN_GAP
        found += [
            (int(order[start + one]), int(order[start + other])) for one, other in alike.triu(1).nonzero().tolist()
        ]
    return [(min(pair), max(pair)) for pair in found]


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
