"""The page's opening: what lies in it, in HTML whose every text is escaped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from peftbench.report.labels import runs_of
from peftbench.report.page.rows import at, text
from peftbench.report.records import Found, Run

_WARNINGS = {
    "SAMPLE data": "sentences made by peftbench, not the benchmark; scores say nothing about it",
    "PARTIAL data": "a part of the benchmark's rows, not the benchmark",
    "UNCHECKED data": "no official count of these rows is known",
    "RANDOM weights": "the backbone was not pretrained",
}
"""What a mark means, in words."""


def banner(runs: Sequence[Run]) -> str:
    """A warning for every kind of run whose score is no benchmark's; empty where there is none."""
    marks = Counter(mark for run in runs for mark in run.marks)
    lines = []
    for name, count in marks.items():
        meaning = f": {_WARNINGS[name]}" if name in _WARNINGS else ": not the benchmark"
        lines.append(f"<p><strong>{escape(name)}</strong> in {count:,} of {runs_of(len(runs))}{escape(meaning)}.</p>")
    return f'<div class="banner" role="note">{"".join(lines)}</div>' if lines else ""


def facts(runs: Sequence[Run]) -> str:
    """Runs by status, tasks, methods, models, protocols, selection, seeds, dates, hardware, code: a `dl`."""
    told = {
        "Runs": f"{len(runs):,} ({_counted(run.status for run in runs)})",
        "Tasks": _named(run.task for run in runs),
        "Models": _named(run.model for run in runs),
        "Split protocols": _named(run.protocol for run in runs),
        "Data": _named(f"{text(run.data_kind)}, from {text(at(run.record, 'data', 'source'))}" for run in runs),
        "Checkpoint": _named(_selection(run) for run in runs if run.completed),
        "Seeds": _named(run.seed for run in runs),
        "Dates": _dates(runs),
        "Hardware": _named(run.hardware or None for run in runs),
        "Code": _named(run.commit for run in runs),
    }
    return "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in told.items() if v) + "</dl>"


def unreadable(found: Found, folder: Path) -> str:
    """Files that are called records and are none; empty where there are none."""
    if not found.unreadable:
        return ""
    items = (
        f"<li><code>{escape(os.path.relpath(file, folder))}</code>: {escape(reason)}</li>"
        for file, reason in found.unreadable
    )
    return (
        f'<details class="unreadable"><summary>{len(found.unreadable):,} unreadable '
        f"{'file' if len(found.unreadable) == 1 else 'files'} left out</summary><ul>{''.join(items)}</ul></details>"
    )


def _counted(values: Iterable[object]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in Counter(map(text, values)).most_common())


def _named(values: Iterable[object]) -> str:
    """Distinct values, sorted, numbers by size."""
    found = {text(value): value for value in values if value is not None}
    order = sorted(found, key=lambda name: (0, found[name], "") if isinstance(found[name], int) else (1, 0, name))
    return ", ".join(order)


def _selection(run: Run) -> str:
    chosen = run.record.get("selection")
    return f"{text(at(chosen, 'rule'))} by {text(at(chosen, 'metric'))} on {text(at(chosen, 'split'))}"


def _dates(runs: Sequence[Run]) -> str:
    days = sorted(text(day)[:10] for run in runs for key in ("started", "ended") if (day := run.record.get(key)))
    if not days:
        return ""
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
