"""Where a run lies: in a folder named by what changes its result."""

from __future__ import annotations

from typing import Any

from peftbench.config import RunConfig, run_id
from peftbench.forms.base import Form
from peftbench.record import RunFolder
from peftbench.tasks.base import TaskData
from peftbench.tasks.registry import task_spec


def run_folder(config: RunConfig, data: TaskData, weights: dict[str, Any], form: type[Form]) -> RunFolder:
    """The run's folder, named by a hash of everything that changes its result.

    Args:
        config: the run's.
        data: its rows.
        weights: what `origin` says of the backbone.
        form: how the task meets it.
    """
    names = ("source", "repo", "folder", "described", "wheel")
    weights = {k: v for k, v in weights.items() if k not in names} or weights
    prints = {name: split["fingerprint"] for name, split in data.provenance["splits"].items()}
    # Heads are what a task has unless it is text in, text out.
    words = {} if form.head != "language" else {"form": form.name}
    identity = config.identity(rows=prints, weights=weights, selection=selection(config, data), **words)
    group = f"{config.task.name}-{config.method_name}-{config.model.name}"
    return RunFolder(config.outputs / config.experiment_name / group / run_id(identity))


def selection(config: RunConfig, data: TaskData) -> tuple[str, str]:
    """The split and the metric that select a checkpoint."""
    metric = config.task.selection_metric or task_spec(config.task.name).selection_metric(config.task.protocol)
    return data.selection_split, metric
