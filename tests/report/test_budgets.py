"""Trials behind results, of manifests as the sweeper itself writes them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.peftbench import Sweep
from peftbench.report.budgets import read_budgets
from peftbench.report.contents import make
from peftbench.report.records import find
from peftbench.sweep.ledger import Ledger, Outcome
from peftbench.sweep.search import Space

RANKS = (2, 4, 8)


class Launcher:
    """Stands for a training: each point's record is written, and its outcome entered."""

    def __init__(self, ledger, write_run, experiment):
        self.ledger, self.write_run, self.experiment = ledger, write_run, experiment

    def launch(self, jobs, initial_job_idx):
        ((*_, point, seed),) = jobs
        rank, seed = int(point.partition("=")[2]), int(seed.partition("=")[2])
        about = {"settings": {"rank": rank}, "seed": seed, "scores": rank / 10, "experiment": self.experiment}
        run_id = self.write_run(**about).parent.name
        self.ledger.outcomes.append(
            Outcome(jobs[0], "mrpc", "lora", "minilm", seed, "completed", run_id=run_id, objective=rank / 10)
        )
        return [SimpleNamespace(return_value=rank / 10)]


@pytest.fixture
def tune(write_run, outputs):
    """Tune LoRA's rank and leave the manifest; what is in it."""

    def tuned(trials=4, experiment="default", sampler_seed=0):
        ledger = Ledger(["-m"], sweeper="random", trials=trials, folder=outputs / experiment)
        sweep = Sweep(None, None, [], trials, "random", sampler_seed)
        sweep._jobs, sweep.launcher = SimpleNamespace(ledger=ledger), Launcher(ledger, write_run, experiment)
        words = ["method=lora", f"method.rank=choice({','.join(map(str, RANKS))})", "seed=0,1"]
        space = Space.of(OverridesParser.create().parse_overrides(words))
        sweep._tune_cell(space, list(space.cells[0]))
        return leave(ledger.manifest(), outputs / experiment, f"tuned{sampler_seed}")

    return tuned


def leave(manifest, folder, name):
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / f"{name}.json").write_text(json.dumps(manifest))
    return manifest


def grids(outputs):
    found = find([outputs])
    return {grid.layout.name: grid for grid in make(found, found.runs).grids}


def only_cell(grid):
    ((cell,),) = [line.cells for line in grid.lines]
    return cell


def test_trials_are_no_results_and_are_counted(tune, outputs):
    manifest = tune()
    ranks = [trial["overrides"][1] for trial in manifest["cells"][0]["trials"]]
    best = max(int(rank.rpartition("=")[2]) for rank in ranks)
    grid = grids(outputs)["default"]
    cell = only_cell(grid)
    assert len(set(ranks)) < len(ranks) == 4, "the case needs a point that is drawn twice"
    assert (dict(cell.values), cell.trials) == ({0: best / 10, 1: best / 10}, 4)
    left = len(set(ranks)) - 1
    assert f"Not in this table: {left} runs that were trials of a search and nothing else." in grid.notes


def test_trials_are_their_own_experiments(tune, write_run, outputs):
    tune(experiment="tuned")
    write_run(experiment="untuned", scores=0.7)
    found = grids(outputs)
    assert only_cell(found["untuned"]).trials is None
    assert only_cell(found["tuned"]).trials == 4


def test_what_a_grid_ran_is_a_result_though_it_was_a_trial(tune, outputs):
    manifest = tune()
    grid = Ledger(["-m", "grid"])
    grid.outcomes += [Outcome(t["overrides"], "mrpc", "lora", "minilm", 0, run_id=t["run_id"])
                      for t in manifest["cells"][0]["trials"]]  # fmt: skip
    leave(grid.manifest(), outputs / "default", "grid")
    ranks = {trial["overrides"][1].rpartition("=")[2] for trial in manifest["cells"][0]["trials"]}
    assert {line.label for line in grids(outputs)["default"].lines} == {f"LoRA r={rank}" for rank in ranks}


def test_two_manifests_of_one_cell_count_their_shared_trials_once():
    def manifest(*ids):
        trials = [{"run_id": i, "overrides": [f"method.rank={i}"]} for i in ids]
        cell = {"method": "lora", "task": "mrpc", "model": "minilm", "trials": trials, "runs": []}
        return {"experiment": "x", "trials": len(ids), "cells": [cell]}

    budgets = read_budgets([manifest("a", "a", "b"), manifest("a", "b", "c")])
    assert budgets.trials == {("x", "lora", "mrpc", "minilm"): 4}
    assert set(budgets.only_trials) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "cell",
    [
        {"overrides": ["method=lora"], "trials": [{"overrides": [], "run_id": "a"}], "chosen": None, "runs": []},
        {"method": ["lora"], "task": None, "model": "minilm", "trials": [{"run_id": "a"}], "runs": ["b"]},
        {"trials": 7, "runs": {"run_id": "a"}},
        "lora",
        None,
    ],
)
def test_cells_that_a_killed_sweep_left_count_nothing(cell):
    budgets = read_budgets([{"experiment": "x", "trials": 4, "cells": [cell]}, {"cells": 3, "runs": None}])
    assert budgets.trials == {}
