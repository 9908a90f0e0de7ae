"""What people see: progress while a run trains, a small table when it is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from peftbench.config import TrainerConfig
from peftbench.processes import is_main
from peftbench.record import RunFolder

if TYPE_CHECKING:
    from peftbench.tracking import Tracking
    from peftbench.training.loop import LoopState, Plan


@cache
def screen() -> Console:
    """Standard error, where progress goes; one for all, so that a run's bar stands inside a sweep's table."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True, quiet=not is_main())


def complain(message: str) -> None:
    """One line on standard error, in the words that every error begins with."""
    screen().print(f"peftbench: error: {' '.join(message.split())}")


def warned(message: str) -> None:
    """One line on standard error and in the run's log: the run goes on."""
    logging.getLogger("peftbench").warning("%s", message)
    screen().print(f"peftbench: warning: {' '.join(message.split())}")


def paper() -> Console:
    """Standard output, where results go; wide where it is not a terminal, so that files and pipes get whole lines."""
    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True, "quiet": not is_main()}
    out = Console(**plain)
    return out if out.is_terminal else Console(**plain, width=160)


class RunReporter:
    """The loop's reporter: a progress bar on a terminal, a line per evaluation elsewhere, always the history file.

    Args:
        folder: where `history.jsonl` lies.
        settings: the trainer's.
        plans: the stages.
        metric: the one that selects, and is shown.
        record: as far as it is known.
        tracking: is sent what the history file gets.
        brief: one run of a sweep: neither opening lines nor, off a terminal, one per evaluation.
    """

    def __init__(
        self,
        folder: RunFolder,
        settings: TrainerConfig,
        plans: Sequence[Plan],
        metric: str,
        record: Mapping[str, Any],
        tracking: Tracking,
        brief: bool = False,
    ):
        self._metric = metric
        self._kind = record["data"]["kind"]
        self._folder = folder
        self._console = screen()
        self._plans = plans
        self._plan = plans[0]
        self._last: dict[str, Any] = {}
        self._bar: Progress | None = None
        self._writing: dict[str, Any] = {}
        if settings.progress and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("left"),
                TextColumn("{task.fields[facts]}"),
                console=self._console,
                transient=brief,
            )
        self._settings = settings
        self._brief = brief
        self._tracking = tracking
        if not brief:
            self._opening(record)

    def _opening(self, record: Mapping[str, Any]) -> None:
        config, data = record["config"], record["data"]
        preset = f", preset {config['preset']}" if config["preset"] else ""
        self._console.print(
            f"{record['task']} · {record['method']} · {config['model']['name']} · seed {record['seed']} ·"
            f" lr {config['optimizer']['lr']:g}{preset}"
        )
        self._console.print(f"data: {data_line(data)}")
        self._console.print(f"run: {self._folder.path}")

    def __enter__(self) -> RunReporter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def stage(self, plan: Plan, state: LoopState) -> None:
        """A stage begins, or goes on from a checkpoint."""
        self._plan = plan
        self._tracking.stage(sum(before.total_steps for before in self._plans[: plan.index]))
        if state.step:
            self._console.print(f"resuming {plan.name} at step {state.step} of {plan.total_steps}")
        if self._bar:
            label = plan.name if len(self._plans) == 1 else f"{plan.index + 1}/{len(self._plans)} {plan.name}"
            self._task = self._bar.add_task(label, total=plan.total_steps, completed=state.step, facts="")

    def advance(self, steps: int) -> None:
        """Steps taken since the last call."""
        if self._bar:
            self._bar.advance(self._task, steps)

    def writing(self, split: str, done: int, rows: int) -> None:
        """So many of a split's texts are written."""
        if self._bar:
            if split not in self._writing:
                self._writing[split] = self._bar.add_task(f"writing {split}", total=rows, facts="")
            self._bar.update(self._writing[split], completed=done, total=rows)

    def step(self, progress: LoopState, loss: float, status: Mapping[str, Any]) -> None:
        """A logged step."""
        self._last |= {"loss": loss, **status}
        self._write("step", progress, loss=loss, **status)
        self._last.pop("penalty", None)
        self._show()

    def evaluation(self, progress: LoopState, metrics: Mapping[str, float], status: Mapping[str, Any]) -> None:
        """An evaluation on the selection split."""
        self._last |= {self._metric: metrics[self._metric], **status}
        self._write("evaluation", progress, **metrics, **status)
        self._show()
        if not self._bar and self._settings.progress and not self._brief:
            stage = f"{self._plan.name} " if len(self._plans) > 1 else ""
            mark = "" if self._kind == "benchmark" else f"  ({self._kind} data)"
            self._console.print(f"{stage}step {progress.step}/{self._plan.total_steps}  {facts(self._last)}{mark}")

    def epoch(self, progress: LoopState, seconds: float) -> None:
        """The end of an epoch."""
        self._write("epoch", progress, epoch=progress.epoch, seconds=round(seconds, 3))

    def _write(self, kind: str, progress: LoopState, **values: Any) -> None:
        self._folder.append_history(kind=kind, data=self._kind, stage=self._plan.index, step=progress.step, **values)
        self._tracking.log(kind, progress.step, values)

    def _show(self) -> None:
        if self._bar:
            self._bar.update(self._task, facts=facts(self._last))


def facts(values: Mapping[str, Any]) -> str:
    """`loss 0.412  accuracy 0.787  zero ranks 73/288`."""
    shown = []
    for key, value in values.items():
        if key in ("zero_ranks", "live_ranks"):
            shown.append(f"{key.replace('_', ' ')} {value}/{values['ranks']}")
        elif key != "ranks":
            shown.append(f"{key.replace('_correlation', '')} {value:.3f}")
    return "  ".join(shown)


def data_line(data: Mapping[str, Any]) -> str:
    """Where the rows are from, and in words whether they are the benchmark's."""
    line = f"{data['source']}, protocol {data['protocol']}"
    if data["kind"] == "sample":
        return f"{line}: SAMPLE sentences made by peftbench, not the benchmark"
    if data["kind"] == "partial":
        return f"{line}: PARTIAL, not the benchmark ({'; '.join(data['notes'])})"
    if data["kind"] == "unchecked":
        return f"{line}: UNCHECKED, no official count of its rows is known{_told(data['notes'])}"
    return line + _told(data["notes"])


def _told(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def result_table(record: Mapping[str, Any]) -> Table:
    """The result of a completed run."""
    kind = record["data"]["kind"]
    mark = "" if kind == "benchmark" else f" on {kind.upper()} data"
    mark += " with RANDOM weights" if record["model"]["source"] == "random" else ""
    model = record["model"]["name"] + (" from " + record["model"]["folder"] if "folder" in record["model"] else "")
    table = Table(title=f"{record['task']} · {record['method']} · {model}{mark}", title_justify="left")
    beside = _beside(record)
    table.add_column("what")
    for name in ("value", *beside):
        table.add_column(name, justify="right")
    selection = record["selection"]
    for split, metrics in record["metrics"].items():
        for name, value in metrics.items():
            chosen = (split, name) == (selection["split"], selection["metric"])
            others = [_score(scores.get(split, {}).get(name, "")) for scores in beside.values()]
            table.add_row(f"{split} {name}" + (" (selects)" if chosen else ""), _score(value), *others)
    if record["ranks"]:
        initial, final = (sum(record["ranks"][k].values()) for k in ("initial", "final"))
        table.add_row("ranks before → after", f"{initial} → {final}")
        gone = sum(1 for rank in record["ranks"]["final"].values() if not rank)
        if gone:
            table.add_row("sites without rank", f"{gone} of {len(record['ranks']['final'])}")
    parameters = record["parameters"]
    for key in ("trained", "effective", "head"):
        table.add_row(f"parameters {key}", f"{parameters[key]:,}")
    timing = record["timing"]
    if timing["epoch_median_s"] is not None:
        table.add_row("seconds per epoch", f"{timing['epoch_median_s']:.1f}")
    else:
        table.add_row("seconds of training", f"{timing['train_s']:.1f} (no whole epoch)")
    if timing["tokens_per_s"] is not None:
        table.add_row("seconds per step", f"{timing['step_mean_s']:.3g}")
        table.add_row("tokens per second", f"{timing['tokens_per_s']:,.0f}")
    table.add_row("checkpoint", f"{selection['rule']}, step {selection['step']}")
    return table


def _beside(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scores to read the result against, by the column's name: by split, by metric."""
    found = {"untrained": record["untrained"]} if "untrained" in record else {}
    baselines = record.get("baselines") or {}
    for name in ("majority", "random"):
        if any(baselines.values()):
            found[name] = {split: scores[name] for split, scores in baselines.items() if scores}
    return found


def _score(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "not computed" if value is None else f"{value:.4f}"


def stage_table(stages: Sequence[Mapping[str, Any]], kind: str) -> Table:
    """Algorithm 1's curve on `kind` data: one row per stage."""
    mark = "" if kind == "benchmark" else f" on {kind.upper()} data"
    table = Table(title=f"stages{mark}", title_justify="left")
    for name in ("stage", "effective parameters", "live ranks", "generalization %", "memorization %"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in stages:
        shares = [f"{stage[k]:.1f}" if stage[k] is not None else "–" for k in ("generalization", "memorization")]
        table.add_row(
            stage["name"], f"{stage['parameters']['effective']:,}", str(sum(stage["ranks"].values())), *shares
        )  # fmt: skip
    return table


def show_result(record: Mapping[str, Any], path: str) -> None:
    """Print the result to standard output, the record's path last."""
    out = paper()
    out.print(result_table(record))
    if record.get("stages"):
        out.print(stage_table(record["stages"], record["data"]["kind"]))
    for flag in record.get("flags", ()):
        out.print(f"note: {flag}")
    if record.get("reused"):
        out.print("already completed; nothing was run again")
    out.print(f"record: {path}")
