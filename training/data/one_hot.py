"""Labels that stand in a column of 0 and 1 for each, as in `image,healthy,rust,scab`."""

from collections.abc import Sequence

from training.data.class_folders import shown
from training.data.examples import listed
from training.data.table_file import Table
from training.errors import DataError

_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_SAMPLE = 1000


def columns(table: Table, names: Sequence[str], generic: Sequence[str]) -> list[str]:
    """The columns that have a 1 in one of them for each row; none if the labels are in another column.

    Args:
        table: its rows.
        names: the columns that may be labels.
        generic: names that a column of labels usually has, such as `label`.

    Raises:
        DataError: rows have several labels, which a classifier of one label cannot learn.
    """
    rows = table.rows[:_SAMPLE]
    flags = [name for name in names if _is_flag([row[table.names.index(name)] for row in rows])]
    if len(flags) < 2 or any(name.strip().lower() in generic for name in names):  # noqa: PLR2004 -- labels
        return []
    sums = [sum(_value(row[table.names.index(name)]) for name in flags) for row in rows]
    several = sum(count > 1 for count in sums)
    if not several and sum(sums) >= len(sums) / 2:
        return flags
    if len(flags) == 2:  # noqa: PLR2004 -- two marks that are not each other's opposite
        return []
    raise DataError(
        f"{shown(table.path)}: {several:,} of {len(rows):,} rows have a 1 in several of the columns {listed(flags)}, "
        "so they have several labels, and a classifier names one. For a model of 0 or 1, choose one column, like "
        f"--label {flags[0]!r}, and train a model for each"
    )


def label(cells: Sequence[object], names: Sequence[str]) -> str | None:
    """The name of the only column with a 1; None if there is none or several."""
    found = [name.strip() for cell, name in zip(cells, names, strict=True) if _value(cell)]
    return found[0] if len(found) == 1 else None


def _value(cell: object) -> int:
    return _VALUES.get(str(cell).strip().lower(), 0)


def _is_flag(cells: Sequence[object]) -> bool:
    values = {str(cell).strip().lower() for cell in cells if cell is not None}
    return bool(values) and values <= set(_VALUES) and any(_VALUES[value] for value in values)
