"""What a task of the sample data consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from peftbench.tasks.sample.draw import Draw

Row = dict[str, Any]


def sizes(train: int = 2000, held_out: int = 400) -> dict[str, int]:
    """Rows of each split."""
    return {"train": train, "validation": held_out, "test": held_out}


def _count(rows: list[Row]) -> list:
    return list(range(len(rows)))


@dataclass(frozen=True)
class SampleTask:
    """How to make a task's rows.

    Attributes:
        make: one row, or rows that belong together, of a split.
        sizes: how many rows each split has, at least.
        hidden: what the test rows show in place of their labels; None: their labels are public.
        words: the shortest and the longest text, in words.
        number: the rows' `idx`.
    """

    make: Callable[[Draw, str], Row | list[Row]]
    sizes: dict[str, int] = field(default_factory=sizes)
    hidden: Row | None = field(default_factory=lambda: {"label": -1})
    words: tuple[int, int] = (8, 30)
    number: Callable[[list[Row]], list] = _count
