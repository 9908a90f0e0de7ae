"""Algorithm 1's curves (SoRA, Figure 3): what a model keeps as its ranks go, of the data it saw and of new data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    selecting,
)
from peftbench.report.figures.sites import parse, thirds
from peftbench.report.figures.style import GREY, series
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = 99.0
"""Percent of the dense score that a model must keep."""

_NOISE = 1e-9
"""Percent that floating-point arithmetic makes of nothing."""

QUANTITIES = ("generalization", "memorization")
THIRDS = ("shallow", "middle", "deep")

_CURVE = (*ORIGIN, "setting_id")


def prepare(runs: Sequence[Run]) -> list[Row]:
    """A row per setting and stage, means over seeds; percent of the dense stage's score."""
    labels = label_settings(runs)
    rows = []
    for setting in by_setting((run for run in completed(runs) if run.record.get("stages")), labels):
        common = {**origin(setting[0]), **selecting(setting[0]), "method": setting[0].method}
        common |= {"setting": labels[setting[0].setting_id], "setting_id": setting[0].setting_id}
        for index in range(min(len(run.record["stages"]) for run in setting)):
            row = _stage([run.record["stages"][index] for run in setting], setting)
            if row is not None:
                rows.append({**common, "stage": index, **row})
    return rows


def _stage(stages: Sequence[Mapping[str, Any]], setting: Sequence[Run]) -> Row | None:
    """None where there is no score, or a dense stage scored 0 or less, of which nothing is a share."""
    metric, split = selecting(setting[0]).values()
    scores = [stage["metrics"].get(split, {}).get(metric) for stage in stages]
    if None in scores or any(stage[quantity] is None for stage in stages for quantity in QUANTITIES):
        return None
    zero = [
        zero_shares(run.record["stages"][0]["ranks"], stage["ranks"])
        for run, stage in zip(setting, stages, strict=True)
    ]
    row = {
        "name": stages[0]["name"],
        "seeds": len(stages),
        **mean_and_std([stage["parameters"]["effective"] for stage in stages], "effective"),
        **mean_and_std(scores, "score"),
    }
    for quantity in QUANTITIES:
        row |= mean_and_std([stage[quantity] for stage in stages], quantity)
    for third in THIRDS:
        shares = [share[third] for share in zero if third in share]
        row[f"zero_{third}"] = sum(shares) / len(shares) if shares else None
    return row


def zero_shares(initial: Mapping[str, int] | None, final: Mapping[str, int] | None) -> dict[str, float]:
    """Share of the ranks of the shallow, middle and deep third of the layers that are gone, by third.

    Args:
        initial: rank of every site by its path.
        final: the same, later.
    """
    initial, final = initial or {}, final or {}
    total: dict[str, int] = {}
    left: dict[str, int] = {}
    for path, third in thirds(parse(initial)).items():
        total[third] = total.get(third, 0) + initial[path]
        left[third] = left.get(third, 0) + final.get(path, 0)
    return {third: 1 - left[third] / total[third] for third in total if total[third]}


def smallest_keeping(counts: Sequence[float], percents: Sequence[float], kept: float = KEPT) -> float | None:
    """The smallest measured count whose model has at least `kept` percent; nothing is interpolated."""
    return min((n for n, p in zip(counts, percents, strict=True) if p >= kept - _NOISE), default=None)


def knee(counts: Sequence[float], percents: Sequence[float]) -> int | None:
    """Index of the point from which on a model with fewer parameters gets worse fast.

    Kneedle (Satopää et al. 2011, "Finding a 'Kneedle' in a Haystack") for a rising concave curve: both axes are scaled
    to [0, 1], and the knee is the measured point farthest above the chord from (0, 0) to (1, 1). There is no smoothing
    and no sensitivity: the points are few.

    Returns:
        None of fewer than three points, of a level curve, where no point lies above the chord, and where the farthest
        one is the sparsest or the densest: the curve does not bend between what was measured.
    """
    if len(counts) < 3 or any(max(values) - min(values) < _NOISE for values in (counts, percents)):
        return None
    above = [y - x for x, y in zip(_scaled(counts), _scaled(percents), strict=True)]
    best = max(range(len(above)), key=above.__getitem__)
    inner = min(counts) < counts[best] < max(counts)
    return best if inner and above[best] > _NOISE else None


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def summarise(rows: Iterable[Row]) -> list[Row]:
    """Per setting and quantity: dense and last stage, least count with 99 % of the dense score, knee, zero ranks.

    All of the curve of means over seeds. `zero_*` are of the last stage.
    """
    found = []
    for curve in grouped(rows, _CURVE).values():
        dense, last = curve[0], curve[-1]
        counts = [row["effective_mean"] for row in curve]
        for quantity in QUANTITIES:
            percents = [row[f"{quantity}_mean"] for row in curve]
            bend = knee(counts, percents)
            found.append(
                {column: dense[column] for column in (*ORIGIN, "metric", "split", "method", "setting", "setting_id")}
                | {
                    "quantity": quantity,
                    "seeds": dense["seeds"],
                    "stages": len(curve),
                    "dense_effective": counts[0],
                    "dense_score": dense["score_mean"],
                    "last_effective": counts[-1],
                    "last_percent": percents[-1],
                    "effective_at_99": smallest_keeping(counts, percents),
                    "knee_effective": None if bend is None else counts[bend],
                    "knee_percent": None if bend is None else percents[bend],
                }
                | {f"zero_{third}": last[f"zero_{third}"] for third in THIRDS}
            )
    return found


_KNEE: dict[str, Any] = {
    "marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 0.8, "color": "black",
}  # fmt: skip
_LOOKS = {"memorization": ("o", "-", 7.5), "generalization": ("s", "--", 4.5)}
"""Marker, line, and the size of the mark at the axis: where both curves have it, both are seen."""


def paint(rows: list[Row]) -> Figure:
    """A panel per task and backbone: both quantities of every setting, a band of one standard deviation."""
    groups = list(grouped(rows, ORIGIN).values())
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    figure, axes = canvas.panels(len(groups), across=3, height=2.1)
    for ax, panel in zip(axes, groups, strict=True):
        _panel(ax, panel, settings)
        canvas.entitle(ax, panel[0], rows, *_zero_words(panel))
    note = canvas.seeds_note(rows, "mean and standard deviation")
    if any(_zero_words(panel) for panel in groups):
        note += " Zero ranks: of the last stage, in the shallow / middle / deep third of the layers."
    return canvas.finish(figure, rows, _handles(settings, summarise(rows)), note)


def _panel(ax: Axes, panel: list[Row], settings: list[str]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ax.axhline(KEPT, color=GREY, linewidth=0.5)
    for curve in grouped(panel, _CURVE).values():
        first, second = _colours(settings, curve[0]["setting"])
        for quantity, colour in zip(_LOOKS, (first, second), strict=True):
            _curve(ax, curve, quantity, colour)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(left=0)
    ax.margins(y=0.12)
    ax.set_xlabel("effective parameters")
    ax.set_ylabel("% of the dense score")


def _curve(ax: Axes, curve: list[Row], quantity: str, colour: str) -> None:
    marker, line, size = _LOOKS[quantity]
    x = [row["effective_mean"] for row in curve]
    y = [row[f"{quantity}_mean"] for row in curve]
    std = [row[f"{quantity}_std"] or 0 for row in curve]
    ax.plot(x, y, color=colour, marker=marker, linestyle=line, markersize=3.5)
    if any(std):
        low, high = [a - s for a, s in zip(y, std, strict=True)], [a + s for a, s in zip(y, std, strict=True)]
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    bend = knee(x, y)
    if bend is not None:
        ax.plot(x[bend], y[bend], clip_on=False, **_KNEE)
    least = smallest_keeping(x, y)
    if least is not None:
        at_axis = ax.get_xaxis_transform()
        ax.plot(least, 0.0, marker="^", color=colour, markersize=size, transform=at_axis, clip_on=False, zorder=5)


def _colours(settings: list[str], setting: str) -> tuple[str, str]:
    """Of memorization and generalization: two where there is one setting, else the setting's."""
    if len(settings) == 1:
        return series(0).colour, series(1).colour
    colour = series(settings.index(setting)).colour
    return colour, colour


def _zero_words(panel: list[Row]) -> list[str]:
    """The last stage's zero ranks by depth, where one setting makes it a line."""
    if len(grouped(panel, _CURVE)) > 1 or any(panel[-1][f"zero_{third}"] is None for third in THIRDS):
        return []
    shares = [f"{100 * panel[-1][f'zero_{third}']:.0f}" for third in THIRDS]
    return [f"zero ranks: {' / '.join(shares)} %"]


def _handles(settings: list[str], curves: list[Row]) -> list[Artist]:
    several = len(settings) > 1
    handles = []
    for index, (quantity, (marker, line, _)) in enumerate(_LOOKS.items()):
        colour = GREY if several else series(index).colour
        handles.append(canvas.key(quantity, color=colour, marker=marker, linestyle=line, markersize=3.5))
    if several:
        handles += [canvas.key(s, color=_colours(settings, s)[0], linewidth=3) for s in settings]
    if any(curve["knee_effective"] is not None for curve in curves):
        handles.append(canvas.key("knee", linestyle="", **_KNEE))
    handles.append(canvas.key(f"fewest keeping {KEPT:.0f} %", linestyle="", marker="^", markersize=5, color="black"))
    return handles


STAGES = Kind(
    name="stages",
    shows="memorization and generalization against effective parameters, stage by stage (SoRA, Figure 3)",
    needs="completed runs of Algorithm 1 (sparsity=algorithm1)",
    rows=prepare,
    paint=paint,
    summary=summarise,
)
