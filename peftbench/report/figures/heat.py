"""Maps of a number by layer and kind: final ranks (SoRA, Figure 4), BitFit's changes, UniPELT's gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from peftbench.report.figures import canvas
from peftbench.report.figures.base import ORIGIN, Kind, Row, by_setting, completed, grouped, mean_and_std, origin
from peftbench.report.figures.files import analysis, by_layer, numbers
from peftbench.report.figures.sites import parse, role_order
from peftbench.report.figures.style import PAGE
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (*ORIGIN, "setting_id")

_SHADES = "Blues"
"""One hue from light to dark: the order survives grey print and colour blindness."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Characters, not mathematical text: they can be searched for."""

Cells = Mapping[tuple[str, int], float]
"""(kind, layer) to a number."""


def prepare_ranks(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, layer and role: initial and final rank. Settings whose ranks all stayed are left out."""
    changing = {(run.task, run.setting_id) for run in completed(runs) if _ranks_changed(run)}
    chosen = [run for run in runs if (run.task, run.setting_id) in changing]
    initial = {run.setting_id: _ranks(run, "initial") for run in completed(chosen)}
    rows = _rows(chosen, lambda run: _ranks(run, "final"), "rank")
    for row in rows:
        row["initial"] = initial[row["setting_id"]].get((row["kind"], row["layer"]))
    panels = grouped(rows, PANEL).values()
    return [row for panel in panels for row in sorted(panel, key=lambda row: (role_order(row["kind"]), row["layer"]))]


def prepare_bias_changes(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, layer and kind of bias: (1/dim b) ‖b₀ − b_F‖₁ (BitFit, §4)."""

    def cells(run: Run) -> Cells:
        return numbers(by_layer(analysis(run).get("bias_change")))

    rows = _rows(runs, cells, "change")
    for row in rows:
        row["kind"] = row["kind"].replace("_", " ").replace("ffn", "FFN")
    return rows


def prepare_gates(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, layer and part of UniPELT: the gate's mean over the rows of the evaluation."""

    def cells(run: Run) -> Cells:
        gates = by_layer(analysis(run).get("gates"))
        means = {place: gate.get("mean") for place, gate in gates.items() if isinstance(gate, dict)}
        return numbers({(_part(part), layer): mean for (part, layer), mean in means.items()})

    return _rows(runs, cells, "gate")


def _part(name: str) -> str:
    return name.replace("lora_", "LoRA ")


def _rows(runs: Sequence[Run], cells: Callable[[Run], Cells], name: str) -> list[Row]:
    """Means over the seeds of completed runs that have any cells."""
    having = {run.file: values for run in completed(runs) if (values := cells(run))}
    chosen = [run for run in runs if run.file in having]
    labels = label_settings(chosen)
    rows = []
    for setting in by_setting(chosen, labels):
        found = [having[run.file] for run in setting]
        for kind, layer in dict.fromkeys(key for values in found for key in values):
            numbers = [values[kind, layer] for values in found if (kind, layer) in values]
            rows.append(
                {
                    **origin(setting[0]),
                    "method": setting[0].method,
                    "setting": labels[setting[0].setting_id],
                    "setting_id": setting[0].setting_id,
                    "kind": kind,
                    "layer": layer,
                    "seeds": len(numbers),
                    **mean_and_std(numbers, name),
                }
            )
    return rows


def _ranks(run: Run, when: str) -> dict[tuple[str, int], float]:
    found = run.record.get("ranks") or {}
    ranks = found.get(when) or {}
    initial = found.get("initial") or ranks
    return {(site.role, site.layer): ranks.get(site.path, 0) for site in parse(initial)}


def _ranks_changed(run: Run) -> bool:
    ranks = run.record.get("ranks")
    return bool(ranks) and ranks["final"] != ranks["initial"]


def paint_ranks(rows: list[Row]) -> Figure:
    """Final rank in every cell, the total in the title."""

    def total(panel: list[Row]) -> str:
        final, initial = sum(row["rank_mean"] for row in panel), sum(row["initial"] for row in panel)
        told = f"{final:,.1f}".removesuffix(".0")
        return f"{panel[0]['setting']}: {told} of {initial:,} ranks left"

    top = max(row["initial"] for row in rows)
    note = canvas.seeds_note(rows, "mean final rank")
    whole = all(row["seeds"] == 1 for row in rows) or max(row["layer"] for row in rows) >= 24

    def number(rank: float) -> str:
        return f"{rank:.0f}" if whole or not rank else f"{rank:.1f}"

    return _paint(rows, "rank", (0, top), total, number, note)


def paint_gates(rows: list[Row]) -> Figure:
    """Mean gate in every cell."""
    note = "Mean gate, 0 closed and 1 open. " + canvas.seeds_note(rows, "mean")
    return _paint(rows, "gate", (0, 1), lambda panel: panel[0]["setting"], lambda gate: f"{gate:.2f}".lstrip("0"), note)


def paint_bias_changes(rows: list[Row]) -> Figure:
    """Change by colour alone: orders of magnitude lie between kinds; numbers are in the CSV."""
    top = max(row["change_mean"] for row in rows)
    note = "Mean absolute change of a bias. " + canvas.seeds_note(rows, "mean")
    return _paint(rows, "change", (0, top or 1), lambda panel: panel[0]["setting"], None, note)


def _paint(
    rows: list[Row],
    name: str,
    limits: tuple[float, float],
    subtitle: Callable[[list[Row]], str],
    numbers: Callable[[float], str] | None,
    note: str,
) -> Figure:
    from matplotlib.ticker import FuncFormatter

    groups = list(grouped(rows, PANEL).values())
    deepest = max(row["layer"] for row in rows) + 1
    most = max(len({row["kind"] for row in panel}) for panel in groups)
    narrow = deepest <= (8 if numbers else 12)
    figure, axes = canvas.panels(
        len(groups), across=2 if narrow else 1, height=0.85 + 0.18 * most, width=None if narrow else PAGE
    )
    images = []
    for ax, panel in zip(axes, groups, strict=True):
        images.append(_map(ax, panel, f"{name}_mean", limits, numbers))
        canvas.entitle(ax, panel[0], rows, subtitle(panel))
    if numbers is None:
        power = math.floor(math.log10(limits[1]))
        bar = figure.colorbar(images[0], ax=axes, location="right", shrink=0.9, aspect=25, pad=0.02)
        bar.formatter = FuncFormatter(lambda value, _: f"{value / 10**power:.3g}")
        bar.set_label(f"{name} × 10{str(-power).translate(_SUPERSCRIPTS)}" if power else name)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return canvas.finish(figure, rows, [], note)


def _map(ax: Axes, panel: list[Row], column: str, limits: tuple[float, float], numbers: Callable[[float], str] | None):
    kinds = list(dict.fromkeys(row["kind"] for row in panel))
    layers = range(max(row["layer"] for row in panel) + 1)
    values = {(row["kind"], row["layer"]): row[column] for row in panel}
    table = [[values.get((kind, layer), math.nan) for layer in layers] for kind in kinds]
    low, high = limits
    ax.set_facecolor("#DDDDDD")  # Shows where there is no such site.
    image = ax.imshow(table, aspect="auto", cmap=_SHADES, vmin=low, vmax=high, interpolation="nearest")
    if numbers:
        for (kind, layer), value in values.items():
            dark = value - low > 0.55 * (high - low)
            drawn = ax.text(layer, kinds.index(kind), numbers(value), ha="center", va="center_baseline")
            drawn.set_color("white" if dark else "black")
    ax.set_yticks(range(len(kinds)), kinds)
    step = 1 if len(layers) <= (24 if numbers else 8) else 2
    ax.set_xticks(list(layers)[::step], [str(layer + 1) for layer in layers][::step])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("layer")
    return image


RANKS = Kind(
    name="ranks",
    needs="completed runs whose ranks changed (sora, adalora)",
    rows=prepare_ranks,
    paint=paint_ranks,
    panel=PANEL,
    per_page=4,
)
BITFIT_CHANGES = Kind(
    name="bitfit_changes",
    needs="completed runs of bitfit with their analysis.json",
    rows=prepare_bias_changes,
    paint=paint_bias_changes,
    panel=PANEL,
    per_page=6,
)
UNIPELT_GATES = Kind(
    name="unipelt_gates",
    needs="completed runs of unipelt with their analysis.json",
    rows=prepare_gates,
    paint=paint_gates,
    panel=PANEL,
    per_page=4,
)
