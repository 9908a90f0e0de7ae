"""Sweeps through Hydra's launchers: local processes, submitit's local executor, a local Ray cluster."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from peftbench.sweep.jobs import Stopped
from peftbench.sweep.ledger import Ledger, Outcome
from peftbench.sweep.workers import Workers, WorkersJob, _one_at_a_time, threads_of_a_job

GRID = ["method=lora,sora", "seed=0,1"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "hydra.launcher.cpus_per_task=1"]
RAY = [
    "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false",
    "+hydra.launcher.ray.remote.num_cpus=1",
]  # fmt: skip


def swept(words, timeout=600):
    """The sweep as a user runs it: exit status, standard output, standard error."""
    command = [sys.executable, "-m", "peftbench", "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def records(folder):
    return {f.parent.name: json.loads(f.read_text()) for f in folder.glob("**/record.json")}


def results(folder):
    return {run: (record["metrics"], record["ranks"], record["status"]) for run, record in records(folder).items()}


@pytest.fixture
def alone(tiny_run, tmp_path):
    words = [w for w in tiny_run if not w.startswith("outputs=")] + ["experiment_name=many"]
    status, out, _ = swept([*GRID, *words, f"outputs={tmp_path / 'alone'}"])
    assert status == 0, out
    return words, results(tmp_path / "alone")


def check(launcher, alone, tmp_path):
    words, expected = alone
    outputs = tmp_path / "many"
    status, out, err = swept([*launcher, *GRID, *words, f"outputs={outputs}"])
    assert status == 0, err[-3000:]
    assert "4 of 4 done" in out.splitlines()[-1]
    assert results(outputs) == expected
    assert not list(outputs.glob(".hydra/outcomes/*"))
    (manifest,) = outputs.glob("many/sweeps/*.json")
    told = json.loads(manifest.read_text())["runs"]
    assert {run["run_id"] for run in told} == set(expected)
    status, out, _ = swept([*launcher, *GRID, *words, f"outputs={outputs}"])
    assert (status, out.splitlines()[-1]) == (0, "4 of 4 done (4 before)")


@pytest.mark.long
def test_local_processes_leave_the_same_records(alone, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    check(JOBLIB, alone, tmp_path)


@pytest.mark.long
def test_submitit_leaves_the_same_records(alone, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    check(SUBMITIT, alone, tmp_path)


@pytest.mark.long
def test_a_ray_cluster_leaves_the_same_records(alone, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    check(RAY, alone, tmp_path)


@pytest.mark.long
def test_a_worker_that_is_killed_costs_no_run(alone, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words, expected = alone
    outputs = tmp_path / "many"
    command = [sys.executable, "-m", "peftbench", "-m", *JOBLIB, *GRID, *words, f"outputs={outputs}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        until = time.monotonic() + 120
        while not (begun := list(outputs.glob(".hydra/outcomes/*/.[0-9]*"))) and time.monotonic() < until:
            time.sleep(0.02)
        assert begun
        os.kill(workers_of(sweep.pid)[0], signal.SIGKILL)
        out, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, err[-3000:]
    assert "runs came back without a word" in err.replace("\n", " ")
    assert "4 of 4 done" in out.splitlines()[-1]
    assert results(outputs) == expected


def workers_of(parent):
    """Processes of joblib's pool that `parent` has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line, status = (process / "cmdline").read_bytes(), (process / "stat").read_text()
        except OSError:
            continue
        if b"popen_loky" in line and int(status.rpartition(")")[2].split()[1]) == parent:
            found.append(int(process.name))
    return found


def test_a_run_that_was_taken_for_lost_is_waited_for(tmp_path):
    order = []

    def second():
        with _one_at_a_time(tmp_path / ".0"):
            order.append("second")

    with _one_at_a_time(tmp_path / ".0"):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]


@pytest.mark.parametrize("ended", ["over", "stopped"])
def test_a_job_that_comes_from_the_queue_after_its_sweep_runs_nothing(ended, tmp_path, monkeypatch):
    """Its configuration is empty: a job that looked for its run would fail by that."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": {"job": {"num": 0}}}))
    folder = tmp_path / "outcomes"
    if ended == "stopped":
        folder.mkdir()
        (folder / "stop").touch()
    assert math.isnan(WorkersJob(str(folder), 1)(OmegaConf.create()))
    assert [file.name for file in folder.glob("*")] == (["stop"] if ended == "stopped" else [])


@pytest.mark.long
def test_a_failed_run_is_told_once_and_kept(tiny_run, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [*JOBLIB, "method=lora", "optimizer.lr=1e-3,1e30", *tiny_run]
    status, out, err = swept(words)
    assert status == 1
    assert "1 of 2 done, 1 diverged" in out.splitlines()[-1]
    assert err.count("peftbench: error: diverged at step") == 1
    assert sorted(record["status"] for record in records(tmp_path).values()) == ["completed", "diverged"]


@pytest.mark.long
def test_a_sweep_that_stops_at_a_failure_stops_its_workers_and_tells_which_run_it_was(tiny_run, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    rates = ",".join(["1e30", *(f"{n}e-4" for n in range(1, 8))])
    status, out, err = swept([*JOBLIB, "sweep.on_error=stop", "method=lora", f"optimizer.lr={rates}", *tiny_run])
    assert status == 1
    assert ", 1 diverged, " in out.splitlines()[-1]
    assert " left" in out.splitlines()[-1]
    assert err.count("peftbench: error: diverged at step") == 1
    (manifest,) = tmp_path.glob("outputs/*/sweeps/*.json")
    ended = [run["status"] for run in json.loads(manifest.read_text())["runs"]]
    assert ended.count("diverged") == 1
    assert len(records(tmp_path)) == len(ended) < 8


class Lossy:
    """A launcher whose workers die before they have written a word, the first `deaths` times."""

    def __init__(self, folder, deaths):
        self.folder, self.deaths, self.launched = folder, deaths, []

    def launch(self, job_overrides, initial_job_idx):
        for i, words in enumerate(job_overrides):
            number = initial_job_idx + i
            self.launched.append(number)
            if self.launched.count(number) <= self.deaths.get(number, 0):
                continue
            self.folder.mkdir(exist_ok=True)
            outcome = {"overrides": words, "task": "t", "method": "m", "model": "b", "seed": number}
            outcome |= {"status": "completed", "objective": number / 10, "metric": "f1"}
            (self.folder / f"{number}.json").write_text(json.dumps(outcome))
        if any(self.launched.count(n) <= d for n, d in self.deaths.items()):
            raise RuntimeError("a worker died\nat length")


def workers(launcher, ledger, on_error="continue"):
    """In place of `launcher`; every run is of one configuration."""

    def composed(words):
        of = {name: SimpleNamespace(name=name[0]) for name in ("task", "model")}
        of["sweep"] = SimpleNamespace(on_error=on_error)
        return SimpleNamespace(**of, method_name="m", seed=7, outputs=launcher.folder, experiment_name="e")

    return Workers(launcher, launcher.folder, ledger, composed)


def test_a_lost_workers_run_is_started_again(tmp_path, capsys):
    ledger = Ledger([], total=3)
    launcher = Lossy(tmp_path / "outcomes", {1: 1})
    returned = workers(launcher, ledger).launch([["a=1"], ["a=2"], ["a=3"]], 0)
    assert launcher.launched == [0, 1, 2, 1]
    assert [job.return_value for job in returned] == [0.0, 0.1, 0.2]
    assert [outcome.seed for outcome in ledger.outcomes] == [0, 2, 1]
    assert "1 runs came back without a word: a worker died; starting them again" in capsys.readouterr().err
    assert not launcher.folder.exists()


def test_a_run_that_takes_its_whole_launch_with_it_costs_the_others_nothing(tmp_path, capsys):
    class Joblibs(Lossy):
        """As joblib's: where one worker dies all do, and what was not begun never is."""

        def launch(self, job_overrides, initial_job_idx):
            for number, words in enumerate(job_overrides, initial_job_idx):
                super().launch([words], number)

    ledger = Ledger([], total=4)
    launcher = Joblibs(tmp_path / "outcomes", {0: 9})
    lost, *others = workers(launcher, ledger).launch([["a=1"], ["a=2"], ["a=3"], ["a=4"]], 0)
    assert launcher.launched == [0, 0, 1, 2, 3, 0]
    assert lost.return_value != lost.return_value
    assert [job.return_value for job in others] == [0.1, 0.2, 0.3]
    assert "its worker was lost 3 times: a worker died (a=1)" in capsys.readouterr().err


@pytest.mark.long
def test_workers_take_a_device_each(tmp_path):
    """Each in a process of its own, with the devices that it inherits, twice, as for two runs."""
    script = (
        "import os, sys; from pathlib import Path; from peftbench.sweep import workers\n"
        "for _ in range(2): workers._pin(Path(sys.argv[1]))\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "sweep")]
    settings, taken, alive = os.environ | {"CUDA_VISIBLE_DEVICES": "2,3"}, [], []
    for _ in range(3):
        alive.append(subprocess.Popen(command, env=settings, stdin=-1, stdout=-1, text=True))
        taken.append(alive[-1].stdout.readline().strip())
    for process in alive:
        process.communicate(timeout=60)
    assert taken == ["2", "3", "2"]


def test_a_run_that_is_lost_again_and_again_is_given_up(tmp_path, capsys):
    ledger = Ledger([], total=2)
    launcher = Lossy(tmp_path / "outcomes", {0: 9})
    first, second = workers(launcher, ledger).launch([["a=1"], ["a=2"]], 0)
    assert launcher.launched == [0, 1, 0, 0]
    assert first.return_value != first.return_value
    assert second.return_value == 0.1
    assert ledger.status == 1
    assert "its worker was lost 3 times: a worker died (a=1)" in capsys.readouterr().err
    assert [(outcome.overrides, outcome.status) for outcome in ledger.outcomes] == [
        (["a=2"], "completed"),
        (["a=1"], "failed"),
    ]


def test_every_lost_run_is_told_before_the_sweep_stops_for_it(tmp_path, capsys):
    ledger = Ledger([], total=3)
    launcher = Lossy(tmp_path / "outcomes", {0: 9, 2: 9})
    with pytest.raises(Stopped):
        workers(launcher, ledger, on_error="stop").launch([["a=1"], ["a=2"], ["a=3"]], 0)
    assert sorted((outcome.overrides[0], outcome.status) for outcome in ledger.outcomes) == [
        ("a=1", "failed"), ("a=2", "completed"), ("a=3", "failed"),
    ]  # fmt: skip
    told = capsys.readouterr().err
    assert "a worker died (a=1)" in told
    assert "a worker died (a=3)" in told


def test_outcomes_are_entered_while_the_launcher_is_busy(tmp_path):
    ledger, seen, threads = Ledger([], total=2), [], threading.active_count()

    class Slow(Lossy):
        def launch(self, job_overrides, initial_job_idx):
            super().launch(job_overrides[:1], initial_job_idx)
            until = time.monotonic() + 20
            while not ledger.outcomes and time.monotonic() < until:
                time.sleep(0.05)
            seen.append(len(ledger.outcomes))
            super().launch(job_overrides[1:], initial_job_idx + 1)

    launcher = Slow(tmp_path / "outcomes", {})
    workers(launcher, ledger).launch([["a=1"], ["a=2"]], 5)
    assert seen == [1]
    assert [outcome.status for outcome in ledger.outcomes] == ["completed", "completed"]
    assert isinstance(ledger.outcomes[0], Outcome)
    assert threading.active_count() == threads  # The one that looked is gone.


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"joblib": {"n_jobs": 2}}, max(1, (os.cpu_count() or 1) // 2)),
        ({"joblib": {"n_jobs": -1}}, 1),
        ({"joblib": {"n_jobs": 10_000}}, 1),
        ({"ray_cfg": {"remote": {"num_cpus": 3}}}, 3),
        ({"params": {"cpus_per_task": 5}}, 5),
        ({"params": {"cpus_per_task": None}}, 1),
    ],
)
def test_threads_are_what_the_launcher_keeps_for_a_job(settings, threads):
    assert threads_of_a_job(type("Launcher", (), settings)()) == threads
