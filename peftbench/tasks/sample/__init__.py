"""Built-in sample data in the columns of the hub's GLUE, so that experiments run without a network.

The sentences are invented and the labels follow from how they were built, so none is noise. They are made
to be learnable from two thousand rows but not by counting shared words. Scores on them say whether a method
trains, not how it compares with published GLUE results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from peftbench.tasks.sample.answers import qnli
from peftbench.tasks.sample.draw import Draw
from peftbench.tasks.sample.grammar import cola
from peftbench.tasks.sample.inference import ax, mnli, rte
from peftbench.tasks.sample.pairs import mrpc, stsb
from peftbench.tasks.sample.pronouns import wnli
from peftbench.tasks.sample.questions import qqp
from peftbench.tasks.sample.reviews import sst2

Row = dict[str, str | int | float]

_SHORTEST, _LONGEST = 8, 30


def _sizes(train: int = 2000, held_out: int = 400) -> dict[str, int]:
    return {"train": train, "validation": held_out, "test": held_out}


@dataclass(frozen=True)
class _Task:
    """How to make a task's rows, how many each split has, and the label its test rows show."""

    make_row: Callable[[Draw, str], Row]
    sizes: dict[str, int] = field(default_factory=_sizes)
    hidden_label: int | float | None = -1


_MNLI_SIZES = {
    "train": 2000,
    "validation_matched": 400,
    "validation_mismatched": 400,
    "test_matched": 400,
    "test_mismatched": 400,
}
_TASKS = {
    "cola": _Task(cola),
    "sst2": _Task(sst2),
    # The hub publishes MRPC's test labels, and only those.
    "mrpc": _Task(mrpc, hidden_label=None),
    "stsb": _Task(stsb, hidden_label=-1.0),
    "qqp": _Task(qqp),
    "mnli": _Task(mnli, _MNLI_SIZES),
    "qnli": _Task(qnli),
    "rte": _Task(rte),
    "wnli": _Task(wnli, _sizes(train=400, held_out=80)),
    "ax": _Task(ax, {"test": 400}),
}

SAMPLE_TASKS: tuple[str, ...] = tuple(_TASKS)
"""Names of the tasks that have sample data."""


def sample_split(task: str, split: str) -> dict[str, list]:
    """Return one split of a sample task, the same at every call and on every machine.

    Args:
        task: One of :data:`SAMPLE_TASKS`.
        split: ``train``, ``validation`` or ``test``; ``mnli`` has ``_matched`` and ``_mismatched`` variants
            of the last two, and ``ax`` has ``test`` only.

    Returns:
        The columns by name, each a fresh list. Test labels are hidden, as on the hub, except for ``mrpc``.

    Raises:
        KeyError: The task or the split is unknown; the message names the known ones.
    """
    if task not in _TASKS:
        raise KeyError(f"no sample data for task {task!r}; known tasks: {', '.join(SAMPLE_TASKS)}")
    splits = _TASKS[task].sizes
    if split not in splits:
        raise KeyError(f"sample task {task!r} has no split {split!r}; known splits: {', '.join(splits)}")
    rows = _splits_of(task)[split]
    columns: dict[str, list] = {column: [row[column] for row in rows] for column in rows[0]}
    return {**columns, "idx": list(range(len(rows)))}


@cache
def _splits_of(task: str) -> dict[str, list[Row]]:
    """Make all splits of a task at once, as a row may be in one of them only."""
    spec = _TASKS[task]
    seen: set[tuple[str, ...]] = set()
    return {split: _make_rows(spec, f"{task}/{split}", split, count, seen) for split, count in spec.sizes.items()}


def _make_rows(spec: _Task, seed: str, split: str, count: int, seen: set[tuple[str, ...]]) -> list[Row]:
    draw = Draw(seed)
    rows: list[Row] = []
    while len(rows) < count:
        row = spec.make_row(draw, split)
        texts = tuple(value for value in row.values() if isinstance(value, str))
        if texts in seen or not _presentable(texts):
            continue
        seen.add(texts)
        rows.append(row)
    if split.startswith("test") and spec.hidden_label is not None:
        return [{**row, "label": spec.hidden_label} for row in rows]
    return rows


def _presentable(texts: tuple[str, ...]) -> bool:
    """Tell whether every text has a natural length and a pair does not repeat one text."""
    lengths_fit = all(_SHORTEST <= len(text.split()) <= _LONGEST for text in texts)
    return lengths_fit and len(set(texts)) == len(texts)
