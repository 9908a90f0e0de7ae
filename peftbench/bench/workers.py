"""A sweep's runs in two local processes against one: what the second one brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftbench.bench.measure import Ratio
from peftbench.bench.sweeps import sweep

_RUNS = ["task=mrpc", "method=lora,sora", "seed=0,1,2,3", "trainer.threads=1", "trainer.progress=false"]


def measure(steps: int, source: Sequence[str], progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Seconds of the same eight runs through Hydra's joblib launcher, one thread each, and the efficiency of two.

    Args:
        steps: of each run.
        source: overrides that say where the data are.
        progress: called after each sweep.
    """
    seconds = {}
    for workers in (1, 2):
        launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
        seconds[workers], _ = sweep([*launcher, *_RUNS, *source, f"trainer.max_steps={steps}"])
        progress()
    section = f"a sweep of 8 runs of {steps} steps, MiniLM, one thread each (joblib)"
    told = f"{seconds[2]:.0f} against {seconds[1]:.0f} s, start-up included"
    return [
        Ratio(section, "two workers", "one", seconds[2] / seconds[1], detail=told),
        Ratio(section, "efficiency of two workers", "one", seconds[1] / (2 * seconds[2]), detail="speed-up over two"),
    ]
