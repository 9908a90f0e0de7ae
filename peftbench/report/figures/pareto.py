"""Score against effective parameters, and the settings that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    score,
    scored,
)
from peftbench.report.figures.style import GREY, method_marks, metric_axis
from peftbench.report.labels import label_settings, method_name, runs_of
from peftbench.report.layouts import LOWER_IS_BETTER
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (*ORIGIN, "metric", "split")
_EDGE: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.4}


def prepare(runs: Sequence[Run]) -> list[Row]:
    """A row per setting with a result: score (the record's scale) and effective parameters (the head apart)."""
    labels = label_settings(runs)
    rows = []
    for setting in by_setting(runs, labels):
        done: dict[tuple[Any, ...], list[Run]] = {}
        for run in completed(setting):
            done.setdefault(tuple(scored(run).values()), []).append(run)
        for group in done.values():
            rows.append(
                {
                    **origin(group[0]),
                    **scored(group[0]),
                    "method": group[0].method,
                    "setting": labels[group[0].setting_id],
                    "setting_id": group[0].setting_id,
                    "seeds": len(group),
                    "without_result": len(setting) - len(completed(setting)),
                    **mean_and_std([score(run) for run in group], "score"),
                    **mean_and_std([run.record["parameters"]["effective"] for run in group], "effective"),
                }
            )
    for panel in grouped(rows, PANEL).values():
        better = -1 if panel[0]["metric"] in LOWER_IS_BETTER else 1
        best = front([(row["effective_mean"], better * row["score_mean"]) for row in panel])
        for row, on_front in zip(panel, best, strict=True):
            row["on_front"] = on_front
    return rows


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each (cost, score): whether none costs no more and scores no less, one of the two strictly."""

    def beaten(cost: float, value: float) -> bool:
        return any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)

    return [not beaten(*point) for point in points]


def paint(rows: list[Row]) -> Figure:
    """A panel per task and backbone; settings without any effective parameter are level lines."""
    groups = list(grouped(rows, PANEL).values())
    figure, axes = canvas.panels(len(groups), across=3, height=2.1)
    handles: dict[str, Artist] = {}
    for ax, panel in zip(axes, groups, strict=True):
        _panel(ax, panel, handles)
        canvas.entitle(ax, panel[0], rows)
    note = canvas.seeds_note(rows, "mean and standard deviation")
    if lost := sum(row["without_result"] for row in rows):
        note += f" {runs_of(lost)} without a result left out."
    handles |= {"front": handles.pop("front")} if "front" in handles else {}
    return canvas.finish(figure, rows, list(handles.values()), note)


def _panel(ax: Axes, panel: list[Row], handles: dict[str, Artist]) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter

    label, factor = metric_axis(panel[0]["metric"])
    marks = method_marks([row["method"] for row in panel])
    counted = [row for row in panel if row["effective_mean"] > 0]
    for row in panel:
        look = marks[row["method"]]
        name = method_name(row["method"])
        y, error = factor * row["score_mean"], factor * (row["score_std"] or 0)
        if row["effective_mean"] > 0:
            ax.errorbar(
                row["effective_mean"], y, error or None, row["effective_std"] or None,
                fmt=look.marker, color=look.colour, elinewidth=0.8, **_EDGE,
            )  # fmt: skip
            handles.setdefault(name, canvas.key(name, linestyle="", marker=look.marker, color=look.colour, **_EDGE))
        else:
            ax.axhline(y, color=look.colour, linestyle=":", linewidth=1)
            name += ": 0 parameters"
            handles.setdefault(name, canvas.key(name, color=look.colour, linestyle=":"))
    best = sorted((row["effective_mean"], factor * row["score_mean"]) for row in counted if row["on_front"])
    if len(best) > 1:
        ax.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=0.9, zorder=1)
        handles.setdefault("front", canvas.key("Pareto front", color=GREY, linewidth=0.9))
    if counted:
        _axis_of_counts(ax, [row["effective_mean"] for row in counted])
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_xticks([])
    ax.set_xlabel("effective parameters")
    ax.set_ylabel(label)
    ax.margins(y=0.15)


def _axis_of_counts(ax: Axes, counts: list[float]) -> None:
    """A logarithmic axis with at least one whole decade, so that it has ticks."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log")
    low, high = 10 ** math.floor(math.log10(min(counts) / 1.3)), 10 ** math.ceil(math.log10(max(counts) * 1.3))
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(LogLocator(numticks=5))


PARETO = Kind(
    name="pareto",
    needs="completed runs",
    rows=prepare,
    paint=paint,
    panel=PANEL,
)
