"""How fast it is on this machine: python scripts/bench.py [--size small|usual|long] [--only ...] [--tasks ...].

Every figure is a ratio of two things that took turns. `small` is CI's, `usual` (`make bench`) takes ten minutes on two
cores with instructions for bfloat16 and twice as long on some without; `long` trains epochs of four tasks (10,000 rows
of SST-2) with three seeds and writes a hundred texts.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from peftbench.backbones.loading import quiet_transformers
from peftbench.bench import epochs, growth, latency, memory, startup, steps, table, workers, writing
from peftbench.bench.measure import Ratio
from peftbench.environment import environment
from peftbench.training.meter import reset_peak_memory

Section = Callable[["Size", list[str], Callable[[], None]], list[Ratio]]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        repeats: of a step.
        few: repeats of what takes longer; below `long` they are too few for a median to be trusted.
        tasks, rows, seeds, epochs: of trainings; rows None: all that the task is measured with.
        texts: that are written.
    """

    repeats: int
    few: int
    tasks: tuple[str, ...]
    rows: int | None
    seeds: tuple[int, ...]
    epochs: int
    texts: int


SIZES = {
    "small": Size(2, 1, ("mrpc",), 64, (0,), 1, 2),
    "usual": Size(10, 2, ("mrpc", "cola"), 96, (0,), 1, 2),
    "long": Size(20, 10, tuple(epochs.TASKS), None, (0, 21, 42), 1, 100),
}
SECTIONS: dict[str, Section] = {
    "steps": lambda size, source, done: steps.measure(size.repeats, done),
    "epochs": lambda size, source, done: epochs.measure(size.tasks, source, size.seeds, size.epochs, done, size.rows),
    "startup": lambda size, source, done: startup.measure(size.few, source, done),
    "latency": lambda size, source, done: latency.measure(size.few, done),
    "writing": lambda size, source, done: writing.measure(size.texts, source, done),
    "memory": lambda size, source, done: memory.measure(size.few, done),
    "workers": lambda size, source, done: workers.measure(60, source, done),
    "growth": lambda size, source, done: growth.measure(size.few, done),
}


def main() -> None:
    """Measure what the command line asks for; show it and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="usual")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="section")
    parser.add_argument(
        "--tasks", nargs="+", choices=epochs.TASKS, help="whose epochs are timed, instead of the size's"
    )
    parser.add_argument("--to", type=Path, default=Path("outputs/bench"), help="folder of bench.json and growth.svg")
    arguments = parser.parse_args()
    arguments.only = arguments.only or [name for name in SECTIONS if name != "workers" or arguments.size == "long"]
    size = SIZES[arguments.size]
    size = replace(size, tasks=tuple(arguments.tasks)) if arguments.tasks else size
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # What is compared runs on the CPU, in other processes too.
    quiet_transformers()
    warnings.simplefilter("ignore", FutureWarning)  # HF PEFT's of transformers, for every model that it wraps.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # Of kernels that are not used here.
    root = os.environ.get("PEFTBENCH_DATA")
    source = ["data=folder", f"data.root={root}"] if root else ["data=sample"]
    found: list[Ratio] = []
    machine = environment() | {"size": arguments.size, "data": source[0], "seconds": {}}
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    for name in arguments.only:
        reset_peak_memory()  # What an earlier section had is given back.
        began = time.perf_counter()
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(f"measuring {name}", total=None)
            of_section = SECTIONS[name](size, source, lambda p=progress, t=task: p.advance(t))
        found += of_section
        table.show(of_section)
        machine["seconds"][name] = round(time.perf_counter() - began)
        table.write(found, machine, arguments.to / "bench.json")
    if "growth" in arguments.only:
        growth.draw(found, arguments.to / "growth.svg")
    table.tell(found, machine)
    print(f"written to {arguments.to}/bench.json")


if __name__ == "__main__":
    main()
