"""Mixed-task batches: several trained prompts over one frozen backbone, each row of a batch with its own.

`MixedTasks` is the interface for programs; `peftbench mixed <run> <run> ...` shows it on the runs' own data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from peftbench.assembly import make_accelerator
from peftbench.backbones.anatomy import head_modules
from peftbench.backbones.loading import load_backbone
from peftbench.config import RunConfig
from peftbench.console import paper
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.layers.row_heads import RowHeads
from peftbench.layers.surgery import replace_module
from peftbench.record import completed_record
from peftbench.tasks.metrics import compute_metrics
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import task_spec
from peftbench.training.evaluation import predictions_of
from peftbench.typed import recorded_mapping, typed


@dataclass(frozen=True)
class TrainedRun:
    """A completed run, read back from its folder."""

    folder: Path
    record: dict[str, Any]
    config: RunConfig
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> TrainedRun:
        """Record and adapter of a run's folder, or of its record's.

        Raises:
            ConfigurationError: it holds no completed run.
        """
        record = completed_record(folder, "mixed")
        folder = folder.parent if folder.is_file() else folder
        config = typed(recorded_mapping(record), {})
        weights = folder / "adapter" / "adapter_model.safetensors"
        if not weights.is_file():
            raise ConfigurationError(f"mixed: {weights} is not there; remove {folder} and run it again")
        return cls(folder, record, config, load_file(weights))


class MixedTasks:
    """One frozen backbone and the trained results of several runs of one method.

    Args:
        runs: of the same backbone and the same method, one of virtual tokens.

    Raises:
        ConfigurationError: they cannot share a batch; says why.
    """

    def __init__(self, runs: Sequence[TrainedRun]):
        first = runs[0]
        for run in runs:
            if run.record.get("form", "classification") != "classification":
                raise ConfigurationError(
                    f"mixed: {run.folder} is a run as {run.record['form']}; only classes are mixed"
                )
        for run in runs[1:]:
            for key, name in (("model", "backbone"), ("method", "method")):
                if run.record[key] != first.record[key]:
                    raise ConfigurationError(f"mixed: {run.folder} has another {name} than {first.folder}")
        self.runs = runs
        self.device = make_accelerator(first.config).device
        outputs = task_spec(first.config.task.name).num_outputs
        backbone = load_backbone(first.config.model, outputs, seed=0)
        self.tokenizer = backbone.tokenizer
        self.model = backbone.model.to(self.device).requires_grad_(False).eval()
        head = head_modules(self.model)
        self._heads = [self._replace(name) for name in head]
        context = Context(torch.Generator(), 0, backbone.identity, head, self.tokenizer)
        results = [run.tensors for run in runs]
        methods = [run.config.method for run in runs]
        self._select = type(methods[0]).by_row(methods, self.model, context, results)

    def _replace(self, name: str) -> RowHeads:
        prefix = f"{name}."
        trained = [{n[len(prefix) :]: t for n, t in run.tensors.items() if n.startswith(prefix)} for run in self.runs]
        heads = RowHeads(self.model.get_submodule(name), trained)
        replace_module(self.model, name, heads)
        return heads

    @torch.no_grad()
    def logits(self, texts: Sequence[Sequence[str]], tasks: Sequence[int]) -> list[np.ndarray]:
        """One forward over rows of several tasks.

        Args:
            texts: of each row its one or two texts, in its task's order.
            tasks: of each row the index of its run.

        Returns:
            Of each row its task's logits, shape (classes of the task,).
        """
        rows = [
            self.tokenizer(*row, truncation=True, max_length=self.runs[task].config.task.max_length, verbose=False)
            for row, task in zip(texts, tasks, strict=True)
        ]
        batch = self.tokenizer.pad(rows, padding=True, return_tensors="pt").to(self.device)
        which = torch.tensor(list(tasks), device=self.device)
        for heads in self._heads:
            heads.tasks = which
        self._select(which)
        logits = self.model(**batch).logits.float().cpu().numpy()
        widths = [task_spec(run.config.task.name).num_outputs for run in self.runs]
        return [row[: widths[task]] for row, task in zip(logits, tasks, strict=True)]


def show(folders: Sequence[str], limit: int | None = None, batch_size: int = 64) -> None:
    """Score the runs' selection splits in batches of all tasks, beside their records and each task alone.

    Args:
        folders: of two runs or more.
        limit: rows of each split; None: all.
        batch_size: rows of all tasks in a forward.

    Raises:
        ConfigurationError: fewer than two runs, or runs that cannot share a batch.
    """
    if len(folders) < 2:
        raise ConfigurationError("mixed: give the folders of two runs or more: peftbench mixed <run> <run> [rows=N]")
    mixed = MixedTasks([TrainedRun.read(Path(folder)) for folder in folders])
    splits = [_split(run, limit) for run in mixed.runs]
    texts = [list(row) for split, _ in splits for row in zip(*split, strict=True)]
    tasks = np.concatenate([np.full(len(labels), task) for task, (_, labels) in enumerate(splits)])
    order = np.random.default_rng(0).permutation(len(texts))
    together = _in_batches(mixed, texts, tasks, order, batch_size)
    alone = {}
    for task in range(len(folders)):
        alone |= _in_batches(mixed, texts, tasks, np.flatnonzero(tasks == task), batch_size)
    table = Table(title=f"{len(texts)} rows of {len(folders)} tasks, {batch_size} to a forward", title_justify="left")
    for heading in ("task", "rows", "metric", "in mixed batches", "in the record", "largest logit difference to alone"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right", overflow="fold")
    for task, (run, (_, labels)) in enumerate(zip(mixed.runs, splits, strict=True)):
        rows = np.flatnonzero(tasks == task)
        predictions = predictions_of(np.stack([together[int(row)] for row in rows]))
        metric, split = run.record["selection"]["metric"], run.record["selection"]["split"]
        value = compute_metrics(task_spec(run.config.task.name).metrics_of(split), predictions, labels)[metric]
        difference = max(float(np.abs(together[row] - alone[row]).max()) for row in rows.tolist())
        recorded = f"{run.record['metrics'][split][metric]:.4f}" if limit is None else "(all rows)"
        table.add_row(
            run.config.task.name, str(len(rows)), f"{split} {metric}", f"{value:.4f}", recorded, f"{difference:.1e}"
        )
    paper().print(table)


def _split(run: TrainedRun, limit: int | None) -> tuple[list[list[str]], np.ndarray]:
    """Text columns and labels of the run's selection split."""
    spec = task_spec(run.config.task.name)
    split = load_task(spec, run.config.task, run.config.data).evaluations[run.record["selection"]["split"]]
    assert split.labels is not None
    return [list(column[:limit]) for column in split.texts], np.asarray(split.labels[:limit])


def _in_batches(
    mixed: MixedTasks, texts: list[list[str]], tasks: np.ndarray, order: np.ndarray, size: int
) -> dict[int, np.ndarray]:
    """Row -> logits."""
    found = {}
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        logits = mixed.logits([texts[row] for row in rows], [int(task) for task in tasks[rows]])
        found |= dict(zip([int(row) for row in rows], logits, strict=True))
    return found
