"""Trials behind results, of manifests shaped as the sweeper leaves them."""

from __future__ import annotations

import json

import pytest

from peftbench.report.budgets import read_budgets
from peftbench.report.contents import make
from peftbench.report.records import find
from peftbench.report.tables.scores import score_table
from peftbench.sweep.ledger import Ledger, Outcome, together

DRAWN = (2, 8, 2, 4)
"""Ranks that a search drew, one of them twice."""


@pytest.fixture
def tune(write_run, outputs):
    """Write a search over LoRA's rank, the chosen point's two seeds, and the manifest; what is in it."""

    def tuned(experiment="default", task="mrpc", **more):
        ledger = Ledger(["-m"], sweeper="random", trials=len(DRAWN), folder=outputs / experiment)

        def entry(rank, seed):
            about = {"settings": {"rank": rank}, "seed": seed, "scores": rank / 10, "experiment": experiment}
            about |= {"task": task, **more}
            words = ["method=lora", f"method.rank={rank}", f"seed={seed}"]
            told = {"overrides": words, "task": task, "method": "lora", "model": "minilm", "seed": seed}
            told |= {"run_id": write_run(**about).parent.name, "status": "completed", "objective": rank / 10}
            ledger.outcomes.append(Outcome(**told))
            return told

        trials = [entry(rank, 0) for rank in DRAWN]
        cell = {"overrides": ["method=lora"], "task": task, "method": "lora", "model": "minilm", "trials": trials}
        cell |= {"chosen": {"overrides": ["method.rank=8"], "objective": 0.8}, "runs": [trials[1], entry(8, 1)]}
        ledger.cells.append(cell)
        return leave(ledger.manifest(), outputs / experiment, "tuned")

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
    tune()
    grid = grids(outputs)["default"]
    cell = only_cell(grid)
    assert (dict(cell.values), cell.trials) == ({0: 0.8, 1: 0.8}, 4)
    assert "Not in this table: 2 runs that tuned and are no result." in grid.notes


def test_optimism_is_told_where_one_split_does_everything(tune, outputs):
    tune()
    told = " ".join(score_table(grids(outputs)["default"]).caption)
    assert "all with the first seed, which is among those averaged" in told
    assert "The split that is scored chose the trial and the checkpoint too" in told


def test_where_another_split_is_scored_nothing_is_optimistic(tune, outputs):
    scores = {"validation": {"accuracy": 0.8}, "test": {"accuracy": 0.7}}
    tune(experiment="sora_table1_small", task="rte", protocol="sora", scores=scores)
    told = " ".join(score_table(grids(outputs)["sora_table1_small"]).caption)
    assert "Tuning trials: 4 per method and task" in told
    assert "optimistic" not in told


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
    assert [line.label for line in grids(outputs)["default"].lines] == ["LoRA r=2", "LoRA r=4", "LoRA r=8"]


def test_of_a_part_of_the_runs_the_trials_are_known_too(tune, outputs):
    tune()
    (folder,) = {file.parent.parent for file in outputs.glob("*/*/*/record.json")}
    found = find([folder])
    assert only_cell(make(found, found.runs).grids[0]).trials == 4
    assert [manifest["sweeper"] for manifest in find([outputs]).sweeps] == ["random"]


def _cell(trials, chosen, seeds=(0, 1)):
    """A cell of LoRA's ranks: run ids are the rank and the seed."""
    runs = [{"run_id": f"{chosen}-{seed}"} for seed in seeds]
    tried = [{"overrides": [f"method.rank={rank}"], "run_id": f"{rank}-0"} for rank in trials]
    about = {"task": "mrpc", "method": "lora", "model": "minilm", "overrides": ["method=lora"]}
    return about | {"trials": tried, "runs": runs, "chosen": {"overrides": [f"method.rank={chosen}"]}}


def test_what_a_shorter_search_chose_is_no_result():
    shorter, longer = (
        {"folder": "x", "trials": 4, "cells": [cell]} for cell in (_cell([2, 4], 2), _cell([2, 4, 8], 8))
    )
    for sweeps in ([shorter, longer], [longer, shorter]):
        budgets = read_budgets(sweeps)
        assert {run for _, run in budgets.only_trials} == {"2-0", "4-0", "2-1"}
    killed = {**longer, "cells": [{**longer["cells"][0], "chosen": None, "runs": []}]}
    assert {run for _, run in read_budgets([shorter, killed]).only_trials} == {"4-0", "8-0"}
    other_folder = read_budgets([shorter, {**longer, "folder": "y"}])
    assert set(other_folder.only_trials) == {("x", "4-0"), ("y", "2-0"), ("y", "4-0")}


def test_what_a_retried_trial_beat_is_no_result():
    (cell,) = together([_cell([2, 4], 4)], [_cell([2, 4], 2)])
    assert [run["run_id"] for run in cell["superseded"]] == ["2-0", "2-1"]
    (again,) = together([_cell([2, 4], 4)], [cell])
    assert again["superseded"] == cell["superseded"]
    budgets = read_budgets([{"folder": "x", "trials": 2, "cells": [again]}])
    assert {run for _, run in budgets.only_trials} == {"2-0", "2-1"}


def test_a_second_sitting_forgets_no_trial():
    def trial(rank, run_id):
        return {"overrides": [f"method.rank={rank}"], "run_id": run_id}

    cell = {"task": "mrpc", "method": "lora", "model": "minilm", "overrides": []}
    other = {**cell, "task": "rte", "trials": [trial(1, "z")]}
    before = [{**cell, "trials": [trial(2, "a"), trial(4, "b"), trial(8, "c")]}, other]
    now = [{**cell, "trials": [trial(2, "a"), trial(4, None)]}]
    first, second = together(now, before)
    assert [entry["run_id"] for entry in first["trials"]] == ["a", "b", "c"]
    chosen = {"chosen": trial(4, "b"), "runs": [trial(4, "b")]}
    (kept,) = together([{**now[0], "chosen": None, "runs": []}], [{**before[0], **chosen}])
    assert {key: kept[key] for key in chosen} == chosen
    assert read_budgets([{"folder": "x", "trials": 3, "cells": [kept]}]).only_trials == {("x", "a"), ("x", "c")}
    assert together(now, [{**cell, "trials": [3]}])[0]["trials"] == now[0]["trials"]
    assert second == other
    assert together([], before) == before
    twice = [{**cell, "trials": [trial(2, "a"), trial(2, "a")]}]  # A point that was drawn twice was two trials.
    assert together([{**cell, "trials": [trial(2, "a")]}], twice) == twice


def test_settings_tuned_apart_have_each_their_own_trials(write_run, outputs):
    """Two commands, one for each rank: three trials each are three trials each."""
    for rank in (4, 8):
        ledger = Ledger(["-m", f"method.rank={rank}"], sweeper="random", trials=3, folder=outputs / "default")
        trials = []
        for rate in (1e-3, 2e-3, 3e-3):
            file = write_run(settings={"rank": rank}, config={"optimizer": {"lr": rate}}, scores=rate)
            trials.append({"overrides": [f"optimizer.lr={rate}"], "run_id": file.parent.name})
        about = {"task": "mrpc", "method": "lora", "model": "minilm", "overrides": [f"method.rank={rank}"]}
        ledger.cells.append({**about, "trials": trials, "runs": trials[-1:]})
        leave(ledger.manifest(), outputs / "default", f"rank{rank}")
    (grid,) = grids(outputs).values()
    assert {line.label: line.cells[0].trials for line in grid.lines} == {"LoRA r=4": 3, "LoRA r=8": 3}
    (outputs / "default").rename(outputs / "renamed")
    (grid,) = grids(outputs).values()
    assert [line.cells[0].trials for line in grid.lines] == [3, 3]


def test_a_trial_is_one_in_its_own_experiment_alone(tune, write_run, outputs):
    tune()
    (file,) = [f for f in outputs.glob("*/*/*/record.json") if json.loads(f.read_text())["objective"] < 0.71][:1]
    record = json.loads(file.read_text())
    record["config"]["experiment_name"] = "final"
    there = outputs / "final" / file.parent.parent.name / file.parent.name / "record.json"
    there.parent.mkdir(parents=True)
    there.write_text(json.dumps(record))
    found = find([outputs])
    contents = make(found, found.runs)
    assert [run.file for grid in contents.grids for run in grid.runs if run.experiment == "final"] == [there]


def test_two_manifests_of_one_cell_count_their_shared_trials_once():
    def manifest(*ids):
        trials = [{"run_id": i, "overrides": [f"method.rank={i}"]} for i in ids]
        cell = {"method": "lora", "task": "mrpc", "model": "minilm", "trials": trials, "runs": []}
        return {"folder": "x", "trials": len(ids), "cells": [cell]}

    budgets = read_budgets([manifest("a", "a", "b"), manifest("a", "b", "c")])
    assert [(one.place, one.trials.total()) for one in budgets.tuned] == [(("x", "lora", "mrpc", "minilm"), 4)]
    assert set(budgets.only_trials) == {("x", run) for run in "abc"}


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
    budgets = read_budgets([{"folder": "x", "trials": 4, "cells": [cell]}, {"cells": 3, "runs": None}])
    assert budgets.tuned == []
