"""What lies beside a record: its history and its method's analysis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from peftbench.report.records import Run


def history(run: Run) -> Iterator[Mapping[str, Any]]:
    """The lines of `history.jsonl` but for those that a crash or a hand spoilt; none where there is no such file."""
    file = run.folder / "history.jsonl"
    if not file.is_file():
        return
    stages = range(max(1, len(run.record.get("stages") or ())))
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "kind" in entry and _placed(entry, stages):
            yield entry


def _placed(entry: Mapping[str, Any], stages: range) -> bool:
    stage, step = entry.get("stage"), entry.get("step")
    return isinstance(stage, int) and isinstance(step, int) and stage in stages


def by_layer(found: Any) -> dict[tuple[str, int], Any]:
    """`{name: [layer 0's, layer 1's, ...]}` by name and layer; empty where it is not of that shape."""
    if not isinstance(found, dict):
        return {}
    lists = ((name, values) for name, values in found.items() if isinstance(values, list))
    return {(name, layer): value for name, values in lists for layer, value in enumerate(values)}


def numbers(found: Mapping[Any, Any]) -> dict[Any, float]:
    """The entries that are numbers."""
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def analysis(run: Run) -> Mapping[str, Any]:
    """`analysis.json`; empty where the method wrote none."""
    try:
        found = json.loads((run.folder / "analysis.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
