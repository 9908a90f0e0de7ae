"""Maps of a number by layer and kind: final ranks (SoRA, Figure 4), BitFit's changes, UniPELT's gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from peftbench.report.figures import canvas
from peftbench.report.figures.base import ORIGIN, Kind, Row, by_setting, completed, grouped, origin, spread
from peftbench.report.figures.files import analysis
from peftbench.report.figures.sites import parse, role_order
from peftbench.report.figures.style import PAGE
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (*ORIGIN, "setting_id")

Cells = Mapping[tuple[str, int], float]
"""(kind, layer) to a number."""


def prepare_ranks(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, layer and role: initial and final rank. Settings whose ranks all stayed are left out."""
    changed = [s for s in by_setting(completed(runs)) if any(_ranks_changed(run) for run in s)]
    rows = _rows(changed, lambda run: _ranks(run, "final"), "rank")
    initial = {setting[0].setting_id: _ranks(setting[0], "initial") for setting in changed}
    for row in rows:
        row["initial"] = initial[row["setting_id"]].get((row["kind"], row["layer"]))
    return sorted(rows, key=lambda row: (*(row[c] for c in PANEL), role_order(row["kind"]), row["layer"]))


def prepare_bias_changes(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, layer and kind of bias: (1/dim b) ‖b₀ − b_F‖₁ (BitFit, §4)."""

    def cells(run: Run) -> Cells:
        found = analysis(run).get("bias_change", {})
        return {(kind, layer): value for kind, values in found.items() for layer, value in enumerate(values)}

    rows = _rows(by_setting(completed(runs)), cells, "change")
    for row in rows:
        row["kind"] = row["kind"].replace("_", " ").replace("ffn", "FFN")
    return rows


def prepare_gates(runs: Sequence[Run]) -> list[Row]:
    """A row per setting, layer and part of UniPELT: the gate's mean over the rows of the evaluation."""

    def cells(run: Run) -> Cells:
        found = analysis(run).get("gates", {})
        return {
            (_part(part), layer): gate["mean"]
            for part, gates in found.items()
            for layer, gate in enumerate(gates)
            if gate
        }

    return _rows(by_setting(completed(runs)), cells, "gate")


def _part(name: str) -> str:
    return name.replace("lora_", "LoRA ")


def _rows(settings: Iterable[Sequence[Run]], cells: Callable[[Run], Cells], name: str) -> list[Row]:
    """Means over seeds, kinds in their order."""
    settings = list(settings)
    labels = label_settings(run for setting in settings for run in setting)
    rows = []
    for setting in settings:
        found = [values for run in setting if (values := cells(run))]
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
                    **spread(numbers, name),
                }
            )
    return rows


def _ranks(run: Run, when: str) -> dict[tuple[str, int], float]:
    ranks = (run.record["ranks"] or {}).get(when) or {}
    initial = (run.record["ranks"] or {}).get("initial") or ranks
    return {(site.role, site.layer): ranks.get(site.path, 0) for site in parse(initial)}


def _ranks_changed(run: Run) -> bool:
    ranks = run.record["ranks"]
    return bool(ranks) and ranks["final"] != ranks["initial"]


def paint_ranks(rows: list[Row]) -> Figure:
    """Final rank in every cell, the total in the title."""

    def total(panel: list[Row]) -> str:
        final, initial = sum(row["rank_mean"] for row in panel), sum(row["initial"] for row in panel)
        return f"{panel[0]['setting']}: {final:.4g} of {initial:,} ranks left"

    top = max(row["initial"] for row in rows)
    note = canvas.seeds_note(rows, "mean final rank")
    return _paint(rows, "rank", (0, top), total, "{:.3g}", note)


def paint_gates(rows: list[Row]) -> Figure:
    """Mean gate in every cell."""
    note = "Mean gate, 0 closed and 1 open. " + canvas.seeds_note(rows, "mean")
    return _paint(rows, "gate", (0, 1), lambda panel: panel[0]["setting"], "{:.2f}", note)


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
    numbers: str | None,
    note: str,
) -> Figure:
    groups = list(grouped(rows, PANEL).values())
    deepest = max(row["layer"] for row in rows) + 1
    most = max(len({row["kind"] for row in panel}) for panel in groups)
    narrow = deepest <= 12
    figure, axes = canvas.panels(
        len(groups), across=2 if narrow else 1, height=0.85 + 0.18 * most, width=None if narrow else PAGE
    )
    numbers = "{:.0f}" if numbers and name == "rank" and deepest > 24 else numbers
    image = None
    for ax, panel in zip(axes, groups, strict=True):
        image = _map(ax, panel, f"{name}_mean", limits, numbers)
        ax.set_title(canvas.title(panel[0], rows, subtitle(panel)))
    if numbers is None and image is not None:
        bar = figure.colorbar(image, ax=axes, location="right", shrink=0.9, aspect=25, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
    return canvas.finish(figure, rows, [], note)


def _map(ax: Axes, panel: list[Row], column: str, limits: tuple[float, float], numbers: str | None):
    kinds = list(dict.fromkeys(row["kind"] for row in panel))
    layers = range(max(row["layer"] for row in panel) + 1)
    values = {(row["kind"], row["layer"]): row[column] for row in panel}
    table = [[values.get((kind, layer), math.nan) for layer in layers] for kind in kinds]
    low, high = limits
    image = ax.imshow(table, aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    if numbers:
        for (kind, layer), value in values.items():
            ax.text(
                layer, kinds.index(kind), numbers.format(value).replace("0.", ".", 1), ha="center", va="center",
                color="black" if value - low > 0.55 * (high - low) else "white",
            )  # fmt: skip
    ax.set_yticks(range(len(kinds)), kinds)
    step = 1 if len(layers) <= 12 or len(layers) <= 24 else 2
    ax.set_xticks(list(layers)[::step], [str(layer + 1) for layer in layers][::step])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("layer")
    return image


RANKS = Kind(
    name="ranks",
    shows="final rank by layer and role (SoRA, Figure 4)",
    needs="completed runs whose ranks changed (sora, adalora)",
    rows=prepare_ranks,
    paint=paint_ranks,
    panel=PANEL,
    per_page=8,
)
BITFIT_CHANGES = Kind(
    name="bitfit_changes",
    shows="how far BitFit moved each kind of bias, by layer",
    needs="completed runs of bitfit with their analysis.json",
    rows=prepare_bias_changes,
    paint=paint_bias_changes,
    panel=PANEL,
    per_page=8,
)
UNIPELT_GATES = Kind(
    name="unipelt_gates",
    shows="mean gate of UniPELT's parts, by layer",
    needs="completed runs of unipelt with their analysis.json",
    rows=prepare_gates,
    paint=paint_gates,
    panel=PANEL,
    per_page=8,
)
