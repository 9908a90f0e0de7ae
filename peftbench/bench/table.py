"""Ratios as people read them, and as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from peftbench.bench.measure import Ratio
from peftbench.console import paper
from peftbench.durable import write_text


def show(ratios: Sequence[Ratio]) -> None:
    """One table for each section, on standard output."""
    for section in dict.fromkeys(ratio.section for ratio in ratios):
        table = Table(title=section, title_justify="left")
        for name in ("what", "against"):
            table.add_column(name)
        for name in ("ratio", "target"):
            table.add_column(name, justify="right")
        for name in ("", "medians"):
            table.add_column(name)
        for ratio in ratios:
            if ratio.section == section:
                told = (_number(ratio.value), _target(ratio), ratio.verdict, ratio.detail)
                table.add_row(ratio.what, ratio.against, *told)
        paper().print(table)


def tell(ratios: Sequence[Ratio], machine: Mapping[str, Any]) -> None:
    """How many targets are met, on what machine, in how many seconds."""
    judged = [ratio.verdict for ratio in ratios if ratio.verdict]
    taken = ", ".join(f"{name} {seconds} s" for name, seconds in machine["seconds"].items())
    paper().print(f"{judged.count('pass')} of {len(judged)} targets met ({taken})")
    paper().print(f"{machine['hardware']['cpu']}, {machine['threads']} threads, {machine['data']}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _target(ratio: Ratio) -> str:
    if ratio.target is None:
        return ""
    return f"{'≥' if ratio.at_least else '≤'} {ratio.target:.2f}"


def write(ratios: Sequence[Ratio], machine: Mapping[str, Any], file: Path) -> None:
    """All of them with the machine's description as JSON."""
    plain = [r.plain() | {"value": None if math.isnan(r.value) else round(r.value, 4)} for r in ratios]
    write_text(file, json.dumps({"machine": machine, "ratios": plain}, indent=1, ensure_ascii=False) + "\n")
