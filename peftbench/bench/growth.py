"""How time and memory of a step grow: with rank, sites, rows, length, and with the runs of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from peftbench.bench.measure import Ratio, in_turn, saved_megabytes
from peftbench.bench.models import Batch, loss, ours, step, stock
from peftbench.bench.sweeps import sweep
from peftbench.methods.parts.low_rank import ALL_SITES

RANKS = (1, 4, 16, 64)
SITES = tuple(range(1, len(ALL_SITES) + 1))
ROWS = (4, 16, 64)
LENGTHS = (16, 64, 256)
JOBS = 4


def measure(repeats: int, progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """SoRA's step in float32 against the frozen bound at the same batch; and what later runs of a sweep add."""
    frozen = stock()

    def point(section: str, what: str, rows: int, length: int, *overrides: str) -> Ratio:
        batch = Batch.of(rows, length)
        model, _ = ours("method=sora", *overrides)
        cases = {"ours": step(model, batch, False), "frozen": step(frozen, batch, False, frozen=True)}
        seconds = in_turn(cases, repeats, warmup=1)
        held = saved_megabytes(lambda: loss(model, batch, False))
        progress()
        told = f"{1e3 * seconds['ours']:.0f} ms, {held:.0f} MB kept for the backward pass"
        return Ratio(section, what, "frozen bound", seconds["ours"] / seconds["frozen"], detail=told)

    found = [point("growth with rank, six sites, 16 x 64 tokens", f"{r}", 16, 64, f"method.rank={r}") for r in RANKS]
    found += [
        point("growth with sites, rank 8, 16 x 64 tokens", f"{n}", 16, 64, f"method.sites=[{','.join(ALL_SITES[:n])}]")
        for n in SITES
    ]
    found += [point("growth with rows, rank 8, 64 tokens each", f"{n}", n, 64) for n in ROWS]
    found += [point("growth with length, rank 8, 8 rows", f"{n}", 8, n) for n in LENGTHS]
    return found + _sweep(progress)


def _sweep(progress: Callable[[], None]) -> list[Ratio]:
    """Peak memory and seconds before training of each run of one process, over the first one's."""
    words = ["task=mrpc", "data=sample", "method=sora", "trainer.max_steps=3", "trainer.progress=false"]
    _, records = sweep([*words, f"seed={','.join(map(str, range(JOBS)))}"])
    progress()
    peaks = [record["memory"]["peak_rss_mb"] for record in records]
    seconds = [record["timing"]["setup_s"] for record in records]
    return [
        Ratio("growth with the runs of a sweep", f"run {i + 1}", "run 1", peak / peaks[0],
              detail=f"{peak:.0f} MB at its peak, {ready:.2f} s before its first step")
        for i, (peak, ready) in enumerate(zip(peaks, seconds, strict=True))
    ]  # fmt: skip


def draw(ratios: Sequence[Ratio], file: Path) -> None:
    """The curves, one panel each, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    sections = [s for s in dict.fromkeys(r.section for r in ratios) if s.startswith("growth")]
    figure, axes = plt.subplots(1, len(sections), figsize=(3.2 * len(sections), 2.8), layout="constrained")
    for axis, section in zip(axes, sections, strict=True):
        of = [r for r in ratios if r.section == section]
        axis.plot([r.what.removeprefix("run ") for r in of], [r.value for r in of], marker="o", color="#0072B2")
        head, _, rest = section.removeprefix("growth with ").partition(", ")
        axis.set_xlabel(head)
        axis.set_title(rest, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds over the frozen bound")
    axes[-1].set_ylabel("peak memory over run 1")
    figure.savefig(file)
    plt.close(figure)
