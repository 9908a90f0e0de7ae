"""The scores' table: methods by tasks, the best of each column in bold where it may be."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from peftbench.report.captions import caption, titled
from peftbench.report.cells import Cell, Grid, Line, ground
from peftbench.report.records import Run
from peftbench.report.statistics import Summary
from peftbench.report.tables.model import Shown, Table, interval, listed, row_of, short_count, spread

_WORDS = {"out_of_memory": "out of memory"}


def score_table(grid: Grid) -> Table:
    """The grid as a table."""
    tuned = any(cell.trials is not None for line in grid.lines for cell in line.cells)
    averages = [grid.average(line) for line in grid.lines]
    averaged = any(average is not None for average in averages)
    counted = len({cell.summary.n for line in grid.lines for cell in line.cells if cell.summary}) > 1
    bold, refused = _bold(grid, averages if averaged else None)
    rows = []
    for i, line in enumerate(grid.lines):
        cells = [Shown(_cell_text(grid, j, cell, counted), (i, j) in bold) for j, cell in enumerate(line.cells)]
        if averaged:
            cells.append(Shown(_average_text(grid, averages[i], counted), (i, len(line.cells)) in bold))
        trials = [_trials(line)] if tuned else []
        rows.append(row_of(line.label, _parameters(line), *trials, *cells))
    n = "In brackets: the number of seeds." if counted else _same_n(grid)
    headers = ("method", "parameters", *(["trials"] if tuned else []), *(column.title for column in grid.columns))
    notes = [
        *grid.layout.notes,
        *(column.note for column in grid.columns if column.note),
        *grid.notes,
        *_meanings(grid, averaged),
    ]
    if refused:
        notes.append(f"No best is marked where budgets are unequal: {'; '.join(refused)}.")
    return Table(
        grid.layout.name, titled(grid), (*headers, *(["average"] if averaged else [])), tuple(rows),
        (*caption(grid), n), tuple(notes),
    )  # fmt: skip


def statistics_table(grid: Grid) -> Table:
    """Every cell in full: n, mean, standard deviation, median, both intervals."""
    rows = []
    for line in grid.lines:
        for column, cell in zip(grid.columns, line.cells, strict=True):
            if cell.summary is not None:
                rows.append(row_of(line.label, column.title, *_in_full(cell.summary, *grid.layout.scale_of(column))))
    headers = ("method", "column", "n", "mean", "std", "median", "95% t interval", "95% bootstrap interval")
    notes = ("Of 3 to 5 seeds the percentile bootstrap is too narrow; verdicts use the t interval.",)
    return Table(
        f"{grid.layout.name}_statistics", titled(grid, "statistics over seeds"), headers, tuple(rows), caption(grid),
        notes, words=2,
    )  # fmt: skip


def _in_full(summary: Summary, scale: float, digits: int) -> list[str]:
    std = "–" if summary.std is None else f"{summary.std * scale:.{digits}f}"
    return [
        str(summary.n), f"{summary.mean * scale:.{digits}f}", std, f"{summary.median * scale:.{digits}f}",
        interval(summary.t_interval, digits, scale), interval(summary.bootstrap_interval, digits, scale),
    ]  # fmt: skip


def _cell_text(grid: Grid, column: int, cell: Cell, counted: bool) -> str:
    scale, digits = grid.layout.scale_of(grid.columns[column])
    ended = ", ".join(f"{_WORDS.get(status, status)} {k}/{cell.tried}" for status, k in sorted(cell.ended.items()))
    if cell.mixed:
        return "not averaged"
    if cell.summary is None:
        return ended or "missing"
    return "; ".join(filter(None, (spread(cell.summary, digits, counted, scale), ended)))


def _average_text(grid: Grid, average: Summary | None, counted: bool) -> str:
    return "–" if average is None else spread(average, grid.layout.scale_of(None)[1], counted)


def _meanings(grid: Grid, averaged: bool) -> list[str]:
    """What the columns are of, where their headers do not say it."""
    told = [f"{c.title} {c.metric.replace('+', ' and ')}" for c in grid.columns if c.metric and c.metric not in c.title]
    meanings = ["Parameters are effective ones, the head apart, mean over runs."]
    if told:
        meanings.append(f"Metrics: {listed(told)}.")
    if averaged:
        tasks = len({column.task for column in grid.columns})
        twice = ", two columns of one by their mean" if tasks < len(grid.columns) else ""
        of = f"of {tasks} tasks{twice}" if grid.layout.average == "glue" else "of the columns"
        meanings.append(f"Average: {of}, over the seeds that every column has.")
    return meanings


def _same_n(grid: Grid) -> str:
    n = next((cell.summary.n for line in grid.lines for cell in line.cells if cell.summary), None)
    return "No cell has a mean." if n is None else f"n = {n} in every cell that has a score."


def _parameters(line: Line) -> str:
    counts = [run.record["parameters"]["effective"] for run in line.runs]
    return short_count(sum(counts) / len(counts)) if counts else "–"


def _trials(line: Line) -> str:
    known = sorted({cell.trials for cell in line.cells if cell.trials is not None})
    return "–" if not known else str(known[0]) if len(known) == 1 else f"{known[0]}–{known[-1]}"


def _bold(grid: Grid, averages: Sequence[Summary | None] | None) -> tuple[set[tuple[int, int]], list[str]]:
    """Places (line, column) of the best cells, and why some column has none."""
    bold: set[tuple[int, int]] = set()
    refused: dict[str, list[str]] = {}
    for j, column in enumerate(grid.columns):
        scale, digits = grid.layout.scale_of(column)
        for lines in _peers([line.cells[j].runs for line in grid.lines]):
            cells = {i: cell for i in lines if (cell := grid.lines[i].cells[j]).summary is not None}
            if why := _unequal(list(cells.values())):
                refused.setdefault(why, []).append(column.title)
            else:
                means = {i: round(cell.summary.mean * scale, digits) for i, cell in cells.items() if cell.summary}
                bold |= {(i, j) for i in _best(means, column.lower_is_better)}
    if averages is not None and not refused:
        for lines in _peers([line.runs for line in grid.lines]):
            found = {i: average for i in lines if (average := averages[i]) is not None}
            means = {i: round(average.mean, grid.layout.digits) for i, average in found.items()}
            bold |= {(i, len(grid.columns)) for i in _best(means, lower=False)}
    return bold, [f"{', '.join(dict.fromkeys(titles))} ({why})" for why, titles in refused.items()]


def _peers(runs: Iterable[Sequence[Run]]) -> list[list[int]]:
    """Lines that compete: those on common ground."""
    groups: dict[Hashable, list[int]] = {}
    for i, of_line in enumerate(runs):
        groups.setdefault(ground(of_line), []).append(i)
    return list(groups.values())


def _unequal(cells: Sequence[Cell]) -> str:
    trials = {0 if cell.trials is None else cell.trials for cell in cells}
    seeds = {len(cell.values) for cell in cells}
    told = [("trials", trials), ("seeds", seeds)]
    return ", ".join(f"{what} {listed(sorted(found))}" for what, found in told if len(found) > 1)


def _best(means: dict[int, float], lower: bool) -> list[int]:
    if len(means) < 2:
        return []
    best = min(means.values()) if lower else max(means.values())
    return [i for i, mean in means.items() if mean == best]
