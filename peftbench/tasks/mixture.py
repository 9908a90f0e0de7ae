"""Several tasks for one model: text in, text out, every source behind its task's name.

Lester et al. (2021, §3.1 and Figure 1) tune T5 so on SuperGLUE, all tasks jointly. The names are those of T5's code:
"boolq passage: ...". Tasks are mixed in proportion to their rows, of which no task gives more than K
(examples-proportional mixing with an artificial size limit; Raffel et al., 2020, §3.5.2); K stands in the task's
configuration, and which rows are left out is settled before training.

A row keeps its task's own texts, label and columns, so that what the task says of targets, answers and scores stays the
task's. A generated text is its own prediction: its task reads it when it is scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from peftbench.task_config import MixtureTask
from peftbench.tasks.base import Columns, Split, TaskSpec, TextFormat, fingerprint
from peftbench.tasks.superglue import SUPERGLUE

_CALLED = {"superglue_rte": "rte", "wsc": "wsc:"}
"""What T5's code puts in front of a source, where it is not the task's name."""


def joined(members: Sequence[tuple[TaskSpec, Split]], name: str) -> Split:
    """Labelled splits of several tasks, one after another, as one.

    Columns:
        task: whose a row is. group: what is scored together. own: the row as its task has it.
    """
    texts: list[str] = []
    columns: Columns = {"task": [], "group": [], "own": []}
    for member, split in members:
        called = _CALLED.get(member.name, member.name)
        texts += [f"{called} {source}" for source in _text(member).sources(split)]
        columns["task"] += [member.name] * len(split)
        columns["group"] += [f"{member.name} {unit}" for unit in split.columns.get("group", range(len(split)))]
        columns["own"] += _own_rows(split)
    return Split(name, (texts,), None, fingerprint((texts,), None, columns), columns)


def parts(members: Sequence[TaskSpec], split: Split) -> Iterator[tuple[TaskSpec, np.ndarray, Split]]:
    """Every member that has rows in the split, their places, and the rows as a split of its own under its name."""
    of = np.asarray(split.columns["task"] if members else [])
    for member in members:
        places = np.flatnonzero(of == member.name)
        if len(places):
            yield member, places, _own_split([split.columns["own"][place] for place in places], member.name)


def _own_rows(split: Split) -> list[dict]:
    assert split.labels is not None
    texts, columns = zip(*split.texts, strict=True), zip(*split.columns.values(), strict=True)
    return [
        {"texts": list(text), "label": label, "columns": dict(zip(split.columns, values, strict=True))}
        for text, label, values in zip(texts, split.labels.tolist(), columns, strict=True)
    ]


def _own_split(rows: Sequence[dict], name: str) -> Split:
    texts = tuple(list(column) for column in zip(*(row["texts"] for row in rows), strict=True))
    labels = np.asarray([row["label"] for row in rows])
    columns = {key: [row["columns"][key] for row in rows] for key in rows[0]["columns"]}
    return Split(name, texts, labels, fingerprint(texts, labels, columns), columns)


def _text(member: TaskSpec) -> TextFormat:
    assert member.text is not None
    return member.text


def _sources(split: Split) -> list[str]:
    return split.texts[0]


def _pairs(members: Sequence[TaskSpec], split: Split) -> tuple[np.ndarray, list[str]]:
    row_of, targets = [np.zeros(0, np.int64)], []
    for member, places, part in parts(members, split):
        own, wanted = _text(member).pairs(part)
        row_of.append(places[own])
        targets += wanted
    return np.concatenate(row_of), targets


def _read(texts: list[str], split: Split) -> list[str]:
    return texts


def _legal(members: Sequence[TaskSpec], texts: list[str], split: Split) -> list[bool]:
    found = np.ones(len(texts), dtype=bool)
    for member, places, part in parts(members, split):
        if (legal := _text(member).legal) is not None:
            found[places] = legal([texts[place] for place in places], part)
    return found.tolist()


def _official_rows(members: Sequence[TaskSpec], limit: int | None = None) -> dict[str, int]:
    """Rows of all releases together; of training rows each has at most `limit`."""
    train, validation = ([member.official_rows[name] for member in members] for name in ("train", "validation"))
    return {"train": sum(min(rows, limit or rows) for rows in train), "validation": sum(validation)}


def _limited(task: MixtureTask) -> TaskSpec:
    """The mixture with the limit asked for."""
    rows = _official_rows(SUPERGLUE, task.max_rows_per_task)
    return dataclasses.replace(SUPERGLUE_MIXTURE, official_rows=rows)


# A source that is too long loses its end, as T5's does, though a task alone keeps the question that stands there: its
# beginning is the task's name.
SUPERGLUE_MIXTURE = TaskSpec(
    "superglue_mixture", "super_glue", (), (), ("average",), _official_rows(SUPERGLUE), test_splits=(), kind="mixture",
    text=TextFormat(_sources, partial(_pairs, SUPERGLUE), _read, legal=partial(_legal, SUPERGLUE)), variant=_limited,
    members=SUPERGLUE,
)  # fmt: skip
"""SuperGLUE's eight tasks together."""
