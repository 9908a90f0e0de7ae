"""One run in two processes is the run of one: the same scores, the same gates on both, one who writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contracts.test_methods import METHODS
from test_experiment import FAST, tensors, without_dropout

from peftbench import cli

HERE = Path(__file__).parent
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"],
    # accelerate has no launcher for several processes on CPUs but MPI's; the one for GPUs starts them there as well.
    "accelerate": [
        "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", "--multi_gpu", "--num_processes",
    ],
}  # fmt: skip


def launched(folder, words, runs, processes=2, killed_after=0, launcher="torchrun"):
    """The runs in so many processes of a launcher; digests by rank, records and folders by method."""
    folder.mkdir(exist_ok=True)
    begins = [] if processes == 1 else [*LAUNCHERS[launcher], str(processes)]
    command = [sys.executable, *begins, str(HERE / "two_processes.py"), str(folder), *words]
    command.append(f"outputs={folder / 'outputs'}")
    for run in runs:
        command += ["--", *run]
    settings = os.environ | {"KILLED_AFTER": str(killed_after)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE, env=settings, timeout=600)
    if killed_after:
        assert done.returncode != 0
        return [], {}
    assert done.returncode == 0, done.stderr[-3000:]
    digests = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    records = {json.loads(f.read_text())["method"]: f.parent for f in folder.glob("outputs/*/*/*/record.json")}
    return digests, records


def compared(methods, tiny_run, tmp_path):
    words = [w for w in tiny_run if not w.startswith("outputs=")]
    words += [f"model.path={without_dropout(tiny_run, tmp_path)}", "trainer.precision=fp32"]
    runs = [[f"method={name}", *FAST.get(name, [])] for name in methods]
    if "prefix_tuning" in methods:
        runs[methods.index("prefix_tuning")].append("method.dropout=0")
    (one,), alone = launched(tmp_path / "one", [*words, "trainer.micro_batch_size=8"], runs, processes=1)
    (first, second), together = launched(tmp_path / "two", words, runs)
    assert set(alone) == set(together) == set(methods)
    assert first == second
    assert {run: len(steps) for run, steps in one.items()} == {run: len(steps) for run, steps in first.items()}
    for name in methods:
        a, b = (json.loads((at[name] / "record.json").read_text()) for at in (alone, together))
        assert b["status"] == "completed"
        assert (a["environment"]["processes"], b["environment"]["processes"]) == (1, 2)
        for metric, value in a["metrics"]["validation"].items():
            assert b["metrics"]["validation"][metric] == pytest.approx(value, abs=1e-5), name
        assert a["ranks"] == b["ranks"]
        if name == "diff_pruning":  # Which elements it keeps is a choice between equals, and rounding may make it.
            continue
        # Adam turns a rounding of a gradient near zero into a step of the rate's size; scores do not see it.
        near = max(1e-3, 2 * a["config"]["optimizer"]["lr"])
        for key, tensor in tensors(alone[name]).items():
            torch.testing.assert_close(tensors(together[name])[key], tensor, rtol=0, atol=near, msg=f"{name} {key}")


def test_two_processes_are_one_run(tiny_run, tmp_path):
    compared(["sora", "adalora"], tiny_run, tmp_path)


@pytest.mark.long
def test_two_processes_are_one_run_for_every_method(tiny_run, tmp_path):
    pytest.importorskip("bitsandbytes")
    compared(list(METHODS), tiny_run, tmp_path)


@pytest.mark.long
def test_two_processes_killed_and_started_again_end_with_the_same_bits(tiny_run, tmp_path):
    """Dropout is on: each process goes on with its own random state."""
    words = [w for w in tiny_run if not w.startswith("outputs=")]
    words += ["trainer.epochs=3", "trainer.checkpoint_every=2", "trainer.precision=fp32"]
    runs = [["method=sora", *FAST["sora"]]]
    (whole, _), alone = launched(tmp_path / "whole", words, runs, launcher="accelerate")
    launched(tmp_path / "killed", words, runs, killed_after=7)
    ((place,), (file,)) = (
        [*(tmp_path / "killed").glob(f"outputs/**/{name}")] for name in ("checkpoint", "history.jsonl")
    )
    assert place.is_dir()
    assert file.is_file()
    (first, second), again = launched(tmp_path / "killed", words, runs)
    assert first == second
    (steps,), (of_whole,) = first.values(), whole.values()
    assert steps == of_whole[-len(steps) :]
    assert len(steps) == 6  # Twelve in all, and a checkpoint after the sixth.
    a, b = (json.loads((at["sora"] / "record.json").read_text()) for at in (alone, again))
    assert a["metrics"] == b["metrics"]
    assert all(torch.equal(tensors(alone["sora"])[key], value) for key, value in tensors(again["sora"]).items())


def test_a_sweep_of_launched_runs_is_refused(tiny_run, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.exit_status(["-m", "seed=0,1", *tiny_run]) == 2
    assert "launch its runs one by one" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_under_a_launcher_writes_and_speaks_once(launcher, tiny_run, tmp_path):
    command = [sys.executable, *LAUNCHERS[launcher], "2", "-m", "peftbench", "method=sora", *tiny_run]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len([line for line in done.stdout.splitlines() if line.startswith("record: ")]) == 1
    assert done.stdout.count("sora · ") == 1
    (file,) = tmp_path.glob("outputs/**/record.json")
    record = json.loads(file.read_text())
    assert (record["status"], record["environment"]["processes"]) == ("completed", 2)
    assert {path.name for path in tmp_path.glob("outputs/*/*/*")} == {file.parent.name}
