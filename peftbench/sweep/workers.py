"""Runs of a sweep in processes and machines that one of Hydra's launchers starts.

A worker leaves how its run ended in a file, where the sweep's own process finds it: the table grows while the launcher
is busy, whatever the launcher, and a run whose worker was lost is known by its missing file and started again.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import json
import math
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from hydra.core.utils import JobReturn, JobStatus

from peftbench.config import RunConfig
from peftbench.console import warned
from peftbench.durable import write_text
from peftbench.environment import prepare_process
from peftbench.errors import first_line
from peftbench.sweep.jobs import Jobs, Stopped
from peftbench.sweep.ledger import Ledger, Outcome

ATTEMPTS = 3
"""How often a run is started whose worker is lost."""
_STOP = "stop"
"""File that says: a run has failed, and sweep.on_error=stop."""
_EVERY = 0.5
"""Seconds between looks for runs that have ended."""


@dataclass(frozen=True)
class WorkersJob:
    """What a launcher's worker does with one run. It travels there, and holds nothing but words.

    Attributes:
        folder: where its outcome goes. threads: CPU threads of a run that does not say.
        pins: whether each worker takes one device for itself; Ray and Slurm give theirs out.
    """

    folder: str
    threads: int
    pins: bool = False

    def __call__(self, node: Any) -> float:
        """Carry the run out; its objective, or NaN. Nothing is run once the sweep is over or is to stop."""
        from hydra.core.hydra_config import HydraConfig

        from peftbench.compose import from_hydra

        own, folder = HydraConfig.get(), Path(self.folder)
        if not folder.is_dir() or (folder / _STOP).exists():
            return math.nan
        os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))
        prepare_process()
        if self.pins:
            _pin(folder)
        jobs, value, stop = _jobs(), math.nan, False
        with _one_at_a_time(folder / f".{own.job.num}"):
            try:
                value = jobs.carry_out(from_hydra(node, own), list(own.overrides.task))
            except Stopped:
                stop = True
            outcome = asdict(jobs.ledger.outcomes[-1])
            if folder.is_dir():  # Else the sweep has ended meanwhile, and the record is all that is left to tell.
                write_text(folder / f"{own.job.num}.json", json.dumps(outcome) + "\n")
                if stop:
                    write_text(folder / _STOP, "")
        return value


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait for a worker that is at this run already: one that was taken for lost and was not, whose record then serves.

    A launcher may come back when one job has died and leave the others running or queued (submitit's).
    """
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@functools.cache  # Which holds the lock for as long as the process lives.
def _pin(folder: Path) -> TextIO | None:
    """One device for this worker, the first that the fewest others have; its lock. None: there is no choice.

    Args:
        folder: of the sweep; holds the locks.
    """
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = listed.split(",") if listed else [str(i) for i in range(torch.cuda.device_count())]
    if len(devices) < 2:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for others, device in ((n, device) for n in itertools.count() for device in devices):
        lock = (folder / f".{socket.gethostname()}-{device}-{others}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return lock
    raise AssertionError


@functools.cache
def _jobs() -> Jobs:
    """This worker's, which holds for the next run what one has loaded."""
    return Jobs(Silent([]))


class Silent(Ledger):
    """A worker's ledger: it shows and writes nothing, for the sweep's own does."""

    def end(self, outcome: Outcome) -> None:
        """Nothing: the outcome travels in its file."""

    def tell(self, message: str) -> None:
        """Nothing: the message travels with it."""


class Workers:
    """In the launcher's place: launches, enters outcomes as they come, and launches lost runs again.

    Args:
        launcher: Hydra's, ready to launch a `WorkersJob`.
        folder: where outcomes are found; emptied at the end.
        ledger: is told.
        composed: a run's configuration, of its words.
    """

    def __init__(self, launcher: Any, folder: Path, ledger: Ledger, composed: Callable[[Sequence[str]], RunConfig]):
        self._launcher, self._folder, self._ledger, self._composed = launcher, folder, ledger, composed
        self._seen: dict[int, Outcome] = {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Every run, and how it ended, in the order of the words.

        Raises:
            Stopped: a run failed and the sweep is to end at that.
        """
        missing = {initial_job_idx + i: list(words) for i, words in enumerate(job_overrides)}
        numbers = list(missing)
        self._folder.mkdir(parents=True, exist_ok=True)  # Without it a job that starts late knows that all is over.
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            for attempt in range(ATTEMPTS):
                trouble = self._try(missing, together=attempt == 0)
                if (self._folder / _STOP).exists():
                    raise Stopped
                missing = {number: words for number, words in missing.items() if number not in self._seen}
                if not missing:
                    break
                told = f": {trouble}" if trouble else ""
                if attempt + 1 < ATTEMPTS:
                    warned(f"{len(missing)} runs came back without a word{told}; starting them again")
                else:
                    self._give_up(missing, f"its worker was lost {ATTEMPTS} times{told}")
        return [_returned(self._seen[number]) for number in numbers]

    def _give_up(self, runs: dict[int, list[str]], why: str) -> None:
        """Every one of them is entered as failed, and then the sweep stops where one asks for it."""
        stop = False
        for number, words in runs.items():
            config = self._composed(words)
            self._seen[number] = outcome = self._ledger.begin(words, config)
            outcome.status, outcome.message = "failed", why
            self._ledger.tell(f"{why} ({' '.join(words)})")
            self._ledger.end(outcome)
            stop |= config.sweep.on_error == "stop"
        if stop:
            raise Stopped

    def _try(self, runs: dict[int, list[str]], together: bool) -> str:
        """Every run launched once, watched; the launcher's last complaint, if any.

        Args:
            runs: words by number.
            together: in one launch where numbers allow it. A worker that dies may take the whole launch with it
                (joblib's do), so what came back without a word goes one by one.
        """
        done, trouble = threading.Event(), ""
        watcher = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watcher.start()
        batches = [(min(runs), list(runs.values()))] if together else [(n, [words]) for n, words in runs.items()]
        try:
            for first, batch in batches:
                try:
                    self._launcher.launch(batch, initial_job_idx=first)
                except Exception as error:  # Every launcher has errors of its own for a worker that died.
                    trouble = first_line(error)
        finally:
            done.set()
            watcher.join()
        self._collect()
        return trouble

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(_EVERY):
            self._collect()

    def _collect(self) -> None:
        for file in sorted(self._folder.glob("*.json"), key=lambda f: int(f.stem)):
            number = int(file.stem)
            if number not in self._seen:
                self._seen[number] = self._ledger.enter(Outcome(**json.loads(file.read_text(encoding="utf-8"))))


def _returned(outcome: Outcome) -> JobReturn:
    found = JobReturn()
    found.status = JobStatus.COMPLETED
    found.return_value = math.nan if outcome.objective is None else outcome.objective
    return found


def threads_of_a_job(launcher: Any) -> int:
    """CPU threads of one job: what the launcher's settings reserve for it, else an equal part of this machine's cores.

    Args:
        launcher: Hydra's, or its configuration.
    """
    joblib, ray = getattr(launcher, "joblib", None), getattr(launcher, "ray_cfg", None)
    cores = os.cpu_count() or 1
    if joblib is not None:
        workers = int(joblib.get("n_jobs") or 1)
        return max(1, cores // (workers if workers > 0 else cores))
    if ray is not None:
        return max(1, int((ray.get("remote") or {}).get("num_cpus") or 1))
    params = getattr(launcher, "params", {})
    return max(1, int(params.get("cpus_per_task") or 1))
