"""How much tuning each method had, from the manifests of sweeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.report.records import Run

Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class Budgets:
    """Tuning trials, and the runs that were nothing else.

    Attributes:
        trials: their number, by experiment, method, task and model.
        only_trials: ids of runs that tuned and are no result.
    """

    trials: Mapping[Cell, int]
    only_trials: Collection[str]

    def of(self, run: Run) -> int | None:
        """Trials behind a run; None where no sweep tuned."""
        return self.trials.get((run.experiment, run.method, run.task, run.model))


def read_budgets(sweeps: Iterable[Mapping[str, Any]]) -> Budgets:
    """What the manifests tell; a cell that is in several has the trials of all, those that they share once.

    A point drawn twice was two trials. A run of a grid, or of a chosen point, is a result whatever else it was.
    """
    trials: dict[Cell, Counter[str]] = {}
    tried: set[str] = set()
    results: set[str] = set()
    for sweep in sweeps:
        if sweep.get("trials") is None:
            results |= _ids(sweep.get("runs"))
        for cell in _mappings(sweep.get("cells")):
            results |= _ids(cell.get("runs"))
            tried |= _ids(cell.get("trials"))
            # A point that was refused has no run, and was tried all the same.
            points = Counter(str(t.get("run_id") or t.get("overrides")) for t in _mappings(cell.get("trials")))
            key = (sweep.get("experiment"), *(cell.get(name) for name in ("method", "task", "model")))
            if points and all(isinstance(name, str) for name in key):
                trials[key] = trials.get(key, Counter()) | points  # type: ignore[index]
    return Budgets({key: points.total() for key, points in trials.items()}, tried - results)


def _mappings(entries: Any) -> Iterator[Mapping[str, Any]]:
    """A list's mappings: a sweep that was killed leaves whatever it had."""
    return (entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, Mapping))


def _ids(entries: Any) -> set[str]:
    return {found for entry in _mappings(entries) if isinstance(found := entry.get("run_id"), str)}
