"""Seconds per epoch, and how they compare with a reference; never across machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.report.figures import canvas
from peftbench.report.figures.base import ORIGIN, Kind, Row, by_setting, completed, grouped, origin
from peftbench.report.figures.style import PAGE, method_marks
from peftbench.report.labels import label_settings
from peftbench.report.records import Run
from peftbench.report.statistics import Summary
from peftbench.report.tables.costs import epoch_seconds, fastest, mean_ratio, ratios, seconds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "adalora"
"""The method that others are compared with (SoRA, Table 4): its fastest setting; where it is missing, the slowest."""

PANEL = (*ORIGIN, "machine")


def prepare(runs: Sequence[Run]) -> list[Row]:
    """A row per setting and machine: seconds of its seeds' median epochs, and their ratio to the reference's.

    Mean and ratio are those of the table of epoch times; without a seed that both have there is no ratio.
    """
    labels = label_settings(runs)
    places: dict[str, list[Run]] = {}
    for run in completed(runs):
        if epoch_seconds(run) is not None:
            places.setdefault(run.machine, []).append(run)
    rows = []
    for name, there in places.items():
        for setting in by_setting(there, labels):
            of_seeds = seconds_of(setting)
            seconds = Summary(tuple(of_seeds.values()))
            rows.append(
                {
                    **origin(setting[0]),
                    "machine": name,
                    "method": setting[0].method,
                    "setting": labels[setting[0].setting_id],
                    "setting_id": setting[0].setting_id,
                    "seeds": len(setting),
                    "mean_s": seconds.mean,
                    "std_s": seconds.std,
                    "least_s": min(seconds.values),
                    "most_s": max(seconds.values),
                    "of_seeds": of_seeds,
                }
            )
    for panel in grouped(rows, PANEL).values():
        for row in panel:
            reference = _reference(panel, row)
            paired = ratios(row["of_seeds"], reference["of_seeds"]) if reference else []
            row |= {
                "reference": reference["setting"] if reference else None,
                "is_reference": row is reference,
                "ratio": mean_ratio(paired) if paired else None,
            }
    for row in rows:
        del row["of_seeds"]
    return rows


def _reference(panel: Sequence[Row], row: Row) -> Row | None:
    named = [other for other in panel if other["method"] == REFERENCE]
    return fastest(
        named or [max(panel, key=lambda other: other["mean_s"])], lambda other: other["of_seeds"], row["of_seeds"]
    )


def paint(rows: list[Row]) -> Figure:
    """A panel per task, backbone and machine; a bar per setting, the ratio written on it."""
    groups = list(grouped(rows, PANEL).values())
    # Long names leave no room for bars in a narrow panel.
    wide = max(len(row["setting"]) for row in rows) > 18
    heights = [0.7 + 0.17 * _slots(panel) for panel in groups]
    figure, axes = canvas.panels(len(groups), across=1 if wide else 2, height=heights, width=PAGE if wide else None)
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    for ax, panel in zip(axes, groups, strict=True):
        _panel(ax, panel, 1.4 if wide else 1.8)
        where = [f"machine {machines.index(panel[0]['machine']) + 1}"] if len(machines) > 1 else []
        canvas.entitle(ax, panel[0], rows, *where)
    return canvas.finish(figure, rows, [], _note(rows, machines))


def _note(rows: Sequence[Row], machines: Sequence[str]) -> str:
    told = "Seconds of a training epoch: a run's median, mean over seeds"
    if any(row["seeds"] > 1 for row in rows):
        told += "; whiskers from the fastest run to the slowest"
    told += ". In brackets the ratio to the panel's reference, the geometric mean over equal seeds. "
    if len(machines) == 1:
        return f"{told}Measured on {machines[0]}."
    named = "; ".join(f"machine {i}: {name}" for i, name in enumerate(machines, start=1))
    return f"{told}Machines are NOT comparable with each other: {named}."


def _slots(panel: list[Row]) -> int:
    """Bars a panel has room for: a lone one does not fill it."""
    return max(3, len(panel))


def _panel(ax: Axes, panel: list[Row], room: float) -> None:
    """Bars, the fastest first; the axis is `room` times as long as the slowest run, for the words beside it."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ordered = sorted(panel, key=lambda row: row["mean_s"])
    marks = method_marks([row["method"] for row in ordered])
    longest = max(row["most_s"] for row in ordered)
    for place, row in enumerate(ordered):
        ax.barh(place, row["mean_s"], height=0.65, color=marks[row["method"]].colour)
        if row["seeds"] > 1:
            _whiskers(ax, place, row)
        ratio = "no seed in common" if row["ratio"] is None else f"{row['ratio']:.2f}×"
        text = f" {_seconds(row['mean_s'])} s ({'reference' if row['is_reference'] else ratio})"
        ax.text(row["most_s"], place, text, va="center", ha="left")
    ax.set_yticks(range(len(ordered)), [row["setting"] for row in ordered])
    ax.set_ylim(_slots(panel) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, longest * room)
    ax.set_xticks([tick for tick in MaxNLocator(4).tick_values(0, longest) if tick <= longest])
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    ax.set_xlabel("seconds per epoch")


def _whiskers(ax: Axes, place: int, row: Row) -> None:
    """From the fastest run to the slowest, edged in white: some bars are as dark as the line."""
    from matplotlib.patheffects import withStroke

    around = [[row["mean_s"] - row["least_s"]], [row["most_s"] - row["mean_s"]]]
    _, caps, lines = ax.errorbar(row["mean_s"], place, xerr=around, fmt="none", ecolor="black", elinewidth=0.8)
    for part in (*caps, *lines):
        part.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _seconds(value: float) -> str:
    """Three digits and no fewer, whole seconds above a hundred."""
    return f"{value:,.{max(0, 2 - int(math.log10(max(value, 1))))}f}"


EPOCH_TIME = Kind(
    name="epoch_time",
    needs="completed runs of at least one whole epoch",
    rows=prepare,
    paint=paint,
    panel=PANEL,
    per_page=4,
)
