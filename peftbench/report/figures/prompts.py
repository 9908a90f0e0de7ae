"""Score against a prompt's length, and by how it was initialised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
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
    score,
    scored,
)
from peftbench.report.figures.style import Marks, metric_axis, series
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (*(column for column in ORIGIN if column not in ("model", "weights_id")), "metric", "split")
"""Backbones share a panel: how a study changes with them is what its papers ask."""

LENGTH, INIT = "method.length", "method.init"


def prepare(runs: Sequence[Run], key: str) -> list[Row]:
    """A row per backbone, setting and value of `key`; lines of one value alone are left out."""
    having = [run for run in completed(runs) if run.settings.get(key) is not None]
    labels = label_settings(having, besides=(key,))
    several = _of_several_weights(having)
    rows = []
    for setting in by_setting(having, labels):
        first = setting[0]
        line = f"{labels[first.setting_id]}, {first.model}"
        rows.append(
            {
                **origin(first),
                **scored(first),
                "method": first.method,
                "line": f"{line} [weights {first.weights}]" if first.model in several else line,
                "setting_id": first.setting_id,
                "value": first.settings[key],
                "seeds": len(setting),
                **mean_and_std([score(run) for run in setting], "score"),
            }
        )
    lines = grouped(rows, (*PANEL, "line")).values()
    told = [line for line in lines if len({row["value"] for row in line}) > 1]
    return [row for line in told for row in sorted(line, key=lambda row: row["value"])]


def _of_several_weights(runs: Sequence[Run]) -> set[str]:
    """Names of backbones that stand for different weights."""
    named = {(run.model, run.weights) for run in runs}
    return {model for model, _ in named if sum(model == other for other, _ in named) > 1}


def _paint(rows: list[Row], key: str) -> Figure:
    groups = list(grouped(rows, PANEL).values())
    looks = {line: series(i) for i, line in enumerate(dict.fromkeys(row["line"] for row in rows))}
    figure, axes = canvas.panels(len(groups), across=3, height=2.1)
    for ax, panel in zip(axes, groups, strict=True):
        (_lengths if key == LENGTH else _inits)(ax, panel, looks)
        ax.set_ylabel(metric_axis(panel[0]["metric"])[0])
        canvas.entitle(ax, {k: v for k, v in panel[0].items() if k != "model"}, rows)
        ax.margins(y=0.15)
    handles = [
        canvas.key(line, color=m.colour, marker=m.marker, linestyle=m.line if key == LENGTH else "")
        for line, m in looks.items()
    ]
    return canvas.finish(figure, rows, handles, canvas.seeds_note(rows, "mean and standard deviation"))


def _lengths(ax: Axes, panel: list[Row], looks: dict[str, Marks]) -> None:
    from matplotlib.ticker import NullLocator

    for line in grouped(panel, ("line",)).values():
        look = looks[line[0]["line"]]
        _points(ax, [row["value"] for row in line], line, look, look.line)
    lengths = sorted({row["value"] for row in panel})
    ax.set_xscale("log")
    ax.set_xticks(lengths, _staggered(lengths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("length (virtual tokens)")


def _staggered(lengths: list[int]) -> list[str]:
    """Labels of a logarithmic axis; one that would touch its neighbour goes a line lower."""
    room = 0.16 * math.log(lengths[-1] / lengths[0])
    labels, lowered = [], False
    for before, length in zip([None, *lengths], lengths, strict=False):
        lowered = before is not None and not lowered and math.log(length / before) < room
        labels.append("\n" * lowered + f"{length:,}")
    return labels


def _inits(ax: Axes, panel: list[Row], looks: dict[str, Marks]) -> None:
    inits = sorted({row["value"] for row in panel})
    lines = grouped(panel, ("line",))
    for place, line in enumerate(lines.values()):
        # Side by side, so that no point hides another.
        aside = 0.5 * ((place + 0.5) / len(lines) - 0.5)
        _points(ax, [inits.index(row["value"]) + aside for row in line], line, looks[line[0]["line"]], "")
    ax.set_xticks(range(len(inits)), [name.replace("_", " ") for name in inits])
    ax.set_xlim(-0.5, len(inits) - 0.5)
    ax.set_xlabel("initialisation")


def _points(ax: Axes, x: list[float], line: list[Row], look: Marks, stroke: str) -> None:
    factor = metric_axis(line[0]["metric"])[1]
    y = [factor * row["score_mean"] for row in line]
    std = [factor * (row["score_std"] or 0) for row in line]
    ax.errorbar(
        x, y, std if any(std) else None,
        color=look.colour, marker=look.marker, linestyle=stroke, elinewidth=0.8, markeredgecolor="black",
        markeredgewidth=0.4,
    )  # fmt: skip


PROMPT_LENGTH = Kind(
    name="prompt_length",
    needs="completed runs that differ in method.length",
    rows=partial(prepare, key=LENGTH),
    paint=partial(_paint, key=LENGTH),
    panel=PANEL,
)
PROMPT_INITIALISATION = Kind(
    name="prompt_initialisation",
    needs="completed runs that differ in method.init",
    rows=partial(prepare, key=INIT),
    paint=partial(_paint, key=INIT),
    panel=PANEL,
)
