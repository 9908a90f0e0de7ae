"""Two rows of a table compared, paired by task and seed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftbench.errors import ConfigurationError
from peftbench.report.cells import Cell, Grid, Line, ground
from peftbench.report.labels import task_name, training_length
from peftbench.report.layouts import Column
from peftbench.report.records import Run
from peftbench.report.statistics import MIN_SEEDS, Summary, Test, holm, paired_p
from peftbench.strict import did_you_mean


@dataclass(frozen=True)
class Comparison:
    """What one row has more than another.

    Attributes:
        first: a line's label.
        second: another's.
        difference: first less second over the pairs, in the layout's scale, above 0 where the first is better; None:
            there is no pair.
        p: two-sided, uncorrected; None where there are too few seeds.
        p_holm: corrected over all comparisons of the report.
        refused: why there is no test, in words; empty: there is one.
        left_out: tasks of the table that the difference says nothing of, and why, in words.
        columns: whose scores it is of.
        unequal: those of them whose runs trained longer in one row than in the other.
    """

    first: str
    second: str
    difference: Summary | None
    p: float | None = None
    p_holm: float | None = None
    refused: str = ""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    columns: tuple[str, ...] = ()
    unequal: tuple[str, ...] = ()


def compare(grid: Grid, test: Test, against: str | None = None) -> list[Comparison]:
    """Every two lines of a grid, or every line with those of one row; p is not corrected yet.

    Of several columns that one run fills the first is compared, so that a run counts once: of the whole test split
    before one of its categories.

    Args:
        grid: the table.
        test: which.
        against: a row's label or its method, of a grid without it there are none; None: the layout's reference, or
            every pair.
    """
    chosen = _named(grid, against or grid.layout.reference)
    if against and not chosen:
        return []
    if chosen:
        pairs = [(line, other) for line in chosen for other in grid.lines if other not in chosen]
    else:
        pairs = list(itertools.combinations(grid.lines, 2))
    compared = (_compared(grid, first, second, test) for first, second in pairs)
    return [comparison for comparison in compared if comparison is not None]


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with Holm's correction over those that were tested."""
    adjusted = iter(holm([comparison.p for comparison in comparisons if comparison.p is not None]))
    return [
        comparison if comparison.p is None else dataclasses.replace(comparison, p_holm=next(adjusted))
        for comparison in comparisons
    ]


def check_named(grids: Sequence[Grid], against: str, left_out: Sequence[str] = ()) -> None:
    """Raises ConfigurationError, with what was left out, where no grid has a row of that label or method."""
    if not any(_named(grid, against) for grid in grids):
        known = dict.fromkeys(name for grid in grids for line in grid.lines for name in (line.label, line.row.method))
        told = f"against={against}: no such row{did_you_mean(against, known)} ({', '.join(known)})"
        raise ConfigurationError("; ".join((told, *left_out)))


def _named(grid: Grid, name: str | None) -> list[Line]:
    return [line for line in grid.lines if name in (line.label, line.row.label, line.row.method)]


def _compared(grid: Grid, first: Line, second: Line, test: Test) -> Comparison | None:
    """None of lines that have runs of one task and nowhere common ground: other models, or other data."""
    differences: list[float] = []
    shared: dict[str, int] = {}
    tasks: dict[str, bool] = {}
    alone: dict[str, None] = {}
    columns: list[str] = []
    unequal: list[str] = []
    cells = zip(grid.columns, first.cells, second.cells, strict=True)
    for column, a, b in sorted(cells, key=lambda found: found[0].split not in (None, "test")):
        task = _filled_by(column)
        if bool(a.tried) != bool(b.tried):
            alone[task] = None
        if not a.tried or not b.tried or tasks.get(task):
            continue
        if not a.values or not b.values:
            shared.setdefault(task, 0)  # One that gives nothing on a task is not better for what it leaves out.
            continue
        seeds = _paired(a, b)
        tasks[task] = bool(seeds) or ground(a.runs) == ground(b.runs)
        if tasks[task]:
            scale = (-1.0 if column.lower_is_better else 1.0) * grid.layout.scale_of(column)[0]
            shared[task] = len(seeds)
            columns.append(column.title)
            differences += [scale * (a.values[seed] - b.values[seed]) for seed in seeds]
            if {_epochs(run) for run in a.runs} != {_epochs(run) for run in b.runs}:
                unequal.append(column.title)
    if tasks and not any(tasks.values()):
        return None
    left_out = {task: "whose models, weights or rows differ" for task, common in tasks.items() if not common}
    left_out |= {task: "run with one of the two alone" for task in alone if task not in tasks and task not in shared}
    fewest = min(shared, key=lambda task: shared[task], default="")
    refused = ""
    if shared.get(fewest, 0) < MIN_SEEDS:
        where = f" on {fewest}" if len(shared) > 1 else ""
        refused = f"too few seeds: n={shared.get(fewest, 0)}{where}, {MIN_SEEDS} needed"
    return Comparison(
        first.label,
        second.label,
        Summary(tuple(differences)) if differences else None,
        None if refused else paired_p(differences, test),
        refused=refused,
        left_out=left_out,
        columns=tuple(columns),
        unequal=tuple(unequal),
    )


def _paired(a: Cell, b: Cell) -> list[int]:
    """Seeds that both have, on the same rows of data."""
    ours, theirs = ({run.seed: ground([run]) for run in cell.runs} for cell in (a, b))
    return [seed for seed in sorted(set(a.values) & set(b.values)) if ours[seed] == theirs[seed]]


def _epochs(run: Run) -> object:
    """How often a run saw its rows, to a tenth; where the record does not say, its length in words."""
    steps, batch, rows = run.record.get("steps"), run.settings.get("trainer.batch_size"), run.train_rows
    counts = list(steps.values()) if isinstance(steps, Mapping) else []
    if not rows or not isinstance(batch, int) or not counts or not all(isinstance(count, int) for count in counts):
        return training_length(run)
    return round(sum(counts) * batch / rows, 1)


def _filled_by(column: Column) -> str:
    """The runs that fill a column, in words: a task's, or those of it that its header names."""
    return column.title if column.where else task_name(column.task)
