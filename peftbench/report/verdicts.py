"""Published number, measured number, difference and a verdict, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from peftbench.report.cells import Cell, Grid, Line
from peftbench.report.layouts import Column, Row
from peftbench.report.named_weights import hub_name, is_another
from peftbench.report.published import Published, find_published
from peftbench.report.records import Run
from peftbench.report.statistics import MIN_SEEDS, Summary

_OWN_WEIGHTS = ("hub", "wheel")
"""Sources of the weights that a model's name stands for; what lies in a folder can be anything."""
_STATISTICS = {
    "median": "the paper's number is a median of seeds",
    "unknown": "the paper quotes the number, and what it is of its seeds is not known",
}
"""Why a published number that is not known to be a mean is not held against the interval of one."""
_NOT_AVERAGED = "not averaged: its runs have different rows of data"
_QUANTIZATION = ("model.quantization", "model.double_quant")


@dataclass(frozen=True)
class Verdict:
    """One cell beside its published number, both in the paper's scale.

    Attributes:
        row: the line's label.
        column: the column's header, or `average`.
        published: the paper's.
        measured: ours over seeds; None: there is none.
        failed: seeds that gave no score, of all that were run, in words; empty: none.
        verdict: `reproduced`, `not reproduced`, `too few seeds ...`, `not comparable: ...`, `...: no verdict`, or why
            there is no number of ours.
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
        differing = _differing(grid, line, [column], cell.runs, [published])
        said = (differing or _NOT_AVERAGED) if cell.mixed else _verdict(published, measured, differing, digits)
        yield Verdict(line.label, column.title, published, measured, _failed([cell]), said, digits)
    published, average = _published(grid, line, None), grid.average(line)
    if published is not None and average is not None:
        # What one of its cells cannot be compared for, their average cannot either.
        numbers = [published, *filter(None, (_published(grid, line, column) for column in grid.columns))]
        digits = grid.layout.scale_of(None)[1]
        said = _verdict(published, average, _differing(grid, line, grid.columns, line.runs, numbers), digits)
        yield Verdict(line.label, "average", published, average, _failed(line.cells), said, digits)


def _failed(cells: Sequence[Cell]) -> str:
    failed = sum(sum(cell.ended.values()) for cell in cells)
    return f"{failed}/{sum(cell.tried for cell in cells)} failed" if failed else ""


def _published(grid: Grid, line: Line, column: Column | None) -> Published | None:
    picked = grid.layout.published_at(line.row, column)
    return None if picked is None else find_published(picked)


def _scaled(cell: Cell, scale: float) -> Summary | None:
    return None if cell.summary is None else Summary(tuple(value * scale for value in cell.summary.values))


def _verdict(published: Published, measured: Summary | None, differing: str, digits: int) -> str:
    if measured is None:
        return "nothing measured"
    if differing:
        return differing
    if measured.n < MIN_SEEDS:
        return f"too few seeds: n={measured.n}, {MIN_SEEDS} needed"
    assert measured.t_interval is not None
    low, high = measured.t_interval
    rounded_off = 0.5 * 10**-digits
    inside = low - rounded_off <= published.value <= high + rounded_off
    return "reproduced" if inside else "not reproduced"


def _differing(
    grid: Grid, line: Line, columns: Sequence[Column], runs: Iterable[Run], numbers: Iterable[Published]
) -> str:
    """Why no verdict can be had of these runs, in words; empty: one can."""
    runs = list(runs)
    layout = grid.layout
    kinds = sorted({run.kind for run in runs} - {"benchmark"})
    if kinds:
        return f"{' and '.join(kinds)}: no verdict"
    model = line.row.model or layout.model
    differences = [
        _other("model", {run.model for run in runs}, model),
        *(f"weights from a {source}" if source == "folder" else f"weights {source}" for source in _strange(runs)),
        *_of_another_name(runs),
        *_quantized(line.row, runs),
        _other("protocol", {run.protocol for run in runs}, layout.protocol),
        *_steps(runs, layout.max_steps),
        _other("trainer.head", {str(run.settings.get("trainer.head")) for run in runs}, line.row.head),
        *(f"split of {column.title}" for column in columns if column.title in grid.moved),
        *_unlike(line.row, columns),
        *dict.fromkeys(published.note for published in numbers if "not comparable" in published.note),
        _STATISTICS.get(layout.statistic_of(line.row), ""),
    ]
    told = [difference for difference in differences if difference]
    return f"not comparable: {'; '.join(told)}" if told else ""


def _strange(runs: Iterable[Run]) -> list[str]:
    return sorted({run.record["model"]["source"] for run in runs} - set(_OWN_WEIGHTS))


def _of_another_name(runs: Iterable[Run]) -> list[str]:
    """Weights that are not those of the name that the run gives them."""
    models = [run.record["model"] for run in runs]
    return sorted({f"weights of {hub_name(model)}" for model in models if is_another(model)})


def _quantized(row: Row, runs: Iterable[Run]) -> list[str]:
    """Quantisations of the backbone that the row does not ask for."""
    if any(key in (row.where or {}) for key in _QUANTIZATION):
        return []
    found = {run.settings.get("model.quantization") for run in runs} - {None}
    return [f"backbone quantised to {', '.join(sorted(map(str, found)))}"] if found else []


def _steps(runs: Iterable[Run], theirs: int | None) -> list[str]:
    """How training ended otherwise than the paper's: after other optimizer steps, or by steps instead of epochs."""
    ours = {run.settings.get("trainer.max_steps") for run in runs}
    if ours == {theirs} or not ours:
        return []
    told = ", ".join(map(_length, sorted(ours, key=lambda steps: steps or 0)))
    return [f"training (here {told}, there {_length(theirs)})"]


def _length(steps: int | None) -> str:
    return "by epochs" if steps is None else f"{steps:,} steps"


def _unlike(row: Row, columns: Sequence[Column]) -> list[str]:
    told = row.unlike or {}
    of_row = (told.get(key) for key in ("all", *(column.title for column in columns)))
    return list(dict.fromkeys(filter(None, (*of_row, *(column.unlike for column in columns)))))


def _other(what: str, ours: set[str], theirs: str | None) -> str:
    if theirs is None or ours == {theirs}:
        return ""
    return f"{what} (here {', '.join(sorted(ours))}, there {theirs})"
