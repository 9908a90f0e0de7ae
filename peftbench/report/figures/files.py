"""What lies beside a record: its history and its method's analysis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from peftbench.report.records import Run


def history(run: Run) -> Iterator[Mapping[str, Any]]:
    """The lines of `history.jsonl`; none where there is no such file, and without a line that a crash cut short."""
    file = run.folder / "history.jsonl"
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"kind", "stage", "step"} <= entry.keys():
            yield entry


def analysis(run: Run) -> Mapping[str, Any]:
    """`analysis.json`; empty where the method wrote none."""
    try:
        found = json.loads((run.folder / "analysis.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
