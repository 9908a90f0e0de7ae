"""Published number, measured number, difference and a verdict, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from peftbench.report.cells import Cell, Grid, Line, kind_of
from peftbench.report.layouts import Column, Row
from peftbench.report.published import Published, find_published
from peftbench.report.records import Run
from peftbench.report.statistics import Summary

MIN_SEEDS = 3
"""Of fewer seeds there is no verdict."""


@dataclass(frozen=True)
class Verdict:
    """One cell beside its published number, both in the paper's scale.

    Attributes:
        row: the line's label.
        column: the column's header, or `average`.
        published: the paper's.
        measured: ours over seeds; None: there is none.
        failed: seeds that gave no score, of all that were run, in words; empty: none.
        verdict: `reproduced`, `not reproduced`, `too few seeds ...`, `not comparable: ...` or `...: no verdict`.
        digits: after the point.
    """

    row: str
    column: str
    published: Published
    measured: Summary | None
    failed: str
    verdict: str
    digits: int

    @property
    def difference(self) -> float | None:
        """Measured mean less the published."""
        return None if self.measured is None else self.measured.mean - self.published.value


def judge(grid: Grid) -> list[Verdict]:
    """A verdict for each cell, and each average, that has a published number and runs."""
    return [verdict for line in grid.lines for verdict in _of_line(grid, line)]


def _of_line(grid: Grid, line: Line) -> Iterator[Verdict]:
    for column, cell in zip(grid.columns, line.cells, strict=True):
        published = _published(grid, line, column)
        if published is None or not cell.tried:
            continue
        scale, digits = grid.layout.scale_of(column)
        measured = _scaled(cell, scale)
        failed = f"{sum(cell.ended.values())}/{cell.tried} failed" if cell.ended else ""
        said = _verdict(published, measured, _differing(grid, line, [column], cell.runs, published))
        yield Verdict(line.label, column.title, published, measured, failed, said, digits)
    published, average = _published(grid, line, None), grid.average(line)
    if published is not None and average is not None:
        said = _verdict(published, average, _differing(grid, line, grid.columns, line.runs, published))
        yield Verdict(line.label, "average", published, average, "", said, grid.layout.scale_of(None)[1])


def _published(grid: Grid, line: Line, column: Column | None) -> Published | None:
    picked = grid.layout.published_at(line.row, column)
    return None if picked is None else find_published(picked)


def _scaled(cell: Cell, scale: float) -> Summary | None:
    return None if cell.summary is None else Summary(tuple(value * scale for value in cell.summary.values))


def _verdict(published: Published, measured: Summary | None, differing: str) -> str:
    if measured is None:
        return "nothing measured"
    if differing:
        return differing
    if measured.n < MIN_SEEDS:
        return f"too few seeds: n={measured.n}, {MIN_SEEDS} needed"
    assert measured.t_interval is not None
    low, high = measured.t_interval
    return "reproduced" if low <= published.value <= high else "not reproduced"


def _differing(grid: Grid, line: Line, columns: Sequence[Column], runs: Iterable[Run], published: Published) -> str:
    """Why no verdict can be had of these runs, in words; empty: one can."""
    runs = list(runs)
    layout = grid.layout
    kinds = sorted({kind_of(run) for run in runs} - {"benchmark"})
    if kinds:
        return f"{' and '.join(kinds)}: no verdict"
    model = line.row.model or layout.model
    differences = [
        _other("model", {run.model for run in runs}, model),
        _other("protocol", {run.protocol for run in runs}, layout.protocol),
        *(f"split of {column.title}" for column in columns if column.title in grid.moved),
        *_unlike(line.row, columns),
        published.note if "not comparable" in published.note else "",
    ]
    told = [difference for difference in differences if difference]
    return f"not comparable: {'; '.join(told)}" if told else ""


def _unlike(row: Row, columns: Sequence[Column]) -> list[str]:
    told = row.unlike or {}
    return list(dict.fromkeys(told[key] for key in ("all", *(column.title for column in columns)) if key in told))


def _other(what: str, ours: set[str], theirs: str | None) -> str:
    if theirs is None or ours == {theirs}:
        return ""
    return f"{what} (here {', '.join(sorted(ours))}, there {theirs})"
