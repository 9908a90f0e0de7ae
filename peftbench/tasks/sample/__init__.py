"""Built-in sample data in the columns of the hub's data sets, so that experiments run without a network.

The sentences are invented and the labels follow from how they were built, so none is noise. They are made
to be learnable from two thousand rows but not by counting shared words. Scores on them say whether a method
trains, not how it compares with published results.
"""

from __future__ import annotations

from functools import cache

from peftbench.tasks.sample.answers import qnli
from peftbench.tasks.sample.causes import copa
from peftbench.tasks.sample.commitment import cb
from peftbench.tasks.sample.draw import Draw
from peftbench.tasks.sample.grammar import cola
from peftbench.tasks.sample.inference import ax, axb, mnli, rte, superglue_rte
from peftbench.tasks.sample.pairs import mrpc, stsb
from peftbench.tasks.sample.pronouns import axg, wnli, wsc
from peftbench.tasks.sample.prose import lm
from peftbench.tasks.sample.questions import qqp
from peftbench.tasks.sample.reading import boolq, multirc, number_answers, number_queries, record
from peftbench.tasks.sample.restaurants import e2e
from peftbench.tasks.sample.reviews import sst2
from peftbench.tasks.sample.senses import wic
from peftbench.tasks.sample.task import Row, SampleTask, sizes
from peftbench.tasks.sample.triples import dart, webnlg

_MNLI_SIZES = {
    "train": 2000,
    "validation_matched": 400,
    "validation_mismatched": 400,
    "test_matched": 400,
    "test_mismatched": 400,
}
_TASKS = {
    "cola": SampleTask(cola),
    "sst2": SampleTask(sst2),
    # The hub publishes MRPC's test labels, and only those.
    "mrpc": SampleTask(mrpc, hidden=None),
    "stsb": SampleTask(stsb, hidden={"label": -1.0}),
    "qqp": SampleTask(qqp),
    "mnli": SampleTask(mnli, _MNLI_SIZES),
    "qnli": SampleTask(qnli),
    "rte": SampleTask(rte),
    "wnli": SampleTask(wnli, sizes(train=400, held_out=80)),
    "ax": SampleTask(ax, {"test": 400}),
    "boolq": SampleTask(boolq, words=(5, 100)),
    "cb": SampleTask(cb, sizes(train=500, held_out=200), words=(8, 60)),
    "copa": SampleTask(copa, words=(1, 30)),
    "multirc": SampleTask(multirc, words=(1, 120), number=number_answers),
    "record": SampleTask(record, words=(5, 150), hidden={"answers": []}, number=number_queries),
    "superglue_rte": SampleTask(superglue_rte, words=(8, 60)),
    "wic": SampleTask(wic, words=(1, 30)),
    "wsc": SampleTask(wsc, words=(1, 30)),
    # The labels of the diagnostic sets are public, on the hub too.
    "axb": SampleTask(axb, {"test": 400}, hidden=None),
    "axg": SampleTask(axg, {"test": 400}, words=(4, 30), hidden=None),
    "e2e": SampleTask(e2e, sizes(train=1500, held_out=300), words=(1, 60), hidden=None),
    "webnlg": SampleTask(webnlg, sizes(train=700, held_out=120), words=(0, 60), hidden=None),
    "dart": SampleTask(dart, sizes(train=700, held_out=120), words=(0, 60), hidden=None),
    "lm": SampleTask(lm, sizes(train=400, held_out=40), words=(8, 200), hidden=None),
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
    return {**columns, "idx": _TASKS[task].number(rows)}


@cache
def _splits_of(task: str) -> dict[str, list[Row]]:
    """Make all splits of a task at once, as a row may be in one of them only."""
    spec = _TASKS[task]
    seen: set[tuple[str, ...]] = set()
    return {split: _make_rows(spec, f"{task}/{split}", split, count, seen) for split, count in spec.sizes.items()}


def _make_rows(spec: SampleTask, seed: str, split: str, count: int, seen: set[tuple[str, ...]]) -> list[Row]:
    draw = Draw(seed)
    rows: list[Row] = []
    while len(rows) < count:
        made = spec.make(draw, split)
        block = made if isinstance(made, list) else [made]
        texts = [_texts(row) for row in block]
        fresh = seen.isdisjoint(texts) and len(set(texts)) == len(texts)
        if not fresh or not all(_presentable(row, spec.words) for row in texts):
            continue
        seen.update(texts)
        rows += block
    if split.startswith("test") and spec.hidden is not None:
        return [{**row, **spec.hidden} for row in rows]
    return rows


def _texts(row: Row) -> tuple[str, ...]:
    """What tells one row from another."""
    found = tuple(value for value in row.values() if isinstance(value, str))
    return found or (repr(row),)


def _presentable(texts: tuple[str, ...], words: tuple[int, int]) -> bool:
    """Tell whether every text has a natural length and a row does not repeat one text."""
    shortest, longest = words
    lengths_fit = all(shortest <= len(text.split()) <= longest for text in texts)
    return lengths_fit and len(set(texts)) == len(texts)
