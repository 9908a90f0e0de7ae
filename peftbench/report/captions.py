"""What stands under a table: what was run, on what, where and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.report.cells import Grid
from peftbench.report.labels import natural, task_name, training_length
from peftbench.report.marks import not_the_benchmark
from peftbench.report.named_weights import hub_name
from peftbench.report.records import Run
from peftbench.report.verdicts import Verdict

SECONDARY = "†"
"""Marks a published number that was read in someone else's copy."""


def titled(grid: Grid, what: str = "") -> str:
    """A table's title: the paper's table, what it shows, and what its data are not."""
    layout = grid.layout
    paper = ", ".join(filter(None, (layout.paper, layout.table)))
    shown = ": ".join(filter(None, (layout.title, what)))
    return " – ".join(filter(None, (paper, shown, not_the_benchmark(mark for run in grid.runs for mark in run.marks))))


def caption(grid: Grid, splits: Iterable[str] | None = None) -> tuple[str, ...]:
    """Split protocol, selection, splits scored, seeds, model, data, figures' meaning, date, hardware, code, tuning.

    Args:
        grid: what the table shows.
        splits: those that are scored; None: the columns'.
    """
    runs = grid.runs
    completed = [run for run in runs if run.completed]
    return tuple(
        filter(
            None,
            (
                _told("Split protocol", (run.protocol for run in runs)),
                _told("Trained for", sorted({training_length(run) for run in runs}, key=natural)),
                _told("Checkpoint", (_selection(run) for run in completed)),
                _told("Scores of split", _splits(grid) if splits is None else splits),
                _told("Seeds", sorted({run.seed for run in runs})),
                _told("Model", (_model(run) for run in runs)),
                _told("Data", (f"{run.data_kind}, source {run.record['data']['source']}" for run in runs)),
                "Cells are mean ± standard deviation (n−1) over seeds.",
                _dates(runs),
                _told("Hardware", (run.hardware or "unknown" for run in runs)),
                _told("Code", (run.commit for run in runs)),
                _tuning(grid),
            ),
        )
    )


def secondary_note(verdicts: Sequence[Verdict]) -> str:
    """The footnote of marked numbers; empty where there are none."""
    sources = dict.fromkeys(verdict.published.source for verdict in verdicts if verdict.published.secondary)
    return f"{SECONDARY} Not read in the paper itself: {'; '.join(sources)}." if sources else ""


def _selection(run: Run) -> str:
    chosen = run.record["selection"]
    if chosen["rule"] == "last":
        return "last"
    return f"{chosen['rule']} by {chosen['metric']} on {chosen['split']} ({task_name(run.task)})"


def _splits(grid: Grid) -> Iterable[str]:
    """Splits that the columns are of."""
    for line in grid.lines:
        for column, cell in zip(grid.columns, line.cells, strict=True):
            for run in cell.runs:
                yield from (column.split or run.record["selection"]["split"]).split("+")


def _model(run: Run) -> str:
    model = run.record["model"]
    of_hub = hub_name(model) if model["source"] == "hub" else model["source"]
    return f"{run.model} (weights: {model.get('described') or of_hub})"


def _dates(runs: Sequence[Run]) -> str:
    started = sorted(run.record.get("started") or "" for run in runs)
    ended = sorted(run.record.get("ended") or "" for run in runs)
    first, last = next(filter(None, started), "")[:10], ended[-1][:10] if ended else ""
    if not first or not last:
        return ""
    return f"Run on {first}." if first == last else f"Run from {first} to {last}."


def _tuning(grid: Grid) -> str:
    known = {cell.trials for line in grid.lines for cell in line.cells if cell.tried} - {None}
    if not known:
        told = "No tuning trials are recorded."
        return f"{told} {_CHECKPOINT}" if _scored_where_chosen(grid, tuned=False) else told
    told = f"Tuning trials: {', '.join(map(str, sorted(known)))} per method and task (column “trials”)"  # type: ignore[type-var]
    told += ", all with the first seed, which is among those averaged."
    return f"{told} {_OPTIMISM}" if _scored_where_chosen(grid, tuned=True) else told


_CHECKPOINT = "The split that is scored chose the checkpoint too."
_OPTIMISM = "The split that is scored chose the trial and the checkpoint too, so that tuned scores are optimistic."


def _scored_where_chosen(grid: Grid, tuned: bool) -> bool:
    """Whether a cell is of the split that chose its trial, or of several checkpoints the best."""
    return any(
        column.split is None or run.record["selection"]["split"] in column.split.split("+")
        for line in grid.lines
        for column, cell in zip(grid.columns, line.cells, strict=True)
        if cell.trials is not None or not tuned
        for run in cell.runs
        if tuned or run.record["selection"]["rule"] == "best"
    )


def _told(what: str, values: Iterable[object]) -> str:
    found = list(dict.fromkeys(map(str, values)))
    return _sentence(f"{what}: {', '.join(found)}") if found else ""


def _sentence(text: str) -> str:
    return f"{text}." if text else ""
