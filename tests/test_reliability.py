"""What runs do when they are killed, interrupted, out of memory, or fed numbers that are none.

The long form kills every method's run at random steps, in evaluations and in the middle of writing a checkpoint; it is
marked `long`, see `make test-long`.
"""

import json
import math
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from contracts.test_methods import METHODS
from test_experiment import FAST, STAGED, run, same_result, tensors, without_dropout

from peftbench import experiment
from peftbench.environment import prepare_process
from peftbench.errors import RunError
from peftbench.scoring import at_chance
from peftbench.training import checkpoint
from peftbench.training.checkpoint import load_checkpoint
from peftbench.training.guard import Diverged, OutOfMemory
from peftbench.training.loop import Loop

WORDS = ["trainer.epochs=3", "trainer.checkpoint_every=2"]


def in_child(work) -> int:
    """Do `work` in a forked process; how that ended, as `os.waitstatus_to_exitcode` has it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(7)  # Not reached where the work kills the process.
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(by=signal.SIGKILL) -> None:
    os.kill(os.getpid(), by)


def at_step(number, *by):
    """Kill in the middle of the process's so-and-so-many-th step: gradients are there, weights have not moved."""

    def arm():
        original, seen = Loop._count, []

        def count(self, batch, lengths):
            seen.append(1)
            if len(seen) == number:
                for each in by or [signal.SIGKILL]:
                    die(each)
            return original(self, batch, lengths)

        Loop._count = count

    return arm


def in_evaluation():
    """Kill at the end of the process's first evaluation, before anything is made of it."""

    def arm():
        original = Loop._consider

        def consider(self, plan):
            evaluate = self.evaluate
            self.evaluate = lambda: (evaluate(), die())
            return original(self, plan)

        Loop._consider = consider

    return arm


def in_checkpoint(number, moment):
    """Kill while the process's so-and-so-many-th checkpoint is written: before a rename, or half-way (moment -1)."""

    def arm():
        saves, renames = [], []
        save, rename = checkpoint.save_file, checkpoint.os.rename

        def saved(tensors, file):
            saves.append(1)
            renames.clear()
            save(tensors, file)
            if len(saves) == number and moment < 0:
                os.truncate(file, Path(file).stat().st_size // 2)
                die()

        def renamed(source, target):
            if len(saves) == number and len(renames) == moment:
                die()
            renames.append(1)
            rename(source, target)

        checkpoint.save_file, checkpoint.os.rename = saved, renamed

    return arm


def after_training():
    """Kill where training is over and the result is not written."""

    def arm():
        def conclude(self, selected):
            die()

        experiment.Run._conclude = conclude

    return arm


def checkpointed(tmp_path) -> bool:
    """Whether the run has a whole checkpoint, the newest or the one before it."""
    return any(list(tmp_path.glob(f"outputs/**/{name}/state.json")) for name in ("checkpoint", "checkpoint.old"))


def survives(tiny_run, words, tmp_path, kills) -> None:
    """Killed at each of `kills` in turn and started again, a run ends with the bits of one that was left alone.

    Every start that finds a checkpoint goes on from it: one that began anew would end with the same bits.
    """
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")
    told, resume, found = tmp_path / "resumed", experiment.Run._resume, 0

    def watched(self, saved, optimizers):
        state, stage = resume(self, saved, optimizers)
        with told.open("a") as file:
            file.write(f"{stage} {state.step}\n")
        return state, stage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Run, "_resume", watched)
        for arm in kills:

            def work(arm=arm):
                arm()
                run(tiny_run, *words)

            found += checkpointed(tmp_path)
            assert in_child(work) == -signal.SIGKILL
        found += checkpointed(tmp_path)
        again = run(tiny_run, *words)
    places = [tuple(map(int, line.split())) for line in told.read_text().splitlines()]
    assert len(places) == found
    assert places == sorted(places)  # No start falls behind the one before it.
    assert places[-1] > (0, 0)
    same_result(whole, again)
    lines = [json.loads(line) for line in (again[1] / "history.jsonl").read_text().splitlines()]
    evaluated = [(line["stage"], line["step"]) for line in lines if line["kind"] == "evaluation"]
    assert evaluated == sorted(set(evaluated))


@pytest.mark.parametrize("name", ["sora", pytest.param("adalora", marks=pytest.mark.long)])
def test_a_killed_run_started_again_ends_with_the_same_bits(name, tiny_run, tmp_path):
    words = [f"method={name}", *WORDS, *FAST.get(name, [])]
    survives(tiny_run, words, tmp_path, [at_step(5), in_evaluation(), in_checkpoint(2, 0), after_training()])


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_every_method_survives_kills_everywhere(name, tiny_run, tmp_path):
    words = [f"method={name}", *WORDS, "trainer.epochs=6", *FAST.get(name, [])]
    draw = random.Random(name)
    kills = [at_step(draw.randrange(1, 6)), at_step(draw.randrange(1, 6)), in_evaluation()]
    # A first checkpoint takes the place of none, so that there is one rename.
    kills += [in_checkpoint(draw.randrange(1, 3), -1), in_checkpoint(draw.randrange(1, 3), 0), in_checkpoint(2, 1)]
    draw.shuffle(kills)
    survives(tiny_run, words, tmp_path, [*kills, after_training()])


@pytest.mark.long
def test_a_staged_run_survives_kills_between_its_stages(tiny_run, tmp_path):
    def between(stage):
        def arm():
            original = experiment.Run._end_stage

            def end(self, plan):
                original(self, plan)
                if plan.index == stage:
                    die()

            experiment.Run._end_stage = end

        return arm

    words = [*STAGED, "trainer.checkpoint_every=1"]
    survives(tiny_run, words, tmp_path, [between(0), at_step(2), between(1), between(2), after_training()])


@pytest.mark.long
def test_kills_at_moments_of_the_clock_are_survived(tiny_run, tmp_path):
    words = ["method=sora", *WORDS, "trainer.epochs=6", *FAST["sora"]]
    run(tiny_run, *words, f"outputs={tmp_path / 'cold'}")
    began = time.monotonic()
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")
    seconds, draw = time.monotonic() - began, random.Random(0)
    killed = 0
    while killed < 12:
        child = os.fork()
        if child == 0:
            try:
                run(tiny_run, *words)
                os._exit(0)
            finally:
                os._exit(7)
        time.sleep(draw.uniform(0.1, 0.9) * seconds)
        os.kill(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        killed += 1
    assert killed
    same_result(whole, run(tiny_run, *words))


def test_a_broken_checkpoint_is_told_and_the_one_before_it_carries_on(tiny_run, tmp_path, capsys):
    words = ["method=sora", *WORDS, *FAST["sora"]]
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")

    def work():
        at_step(7)()
        run(tiny_run, *words)

    assert in_child(work) == -signal.SIGKILL
    (tensors,) = tmp_path.glob("**/checkpoint/state.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-9])
    capsys.readouterr()
    again = run(tiny_run, *words)
    assert "warning: checkpoint checkpoint is not used" in capsys.readouterr().err.replace("\n", " ")
    same_result(whole, again)
    assert not list(again[1].glob("checkpoint*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(number, tiny_run, tmp_path):
    words = ["method=sora", "trainer.epochs=3", "trainer.checkpoint_every=100", *FAST["sora"]]
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")

    def work():
        signal.signal(number, signal.default_int_handler)  # A shell has what it runs in background ignore SIGINT.
        at_step(5, number)()
        try:
            run(tiny_run, *words)
        except KeyboardInterrupt:
            os._exit(3)

    assert in_child(work) == 3
    (file,) = tmp_path.glob("outputs/**/record.json")
    record = json.loads(file.read_text())
    assert load_checkpoint(file.parent / "checkpoint")["loop"]["step"] == 5
    assert record["status"] == "interrupted"
    assert record["error"]["type"] == "KeyboardInterrupt"
    again = run(tiny_run, *words)
    same_result(whole, again)
    lines = [json.loads(line) for line in (again[1] / "history.jsonl").read_text().splitlines()]
    assert len([line for line in lines if line["kind"] == "evaluation"]) == 3


@pytest.mark.parametrize(
    "order", [("USR2",), *(pytest.param(o, marks=pytest.mark.long) for o in [("TERM", "USR2"), ("USR2", "TERM")])]
)
def test_a_clusters_signal_ends_with_a_checkpoint_and_then_has_its_own_way(order, tiny_run, tmp_path):
    """submitit's handler of SIGUSR2 queues the job again and leaves by SystemExit; its one of SIGTERM does nothing."""
    words = ["method=sora", "trainer.epochs=3", "trainer.checkpoint_every=100", *FAST["sora"]]
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")

    def work():
        def requeue(number, frame):
            assert list(tmp_path.glob("outputs/**/checkpoint/state.json"))
            raise SystemExit(5)

        signal.signal(signal.SIGUSR2, requeue)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        prepare_process()
        at_step(5, *(signal.Signals[f"SIG{name}"] for name in order))()
        try:
            run(tiny_run, *words)
        except SystemExit as leaving:
            os._exit(leaving.code)

    assert in_child(work) == 5
    (file,) = tmp_path.glob("outputs/**/record.json")
    assert json.loads(file.read_text())["status"] == "interrupted"
    same_result(whole, run(tiny_run, *words))


def test_sigterm_is_ours_where_a_launcher_handles_its_own_signal_alone(tiny_run, tmp_path):
    words = ["method=sora", "trainer.epochs=3", "trainer.checkpoint_every=100", *FAST["sora"]]

    def arm():
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        prepare_process()
        at_step(5, signal.SIGTERM)()

    file = interrupted(tiny_run, words, tmp_path, arm)
    assert load_checkpoint(file.parent / "checkpoint")["loop"]["step"] == 5


def interrupted(tiny_run, words, tmp_path, arm) -> Path:
    """The record of a run that was interrupted in a process of its own, as `arm` has it."""

    def work():
        arm()
        try:
            run(tiny_run, *words)
        except KeyboardInterrupt:
            os._exit(3)

    assert in_child(work) == 3
    (file,) = tmp_path.glob("outputs/**/record.json")
    assert json.loads(file.read_text())["status"] == "interrupted"
    return file


def test_a_second_signal_ends_the_run_at_once(tiny_run, tmp_path):
    words = ["method=sora", "trainer.epochs=3", "trainer.checkpoint_every=100", *FAST["sora"]]

    def twice():
        at_step(5, signal.SIGTERM)()
        at_step(5, signal.SIGTERM)()

    interrupted(tiny_run, words, tmp_path, twice)
    assert not checkpointed(tmp_path)  # In the middle of a step there is none to write.


def test_a_signal_in_the_last_evaluation_ends_the_run_before_its_texts_are_written(tiny_run, tmp_path):
    words = ["method=sora", "trainer.epochs=3", "trainer.checkpoint_every=100", *FAST["sora"]]
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")

    def in_the_last():
        consider = Loop._consider

        def considered(self, plan):
            if self.state.step == plan.total_steps:
                die(signal.SIGTERM)
            return consider(self, plan)

        Loop._consider = considered

    file = interrupted(tiny_run, words, tmp_path, in_the_last)
    assert not (file.parent / "adapter").exists()
    assert load_checkpoint(file.parent / "checkpoint")["loop"]["step"] == sum(whole[0]["steps"].values())
    same_result(whole, run(tiny_run, *words))


def poisoned(steps, monkeypatch):
    """Make the loss of these steps (from 0) infinite."""
    original = Loop._accumulate

    def accumulate(self, batch, lengths):
        total = original(self, batch, lengths)
        return total * math.inf if self.state.step in steps else total

    monkeypatch.setattr(Loop, "_accumulate", accumulate)


def test_divergence_tells_the_last_good_metrics(tiny_run, monkeypatch, tmp_path):
    poisoned({6}, monkeypatch)
    with pytest.raises(Diverged, match="step 7"):
        run(tiny_run, "method=lora", "trainer.epochs=3", "trainer.eval_every=2")
    record = json.loads(next(tmp_path.glob("**/record.json")).read_text())
    assert (record["status"], record["error"]["step"]) == ("diverged", 7)
    assert record["error"]["last_evaluation"]["step"] == 6
    assert 0 <= record["error"]["last_evaluation"]["accuracy"] <= 1


@pytest.mark.parametrize("name", ["lora", "sora", "adalora"])
def test_steps_that_are_not_finite_are_left_out_within_a_bound(name, tiny_run, monkeypatch):
    poisoned({2, 5}, monkeypatch)
    words = [f"method={name}", "trainer.epochs=3", *FAST.get(name, [])]
    moved = []
    original = Loop._step

    def watch(self, plan, batch, lengths):
        before = [p.detach().clone() for p in self.optimizers.parameters]
        loss = original(self, plan, batch, lengths)
        after = self.optimizers.parameters
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
        return loss

    monkeypatch.setattr(Loop, "_step", watch)
    record, path = run(tiny_run, *words, "trainer.skip_nonfinite=2", "trainer.log_every=1")
    assert record["timing"]["skipped_steps"] == 2
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    logged = {line["step"] for line in lines if line["kind"] == "step"}
    assert set(range(1, max(logged) + 1)) - logged == {3, 6}  # A loss that is no number is none to draw.
    assert "2 steps skipped: loss or gradient not finite" in record["flags"]
    assert [step for step, did in enumerate(moved) if not did and step] == [2, 5]
    with pytest.raises(Diverged, match="step 6"):
        run(tiny_run, *words, "trainer.skip_nonfinite=1")


def test_adalora_reaches_its_budget_where_the_step_that_fixes_it_is_skipped(tiny_run, monkeypatch):
    from peftbench.methods.adalora import AdaLoRAAttachment

    found, attach = [], AdaLoRAAttachment.__init__

    def watched(self, *args, **kwargs):
        attach(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(AdaLoRAAttachment, "__init__", watched)
    words = ["method=adalora", "trainer.epochs=3", *FAST["adalora"]]
    run(tiny_run, *words)
    poisoned({found[0].last_allocation - 1}, monkeypatch)
    record, _ = run(tiny_run, *words, "trainer.skip_nonfinite=1")
    assert record["timing"]["skipped_steps"] == 1
    assert sum(record["ranks"]["final"].values()) == found[0].target_budget


def tight(rows, monkeypatch):
    """A machine that cannot hold more than so many rows at a time."""
    from peftbench.training.batching import TokenRows

    original = TokenRows.batch

    def batch(self, which, device):
        if len(which) > rows and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB")
        return original(self, which, device)

    monkeypatch.setattr(TokenRows, "batch", batch)


def test_out_of_memory_tells_the_batch_that_did_it(tiny_run, monkeypatch, tmp_path):
    tight(3, monkeypatch)
    with pytest.raises(OutOfMemory, match=r"step 1, in a forward pass of \d+ x \d+ tokens; set trainer.micro_batch"):
        run(tiny_run, "method=lora")
    record = json.loads(next(tmp_path.glob("**/record.json")).read_text())
    assert (record["status"], record["error"]["step"]) == ("out_of_memory", 1)


def test_micro_batches_that_memory_asks_for_change_no_gradient(tiny_run, monkeypatch, tmp_path):
    quiet = ["method=sora", *FAST["sora"], f"model.path={without_dropout(tiny_run, tmp_path)}"]
    whole, at_whole = run(tiny_run, *quiet, f"outputs={tmp_path / 'whole'}")
    tight(3, monkeypatch)
    record, path = run(tiny_run, *quiet, "trainer.auto_micro_batch=true")
    assert record["run_id"] == whole["run_id"]
    assert record["timing"]["micro_batch_size"] <= 3
    for key, tensor in tensors(at_whole).items():
        torch.testing.assert_close(tensors(path)[key], tensor, rtol=0, atol=2e-5)
    tight(0, monkeypatch)
    with pytest.raises(RunError, match=r"use a smaller task\.max_length"):
        run(tiny_run, *quiet, "seed=5", "trainer.auto_micro_batch=true")


@pytest.mark.parametrize("fits", [pytest.param(3, marks=pytest.mark.long), 5])
def test_micro_batches_that_memory_asks_for_survive_a_kill_to_the_bit(fits, tiny_run, monkeypatch, tmp_path):
    """With dropout: the pass that failed half-way drew from the random state, and a later process asks memory anew."""
    accumulate = Loop._accumulate

    def tight(self, batch, lengths):
        rows = min(len(batch), self.micro or len(batch))
        if rows > fits and self.state.step >= 2:
            torch.rand(7)
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB")
        return accumulate(self, batch, lengths)

    monkeypatch.setattr(Loop, "_accumulate", tight)
    words = ["method=sora", *WORDS, *FAST["sora"], "trainer.auto_micro_batch=true"]
    survives(tiny_run, words, tmp_path, [at_step(6), at_step(3)])


def test_an_evaluation_that_does_not_fit_is_told_too(tiny_run, monkeypatch, tmp_path):
    from transformers import BertForSequenceClassification

    forward = BertForSequenceClassification.forward

    def tight(self, **inputs):
        if not torch.is_grad_enabled():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return forward(self, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", tight)
    with pytest.raises(OutOfMemory, match=r"in an evaluation, in a forward pass of 16 x \d+ tokens; .*size=8 or less"):
        run(tiny_run, "method=lora", "trainer.eval_batch_size=16")
    record = json.loads(next(tmp_path.glob("**/record.json")).read_text())
    assert record["status"] == "out_of_memory"


def test_what_a_reader_should_know_is_flagged(tiny_run, monkeypatch):
    record, _ = run(tiny_run, "method=sora", "sparsity.lambda=1e-6", "optimizer.lr=1e-9")
    told = " | ".join(record["flags"])
    assert "constant prediction on validation" in told
    assert "accuracy on validation is at chance level: 0." in told
    assert "the budget never moved: the threshold removed no rank" in told
    monkeypatch.setattr("peftbench.training.optimizers.Optimizers.step", lambda self: None)
    record, _ = run(tiny_run, "method=lora")
    (flag,) = [flag for flag in record["flags"] if "did not move" in flag]
    stayed, _, trained, *_ = flag.split()
    assert stayed == trained != "0"


@pytest.mark.parametrize(("value", "flagged"), [(0.7, False), (0.66, True), (0.5, True), (None, False)])
def test_a_score_above_chance_is_not_flagged(value, flagged):
    baselines = {"validation": {"majority": {"accuracy": 0.66}, "random": {"accuracy": 0.5}}, "test": None}
    found = at_chance({"validation": {"accuracy": value}}, baselines, "validation", "accuracy")
    assert bool(found) == flagged
    assert not at_chance({"test": {"pearson": 0.0}}, baselines, "test", "pearson")
