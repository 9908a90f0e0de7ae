"""What a report holds: a grid for each experiment, and the tables made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from peftbench.errors import ConfigurationError
from peftbench.report.budgets import Budgets, read_budgets
from peftbench.report.cells import Grid, fill
from peftbench.report.comparisons import check_named, compare, corrected
from peftbench.report.labels import runs_of
from peftbench.report.layouts import SMALL, Column, Layout, TableKind, columns_of, generic, layout_for, load
from peftbench.report.records import Found, Run
from peftbench.report.statistics import Test
from peftbench.report.tables.comparing import comparison_table, verdict_table
from peftbench.report.tables.costs import epoch_time_table, ranks_table
from peftbench.report.tables.model import Table
from peftbench.report.tables.scores import score_table, statistics_table
from peftbench.report.tables.stages import stages_summary_table, stages_table
from peftbench.report.verdicts import judge

_MAKERS: Mapping[TableKind, Callable[[Grid], Table]] = {
    "scores": score_table,
    "epoch_time": epoch_time_table,
    "ranks": ranks_table,
    "stages": stages_table,
    "stages_summary": stages_summary_table,
}


@dataclass(frozen=True)
class Contents:
    """Everything that is written or shown.

    Attributes:
        runs: those that were asked for, trials among them.
        budgets: tuning trials.
        grids: one for each experiment.
        tables: scores, times, ranks, published beside measured.
        comparisons: comparisons of rows, and every cell's statistics.
        left_out: experiments that are in no table, each with the reason.
    """

    runs: list[Run]
    budgets: Budgets
    grids: list[Grid]
    tables: list[Table]
    comparisons: list[Table]
    left_out: list[str]

    @property
    def every_table(self) -> list[Table]:
        """Scores first."""
        return [*self.tables, *self.comparisons]


def make(
    found: Found,
    runs: Sequence[Run],
    layout: str | None = None,
    metrics: Sequence[str] = (),
    test: Test = "permutation",
    against: str | None = None,
) -> Contents:
    """Tables of runs.

    Args:
        found: what lies under the folders, for its sweeps.
        runs: those of it that are wanted.
        layout: a layout's name for all runs; None: each experiment's own.
        metrics: only columns of these; empty: all.
        test: of the comparisons.
        against: the row that the others are compared with.

    Raises:
        ConfigurationError: no such layout, row or metric; or the runs do not fit the layout.
    """
    budgets = read_budgets(found.sweeps)
    results = [run for run in runs if not budgets.is_trial(run)]
    if not results:
        raise ConfigurationError(f"all {len(runs)} runs are trials of a search; none is a result")
    tried = [run for run in runs if budgets.is_trial(run)]
    laid_out, left_out = _laid_out(results, layout, metrics)
    grids = [_without_trials(fill(its, of_it, budgets.of), of_it, tried) for its, of_it in laid_out]
    if against:
        check_named(grids, against, left_out)
    compared = [compare(grid, test, against) for grid in grids]
    adjusted = iter(corrected([found for of_grid in compared for found in of_grid]))
    tables: list[Table] = []
    comparisons: list[Table] = []
    for grid, of_grid in zip(grids, compared, strict=True):
        tables += _tables(grid)
        if pairs := [next(adjusted) for _ in of_grid]:
            comparisons.append(comparison_table(grid, pairs, test))
        comparisons.append(statistics_table(grid))
    return Contents(list(runs), budgets, grids, tables, comparisons, left_out)


def _without_trials(grid: Grid, runs: Sequence[Run], tried: Sequence[Run]) -> Grid:
    """The grid, noting how many of its experiments' runs are trials and in no cell."""
    experiments = {run.experiment for run in runs}
    count = sum(run.experiment in experiments for run in tried)
    note = f"Not in this table: {runs_of(count)} that tuned and are no result."
    return replace(grid, notes=(*grid.notes, note)) if count else grid


def _tables(grid: Grid) -> list[Table]:
    made = [_MAKERS[kind](grid) for kind in grid.layout.tables]
    tables = [table for table in made if table.rows]
    verdicts = judge(grid)
    return [*tables, verdict_table(grid, verdicts)] if verdicts else tables


def _laid_out(
    runs: Sequence[Run], name: str | None, metrics: Sequence[str]
) -> tuple[list[tuple[Layout, list[Run]]], list[str]]:
    """Each experiment's layout and runs; and why the others, where some have the metrics, are left out."""
    by_experiment: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_experiment[name or run.experiment].append(run)
    found: list[tuple[Layout, list[Run]]] = []
    left_out: list[str] = []
    for experiment, its in by_experiment.items():
        layout = load(name) if name else layout_for(experiment)
        if layout is None:
            layout = generic(experiment, its, metrics)
        elif not name:
            layout = _fitted(layout, experiment, its)
        narrowed = _narrowed(layout, metrics, its)
        if narrowed.columns:
            found.append((narrowed, its))
        else:
            known = f"measured: {', '.join(sorted(_measured(its)))}" if _measured(its) else "no run of it is complete"
            left_out.append(f"metric={','.join(metrics)}: no such column in {layout.name} ({known})")
    if not found:
        raise ConfigurationError("; ".join(left_out))
    return found, left_out


def _fitted(layout: Layout, experiment: str, runs: Sequence[Run]) -> Layout:
    """A paper's layout under the experiment's name, with columns for tasks that the paper has not.

    Of a small twin the rows of other models and the columns of other tasks are left out: it was not to have them.
    """
    known = {column.task for column in layout.columns}
    more = columns_of([run for run in runs if run.task not in known])
    if all(column.split and column.split.startswith("test") for column in layout.columns):
        more = tuple(replace(column, split="test", header=column.title) for column in more)
    average = "none" if more else layout.average
    whole = replace(layout, name=experiment, columns=(*layout.columns, *more), average=average)
    if not experiment.endswith(SMALL):
        return whole
    models = {None, *(run.model for run in runs)}
    columns = tuple(column for column in whole.columns if any(column.takes(run) for run in runs))
    missing = ", ".join(column.title for column in whole.columns if column not in columns)
    return replace(
        whole,
        title=f"{layout.title}, in small",
        rows=tuple(row for row in whole.rows if row.model in models),
        columns=columns,
        average=whole.average if len({column.task for column in columns}) > 1 else "none",
        average_published=None,
        notes=(*whole.notes, *([f"Columns of the paper's without runs here: {missing}."] if missing else [])),
    )


def _measured_besides(columns: Sequence[Column], metrics: Iterable[str], runs: Sequence[Run]) -> tuple[Column, ...]:
    """Columns for metrics that runs have on the split that selected, and none of the given columns shows."""
    more: tuple[Column, ...] = ()
    for metric in sorted(metrics):
        shown = {column.task for column in columns if metric in (column.metric or "").split("+")}
        having = [run for run in runs if run.task not in shown and run.metric(metric) is not None]
        more += columns_of(having, [metric])
    return more


def _narrowed(layout: Layout, metrics: Sequence[str], runs: Sequence[Run]) -> Layout:
    """Only the columns of some metrics, and some that runs have; of metrics that no run has none."""
    columns = [column for column in layout.columns if any(column.takes(run) for run in runs)]
    if not columns:
        tasks = ", ".join(sorted({run.task for run in runs}))
        raise ConfigurationError(f"layout={layout.name}: no column for the runs' tasks ({tasks})")
    if not metrics:
        return layout
    wanted = set(metrics) & _measured(runs)
    kept = tuple(column for column in layout.columns if set((column.metric or "").split("+")) & wanted)
    kept += _measured_besides(kept, wanted, runs)
    return replace(layout, columns=kept, average="none")


def _measured(runs: Iterable[Run]) -> set[str]:
    return {m for run in runs if run.completed for of_split in run.record["metrics"].values() for m in of_split}
