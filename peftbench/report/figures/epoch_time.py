"""Seconds per epoch, and how they compare with a reference; never across machines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.report.figures import canvas
from peftbench.report.figures.base import Kind, Row, by_setting, completed, grouped, origin
from peftbench.report.figures.style import method_marks
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "adalora"
"""The method that others are compared with (SoRA, Table 4); where it is missing, the slowest."""

PANEL = ("task", "model", "data", "weights", "train_rows", "machine")


def prepare(runs: Sequence[Run]) -> list[Row]:
    """A row per setting and machine: seconds of all whole epochs of its seeds, and their ratio to the reference's."""
    labels = label_settings(runs)
    rows = []
    for setting in by_setting(completed(runs)):
        machines: dict[tuple[str, int], list[Run]] = {}
        for run in setting:
            if run.record["timing"]["epoch_s"]:
                machines.setdefault((machine(run), _train_rows(run)), []).append(run)
        for (name, train_rows), group in machines.items():
            seconds = [s for run in group for s in run.record["timing"]["epoch_s"]]
            rows.append(
                {
                    **origin(group[0]),
                    "train_rows": train_rows,
                    "machine": name,
                    "method": group[0].method,
                    "setting": labels[group[0].setting_id],
                    "setting_id": group[0].setting_id,
                    "seeds": len(group),
                    "epochs": len(seconds),
                    "median_s": statistics.median(seconds),
                    "least_s": min(seconds),
                    "most_s": max(seconds),
                }
            )
    for panel in grouped(rows, PANEL).values():
        reference = _reference(panel)
        for row in panel:
            row |= {"reference": reference["setting"], "ratio": row["median_s"] / reference["median_s"]}
    return rows


def machine(run: Run) -> str:
    """Processor or GPUs, cores and threads."""
    environment = run.record["environment"]
    hardware = environment["hardware"]
    cores = f"{hardware['cpu']}, {hardware['cores']} cores, {environment['threads']} threads"
    return f"{' + '.join(hardware['gpus'])}; {cores}" if hardware["gpus"] else cores


def _train_rows(run: Run) -> int:
    return run.record["data"]["splits"]["train"]["rows"]


def _reference(panel: Sequence[Row]) -> Row:
    candidates = [row for row in panel if row["method"] == REFERENCE] or panel
    return max(candidates, key=lambda row: row["median_s"])


def paint(rows: list[Row]) -> Figure:
    """A panel per task, backbone and machine; a bar per setting, the ratio written on it."""
    groups = list(grouped(rows, PANEL).values())
    most = max(map(len, groups))
    figure, axes = canvas.panels(len(groups), across=2, height=0.75 + 0.2 * most)
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    for ax, panel in zip(axes, groups, strict=True):
        _panel(ax, panel)
        where = [f"machine {machines.index(panel[0]['machine']) + 1}"] if len(machines) > 1 else []
        ax.set_title(canvas.title(panel[0], rows, *where))
    return canvas.finish(figure, rows, [], _note(rows, machines))


def _note(rows: Sequence[Row], machines: Sequence[str]) -> str:
    references = {row["reference"] for row in rows}
    against = references.pop() if len(references) == 1 else "the panel's reference (1.00×)"
    told = f"Median seconds of a training epoch, and their ratio to {against}. "
    if len(machines) == 1:
        return f"{told}Measured on {machines[0]}."
    named = "; ".join(f"machine {i}: {name}" for i, name in enumerate(machines, start=1))
    return f"{told}Machines are NOT comparable with each other: {named}."


def _panel(ax: Axes, panel: list[Row]) -> None:
    ordered = sorted(panel, key=lambda row: row["median_s"])
    marks = method_marks([row["method"] for row in ordered])
    longest = max(row["median_s"] for row in ordered)
    for place, row in enumerate(ordered):
        ax.barh(place, row["median_s"], height=0.65, color=marks[row["method"]].colour)
        text = f" {row['median_s']:.3g} s ({row['ratio']:.2f}×)"
        ax.text(row["median_s"], place, text, va="center", ha="left")
    ax.set_yticks(range(len(ordered)), [row["setting"] for row in ordered])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    # Room for the words beside the longest bar.
    ax.set_xlim(0, longest * 1.9)
    ax.set_xlabel("seconds per epoch")


EPOCH_TIME = Kind(
    name="epoch_time",
    shows="seconds per epoch, and their ratio to AdaLoRA's",
    needs="completed runs of at least one whole epoch",
    rows=prepare,
    paint=paint,
    panel=PANEL,
    per_page=8,
)
