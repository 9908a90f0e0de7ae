"""Tables of comparisons between rows, and of measured with published numbers."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.report.captions import SECONDARY, caption, secondary_note, titled
from peftbench.report.cells import Grid
from peftbench.report.comparisons import Comparison
from peftbench.report.statistics import MIN_SEEDS, Test
from peftbench.report.tables.model import Table, interval, row_of, spread
from peftbench.report.verdicts import Verdict

_TESTS = {
    "permutation": "sign-flip permutation test (exact up to 16 pairs, 9,999 random flips beyond)",
    "wilcoxon": "Wilcoxon's signed-rank test",
}
_FLOORS = {"permutation": ", and 0.0001 beyond 16", "wilcoxon": ""}


def comparison_table(grid: Grid, comparisons: Sequence[Comparison], test: Test) -> Table:
    """Differences between rows with p."""
    rows = []
    for found in comparisons:
        number = "–" if found.difference is None else f"{found.difference.mean:+.{grid.layout.digits}f}"
        n = "0" if found.difference is None else str(found.difference.n)
        tested = [found.refused, "–"] if found.p is None else [_p(found.p), _p(found.p_holm)]
        rows.append(row_of(found.first, found.second, number, n, *tested))
    notes = (
        "Difference: first less second, mean over pairs of one task and seed; above 0 the first is better.",
        f"p: two-sided, {_TESTS[test]}; Holm: corrected over all comparisons of this report.",
        f"The smallest p that n pairs can give is 2/2ⁿ: 0.25 of three, 0.0625 of five{_FLOORS[test]}. It speaks of "
        "these tasks alone.",
    )
    compared = dict.fromkeys(title for found in comparisons for title in found.columns)
    notes += (f"Columns compared, one of each run: {', '.join(compared)}.",) if compared else ()
    notes += tuple(f"Not compared on {what}: {'; '.join(pairs)}." for what, pairs in _left_out(comparisons).items())
    unequal = [f"{_pair(found)} ({', '.join(found.unequal)})" for found in comparisons if found.unequal]
    notes += (f"Not trained for the same length: {'; '.join(unequal)}.",) if unequal else ()
    headers = ("first", "second", "difference", "pairs", "p", "p (Holm)")
    return Table(
        f"{grid.layout.name}_comparisons", titled(grid, "comparisons"), headers, tuple(rows), caption(grid), notes, 2
    )


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def _pair(found: Comparison) -> str:
    return f"{found.first} with {found.second}"


def _left_out(comparisons: Sequence[Comparison]) -> dict[str, list[str]]:
    """Pairs by the tasks that they were not compared on, and why."""
    pairs: dict[str, list[str]] = {}
    for found in comparisons:
        tasks: dict[str, list[str]] = {}
        for task, why in found.left_out.items():
            tasks.setdefault(why, []).append(task)
        for why, of_pair in tasks.items():
            pairs.setdefault(f"{', '.join(of_pair)}, {why}", []).append(_pair(found))
    return pairs


def verdict_table(grid: Grid, verdicts: Sequence[Verdict]) -> Table:
    """Published and measured numbers side by side."""
    rows = []
    for found in verdicts:
        digits = found.digits
        printed = f"{found.published.value:.{digits}f}"
        if found.published.std is not None:
            printed += f" ± {found.published.std:.{digits}f}"
        if found.published.secondary:
            printed += f" {SECONDARY}"
        measured = "–" if found.measured is None else spread(found.measured, digits, count=True)
        bounds = interval(found.measured.t_interval, digits) if found.measured else "–"
        difference = "–" if found.difference is None else f"{found.difference:+.{digits}f}"
        said = "; ".join(filter(None, (found.verdict, found.failed)))
        rows.append(row_of(found.row, found.column, printed, measured, bounds, difference, said))
    rule = (
        "Reproduced: the published mean, as exactly as it is printed, lies in the 95% t interval of at least "
        f"{MIN_SEEDS} completed seeds, on the paper's splits, model and data. Measured: mean ± standard deviation "
        "(number of seeds)."
    )
    notes = tuple(filter(None, (rule, secondary_note(verdicts))))
    headers = ("method", "column", "published", "measured", "95% interval", "difference", "verdict")
    return Table(
        f"{grid.layout.name}_published", titled(grid, "published and measured"), headers, tuple(rows), caption(grid),
        notes, 2,
    )  # fmt: skip
