"""How soon something happens: whole processes, from their first instruction."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from peftbench.backbones.origin import locate
from peftbench.bench.measure import Ratio
from peftbench.bench.sweeps import last_line, sweep
from peftbench.compose import compose_run
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import configured

SECTION = "start-up"
AT_ONCE = {
    "peftbench --help": ["--help"],
    "peftbench list methods": ["list", "methods"],
    "a group that is not there": ["method=sorra"],
    "a key that is not there": ["trainer.epoch=1"],
    "another method's key": ["method=bitfit", "method.rank=4"],
}
"""What has to come within a second: nothing of it needs torch."""
SOON = {"a value out of range": ["method.rank=0"], "a device that is not there": ["trainer.device=cuda"]}
"""Mistakes that are found before data or weights are touched, but with torch imported."""
_BRIEFLY = ["data.max_eval_rows=32", "trainer.max_steps=1", "trainer.log_every=1", "trainer.progress=false"]
# As many rows of the same length, and little that is trained, as an adapter is little.
_BARE = """
import torch, transformers, datasets, evaluate, accelerate
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({where!r})
model = AutoModelForSequenceClassification.from_pretrained({where!r}, num_labels=2)
for name, parameter in model.named_parameters():
    parameter.requires_grad_(name.endswith("query.bias") or not name.startswith("bert."))
batch = tokenizer(*{texts!r}, padding=True, truncation=True, max_length=128, return_tensors="pt")
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
model(**batch, labels=torch.zeros(32, dtype=torch.long)).loss.backward()
optimizer.step()
print("stepped", flush=True)
"""


def measure(repeats: int, source: Sequence[str], progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Seconds of what must come at once, the first step against a bare script's, a sweep's second run.

    Args:
        repeats: of a process.
        source: overrides that say where the data are. Of real data the task is SST-2, all 67,349 rows of it, whose
            tokens an earlier process has kept; of sample data MRPC.
        progress: called after every round.
    """
    run = [f"task={'mrpc' if 'data=sample' in source else 'sst2'}", *source, *_BRIEFLY]
    _first_step(run)
    found = []
    for what, words in (AT_ONCE | SOON).items():
        target = 1.0 if what in AT_ONCE else None
        seconds = statistics.median(_seconds(words) for _ in range(repeats if target else 1))
        found.append(Ratio(SECTION, what, "one second", seconds, target, detail=f"{seconds:.2f} s"))
        progress()
    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    script = _bare_script(run)
    turns = {"ours": lambda: _first_step(run), "bare": lambda: _bare(script)}
    for turn in range(repeats):
        for name in list(turns)[:: -1 if turn % 2 else 1]:
            taken[name].append(turns[name]())
        progress()
    ours, bare = (statistics.median(taken[name]) for name in ("ours", "bare"))
    told = f"{ours:.1f} against {bare:.1f} s"
    what = f"first optimizer step, {run[0].partition('=')[2]}"
    found.append(Ratio(SECTION, what, "a bare script", ours / bare, 1.3, detail=told))
    _, (_, second_run) = sweep([*run, "seed=0,1"])
    second = second_run["timing"]["setup_s"]
    found.append(Ratio(SECTION, "a sweep's second run", "one second", second, 1.0, detail=f"{second:.2f} s"))
    progress()
    return found


def _seconds(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "peftbench", *words], capture_output=True, check=False)
    return time.perf_counter() - began


def _first_step(run: Sequence[str]) -> float:
    """From the process's start to the first line that tells of a step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "peftbench", *run, f"outputs={folder}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not _has_stepped(Path(folder)):
                time.sleep(0.005)
            taken = time.perf_counter() - began
            _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {last_line(said)}")
        return taken


def _has_stepped(folder: Path) -> bool:
    return any(file.stat().st_size for file in folder.glob("*/*/*/history.jsonl"))


def _bare_script(run: Sequence[str]) -> str:
    """That of a run's first 32 rows."""
    config = compose_run(run)
    texts = [column[:32] for column in load_task(configured(config.task), config.task, config.data).train.texts]
    return _BARE.format(where=str(locate(config.model).folder or config.model.repo), texts=texts)


def _bare(script: str) -> float:
    command, environment = [sys.executable, "-c", script], os.environ | {"HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        stepped = process.stdout.readline()  # All that it says there.
        taken = time.perf_counter() - began
        _, said = process.communicate()
    if stepped != "stepped\n":
        raise RuntimeError(f"the bare script did not step: {last_line(said)}")
    return taken
