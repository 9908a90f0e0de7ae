"""How far a sweep is: its runs and how they ended, on the screen and in its manifest."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from peftbench.config import RunConfig
from peftbench.console import complain, paper, screen
from peftbench.durable import write_text

_ENTERED = ("overrides", "task", "method", "model", "seed", "run_id", "status", "objective")
_NAMED = ("task", "method", "model", "seed")
NOT_STUDIES = ("grid", "random", "tpe", "basic")
"""Sweepers that tune nothing, or enter their cells themselves."""
_SHOWN = 12
"""Rows of the table while the sweep goes on."""


@dataclass
class Outcome:
    """One run of a sweep.

    Attributes:
        overrides: its words. task, method, model, seed: what it is a run of.
        status: the record's; `refused` where there is none, `running` while it lasts, `elsewhere` where another process
            is at it.
        reused: whether it had come to its end before this sweep.
        message: what failed, one line.
        run_id, record: the record's. metric, objective: what selects, and its value. seconds: it took now.
    """

    overrides: list[str]
    task: str
    method: str
    model: str
    seed: int
    status: str = "running"
    reused: bool = False
    run_id: str | None = None
    record: str | None = None
    metric: str | None = None
    objective: float | None = None
    seconds: float = 0.0
    message: str | None = None


@dataclass
class Ledger:
    """The runs of a sweep in the order they were begun.

    Attributes:
        words: the command's. total: how many runs there will be, as far as is known.
        cells: of tuning, what was tried and chosen for each method, task and model.
        folder: where the manifest goes; known with the first run.
    """

    words: list[str]
    sweeper: str = "grid"
    trials: int | None = None
    total: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None
    _shared: set[str] | None = None
    _live: Live | None = None
    _began: float = 0.0

    def __enter__(self) -> Ledger:
        self._began = time.monotonic()
        if screen().is_terminal:
            self._live = Live(get_renderable=self._view, console=screen(), refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self.outcomes:
            if self.sweeper not in NOT_STUDIES:
                self.studies()
            self._write()
            paper().print(self._table(self.outcomes, ended=True))
            if any(outcome.reused and outcome.status != "completed" for outcome in self.outcomes):
                paper().print("what failed before was not run again; sweep.retry=true tries again")
            paper().print(self.summary())

    def plan(self, runs: Sequence[Sequence[str]]) -> None:
        """Runs that there will be."""
        self.total += len(runs)
        for words in runs:
            self._share(words)

    def begin(self, overrides: Sequence[str], config: RunConfig) -> Outcome:
        """A run begins."""
        self.folder = config.outputs / config.experiment_name
        of = (config.task.name, config.method_name, config.model.name, config.seed)
        return self._add(Outcome(list(overrides), *of))

    def enter(self, outcome: Outcome) -> Outcome:
        """A run that has ended elsewhere, in a launcher's worker."""
        if outcome.record:
            self.folder = Path(outcome.record).parents[2]
        self._add(outcome)
        if outcome.message:
            self.tell(outcome.message)
        self.end(outcome)
        return outcome

    def _add(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        self._share(outcome.overrides)
        return outcome

    def _share(self, words: Sequence[str]) -> None:
        """Of the words that every run has keep those that this one has too: the table asks for them at every look."""
        self._shared = set(words) if self._shared is None else self._shared.intersection(words)

    def tell(self, message: str) -> None:
        """What failed, at once."""
        complain(message)

    def end(self, outcome: Outcome) -> None:
        """A run has ended, as `outcome` says."""
        self._write()
        if self._live is None:
            screen().print(f"{self.summary()}  |  {self._name(outcome)}: {_result(outcome)}")

    @property
    def status(self) -> int:
        """The exit status: 0 where every run is done, 2 where every one was refused, else 1."""
        states = {outcome.status for outcome in self.outcomes}
        if states <= {"completed"}:
            return int(len(self.outcomes) < self.total)
        return 2 if states == {"refused"} and len(self.outcomes) >= self.total else 1

    def refuse(self, overrides: Sequence[str], like: Mapping[str, Any], message: str) -> Outcome:
        """A run that the configuration does not allow; `like` says what it would have been of."""
        outcome = self._add(Outcome(list(overrides), **like, status="refused", message=message))
        self.end(outcome)
        return outcome

    def studies(self) -> None:
        """Enter the runs of a sweeper that is not ours as trials, a cell for each task, method and model."""
        cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for outcome in self.outcomes:
            cells.setdefault((outcome.task, outcome.method, outcome.model), []).append(self.entry(outcome))
        for (task, method, model), trials in cells.items():
            known = [trial for trial in trials if trial["objective"] is not None]
            best = max(known, key=lambda trial: trial["objective"], default=None)
            cell = {"task": task, "method": method, "model": model, "overrides": [], "trials": trials}
            self.cells.append(cell | {"chosen": best, "runs": [best] if best else []})
        self.trials = max(map(len, cells.values()))

    @staticmethod
    def entry(outcome: Outcome) -> dict[str, Any]:
        """A run among a cell's trials."""
        return {key: getattr(outcome, key) for key in _ENTERED}

    def summary(self) -> str:
        """`3 of 12 done, 1 failed, 8 left, about 6 min`."""
        states = Counter(outcome.status for outcome in self.outcomes)
        done = states.pop("completed", 0)
        states.pop("running", 0)
        left = max(self.total - sum(states.values()) - done, 0)
        parts = [f"{done} of {max(self.total, len(self.outcomes))} done"]
        if reused := sum(o.reused and o.status == "completed" for o in self.outcomes):
            parts[0] += f" ({reused} before)"
        parts += [f"{count} {status.replace('_', ' ')}" for status, count in sorted(states.items())]
        if left:
            parts.append(f"{left} left{self._estimate(left)}")
        return ", ".join(parts)

    def _estimate(self, left: int) -> str:
        """In words how long the runs that are left take, from those that were run now."""
        taken = [o.seconds for o in self.outcomes if o.status == "completed" and not o.reused]
        if not taken:
            return ""
        seconds = left * sum(taken) / len(taken)
        return f", about {seconds / 60:.0f} min" if seconds < 5400 else f", about {seconds / 3600:.1f} h"

    def _view(self) -> RenderableType:
        return Group(self._table(self.outcomes[-_SHOWN:], ended=False), Text(self.summary()))

    def _table(self, outcomes: Sequence[Outcome], ended: bool) -> Table:
        """Runs, one a row; once all have ended with their records."""
        table = Table(title="sweep" if ended else None, title_justify="left")
        for name in ("run", "status", "result", "seconds", *(("record",) if ended else ())):
            table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
        for outcome in outcomes:
            cells = (
                self._name(outcome),
                outcome.status.replace("_", " "),
                _result(outcome),
                _duration(outcome),
                outcome.record or "",
            )
            table.add_row(*cells[: len(table.columns)])
        return table

    def _name(self, outcome: Outcome) -> str:
        """What a run is of, and its words that not every run has."""
        shared = self._shared or set()
        words = [word for word in outcome.overrides if word not in shared and word.partition("=")[0] not in _NAMED]
        return " ".join([outcome.task, outcome.method, outcome.model, f"seed {outcome.seed}", *words])

    def manifest(self) -> dict[str, Any]:
        """What the sweep was and what came of it, for reports."""
        return {
            "schema": 1,
            "command": ["peftbench", *self.words],
            "sweeper": self.sweeper,
            "trials": self.trials,
            "cells": self.cells,
            "runs": [asdict(outcome) for outcome in self.outcomes],
        }

    def _write(self) -> None:
        """`sweeps/<hash of the command>.json` beside the runs' folders, once there are any."""
        if self.folder is not None and self.folder.is_dir():
            name = hashlib.sha256(json.dumps(self.words).encode()).hexdigest()[:12]
            file = self.folder / "sweeps" / f"{name}.json"
            manifest = self.manifest() | {"cells": together(self.cells, _cells_of(file))}
            write_text(file, json.dumps(manifest, indent=1) + "\n")


def _cells_of(file: Path) -> list[dict[str, Any]]:
    """The cells that the same command entered before, or another process of it meanwhile."""
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []


def together(now: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells of tuning with what the same command tried before: a sitting that ends early forgets no trial."""
    known = {_cell_key(cell): cell for cell in earlier}
    cells = [_joined(cell, known.pop(_cell_key(cell), {})) for cell in now]
    return cells + list(known.values())


def _joined(cell: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with the trials of before, and with their choice until there is one of now; another choice's runs stay."""
    chosen = {key: earlier[key] for key in ("chosen", "runs") if key in earlier and not cell.get("chosen")}
    joined: dict[str, Any] = cell | chosen | {"trials": _trials(cell, earlier)}
    superseded = list(earlier.get("superseded") or ())
    before, after = ((one.get("chosen") or {}).get("overrides") for one in (earlier, joined))
    if before not in (None, after):
        superseded += earlier.get("runs") or ()
    return joined | ({"superseded": superseded} if superseded else {})


def _cell_key(cell: Mapping[str, Any]) -> str:
    return json.dumps([cell.get(key) for key in ("task", "method", "model", "overrides")])


def _trials(cell: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of now, where another process had one the earlier entry of the same point, and the points of before."""
    before = [trial for trial in earlier.get("trials") or () if isinstance(trial, dict)]
    found: list[dict[str, Any]] = []
    for trial in cell["trials"]:
        # A point that was drawn twice is two trials: each meets one of before at most.
        same = next((old for old in before if old.get("overrides") == trial["overrides"]), None)
        if same is not None:
            before.remove(same)
        found.append(trial if trial["run_id"] or same is None else same)
    return found + before


def _duration(outcome: Outcome) -> str:
    if outcome.status in ("running", "elsewhere"):
        return ""
    return "before" if outcome.reused else f"{outcome.seconds:.0f}"


def _result(outcome: Outcome) -> str:
    if outcome.message:
        return outcome.message
    return "" if outcome.objective is None else f"{outcome.metric} {outcome.objective:.4f}"
