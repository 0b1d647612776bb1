"""Tables for the terminal."""

from training.table import columns


def test_columns_are_aligned_to_their_side() -> None:
    """Two spaces separate the columns, and no line ends in spaces."""
    rows = [["layer", "output", ""], ["conv 16", "16 x 28 x 28", "1,280"], ["flatten", "800", "0"]]
    assert columns(rows, left={0}) == [
        "layer          output",
        "conv 16  16 x 28 x 28  1,280",
        "flatten           800      0",
    ]
    assert columns([], left={0}) == []
