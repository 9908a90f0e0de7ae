"""Training curves: loss, score and zero ranks against steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from peftbench.report.figures import canvas
from peftbench.report.figures.base import (
    ORIGIN,
    Kind,
    Row,
    by_setting,
    completed,
    grouped,
    mean_and_std,
    origin,
    selecting,
)
from peftbench.report.figures.files import history, numbers
from peftbench.report.figures.style import Marks, method_marks, metric_axis, series
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (*ORIGIN, "metric", "split")
LOSS, SCORE, ZERO = "training loss", "score", "zero ranks"


def prepare(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, quantity and step, over the seeds: of the steps that every seed has."""
    labels = label_settings(runs)
    rows = []
    for setting in by_setting(completed(runs), labels):
        common = {**origin(setting[0]), **selecting(setting[0]), "method": setting[0].method}
        common |= {"setting": labels[setting[0].setting_id], "setting_id": setting[0].setting_id}
        values: dict[tuple[str, int], list[float]] = defaultdict(list)
        for run in setting:
            for key, value in dict(_points(run)).items():
                values[key].append(value)
        for (quantity, step), found in sorted(values.items()):
            if len(found) == len(setting):
                rows.append(
                    {**common, "quantity": quantity, "step": step, "seeds": len(found), **mean_and_std(found, "value")}
                )
    return rows


def _points(run: Run) -> Iterator[tuple[tuple[str, int], float]]:
    """((quantity, step), value) in the order of training; steps count on from stage to stage."""
    metric = run.record["selection"]["metric"]
    before = [0, *accumulate(stage["steps"] for stage in run.record.get("stages") or ())]
    for line in history(run):
        step = before[line["stage"]] + line["step"]
        told = numbers(line)
        if "loss" in told:
            yield (LOSS, step), told["loss"]
        if line["kind"] == "evaluation" and metric in told:
            yield (SCORE, step), told[metric]
        if "zero_ranks" in told:
            yield (ZERO, step), told["zero_ranks"]
        elif {"live_ranks", "ranks"} <= told.keys():
            yield (ZERO, step), told["ranks"] - told["live_ranks"]


def paint(rows: list[Row]) -> Figure:
    """A row of panels per task and backbone: loss, score and, where there are any, zero ranks."""
    groups = list(grouped(rows, PANEL).values())
    quantities = [q for q in (LOSS, SCORE, ZERO) if any(row["quantity"] == q for row in rows)]
    looks = _looks(rows)
    count = len(groups) * len(quantities)
    figure, axes = canvas.panels(count, across=len(quantities), height=1.9)
    for place, ax in enumerate(axes):
        panel, quantity = groups[place // len(quantities)], quantities[place % len(quantities)]
        if not any(row["quantity"] == quantity for row in panel):
            ax.remove()
            continue
        _panel(ax, [row for row in panel if row["quantity"] == quantity], looks)
        ax.set_ylabel(_label(quantity, panel[0]["metric"]))
        if quantity == quantities[0]:
            canvas.entitle(ax, panel[0], rows)
    handles = [canvas.key(name, color=look.colour, linestyle=look.line) for name, look in looks.items()]
    return canvas.finish(figure, rows, handles, canvas.seeds_note(rows, "mean and standard deviation"))


def _looks(rows: list[Row]) -> dict[str, Marks]:
    """Marks of every setting: its method's, but where a method has several settings, which must be told apart."""
    methods = {row["setting"]: row["method"] for row in rows}
    if len(set(methods.values())) < len(methods):
        return {setting: series(index) for index, setting in enumerate(methods)}
    marks = method_marks(list(methods.values()))
    return {setting: marks[method] for setting, method in methods.items()}


def _label(quantity: str, metric: str) -> str:
    return metric_axis(metric)[0] if quantity == SCORE else quantity


def _panel(ax: Axes, rows: list[Row], looks: dict[str, Marks]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for curve in grouped(rows, ("setting_id",)).values():
        look = looks[curve[0]["setting"]]
        factor = metric_axis(curve[0]["metric"])[1] if curve[0]["quantity"] == SCORE else 1.0
        x = [row["step"] for row in curve]
        y = [factor * row["value_mean"] for row in curve]
        std = [factor * (row["value_std"] or 0) for row in curve]
        marker = "o" if curve[0]["quantity"] == SCORE else ""
        ax.plot(x, y, color=look.colour, linestyle=look.line, marker=marker, markersize=2)
        if any(std):
            low, high = [a - s for a, s in zip(y, std, strict=True)], [a + s for a, s in zip(y, std, strict=True)]
            ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(left=0)
    ax.set_xlabel("optimizer step")


CURVES = Kind(
    name="curves",
    needs="completed runs with their history.jsonl",
    rows=prepare,
    paint=paint,
    panel=PANEL,
    per_page=4,
)
