"""Every method side by side: read a folder of records, print a Markdown table.

    python scripts/methods_table.py outputs/methods [--step-times step_times.json]

Columns: each task's first metric on its selection split, mean over seeds (sd with n − 1, number of seeds), trained and
stored parameters outside the head, seconds per epoch of the last task and peak memory as recorded, and the step time
over LoRA's as `scripts/step_times.py` measured it side by side.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

Runs = dict[str, dict[str, list[dict[str, Any]]]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step-times", type=Path)
    given = parser.parse_args()
    runs = read(given.folder)
    times = json.loads(given.step_times.read_text(encoding="utf-8"))["methods"] if given.step_times else {}
    tasks = sorted({task for by_task in runs.values() for task in by_task}, reverse=True)
    heads = [f"{task} {runs_metric(runs, task)}" for task in tasks]
    columns = ["method", "lr", *heads, "trained", "stored", "s/epoch", "peak MB", "step ÷ lora"]
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (len(columns) - 1))
    for name in sorted(runs, key=lambda name: -scores(runs[name].get(tasks[0], []))[0]):
        print("| " + " | ".join(row(name, runs[name], tasks, times)) + " |")


def read(folder: Path) -> Runs:
    """Completed records by method and learning rate, then by task."""
    runs: Runs = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.rglob("record.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["status"] == "completed":
            name = record["method"]
            if name == "peft":
                name = f"peft ({record['config']['method']['config']['peft_type']})"
            runs[f"{name}@{record['config']['optimizer']['lr']:g}"][record["task"]].append(record)
    return runs


def runs_metric(runs: Runs, task: str) -> str:
    """The metric that the task's runs select by."""
    return next(r["selection"]["metric"] for by_task in runs.values() for r in by_task.get(task, []))


def scores(records: list[dict[str, Any]]) -> tuple[float, float | None, int]:
    """Mean, standard deviation (n − 1; None below two) and number of runs."""
    values = [record["objective"] for record in records]
    if not values:
        return float("-inf"), None, 0
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def row(name: str, by_task: dict[str, list[dict[str, Any]]], tasks: list[str], times: dict[str, Any]) -> list[str]:
    """One line's cells."""
    method, _, lr = name.partition("@")
    cells = []
    for task in tasks:
        mean, deviation, count = scores(by_task.get(task, []))
        spread = "" if deviation is None else f" ± {deviation:.4f}"
        cells.append("–" if not count else f"{mean:.4f}{spread} (n={count})")
    record = next(records[-1] for task in reversed(tasks) if (records := by_task.get(task)))
    parameters, epochs = record["parameters"], record["timing"]["epoch_s"]
    step = times.get(method, {}).get("over_lora")
    return [
        method, lr, *cells, f"{parameters['trained']:,}", f"{parameters['stored']:,}",
        f"{statistics.median(epochs):.0f}" if epochs else "–", f"{record['memory']['peak_rss_mb']:,.0f}",
        "–" if step is None else f"{step:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
