"""Published numbers, with their sources."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from peftbench.errors import ConfigurationError

FILE = Path(__file__).parent / "published.csv"
KEYS = ("paper", "table", "model", "method", "setting", "task", "metric", "params")
"""Columns that a layout picks rows by."""


@dataclass(frozen=True)
class Published:
    """One published number, in the paper's own scale.

    Attributes:
        value: as printed.
        std: as printed beside it, or None.
        source: where it was read.
        secondary: whether that is someone else's copy.
        note: what is to be known of it, or the empty string.
    """

    value: float
    std: float | None
    source: str
    secondary: bool
    note: str


def find_published(picked: Mapping[str, str]) -> Published | None:
    """The one number that has these values in these columns; None: there is none.

    Raises:
        ConfigurationError: an unknown column, or several numbers have them.
    """
    for key in picked:
        if key not in KEYS:
            raise ConfigurationError(f"published.{key}: no column to pick by (known: {', '.join(KEYS)})")
    rows = [row for row in _by_paper().get(picked.get("paper", ""), ()) if all(row[k] == v for k, v in picked.items())]
    if len(rows) > 1:
        raise ConfigurationError(f"published: {dict(picked)} picks {len(rows)} numbers, one is expected")
    if not rows:
        return None
    row = rows[0]
    std = float(row["std"]) if row["std"] else None
    return Published(float(row["value"]), std, row["source"], row["confidence"] == "secondary", row["note"])


@cache
def _by_paper() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    with FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["paper"], []).append(row)
    return found
