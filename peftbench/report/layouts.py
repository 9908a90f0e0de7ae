"""The papers' tables as data: rows, columns, scale, and where each cell's published number stands."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from peftbench.benchmark_average import Score, suite_scores
from peftbench.errors import ConfigurationError
from peftbench.plain_yaml import read_yaml
from peftbench.report.labels import method_name, task_name
from peftbench.report.records import Run
from peftbench.strict import build, did_you_mean

FOLDER = Path(__file__).parent / "layouts"
SMALL = "_small"
"""Ending of an experiment's name that is its paper's in small, and uses the same layout."""

LOWER_IS_BETTER = frozenset({"ter", "perplexity", "loss"})
"""Metrics of which less is more."""

T = TypeVar("T")
TableKind = Literal["scores", "epoch_time", "ranks", "stages", "stages_summary"]
Statistic = Literal["mean", "median", "unknown"]
Figure = Literal[
    "pareto", "stages", "ranks", "curves", "epoch_time", "bitfit_changes", "prompt_length", "prompt_initialisation",
    "unipelt_gates",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a table: which runs are in it.

    Attributes:
        label: as the paper prints it.
        method: the method's name.
        model: the backbone's; null: any.
        where: settings that its runs have, by key: `{method.rank: 8}`; a list: any of its values.
        published: columns of `published.csv` that pick this row's published numbers.
        head: `freeze`: the paper's runs leave the task's head at its random start; no verdict on runs that do not.
        unlike: how the paper's run differs from ours, by column's header or `all`; no verdict there.
        published_statistic: what the published numbers are of their seeds; null: the layout's.
    """

    label: str
    method: str
    model: str | None = None
    where: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    head: Literal["train", "freeze"] = "train"
    unlike: dict[str, Any] | None = None
    published_statistic: Statistic | None = None

    def takes(self, run: Run) -> bool:
        """Whether a run belongs in this row."""
        if run.method != self.method or self.model not in (None, run.model):
            return False
        return all(_equal(run.settings.get(key), wanted) for key, wanted in (self.where or {}).items())


@dataclass(frozen=True)
class Column:
    """A column: a task's metric on a split.

    Attributes:
        task: the task's name.
        metric: the metric's; `pearson+spearman`: the mean of both; null: the one that selected.
        split: `validation_matched+validation_mismatched`: the mean of both; null: the one that selected.
        header: what stands above; null: made of task and metric.
        where: settings that its runs have, by key.
        published: columns of `published.csv` that pick this column's published numbers.
        scale: what scores are multiplied by; null: the layout's.
        digits: after the point; null: the layout's.
        note: a sentence that stands under the table where the column is.
        unlike: why no published number of it can be compared; null: they can.
    """

    task: str
    metric: str | None = None
    split: str | None = None
    header: str | None = None
    where: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    scale: float | None = None
    digits: int | None = None
    note: str | None = None
    unlike: str | None = None

    def takes(self, run: Run) -> bool:
        """Whether a run belongs in this column."""
        if run.task != self.task:
            return False
        return all(_equal(run.settings.get(key), wanted) for key, wanted in (self.where or {}).items())

    @property
    def lower_is_better(self) -> bool:
        """Whether the smallest value is the best."""
        return self.metric is not None and set(self.metric.split("+")) <= LOWER_IS_BETTER

    @property
    def title(self) -> str:
        """The header."""
        return self.header or " ".join(filter(None, (task_name(self.task), self.metric, self.split)))


@dataclass(frozen=True)
class Layout:
    """One table of a paper.

    Attributes:
        title: what the table shows.
        name: the file's, and the experiment's.
        rows: in the paper's order.
        columns: in the paper's order.
        paper: citation; null: no paper's.
        table: the paper's name of it.
        model: the paper's backbone, by our name; null: each row names its own, or there is none here.
        protocol: the paper's splits, by our name where we have them.
        max_steps: the paper's optimizer steps, where it counts those; null: it trains by epochs.
        published_statistic: what the paper's numbers are of their seeds; no verdict but on a `mean`.
        average: `glue`: mean of the tasks, of two columns of one task their mean first; `mean`: of the columns.
        average_published: columns of `published.csv` that pick the published averages.
        source: columns of `published.csv` that hold for the whole table.
        scale: what scores are multiplied by.
        digits: after the point.
        reference: label of the row that the others are compared with; null: every pair.
        tables: which tables are made.
        figures: which figures are drawn.
        notes: sentences that stand under the table.
    """

    title: str
    name: str = ""
    rows: tuple[Row, ...] = ()
    columns: tuple[Column, ...] = ()
    paper: str | None = None
    table: str | None = None
    model: str | None = None
    protocol: str | None = None
    max_steps: int | None = None
    published_statistic: Statistic = "mean"
    average: Literal["glue", "mean", "none"] = "none"
    average_published: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    scale: float = 100.0
    digits: int = 2
    reference: str | None = None
    tables: tuple[TableKind, ...] = ("scores",)
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def published_at(self, row: Row, column: Column | None) -> dict[str, str] | None:
        """What picks a cell's published number, of its average where `column` is None; None: there is none."""
        if row.published is None:
            return None
        last = self.average_published if column is None else column.published
        return None if last is None else {**(self.source or {}), **last, **row.published}

    def statistic_of(self, row: Row) -> Statistic:
        """What a row's published numbers are of their seeds."""
        return row.published_statistic or self.published_statistic

    def scale_of(self, column: Column | None) -> tuple[float, int]:
        """What a column's scores are multiplied by, and the digits after the point; None: the average's."""
        scale = self.scale if column is None or column.scale is None else column.scale
        digits = self.digits if column is None or column.digits is None else column.digits
        return scale, digits


def names() -> list[str]:
    """Every layout's name."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Layout:
    """A layout by name.

    Raises:
        ConfigurationError: there is none of that name, or it is wrong.
    """
    if name not in names():
        raise ConfigurationError(f"layout={name}: unknown{did_you_mean(name, names())} (known: {', '.join(names())})")
    return read(FOLDER / f"{name}.yaml")


def read(file: Path) -> Layout:
    """A layout's file.

    Raises:
        ConfigurationError: an unknown key, a wrong value, a label that stands twice.
    """
    told = read_yaml(file)
    where = f"layouts/{file.name}"
    if not isinstance(told, Mapping):
        raise ConfigurationError(f"{where}: a mapping is expected")
    rows = _built(Row, told.get("rows"), "rows", where)
    columns = _built(Column, told.get("columns"), "columns", where)
    rest = {key: value for key, value in told.items() if key not in ("rows", "columns", "name")}
    layout = dataclasses.replace(build(Layout, rest, "layout", where), name=file.stem, rows=rows, columns=columns)
    labels = [row.label for row in rows]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ConfigurationError(f"{where}: rows: the label {min(twice)!r} stands twice")
    if layout.reference not in (None, *labels):
        raise ConfigurationError(f"{where}: reference: {layout.reference!r} is no row's label")
    return layout


@functools.cache
def layout_for(experiment: str) -> Layout | None:
    """The layout of an experiment or of its small twin; None: it has none."""
    name = experiment.removesuffix(SMALL)
    return load(name) if name in names() else None


def generic(name: str, runs: Sequence[Run], metrics: Sequence[str] = ()) -> Layout:
    """A layout made of the runs: a row for each method, a column for each task's selecting metric, or for `metrics`.

    Where the tasks are those of GLUE or SuperGLUE, all of them, its columns are the scores that the benchmark averages.
    """
    rows = {run.method: Row(method_name(run.method), run.method) for run in runs}
    scores = None if metrics else suite_scores({run.task for run in runs})
    columns = columns_of(runs, metrics) if scores is None else _averaged(scores, runs)
    average = "none" if scores is None else "glue"
    return Layout(title=name, name=name, rows=tuple(rows.values()), columns=columns, average=average)


def _averaged(scores: Sequence[Score], runs: Sequence[Run]) -> tuple[Column, ...]:
    """The benchmark's scores, of MNLI both: on test splits where every task has one, else on those that select."""
    tested = _tested(runs)
    chosen = {run.task: run.record["selection"]["split"] for run in runs if run.completed}
    if set(tested) == set(chosen):
        return tuple(Column(task, metric, f"test{ending}") for task, ending, metric in scores)
    splits = {task: chosen.get(task, "validation").removesuffix("_matched").removesuffix("_mismatched")
              for task, _, _ in scores}  # fmt: skip
    return tuple(Column(task, metric, f"{splits[task]}{ending}" if ending else None) for task, ending, metric in scores)


def columns_of(runs: Sequence[Run], metrics: Sequence[str] = ()) -> tuple[Column, ...]:
    """A column for each task's selecting metric, or for each of `metrics`; of the test split where there is one."""
    tested = _tested(runs)
    columns: dict[tuple[str, str], Column] = {}
    for run in sorted(runs, key=lambda run: run.task):
        if run.completed:
            split = tested.get(run.task)
            for metric in metrics or (run.record["selection"]["metric"],):
                columns.setdefault((run.task, metric), Column(run.task, metric, split))
    for task in sorted({run.task for run in runs} - {task for task, _ in columns}):
        columns[task, ""] = Column(task)  # Every run of it failed.
    return tuple(map(_generic_scale, columns.values()))


def _tested(runs: Sequence[Run]) -> dict[str, str]:
    """The test split of each task whose runs were all scored on one, which chose nothing; of MNLI the matched one."""
    scored: dict[str, set[str]] = {}
    for run in runs:
        if run.completed:
            scored[run.task] = scored.get(run.task, set(run.record["metrics"])) & set(run.record["metrics"])
    tests = {task: [name for name in splits if name.partition("_")[0] == "test"] for task, splits in scored.items()}
    return {task: min(names) for task, names in tests.items() if names}


def _generic_scale(column: Column) -> Column:
    unbounded = column.metric in ("log_likelihood", "perplexity", "nist", "cider")
    return dataclasses.replace(column, scale=1.0, digits=3) if unbounded else column


def _built(cls: type[T], told: Any, key: str, where: str) -> tuple[T, ...]:
    if not isinstance(told, list) or not told or not all(isinstance(item, Mapping) for item in told):
        raise ConfigurationError(f"{where}: {key}: a list of mappings is expected")
    return tuple(build(cls, item, f"{key}[{i}]", where) for i, item in enumerate(told))


def _equal(value: Any, wanted: Any) -> bool:
    """Whether a setting is the one wanted; 8 and 8.0 are one, true and 1 are not, nor does a list's order count."""
    if isinstance(wanted, list) and not isinstance(value, list):
        return any(_equal(value, one) for one in wanted)
    if isinstance(wanted, list):
        return sorted(value, key=str) == sorted(wanted, key=str)
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
