"""Lines across an image, as of ruled and squared paper: found and taken out of a mask of ink."""

import numpy as np

from contract.regions import Mask

_LINE, _LINE_EDGE = 0.72, 0.35  # of a row that a line across the image covers, in its middle and at its edges
_SMALL = 64  # pixels of width, under which lines are taken for level


def without_lines(mask: Mask) -> Mask:
    """The mask without lines that run across the image from left to right; strokes that cross them stay."""
    height, width = mask.shape
    slope = _line_slope(mask)
    if slope is None:
        return mask
    rows = np.arange(height)[:, None] + np.round((np.arange(width) + 0.5 - width / 2) * slope).astype(int)[None]
    columns = np.broadcast_to(np.arange(width)[None], rows.shape)
    inside = (rows >= 0) & (rows < height)
    level = mask[np.clip(rows, 0, height - 1), columns] & inside  # the lines are level in it
    cover = level.mean(axis=1)
    line = cover > _LINE
    for _ in range(2):
        line |= (np.roll(line, 1) | np.roll(line, -1)) & (cover > _LINE_EDGE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
    margin = max(width // 16, 2)
    for top, bottom in zip(edges[::2], edges[1::2], strict=True):
        band = level[top:bottom]
        if bottom - top > 0.12 * height + 2 or not (band[:, :margin].any() and band[:, -margin:].any()):
            continue  # a bar, which the border takes care of; or a stroke that ends inside of the image
        above, below = level[max(top - 2, 0) : top].any(axis=0), level[bottom : bottom + 2].any(axis=0)
        reach = 2 * int(bottom - top) + 1
        level[top:bottom] &= (above & _near(below, reach)) | (below & _near(above, reach))
    cleaned = np.zeros_like(mask)
    cleaned[rows[inside], columns[inside]] = level[inside]
    return cleaned


def _near(line: Mask, reach: int) -> Mask:
    """The pixels of one row within half of `reach` of a set one."""
    start = reach // 2
    sums = np.convolve(line, np.ones(reach))[start : start + line.size]  # "same" is longer if `reach` is
    return sums > 0.5  # noqa: PLR2004 -- sums are whole numbers


def _line_slope(mask: Mask, blocks: int = 16) -> float | None:
    """Rows for each column by which lines across the image climb; None where there are none.

    Ink is counted in each row of each block of columns, and the counts are added along lines of some slopes.
    """
    height, width = mask.shape
    if width < blocks or not mask.any(axis=0).mean() > _LINE:
        return None
    edges = np.linspace(0, width, blocks + 1).astype(int)
    counts = np.add.reduceat(mask, edges[:-1], axis=1, dtype=np.int32).T  # (blocks, H)
    if (counts.max(axis=1) >= 0.4 * np.diff(edges)).mean() < 0.6:  # noqa: PLR2004 -- of the blocks hold no line
        return None
    middles = (edges[:-1] + edges[1:] - width) / 2
    slopes = np.linspace(-0.12, 0.12, 25) if width >= _SMALL else np.zeros(1)
    shifts = np.round(slopes[:, None] * middles).astype(int)  # (slopes, blocks)
    reach = int(np.abs(shifts).max())
    padded = np.zeros((blocks, height + 2 * reach), np.int32)
    padded[:, reach : reach + height] = counts
    starts = shifts + reach + np.arange(blocks) * padded.shape[1]
    cover = padded.ravel()[starts[..., None] + np.arange(height)].sum(axis=1) / width  # (slopes, H)
    scores = np.where(cover > _LINE, cover**2, 0).sum(axis=1)
    best = int(scores.argmax())
    return float(slopes[best]) if scores[best] > 0 else None
