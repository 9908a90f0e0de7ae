"""Tables of epoch times and of ranks."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from peftbench.report.captions import caption, titled
from peftbench.report.cells import Grid, Line, ground
from peftbench.report.labels import task_name
from peftbench.report.records import Run
from peftbench.report.statistics import Summary
from peftbench.report.tables.model import Table, row_of, spread

T = TypeVar("T")
Seconds = Mapping[Hashable, float]


def epoch_time_table(grid: Grid) -> Table:
    """Seconds per epoch by task, and the ratio to the reference's, paired by task and seed; a row for each machine."""
    parts = _parts(grid)
    references = [line for line in grid.lines if line.row.label == grid.layout.reference]
    machines = sorted({run.machine for run in grid.runs if run.completed and epoch_seconds(run) is not None})
    rows = []
    for line in grid.lines:
        of_line = {run.machine for run in line.runs if epoch_seconds(run) is not None} or {None}
        for machine in sorted(of_line, key=str):
            seconds = [_seconds(line, place, machine) for _, place in parts]
            beside = [
                fastest(references, functools.partial(_seconds, place=place, machine=machine), ours)
                for ours, (_, place) in zip(seconds, parts, strict=True)
            ]
            theirs = [_seconds(r, place, machine) if r else {} for r, (_, place) in zip(beside, parts, strict=True)]
            paired = [ratios(*pair) for pair in zip(seconds, theirs, strict=True)]
            cells = [_told(*pair) for pair in zip(seconds, paired, strict=True)]
            overall = [ratio for of_part in paired for ratio in of_part]
            label = f"{line.label} [{machine or 'unknown machine'}]" if len(machines) > 1 else line.label
            rows.append(row_of(label, *cells, _overall(overall, all(r is line for r in beside if r))))
    name = grid.layout.reference if references else "the reference"
    notes = (
        "Seconds of training per epoch, evaluation apart: the median of a run's epochs, mean ± standard deviation over "
        "runs of one machine.",
        f"In brackets: the ratio to {name}, the geometric mean over runs paired by task and seed, on equal machines; "
        "last column: over all pairs ± the ratios' standard deviation (number of pairs).",
    )
    if len(references) > 1:
        notes += (
            f"Of several settings of {name} the ratio is to the fastest on the task and machine that shares a seed.",
        )
    headers = ("method", *(f"{title}, s" for title, _ in parts), f"ratio to {name}")
    return Table(
        f"{grid.layout.name}_epoch_time", titled(grid, "training time per epoch"), headers, tuple(rows),
        caption(grid), (*grid.layout.notes, *notes),
    )  # fmt: skip


def ranks_table(grid: Grid) -> Table:
    """Sums of ranks over sites, at the start and at the end, by task."""
    parts = _parts(grid)
    rows = []
    for line in grid.lines:
        cells = []
        for _, place in parts:
            before, after = (_summary(line.cells[place].runs, asked) for asked in (initial_ranks, final_ranks))
            if before is None or after is None:
                cells.append("–")
            else:
                cells.append(f"{before.mean:.0f} → {spread(after, 0)} ({after.mean / before.mean:.0%})")
        if set(cells) != {"–"}:
            rows.append(row_of(line.label, *cells))
    notes = ("Ranks summed over all sites, before → after training (share kept), mean over seeds.",)
    headers = ("method", *(title for title, _ in parts))
    return Table(f"{grid.layout.name}_ranks", titled(grid, "ranks"), headers, tuple(rows), caption(grid), notes)


def epoch_seconds(run: Run) -> float | None:
    """Median seconds of an epoch; None of a run without a whole epoch that took any."""
    seconds = run.record["timing"].get("epoch_median_s")
    return seconds if seconds and seconds > 0 else None


def initial_ranks(run: Run) -> int | None:
    """The sum of ranks before training; None of a method without ranks."""
    return sum(ranks["initial"].values()) if (ranks := run.record.get("ranks")) else None


def final_ranks(run: Run) -> int | None:
    """The sum of ranks after training; None of a method without ranks."""
    return sum(ranks["final"].values()) if (ranks := run.record.get("ranks")) else None


def _parts(grid: Grid) -> list[tuple[str, int]]:
    """Title and place of one column for every task, and of one for every part of it that has runs of its own."""
    found: dict[tuple[str, str], int] = {}
    for place, column in enumerate(grid.columns):
        found.setdefault((column.task, repr(column.where or {})), place)
    tasks = [task for task, _ in found]
    return [
        (task_name(task) if tasks.count(task) == 1 else grid.columns[place].title, place)
        for (task, _), place in found.items()
    ]


def _summary(runs: Iterable[Run], asked: Callable[[Run], float | None]) -> Summary | None:
    found = tuple(answer for run in runs if (answer := asked(run)) is not None)
    return Summary(found) if found else None


def _seconds(line: Line, place: int, machine: str | None) -> Seconds:
    """Of a column's runs on a machine."""
    return seconds_of(run for run in line.cells[place].runs if run.machine == machine)


def seconds_of(runs: Iterable[Run]) -> Seconds:
    """Seconds of an epoch of runs that have some, by what pairs them with others: seed, and rows of data."""
    return {(run.seed, ground([run])): seconds for run in runs if (seconds := epoch_seconds(run)) is not None}


def fastest(references: Iterable[T], seconds: Callable[[T], Seconds], ours: Seconds) -> T | None:
    """Of the reference's settings the fastest that has a run to be paired with ours: no other favours us less."""
    there = [reference for reference in references if seconds(reference).keys() & ours.keys()]
    return min(there, key=lambda reference: statistics.fmean(seconds(reference).values()), default=None)


def ratios(ours: Mapping[T, float], theirs: Mapping[T, float]) -> list[float]:
    """Ours over theirs, of the keys that both have."""
    return [ours[key] / theirs[key] for key in ours if key in theirs]


def mean_ratio(ratios: Sequence[float]) -> float:
    """The geometric mean: of the inverse ratios it is the inverse, whichever of the two is the reference."""
    return statistics.geometric_mean(ratios)


def _overall(ratios: Sequence[float], of_itself: bool) -> str:
    if not ratios or of_itself:
        return "1.00" if ratios else "–"
    std = Summary(tuple(ratios)).std
    return f"{mean_ratio(ratios):.2f}{'' if std is None else f' ± {std:.2f}'} ({len(ratios)})"


def _told(seconds: Seconds, ratios: Sequence[float]) -> str:
    if not seconds:
        return "–"
    told = spread(Summary(tuple(seconds.values())), 1)
    return f"{told} ({mean_ratio(ratios):.2f})" if ratios else told
