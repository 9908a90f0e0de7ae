"""Trackers get what the history file gets, and nothing of a run depends on them."""

import json

import pytest

from peftbench import cli
from peftbench.compose import compose_run
from peftbench.experiment import run_experiment


def history(path, kind):
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_tensorboard_shows_the_history(tiny_run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = [*tiny_run, "method=sora", "trainer.log_every=1", "sparsity=algorithm1", "sparsity.lambda=2",
             "sparsity.count=2", "sparsity.stage_epochs=1"]  # fmt: skip
    record, path = run_experiment(compose_run([*words, "tracker=tensorboard"]))
    plain, _ = run_experiment(compose_run(words))
    assert plain.get("reused"), "a tracker makes no other run of it"
    folders = {file.parent for file in (path / "tracker").rglob("events.out.tfevents.*")}
    scalars = {}
    for folder in folders:
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            scalars[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    steps = history(path, "step")
    dense = max(line["step"] for line in steps if line["stage"] == 0)
    expected = [(line["step"] + line["stage"] * dense, line["loss"]) for line in steps]
    assert [step for step, _ in scalars["step/loss"]] == [step for step, _ in expected]
    assert [value for _, value in scalars["step/loss"]] == pytest.approx([value for _, value in expected], rel=1e-6)
    evaluations = [line["accuracy"] for line in history(path, "evaluation")]
    assert [value for _, value in scalars["evaluation/accuracy"]] == pytest.approx(evaluations, rel=1e-6)
    assert scalars["step/zero_ranks"]
    assert record["status"] == "completed"


def test_a_resumed_stage_counts_from_the_stages_before(tiny_run, monkeypatch):
    from peftbench.tracking import Tracking
    from peftbench.training.loop import Loop

    told, whole = [], Tracking.stage
    monkeypatch.setattr(Tracking, "stage", lambda self, before: told.append(before) or whole(self, before))
    words = [*tiny_run, "method=sora", "sparsity=algorithm1", "sparsity.lambda=2", "sparsity.count=3",
             "sparsity.stage_epochs=1", "trainer.checkpoint_every=1"]  # fmt: skip
    step = Loop._step

    def break_off(self, plan, batch, lengths):
        if plan.index == 2 and self.state.step == 2:
            raise KeyboardInterrupt
        return step(self, plan, batch, lengths)

    monkeypatch.setattr(Loop, "_step", break_off)
    config = compose_run(words)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config)
    monkeypatch.setattr(Loop, "_step", step)
    assert told == [0, 4, 8]
    run_experiment(config)
    assert told == [0, 4, 8, 8]


def test_wandb_offline_writes_into_the_runs_folder(tiny_run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, path = run_experiment(compose_run([*tiny_run, "method=lora", "tracker=wandb", "tracker.mode=offline"]))
    assert list((path / "tracker").rglob("run-*.wandb"))


def test_a_tracker_that_is_not_there_is_one_sentence(tiny_run, monkeypatch, capsys, tmp_path):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    assert cli.exit_status([*tiny_run, "tracker=wandb"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "peftbench: error: tracker=wandb: wandb is not installed; pip install 'peftbench[tracking]', or tracker=none"
    )
    assert not (tmp_path / "outputs").exists()
