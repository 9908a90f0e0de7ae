"""How much tuning each method had, from the manifests of sweeps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.report.records import Run


@dataclass(frozen=True)
class Budgets:
    """Tuning trials, and the runs that were nothing else.

    Attributes:
        trials: their number, by method, task and model.
        only_trials: ids of runs that tuned and are no result.
    """

    trials: Mapping[tuple[str, str, str], int]
    only_trials: Collection[str]

    def of(self, run: Run) -> int | None:
        """Trials behind a run; None where no sweep tuned."""
        return self.trials.get((run.method, run.task, run.model))


def read_budgets(sweeps: Iterable[Mapping[str, Any]]) -> Budgets:
    """What the manifests tell; a cell that is in several has the trials of all, each trial once."""
    trials: dict[tuple[str, str, str], set[str]] = {}
    tried: set[str] = set()
    results: set[str] = set()
    for sweep in sweeps:
        for cell in sweep.get("cells") or ():
            results |= set(cell.get("runs") or ())
            told = cell.get("trials") or ()
            if told:
                # A point that was refused has no run, and was tried all the same.
                points = {trial.get("run_id") or repr(trial.get("overrides")) for trial in told}
                trials.setdefault((cell["method"], cell["task"], cell["model"]), set()).update(points)
                tried |= points
    return Budgets({key: len(points) for key, points in trials.items()}, tried - results)
