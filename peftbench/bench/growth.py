"""How time and memory of a step grow: with rank, sites, rows, length, and with the runs of one process."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from peftbench.backbones.families import ROLES
from peftbench.bench.measure import Ratio, in_turn, peak_megabytes
from peftbench.bench.models import Batch, frozen_bound, step, trained
from peftbench.bench.sweeps import sweep

RANKS = (1, 8, 16, 64)
SITES = (1, 3, 4, 6)
ROWS = (2, 8, 32)
LENGTHS = (16, 64, 256)
JOBS = 3
TIME, MEMORY = "growth of time with ", "growth of memory with "
"""Beginnings of the sections' names; what follows is the same of both."""


def measure(repeats: int, progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """SoRA's steps in float32 against the frozen bound's of the same batch; and a sweep's later runs.

    The bound drops as we do, so that what grows is the adapter's share. Memory is a step's peak besides the weights,
    over the bound's too; of a sweep's runs the process's peak.
    """
    frozen = frozen_bound(cheap=True)

    @functools.cache  # The curves meet in one point.
    def measured(rows: int, length: int, rank: int, sites: int) -> tuple[dict[str, float], float, float]:
        batch = Batch.of(rows, length)
        words = (f"method.rank={rank}", f"method.sites=[{','.join(ROLES[:sites])}]")
        sora = trained("trainer.head=freeze", "method=sora", *words)
        cases = {"ours": lambda: sora.step(batch, False), "frozen": step(frozen, batch, False)}
        peak, least = map(peak_megabytes, cases.values())
        seconds = in_turn(cases, repeats, warmup=0)  # Counting the memory has warmed them up.
        progress()
        return seconds, peak, least

    def point(of: str, what: object, rows: int = 8, length: int = 64, rank: int = 8, sites: int = 6) -> list[Ratio]:
        seconds, peak, least = measured(rows, length, rank, sites)
        told = f"{1e3 * seconds['ours']:.0f} against {1e3 * seconds['frozen']:.0f} ms"
        against, value = "frozen bound, our dropout", seconds["ours"] / seconds["frozen"]
        return [
            Ratio(TIME + of, str(what), against, value, detail=told),
            Ratio(MEMORY + of, str(what), against, peak / least, detail=f"{peak:.0f} against {least:.0f} MB"),
        ]

    found = [point("rank, six sites, 8 x 64 tokens", n, rank=n) for n in RANKS]
    found += [point("sites, rank 8, 8 x 64 tokens", n, sites=n) for n in SITES]
    found += [point("rows, rank 8, 64 tokens each", n, rows=n) for n in ROWS]
    found += [point("length, rank 8, 8 rows", n, length=n) for n in LENGTHS]
    return sorted([*itertools.chain(*found), *_sweep(progress)], key=lambda ratio: ratio.section.startswith(MEMORY))


def _sweep(progress: Callable[[], None]) -> list[Ratio]:
    """Seconds before training and peak memory of each run of one process, over the first one's."""
    words = ["task=mrpc", "data=sample", "method=sora", "trainer.max_steps=3", "trainer.progress=false"]
    _, records = sweep([*words, f"seed={','.join(map(str, range(JOBS)))}"])
    progress()
    peaks = [record["memory"]["peak_rss_mb"] for record in records]
    seconds = [record["timing"]["setup_s"] for record in records]
    told = ("{:.2f} s before its first step", "{:.0f} MB at its peak")
    return [
        Ratio(f"{growth}the runs of a sweep", str(i + 1), "run 1", value / values[0], detail=detail.format(value))
        for growth, values, detail in zip((TIME, MEMORY), (seconds, peaks), told, strict=True)
        for i, value in enumerate(values)
    ]


def draw(ratios: Sequence[Ratio], file: Path) -> None:
    """The curves as SVG, one panel each: time above memory."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    of = {s: [r for r in ratios if r.section == s] for s in dict.fromkeys(r.section for r in ratios)}
    subjects = [s.removeprefix(TIME) for s in of if s.startswith(TIME)]
    size = (3.2 * len(subjects), 5.2)
    figure, axes = plt.subplots(2, len(subjects), figsize=size, layout="constrained", squeeze=False, sharex="col")
    for growth, row in zip((TIME, MEMORY), axes, strict=True):
        for axis, subject in zip(row, subjects, strict=True):
            points = of[growth + subject]
            axis.plot([r.what for r in points], [r.value for r in points], marker="o", color="#0072B2")
            axis.set_ylim(0, 1.1 * max(r.value for r in points))
            axis.grid(alpha=0.3)
            against = points[0].against.partition(",")[0]
            axis.set_ylabel(f"{'time' if growth == TIME else 'memory'} over {against}'s", fontsize=8)
    for above, below, subject in zip(*axes, subjects, strict=True):
        head, _, rest = subject.partition(", ")
        above.set_title(rest, fontsize=8)
        below.set_xlabel(head)
    figure.savefig(file)
    plt.close(figure)
