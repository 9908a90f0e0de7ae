"""Panels, legends, words and files of a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.durable import replaced
from peftbench.report.figures.base import Row, grouped
from peftbench.report.figures.style import COLUMN, GREY, PAGE, WARNING
from peftbench.report.labels import task_name
from peftbench.report.marks import marks_of, not_the_benchmark

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")

_UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "ModDate": None},
    "png": {},
}
"""The same data give the same bytes."""


def panels(
    count: int, across: int, height: float | Sequence[float], width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels.

    Args:
        count: of panels.
        across: most panels in a row.
        height: inches of one row, or of each panel: the highest of a row counts.
        width: inches; None: one printed column for a single panel, else two.
    """
    from matplotlib.figure import Figure

    across = min(across, count)
    down = -(-count // across)
    width = width or (COLUMN if count == 1 else PAGE)
    heights = list(height) if isinstance(height, Sequence) else [height] * count
    rows = [max(heights[i * across : (i + 1) * across]) for i in range(down)]
    figure = Figure(figsize=(width, sum(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.04, hspace=0.04)  # type: ignore[union-attr]
    axes = list(figure.subplots(down, across, squeeze=False, height_ratios=rows).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def key(label: str, **look: Any) -> Artist:
    """A legend's entry; `look` as of `matplotlib.lines.Line2D`."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **look)


def finish(figure: Figure, rows: Sequence[Row], handles: Sequence[Artist], note: str) -> Figure:
    """Put the data's mark above the panels, the legend and a note below them.

    Args:
        figure: with its panels.
        rows: what is drawn.
        handles: the legend's, labelled.
        note: what one must know to read it.
    """
    width = figure.get_figwidth()
    if mark := _common_mark(rows):
        figure.suptitle(_wrapped(mark, width), color=WARNING, weight="bold")
    # Text is not part of the layout by itself: the panels make room for it by its height.
    text = _wrapped(note, width)
    if handles:
        columns = _legend_columns(handles, width)
        legend = figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, title=text, alignment="center"
        )
        legend.get_title().set_color(GREY)
        legend.get_title().set_multialignment("center")
        extra = -(-len(handles) // columns) + text.count("\n") + 1
    else:
        figure.supxlabel(text, fontsize=8, color=GREY)
        extra = text.count("\n") + 1
    lines = extra + (1 + _wrapped(mark, width).count("\n") if mark else 0)
    figure.set_figheight(figure.get_figheight() + lines * 0.16)
    return figure


def entitle(ax: Axes, row: Row, rows: Sequence[Row], *more: str) -> None:
    """Write a panel's title: task, backbone, and what else tells it from the figure's other panels.

    Args:
        ax: the panel.
        row: one of the panel's.
        rows: the figure's.
        more: further parts, on a line of their own.
    """
    parts = [task_name(row["task"])]
    if "model" in row:
        parts.append(row["model"])
    if len({other["protocol"] for other in rows}) > 1:
        parts.append(row["protocol"])
    alike = [o for o in rows if o["task"] == row["task"] and row.get("model") in (None, o.get("model"))]
    if len({other["train_rows"] for other in alike}) > 1:
        parts.append(f"{row['train_rows']:,} training rows")
    alike = [
        other for other in alike if (other["protocol"], other["train_rows"]) == (row["protocol"], row["train_rows"])
    ]
    if "model" in row and len({other["weights_id"] for other in alike}) > 1:
        parts.append(f"weights {row['weights_id']}")
    if len({other["rows_id"] for other in alike}) > 1:
        parts.append(f"rows {row['rows_id']}")
    lines = [" · ".join(parts), *more]
    if len(_marks(rows)) > 1 and (mark := _data_mark(row)):
        lines.append(mark)
    # A title begins at the axis; what stands left of it takes about half an inch.
    width = ax.figure.get_figwidth() / ax.get_gridspec().ncols - 0.5  # type: ignore[union-attr]
    ax.set_title("\n".join(_wrapped(line, width) for line in lines))


def _data_mark(row: Row) -> str:
    """In words, that a row's data or weights are not the real ones; empty where they are."""
    return not_the_benchmark(marks_of(row["data"], row["weights"]))


def seeds_note(rows: Sequence[Row], shown: str) -> str:
    """Over how many seeds and on which splits: `One seed; split protocol sora, scores of split test.`.

    Args:
        rows: with `seeds` and `protocol`, and where they are scores with `split`.
        shown: what is drawn, e.g. "mean and standard deviation".
    """
    counts = {row["seeds"] for row in rows}
    least, most = min(counts), max(counts)
    if most == 1:
        told = "One seed"
    else:
        told = f"{shown[0].upper()}{shown[1:]} over {most if least == most else f'{least} to {most}'} seeds"
    protocols = ", ".join(sorted({row["protocol"] for row in rows}))
    splits = ", ".join(sorted({row["split"] for row in rows if "split" in row}))
    return f"{told}; split protocol {protocols}{splits and f', scores of split {splits}'}."


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write the figure in every format."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # Laid out once, alike in every format.
    files = []
    for kind in FORMATS:
        files.append(folder / f"{stem}.{kind}")
        with replaced(files[-1]) as partial:
            figure.savefig(partial, format=kind, metadata=_UNDATED[kind])
    return files


def _marks(rows: Sequence[Row]) -> set[str]:
    return {_data_mark(dict(zip(("data", "weights"), key, strict=True))) for key in grouped(rows, ("data", "weights"))}


def _common_mark(rows: Sequence[Row]) -> str:
    marks = _marks(rows)
    return marks.pop() if len(marks) == 1 else ""


_CHARACTER = 0.066
"""Inches: the mean width of a character at 8 points."""


def _wrapped(text: str, width: float) -> str:
    return textwrap.fill(text, int(width / _CHARACTER))


def _legend_columns(handles: Sequence[Artist], width: float) -> int:
    longest = max(len(str(handle.get_label())) for handle in handles)
    return max(1, min(len(handles), int(width / (0.9 * longest * _CHARACTER + 0.5))))
