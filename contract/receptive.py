"""Receptive fields: which part of the input a cell of a layer has seen.

The arithmetic is that of Araujo et al. (2019), "Computing Receptive Fields of Convolutional Neural Networks": from
layer to layer, the field grows by (window - 1) * stride of the field before, and strides multiply.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Receptive:
    """The field of cell 0 along each axis of the input, in pixels or tokens, and how far it moves from cell to cell.

    Cell i sees the input from `start + i * stride` on, `size` of it; what lies outside of the input is padding.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]

    @classmethod
    def of_input(cls, axes: int) -> "Receptive":
        """A cell of the input itself."""
        return cls((1,) * axes, (1,) * axes, (0,) * axes)

    def after(self, windows: "Sequence[Window]") -> "Receptive":
        """The field after a convolution or a pool, with a window on each axis."""
        along = list(zip(windows, self.size, self.stride, self.start, strict=True))
        return Receptive(
            tuple(size + (window.extent - 1) * stride for window, size, stride, _ in along),
            tuple(stride * window.stride for window, _, stride, _ in along),
            tuple(start - window.before * stride for window, _, stride, start in along),
        )

    def joined(self, other: "Receptive") -> "Receptive | None":
        """The field of cells that are made of two, as in a skip connection; None if the two move apart."""
        if self.stride != other.stride:
            return None
        starts = tuple(map(min, self.start, other.start))
        ends = [
            max(start + size, other_start + other_size)
            for start, size, other_start, other_size in zip(self.start, self.size, other.start, other.size, strict=True)
        ]
        sizes = tuple(end - start for end, start in zip(ends, starts, strict=True))
        return Receptive(sizes, self.stride, starts)


@dataclass(frozen=True)
class Window:
    """A filter or pooling window along one axis, and the zeros before and after that axis."""

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """How many cells it spans."""
        return self.dilation * (self.size - 1) + 1

    def formula(self, axis: str, length: int, output: int) -> str:
        """The arithmetic of the output's length, like `OH = (28 + 2*2 - 5)/1 + 1 = 28`.

        Dumoulin & Visin (2016), relationship 6. `output` is the real length: pools may round up.
        """
        zeros = f"2*{self.before}" if self.before == self.after else f"{self.before} + {self.after}"
        extent = str(self.size) if self.dilation == 1 else f"({self.dilation}*({self.size} - 1) + 1)"
        exact = (length + self.before + self.after - self.extent) / self.stride + 1
        ending = (
            f"{output}" if exact == output else f"{exact:.4g}, rounded {'down' if exact > output else 'up'} to {output}"
        )
        return f"O{axis} = ({length} + {zeros} - {extent})/{self.stride} + 1 = {ending}"
