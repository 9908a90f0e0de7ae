"""Runs into the cells of a table: by row and column, over seeds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from peftbench.benchmark_average import mean_by_task
from peftbench.report.labels import label_settings, method_name, natural, runs_of, task_name
from peftbench.report.layouts import Column, Layout, Row
from peftbench.report.records import Run, latest
from peftbench.report.statistics import Summary

_REAL = frozenset({"benchmark", "partial data"})
"""Kinds of runs whose rows are the benchmark's, if not all of them."""


@dataclass(frozen=True)
class Cell:
    """A row's runs in a column, one a seed.

    Attributes:
        values: scores by seed, as recorded.
        runs: completed ones, those without this metric among them.
        ended: how many of the others ended how.
        mixed: whether the runs have different rows of data, and so no common mean.
        trials: tuning trials behind the runs; None: none are known.
        remarks: what its reader must know of it.
    """

    values: Mapping[int, float]
    runs: tuple[Run, ...]
    ended: Mapping[str, int]
    mixed: bool = False
    trials: int | None = None
    remarks: tuple[str, ...] = ()

    @cached_property
    def summary(self) -> Summary | None:
        """Over the seeds; None where there is nothing to average."""
        return Summary(tuple(self.values.values())) if self.values and not self.mixed else None

    @property
    def tried(self) -> int:
        """Number of seeds that were run."""
        return len(self.values) + sum(self.ended.values())


@dataclass(frozen=True)
class Line:
    """A row with its cells, in the order of the grid's columns.

    Attributes:
        label: what stands before it.
        row: the layout's.
        cells: one a column.
    """

    label: str
    row: Row
    cells: tuple[Cell, ...]

    @cached_property
    def runs(self) -> list[Run]:
        """Completed ones, each once."""
        return list({run.file: run for cell in self.cells for run in cell.runs}.values())


@dataclass(frozen=True)
class Grid:
    """A layout filled with runs.

    Attributes:
        layout: the layout.
        columns: those that have runs, with the splits that they are of.
        lines: those that have runs.
        runs: all that are counted.
        notes: what the reader of the table must know of how it was filled.
        moved: headers of columns whose runs have not got the layout's split.
    """

    layout: Layout
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    moved: frozenset[str]

    def shown(self) -> list[Run]:
        """Its runs, each with metric and split of the first column that has one score of it."""
        by_run = ((run, filter(None, (_shown(run, column) for column in self.columns))) for run in self.runs)
        return [replace(run, shown=next(shown, None)) for run, shown in by_run]

    def average(self, line: Line) -> Summary | None:
        """The layout's average of a line over the seeds that all its cells have, in the layout's scale.

        None where the layout has no average, a column of it has no runs, or no seed has every score.
        """
        if self.layout.average == "none" or len(self.columns) < len(self.layout.columns):
            return None
        if any(cell.summary is None for cell in line.cells):
            return None
        seeds = set.intersection(*(set(cell.values) for cell in line.cells))
        averages = tuple(self._mean([cell.values[seed] for cell in line.cells]) for seed in sorted(seeds))
        return Summary(averages) if averages else None

    def _mean(self, scores: Sequence[float]) -> float:
        scaled = [score * self.layout.scale_of(column)[0] for score, column in zip(scores, self.columns, strict=True)]
        if self.layout.average == "mean":
            return _mean(scaled)
        return mean_by_task(zip((column.task for column in self.columns), scaled, strict=True))


def fill(layout: Layout, runs: Sequence[Run], trials_of: Callable[[Run], int | None]) -> Grid:
    """Put every run where the layout wants it; runs of no row get rows of their own, beneath."""
    in_columns = [run for run in runs if any(column.takes(run) for column in layout.columns)]
    inside = set(map(id, in_columns))
    notes = _outside(layout, [run for run in runs if id(run) not in inside])
    columns, moved = _with_runs(layout, in_columns, notes)
    lines = []
    for row, taken in _by_row(layout, in_columns):
        for label, parts in _apart(row, taken, columns):
            cells = tuple(_cell(column, [r for r in parts if column.takes(r)], trials_of) for column in columns)
            lines.append(Line(label, row, cells))
    notes += _remarks(lines, columns)
    absent = [row.label for row in layout.rows if all(line.row != row for line in lines)]
    if absent:
        notes.append(f"No runs: {', '.join(absent)}.")
    return Grid(layout, columns, tuple(lines), tuple(in_columns), tuple(notes), frozenset(moved))


def _outside(layout: Layout, runs: Iterable[Run]) -> list[str]:
    """How many runs no column takes, and why."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for column in layout.columns:
        wanted[column.task] |= set(column.where or ())
    told = Counter(
        (task_name(run.task), ", ".join(f"{key}={run.settings.get(key)}" for key in sorted(wanted[run.task])))
        for run in runs
    )
    return [
        f"Not in this table: {runs_of(count)} on {task}{settings and f' with {settings}, which no column is of'}."
        for (task, settings), count in sorted(told.items())
    ]


def _with_runs(layout: Layout, runs: Sequence[Run], notes: list[str]) -> tuple[tuple[Column, ...], set[str]]:
    """Columns that have runs; one whose split no run has is of the split that selected."""
    found, absent, moved = [], [], set()
    for column in layout.columns:
        taken = [run for run in runs if column.takes(run)]
        if not taken:
            absent.append(column.title)
            continue
        completed = [run for run in taken if run.completed]
        elsewhere = column.split and completed and all(_score(run, column) is None for run in completed)
        if elsewhere and any(_score(run, replace(column, split=None)) is not None for run in completed):
            moved.add(column.title)
            notes.append(f"{column.title}: no run has the split {column.split}; shown is the one that selected.")
            column = replace(column, split=None, header=column.title)
        found.append(column)
    if absent:
        notes.append(f"Columns without runs: {', '.join(absent)}.")
    return tuple(found), moved


def _by_row(layout: Layout, runs: Iterable[Run]) -> list[tuple[Row, list[Run]]]:
    """Each run with the first row that takes it."""
    taken: dict[int, list[Run]] = defaultdict(list)
    others: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        place = next((i for i, row in enumerate(layout.rows) if row.takes(run)), None)
        (others[run.method] if place is None else taken[place]).append(run)
    labels = {row.label for row in layout.rows}
    found = [(layout.rows[i], taken[i]) for i in sorted(taken)]
    for method, its in others.items():
        name = method_name(method)
        found.append((Row(f"{name} (other)" if name in labels else name, method), its))
    return found


def _apart(row: Row, runs: Sequence[Run], columns: Sequence[Column]) -> list[tuple[str, list[Run]]]:
    """A row's runs by what may not be averaged: settings, model, weights, kind of data; each with its label."""
    besides = {key for column in columns for key in (column.where or {})}
    settings = label_settings(runs, besides=besides)
    parts = _split(row.label, runs, lambda run: settings[run.setting_id].removeprefix(method_name(run.method)).strip())
    parts = [piece for label, part in parts for piece in _split(label, part, lambda run: f"({run.model})")]
    parts = [piece for label, part in parts for piece in _split_within(label, part, _weights)]
    return [piece for label, part in parts for piece in _split_by_kind(label, part)]


def _split_within(label: str, runs: Sequence[Run], told: Callable[[Run], str]) -> list[tuple[str, list[Run]]]:
    """Apart only where one task has several: tasks of one row can be of weights of their own."""
    of_tasks: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        of_tasks[run.task].add(told(run))
    if all(len(of_task) == 1 for of_task in of_tasks.values()):
        return [(label, list(runs))]
    return _split(label, runs, lambda run: f"[{told(run)}]")


def _split_by_kind(label: str, runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Apart by kind of data; of real data only where one task has several: a cut of large tasks cuts no small one."""
    real = {run.kind for run in runs} & _REAL
    parts = _split(label, runs, lambda run: f"[{' and '.join(sorted(real)) if run.kind in real else run.kind}]")
    return [piece for name, part in parts for piece in _split_within(name, part, lambda run: run.kind)]


def _weights(run: Run) -> str:
    """`weights 0123abcd`, and what they are where the record says."""
    return ": ".join(filter(None, (f"weights {run.weights}", run.record["model"].get("described"))))


def _split(label: str, runs: Sequence[Run], told: Callable[[Run], str]) -> list[tuple[str, list[Run]]]:
    parts: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        parts[told(run)].append(run)
    if len(parts) == 1:
        return [(label, list(runs))]
    return [(f"{label} {name}".strip(), parts[name]) for name in sorted(parts, key=natural)]


def _remarks(lines: Iterable[Line], columns: Sequence[Column]) -> list[str]:
    """What cells have to say, each thing once, with the cells that say it."""
    told: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for column, cell in zip(columns, line.cells, strict=True):
            for remark in cell.remarks:
                told[remark][line.label].append(column.title)
    return [
        f"{'; '.join(', '.join((label, *titles)) for label, titles in where.items())}: {remark}."
        for remark, where in told.items()
    ]


def _cell(column: Column, runs: Sequence[Run], trials_of: Callable[[Run], int | None]) -> Cell:
    chosen = latest(runs, lambda run: run.seed)
    remarks = []
    twice = sorted({run.seed for run in runs if run.run_id != chosen[run.seed].run_id and run.completed})
    if twice:
        seeds = ", ".join(map(str, twice))
        remarks.append(f"several completed runs of seed {seeds}; the latest counts")
    scores = {seed: (run, _score(run, column)) for seed, run in sorted(chosen.items())}
    values = {seed: score for seed, (_, score) in scores.items() if score is not None}
    counted = tuple(run for run, _ in scores.values() if run.completed)
    ended = Counter(
        "no such metric" if run.completed else run.status for run, score in scores.values() if score is None
    )
    flags = Counter(flag.partition(":")[0] for run in counted for flag in run.flags)
    remarks += [f"{flag} ({count} of {runs_of(len(counted))})" for flag, count in flags.items()]
    if states := _several(counted, lambda run: run.commit):
        remarks.append(f"runs of {states} states of the code in one mean")
    mixed = _several(counted, lambda run: run.rows) > 0
    if mixed:
        remarks.append("not averaged, for the runs have different rows of data")
    trials = max((n for run in counted if (n := trials_of(run)) is not None), default=None)
    return Cell(values, counted, ended, mixed, trials, tuple(remarks))


def ground(runs: Iterable[Run]) -> Hashable:
    """What runs must share to be compared: backbone and its weights, kind of data, and rows of it."""
    return frozenset((run.model, run.weights, run.kind, run.rows) for run in runs)


def _several(runs: Sequence[Run], key: Callable[[Run], Hashable]) -> int:
    """How many different ones there are, or 0 where there is one."""
    found = len({key(run) for run in runs})
    return found if found > 1 else 0


def _shown(run: Run, column: Column) -> tuple[str, str] | None:
    """Metric and split of a column that takes a run and has a score of it; None of one that averages several."""
    if not run.completed or not column.takes(run):
        return None
    selection = run.record["selection"]
    shown = column.metric or selection["metric"], column.split or selection["split"]
    return None if run.metric(*shown) is None else shown


def _score(run: Run, column: Column) -> float | None:
    """A run's score in a column: the mean over its metrics and splits, None where one is not there."""
    if not run.completed:
        return None
    metrics = (column.metric or run.record["selection"]["metric"]).split("+")
    splits = column.split.split("+") if column.split else [None]
    found = [run.metric(metric, split) for metric in metrics for split in splits]
    known = [score for score in found if score is not None]
    return _mean(known) if len(known) == len(found) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
