"""What a figure is: rows prepared from runs, a way to paint them, and words for when there are none."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.durable import replaced
from peftbench.report.labels import natural
from peftbench.report.records import Run, latest
from peftbench.report.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

ORIGIN = ("task", "model", "weights", "weights_id", "protocol", "data", "train_rows", "rows_id")
"""Columns of what is never mixed in one panel: task, backbone and its weights, splits, real and made-up data, rows."""


@dataclass(frozen=True)
class Kind:
    """One kind of figure.

    Attributes:
        name: the user's word for it, and the files' stem.
        needs: what runs must have; told where they have not.
        rows: its data, a row per mark in the picture; none: there is nothing to draw. The CSV holds them as they are.
        paint: a picture of some panels' rows, inside `style.applied`.
        panel: columns that tell panels apart.
        per_page: most panels of one picture; more go on the next.
        summary: further rows computed from `rows`, for a CSV of their own.
        left_out: those that have what it needs and that it cannot show all the same, and why, each in words.
    """

    name: str
    needs: str
    rows: Callable[[Sequence[Run]], list[Row]]
    paint: Callable[[list[Row]], Figure]
    panel: tuple[str, ...] = ORIGIN
    per_page: int = 12
    summary: Callable[[list[Row]], list[Row]] | None = None
    left_out: Callable[[Sequence[Run]], list[str]] | None = None

    def pages(self, rows: list[Row]) -> list[list[Row]]:
        """The rows of each picture."""
        panels = list(grouped(rows, self.panel).values())
        chunks = [panels[i : i + self.per_page] for i in range(0, len(panels), self.per_page)]
        return [[row for panel in chunk for row in panel] for chunk in chunks]


def origin(run: Run) -> Row:
    """The columns `ORIGIN` of a run."""
    return {
        "task": run.task,
        "model": run.model,
        "weights": "random" if run.record["model"].get("source") == "random" else "pretrained",
        "weights_id": run.weights,
        "protocol": run.protocol,
        "data": run.data_kind,
        "train_rows": run.train_rows,
        "rows_id": run.rows_id,
    }


def selecting(run: Run) -> Row:
    """The columns `metric` and `split` of a completed run: what selected its checkpoint."""
    return {"metric": run.record["selection"]["metric"], "split": run.record["selection"]["split"]}


def scored(run: Run) -> Row:
    """`metric` and `split` that a completed run is shown by: its table's, else what selected it."""
    return selecting(run) if run.shown is None else dict(zip(("metric", "split"), run.shown, strict=True))


def score(run: Run) -> float:
    """A completed run's score as `scored` says, on the record's scale."""
    shown = scored(run)
    value = run.metric(shown["metric"], shown["split"])
    assert value is not None
    return value


def completed(runs: Iterable[Run]) -> list[Run]:
    """Those with a result and a score."""
    return [run for run in runs if run.completed and run.metric(run.record["selection"]["metric"]) is not None]


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values in some columns, groups and rows in their order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def by_setting(runs: Iterable[Run], labels: Mapping[str, str]) -> list[list[Run]]:
    """Runs that differ in their seed alone, by task and setting, in a reader's order.

    Of several runs of one seed the completed one counts, and of those the latest.

    Args:
        runs: the runs.
        labels: of the settings, by `Run.setting_id`.
    """

    def order(run: Run):
        return run.model, run.task, natural(labels[run.setting_id]), run.setting_id, run.seed

    one = latest(runs, lambda run: (*origin(run).values(), run.setting_id, run.seed))
    groups: dict[Any, list[Run]] = {}
    for run in sorted(one.values(), key=order):
        groups.setdefault((*origin(run).values(), run.setting_id), []).append(run)
    return list(groups.values())


def mean_and_std(values: Sequence[float], name: str) -> Row:
    """`<name>_mean` and `<name>_std` (n−1; empty for a single value)."""
    summary = Summary(tuple(values))
    return {f"{name}_mean": summary.mean, f"{name}_std": summary.std}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as CSV, the first row's columns as its header."""
    with replaced(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
