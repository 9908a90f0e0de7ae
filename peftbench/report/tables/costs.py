"""Tables of epoch times and of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftbench.report.captions import caption, titled
from peftbench.report.cells import Grid, Line
from peftbench.report.labels import task_name
from peftbench.report.records import Run
from peftbench.report.statistics import Summary
from peftbench.report.tables.model import Table, row_of, spread


def epoch_time_table(grid: Grid) -> Table:
    """Seconds per epoch by task, and the ratio to the reference's, paired by task and seed."""
    tasks = _tasks(grid)
    reference = next((line for line in grid.lines if line.row.label == grid.layout.reference), None)
    rows = []
    for line in grid.lines:
        cells = []
        for task in tasks:
            seconds = _summary(line, task, epoch_seconds)
            ratio = _ratios(line, reference, [task]) if reference else None
            told = "–" if seconds is None else spread(seconds, 1)
            cells.append(told if ratio is None else f"{told} ({ratio.mean:.2f})")
        overall = _ratios(line, reference, tasks) if reference else None
        rows.append(row_of(line.label, *cells, "–" if overall is None else spread(overall, 2, count=True)))
    name = reference.label if reference else "the reference"
    notes = (
        "Seconds of training per epoch, evaluation apart: the median of a run's epochs, mean ± standard deviation over "
        "runs.",
        f"In brackets: the ratio to {name}, of runs paired by task and seed, on equal machines; last column: its mean "
        "over all pairs (number of pairs).",
    )
    headers = ("method", *(f"{task_name(task)}, s" for task in tasks), f"ratio to {name}")
    return Table(
        f"{grid.layout.name}_epoch_time", titled(grid, "training time per epoch"), headers, tuple(rows),
        caption(grid), (*grid.layout.notes, *notes),
    )  # fmt: skip


def ranks_table(grid: Grid) -> Table:
    """Sums of ranks over sites, at the start and at the end, by task."""
    tasks = _tasks(grid)
    rows = []
    for line in grid.lines:
        cells = []
        for task in tasks:
            before, after = _summary(line, task, initial_ranks), _summary(line, task, final_ranks)
            if before is None or after is None:
                cells.append("–")
            else:
                cells.append(f"{before.mean:.0f} → {spread(after, 0)} ({after.mean / before.mean:.0%})")
        if set(cells) != {"–"}:
            rows.append(row_of(line.label, *cells))
    notes = ("Ranks summed over all sites, before → after training (share kept), mean over seeds.",)
    headers = ("method", *map(task_name, tasks))
    return Table(f"{grid.layout.name}_ranks", titled(grid, "ranks"), headers, tuple(rows), caption(grid), notes)


def epoch_seconds(run: Run) -> float | None:
    """Median seconds of an epoch; None of a run without a whole epoch."""
    return run.record["timing"].get("epoch_median_s")


def initial_ranks(run: Run) -> int | None:
    """The sum of ranks before training; None of a method without ranks."""
    return sum(ranks["initial"].values()) if (ranks := run.record.get("ranks")) else None


def final_ranks(run: Run) -> int | None:
    """The sum of ranks after training; None of a method without ranks."""
    return sum(ranks["final"].values()) if (ranks := run.record.get("ranks")) else None


def _tasks(grid: Grid) -> list[str]:
    return list(dict.fromkeys(column.task for column in grid.columns))


def _by_seed(line: Line, task: str, asked: Callable[[Run], float | None]) -> dict[int, float]:
    answers = {run.seed: asked(run) for run in line.runs if run.task == task}
    return {seed: answer for seed, answer in answers.items() if answer is not None}


def _summary(line: Line, task: str, asked: Callable[[Run], float | None]) -> Summary | None:
    found = _by_seed(line, task, asked)
    return Summary(tuple(found.values())) if found else None


def _ratios(line: Line, reference: Line, tasks: Sequence[str]) -> Summary | None:
    """Of runs of one task and seed on equal machines; seconds of others do not compare."""
    ratios: list[float] = []
    for task in tasks:
        ours, theirs = _seconds(line, task), _seconds(reference, task)
        ratios += [ours[pair] / theirs[pair] for pair in ours if pair in theirs]
    return Summary(tuple(ratios)) if ratios else None


def _seconds(line: Line, task: str) -> dict[tuple[int, str], float]:
    runs = [run for run in line.runs if run.task == task]
    return {(run.seed, run.machine): seconds for run in runs if (seconds := epoch_seconds(run))}
