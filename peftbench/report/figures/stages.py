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
from peftbench.report.labels import label_settings, task_name
from peftbench.report.records import Run
from peftbench.report.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = 99.0
"""Percent of the dense score that a model must keep."""

_NOISE = 1e-9
"""Percent that floating-point arithmetic makes of nothing."""
_BEND = 1.0
"""Percent that a knee stands above the chord at least: less is what one seed has more than another."""

QUANTITIES = ("generalization", "memorization")
THIRDS = ("shallow", "middle", "deep")

_CURVE = (*ORIGIN, "setting_id")


def prepare(runs: Sequence[Run]) -> list[Row]:
    """A row per setting and stage, means over seeds; percent of the dense stage's mean score."""
    labels = label_settings(runs)
    rows = []
    for setting in _settings(runs, labels):
        common = {**origin(setting[0]), **selecting(setting[0]), "method": setting[0].method}
        common |= {"setting": labels[setting[0].setting_id], "setting_id": setting[0].setting_id}
        dense = _dense(setting)
        if dense is not None:
            for index in range(min(len(run.record["stages"]) for run in setting)):
                rows.append({**common, "stage": index, **_stage(index, setting, dense)})
    return rows


def without_curve(runs: Sequence[Run]) -> list[str]:
    """Settings of Algorithm 1 that have no curve, and why, each in words."""
    labels = label_settings(runs)
    why = "no curve, for a score is missing or the dense stage's mean is 0 or less, of which nothing is a share"
    settings = [setting for setting in _settings(runs, labels) if _dense(setting) is None]
    return [f"{task_name(setting[0].task)}, {labels[setting[0].setting_id]}: {why}" for setting in settings]


def _settings(runs: Sequence[Run], labels: Mapping[str, str]) -> list[list[Run]]:
    return by_setting((run for run in completed(runs) if run.record.get("stages")), labels)


def _scores(setting: Sequence[Run], index: int) -> dict[str, list[float | None]]:
    """Of each quantity, every seed's score in a stage."""
    metric, split = selecting(setting[0]).values()
    stages = [run.record["stages"][index]["metrics"] for run in setting]
    of = dict(zip(QUANTITIES, (split, "memorization"), strict=True))
    return {quantity: [stage.get(name, {}).get(metric) for stage in stages] for quantity, name in of.items()}


def _dense(setting: Sequence[Run]) -> dict[str, float] | None:
    """The dense stage's mean scores; None where one is missing, or 0 or less, of which nothing is a share.

    A share is of the mean: a seed that learnt nothing while dense makes of any later score many times that.
    """
    stages = range(min(len(run.record["stages"]) for run in setting))
    scores = [_scores(setting, index) for index in stages]
    if not scores or any(None in values for stage in scores for values in stage.values()):
        return None
    means = {quantity: Summary(tuple(values)).mean for quantity, values in scores[0].items()}  # type: ignore[arg-type]
    return means if min(means.values()) > 0 else None


def _stage(index: int, setting: Sequence[Run], dense: Mapping[str, float]) -> Row:
    stages = [run.record["stages"][index] for run in setting]
    scores: Any = _scores(setting, index)
    zero = [
        zero_shares(run.record["stages"][0]["ranks"], stage["ranks"])
        for run, stage in zip(setting, stages, strict=True)
    ]
    row = {
        "name": stages[0]["name"],
        "seeds": len(stages),
        **mean_and_std([stage["parameters"]["effective"] for stage in stages], "effective"),
        **mean_and_std(scores["generalization"], "score"),
    }
    for quantity in QUANTITIES:
        row |= mean_and_std([100 * score / dense[quantity] for score in scores[quantity]], quantity)
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

    Kneedle (Satopää et al. 2011, "Finding a 'Kneedle' in a Haystack") for a rising concave curve: the knee is the
    measured point farthest above the chord from the sparsest to the densest. There is no smoothing and no sensitivity:
    the points are few.

    Returns:
        None of fewer than three points, and where none lies a percent above the chord: the curve does not bend between
        what was measured.
    """
    least, most = (choose(range(len(counts)), key=counts.__getitem__) for choose in (min, max))
    if len(counts) < 3 or counts[least] == counts[most]:
        return None
    slope = (percents[most] - percents[least]) / (counts[most] - counts[least])
    above = [y - percents[least] - slope * (x - counts[least]) for x, y in zip(counts, percents, strict=True)]
    best = max(range(len(above)), key=above.__getitem__)
    return best if above[best] >= _BEND else None


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
    needs="completed runs of Algorithm 1 (sparsity=algorithm1)",
    rows=prepare,
    paint=paint,
    summary=summarise,
    left_out=without_curve,
)
