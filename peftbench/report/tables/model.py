"""A table as text, before it is written in some format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.report.statistics import Summary


@dataclass(frozen=True)
class Shown:
    """One cell's text.

    Attributes:
        text: as it is read; formats escape it.
        bold: whether it is the best of its column.
    """

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: names it in files and references: `sora_table1`.
        title: one line; says so where data are not the benchmark's.
        headers: one a column; the first column is text, the others are figures.
        rows: each as long as the headers.
        caption: sentences that say what was measured, and how.
        notes: sentences on this table's cells.
        words: the number of leading columns that are text.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    caption: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    words: int = 1


def row_of(*texts: str | Shown) -> tuple[Shown, ...]:
    """A row of texts."""
    return tuple(text if isinstance(text, Shown) else Shown(text) for text in texts)


def spread(summary: Summary, digits: int, count: bool = False, scale: float = 1.0) -> str:
    """`85.20 ± 0.31 (5)`: mean, standard deviation and, where asked for, the number of seeds."""
    text = f"{summary.mean * scale:.{digits}f}"
    if summary.std is not None:
        text += f" ± {summary.std * scale:.{digits}f}"
    return f"{text} ({summary.n})" if count else text


def interval(bounds: tuple[float, float] | None, digits: int, scale: float = 1.0) -> str:
    """`[84.1, 86.3]`, or a dash."""
    return "–" if bounds is None else f"[{bounds[0] * scale:.{digits}f}, {bounds[1] * scale:.{digits}f}]"


def short_count(number: float) -> str:
    """Parameters as papers print them: `0.91M`, `46.1K`, `184M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size * (0.1 if unit == "M" else 1):
            figure = number / size
            return f"{figure:.{2 if figure < 10 else 1 if figure < 100 else 0}f}{unit}"
    return f"{number:.0f}"


def listed(values: Sequence[object]) -> str:
    """`1, 2, 3`."""
    return ", ".join(map(str, values))
