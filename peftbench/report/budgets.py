"""How much tuning each method had, from the manifests of sweeps."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftbench.report.records import Run


@dataclass
class Tuned:
    """What was tuned on its own: a method on a task and a backbone, with the words that its trials share.

    Attributes:
        place: the experiment's folder, method, task and model.
        trials: their points, each as often as it was drawn.
        runs: ids of the runs that tried or were chosen.
    """

    place: tuple[str, ...]
    trials: Counter[str] = field(default_factory=Counter)
    runs: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Budgets:
    """Tuning trials, and the runs that were nothing else.

    Attributes:
        tuned: all that was.
        only_trials: experiment's folder and run id of what tuned and is no result.
    """

    tuned: Sequence[Tuned]
    only_trials: Collection[tuple[str, str]]

    def is_trial(self, run: Run) -> bool:
        """Whether a run tuned and is no result of its experiment."""
        return bool(self.only_trials) and (run.experiment_folder, run.run_id) in self.only_trials

    def of(self, run: Run) -> int | None:
        """Trials behind a run; None where no sweep tuned.

        Those of the search that the run is of; behind a run of none, those of all searches of its method, task and
        model in its experiment.
        """
        if not self.tuned:
            return None
        place = (run.experiment_folder, run.method, run.task, run.model)
        here = [one for one in self.tuned if one.place == place]
        own = [one for one in here if run.run_id in one.runs] or here
        return functools.reduce(operator.or_, (one.trials for one in own)).total() if own else None


def read_budgets(sweeps: Iterable[Mapping[str, Any]]) -> Budgets:
    """What the manifests tell; a cell that is in several has the trials of all, those that they share once.

    A point drawn twice was two trials. A run of a grid, or of a chosen point, is a result whatever else it was.
    """
    tuned: dict[tuple[str, ...], Tuned] = {}
    tried: set[tuple[str, str]] = set()
    results: set[tuple[str, str]] = set()
    sweeps = list(sweeps)
    most = _most_trials(sweeps)
    for sweep in sweeps:
        folder = str(sweep.get("folder"))
        if sweep.get("trials") is None:
            results |= {(folder, run) for run in _ids(sweep.get("runs"))}
        for cell in _mappings(sweep.get("cells")):
            chosen, tries = _ids(cell.get("runs")), _ids(cell.get("trials")) | _ids(cell.get("superseded"))
            points, key = _points(cell), _key(sweep, cell)
            # A search that went on decides: what a shorter one had chosen was a step on its way.
            if points.total() >= most[key]:
                results |= {(folder, run) for run in chosen}
            tried |= {(folder, run) for run in chosen | tries}
            if points and len(key) == 5:
                one = tuned.setdefault(key, Tuned(key[:-1]))
                one.trials |= points
                one.runs |= chosen | tries
    return Budgets(list(tuned.values()), tried - results)


def _most_trials(sweeps: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    """Of the cells that tuned the same and have chosen, how many trials the one with the most has."""
    most: Counter[tuple[str, ...]] = Counter()
    for sweep in sweeps:
        for cell in _mappings(sweep.get("cells")):
            key = _key(sweep, cell)
            if _ids(cell.get("runs")):  # One that is still searching, or was killed, decides nothing.
                most[key] = max(most[key], _points(cell).total())
    return most


def _points(cell: Mapping[str, Any]) -> Counter[str]:
    """A cell's trials; a point that was refused has no run, and was tried all the same."""
    return Counter(str(trial.get("run_id") or trial.get("overrides")) for trial in _mappings(cell.get("trials")))


def _key(sweep: Mapping[str, Any], cell: Mapping[str, Any]) -> tuple[str, ...]:
    """What a cell tunes: its place, and the words that its trials share; of a cell that lacks one, what it has."""
    place = (sweep.get("folder"), *(cell.get(name) for name in ("method", "task", "model")), str(cell.get("overrides")))
    return tuple(part for part in place if isinstance(part, str))


def _mappings(entries: Any) -> Iterator[Mapping[str, Any]]:
    """A list's mappings: a sweep that was killed leaves whatever it had."""
    return (entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, Mapping))


def _ids(entries: Any) -> set[str]:
    return {found for entry in _mappings(entries) if isinstance(found := entry.get("run_id"), str)}
