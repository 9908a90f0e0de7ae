"""Tables of Algorithm 1's stages (SoRA, Figure 3), of the same numbers as the figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.report.captions import caption, titled
from peftbench.report.cells import Grid, Line
from peftbench.report.figures.base import Row
from peftbench.report.figures.stages import KEPT, THIRDS, prepare, summarise, without_curve
from peftbench.report.labels import task_name
from peftbench.report.records import Run
from peftbench.report.tables.model import Table, listed, row_of, short_count

_SHARES = (
    "Percent of the dense stage's mean score: generalization on the split that selects, memorization on the rows that "
    "trained. n: seeds."
)


def stages_table(grid: Grid) -> Table:
    """A row per task, line of the grid and stage: effective parameters, and what is kept of the dense score."""
    found = [(line, row) for line in grid.lines for row in prepare(line.runs)]
    rows = [
        row_of(
            *_named(line, row),
            row["name"],
            str(row["seeds"]),
            short_count(row["effective_mean"]),
            f"{100 * row['score_mean']:.2f}",
            *(_spread(row, quantity) for quantity in ("generalization", "memorization")),
        )
        for line, row in found
    ]
    headers = ("task", "method", "stage", "n", "parameters", "score", "generalization, %", "memorization, %")
    score = f"Score: on the split that selects, mean over seeds, times 100; {_metrics(row for _, row in found)}."
    notes = (_SHARES, score, *_missing(grid))
    told = caption(grid, (row["split"] for _, row in found))
    return Table(f"{grid.layout.name}_stages", titled(grid, "stages"), headers, tuple(rows), told, notes, 3)


def stages_summary_table(grid: Grid) -> Table:
    """A row per task, line and quantity: the fewest parameters that keep 99 %, the knee, zero ranks by depth."""
    found = [(line, row) for line in grid.lines for row in summarise(prepare(line.runs))]
    rows = [
        row_of(
            *_named(line, row),
            row["quantity"],
            str(row["seeds"]),
            *map(_count, (row["dense_effective"], row["last_effective"])),
            f"{row['last_percent']:.1f}",
            _count(row["effective_at_99"]),
            "–" if row["knee_effective"] is None else f"{_count(row['knee_effective'])} ({row['knee_percent']:.1f} %)",
            _zero(row),
        )
        for line, row in found
    ]
    headers = (
        "task", "method", "quantity", "n", "dense", "last stage", "kept there, %", f"fewest with {KEPT:.0f} %", "knee",
        "zero ranks, %",
    )  # fmt: skip
    notes = (
        f"{_SHARES} Scores: {_metrics(row for _, row in found)}.",
        "Dense, last stage, fewest, knee: effective parameters.",
        f"Fewest with {KEPT:.0f} %: the smallest measured count whose mean keeps that share; nothing is interpolated.",
        "Knee: the measured point farthest above the chord from the sparsest to the densest; –: none by a percent.",
        f"Zero ranks: of the last stage, in the {' / '.join(THIRDS)} third of the layers.",
        *_missing(grid),
    )
    table = f"{grid.layout.name}_stages_summary"
    told = caption(grid, (row["split"] for _, row in found))
    return Table(table, titled(grid, "what few parameters keep"), headers, tuple(rows), told, notes, 3)


def _missing(grid: Grid) -> list[str]:
    """Curves that are not there, or end before the runs do."""
    told = [f"{line.label}, {words}." for line in grid.lines for words in without_curve(line.runs)]
    for line in grid.lines:
        for title, cell in zip((column.title for column in grid.columns), line.cells, strict=True):
            counts = sorted(filter(None, map(_length, cell.runs)))
            if counts and counts[0] < counts[-1]:
                told.append(f"{line.label}, {title}: the first {counts[0]} stages, which every seed has.")
    return told


def _length(run: Run) -> int:
    stages: Sequence[object] = run.record.get("stages") or ()
    return len(stages)


def _metrics(rows: Iterable[Row]) -> str:
    return listed(list(dict.fromkeys(f"{task_name(row['task'])} {row['metric']}" for row in rows)))


def _named(line: Line, row: Row) -> tuple[str, str]:
    return task_name(row["task"]), line.label


def _count(number: float | None) -> str:
    return "–" if number is None else short_count(number)


def _spread(row: Row, quantity: str) -> str:
    mean, std = row[f"{quantity}_mean"], row[f"{quantity}_std"]
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _zero(row: Row) -> str:
    shares = [row[f"zero_{third}"] for third in THIRDS]
    return "–" if None in shares else " / ".join(f"{100 * share:.0f}" for share in shares)
