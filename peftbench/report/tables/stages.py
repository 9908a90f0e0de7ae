"""Tables of Algorithm 1's stages (SoRA, Figure 3), of the same numbers as the figure."""

from __future__ import annotations

from peftbench.report.captions import caption, titled
from peftbench.report.cells import Grid
from peftbench.report.figures.base import Row
from peftbench.report.figures.stages import KEPT, THIRDS, prepare, summarise
from peftbench.report.labels import task_name
from peftbench.report.tables.model import Table, row_of, short_count

_SHARES = (
    "Percent of the dense stage's mean score: generalization on the split that selects, memorization on the rows that "
    "trained."
)


def stages_table(grid: Grid) -> Table:
    """A row per task, setting and stage: effective parameters, and what is kept of the dense score."""
    stages = prepare(grid.shown())
    rows = [
        row_of(
            *_named(row),
            row["name"],
            short_count(row["effective_mean"]),
            f"{100 * row['score_mean']:.2f}",
            *(_spread(row, quantity) for quantity in ("generalization", "memorization")),
        )
        for row in stages
    ]
    headers = ("task", "method", "stage", "parameters", "score", "generalization, %", "memorization, %")
    notes = (_SHARES, "Score: on the split that selects, mean over seeds, times 100.")
    told = caption(grid, (row["split"] for row in stages))
    return Table(f"{grid.layout.name}_stages", titled(grid, "stages"), headers, tuple(rows), told, notes, 3)


def stages_summary_table(grid: Grid) -> Table:
    """A row per task, setting and quantity: the fewest parameters that keep 99 %, the knee, zero ranks by depth."""
    curves = summarise(prepare(grid.shown()))
    rows = [
        row_of(
            *_named(row),
            row["quantity"],
            *map(_count, (row["dense_effective"], row["last_effective"])),
            f"{row['last_percent']:.1f}",
            _count(row["effective_at_99"]),
            "–" if row["knee_effective"] is None else f"{_count(row['knee_effective'])} ({row['knee_percent']:.1f} %)",
            _zero(row),
        )
        for row in curves
    ]
    headers = (
        "task", "method", "quantity", "dense", "last stage", "kept there, %", f"fewest with {KEPT:.0f} %", "knee",
        "zero ranks, %",
    )  # fmt: skip
    notes = (
        _SHARES,
        "Dense, last stage, fewest, knee: effective parameters.",
        f"Fewest with {KEPT:.0f} %: the smallest measured count whose mean keeps that share; nothing is interpolated.",
        "Knee: the measured point farthest above the chord from the sparsest to the densest; –: none by a percent.",
        f"Zero ranks: of the last stage, in the {' / '.join(THIRDS)} third of the layers.",
    )
    table = f"{grid.layout.name}_stages_summary"
    told = caption(grid, (row["split"] for row in curves))
    return Table(table, titled(grid, "what few parameters keep"), headers, tuple(rows), told, notes, 3)


def _named(row: Row) -> tuple[str, str]:
    return task_name(row["task"]), row["setting"]


def _count(number: float | None) -> str:
    return "–" if number is None else short_count(number)


def _spread(row: Row, quantity: str) -> str:
    mean, std = row[f"{quantity}_mean"], row[f"{quantity}_std"]
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _zero(row: Row) -> str:
    shares = [row[f"zero_{third}"] for third in THIRDS]
    return "–" if None in shares else " / ".join(f"{100 * share:.0f}" for share in shares)
