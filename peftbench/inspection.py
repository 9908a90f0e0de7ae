"""`peftbench inspect`: what a run would train, told without weights, training or a record."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import torch
from rich.table import Table

from peftbench.assembly import attach, counts
from peftbench.backbones.anatomy import ROLES, is_decoder, sites
from peftbench.backbones.loading import quiet_transformers, random_model
from peftbench.backbones.quantisation import packed_bytes
from peftbench.config import RunConfig
from peftbench.console import data_line, paper
from peftbench.doors import Counts
from peftbench.errors import HubUnreachableError
from peftbench.forms.registry import form_class
from peftbench.stages import plan_stages
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import configured, task_spec
from peftbench.training.schedule import lr_factor

_MB = 1e6


def show(config: RunConfig) -> None:
    """Print sites, counts, steps, Σ λη_t and an estimate of memory.

    Raises:
        ConfigurationError: whatever a run would refuse, but for broken weights, which are not read.
    """
    out = paper()
    rows, provenance = _training_rows(config)
    plans = plan_stages(config, rows)
    model, numbers = _attached(config, plans[0].total_steps)
    out.print(_run_table(config, rows, provenance))
    if (per_role := _sites(config)) is not None:
        out.print(per_role)
    out.print(_count_table(numbers))
    out.print(_step_table(config, plans))
    out.print(_memory_table(config, model, numbers))


def _training_rows(config: RunConfig) -> tuple[int, str]:
    """Rows of the training split; the official release's where the data cannot be read from here."""
    spec = configured(config.task)
    try:
        data = load_task(spec, config.task, config.data)
        return len(data.train), data_line(data.provenance)
    except HubUnreachableError:
        rows = spec.official_rows["train"]
        if config.task.protocol == "sora" and spec.sora_holdout:
            rows -= 1000
        return min(rows, config.data.max_train_rows or rows), "hub (not reachable now; the official row count)"


def _attached(config: RunConfig, total_steps: int) -> tuple[torch.nn.Module, Counts]:
    """The backbone on the meta device, where shapes cost nothing, with the method attached."""
    quiet_transformers()
    model = _bare(config)
    length = form_class(config).positions(config.task, is_decoder(model))
    attachment, groups = attach(config, model, config.model.repo, total_steps, length)
    return model, counts(attachment, groups)


def _bare(config: RunConfig) -> torch.nn.Module:
    """The backbone that a run would load, without weights: the folder's own shape where `model.path` gives one."""
    shape = dataclasses.replace(config.model, weights="random")
    with torch.device("meta"):
        return random_model(shape, task_spec(config.task.name).num_outputs, form_class(config).head)


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _run_table(config: RunConfig, rows: int, provenance: str) -> Table:
    return _table(
        "run",
        [
            ("task", config.task.name),
            ("method", config.method_name),
            ("model", config.model.name),
            ("preset", config.preset or "none"),
            ("data", provenance),
            ("training rows", f"{rows:,}"),
            ("peak learning rate", f"{config.lr:g}"),
        ],
    )


def _sites(config: RunConfig) -> Table | None:
    roles = getattr(config.method, "sites", None)
    if roles is None:
        return None
    found = sites(_bare(config), roles)
    table = Table(title=f"sites ({len(found)})", title_justify="left")
    for name in ("role", "in", "out", "layers"):
        table.add_column(name, justify="left" if name == "role" else "right")
    for (role, width, out), layers in Counter((s.role, s.in_features, s.out_features) for s in found).items():
        table.add_row(role, str(width), str(out), str(layers))
    return table


def _count_table(numbers: Counts) -> Table:
    rows = [
        (name, f"{value:,}")
        for name in ("backbone", "trained", "effective", "stored", "head", "paper")
        if (value := getattr(numbers, name)) is not None
    ]
    rows.append(("trained / backbone", f"{100 * numbers.trained / numbers.backbone:.3f}%"))
    return _table("parameters at the start (head apart)", rows)


def _step_table(config: RunConfig, plans: list[Any]) -> Table:
    gated = config.method.capabilities.gated
    table = Table(title="steps", title_justify="left")
    for name in ("stage", "steps", *(("Σ threshold (Σ λη_t)",) if gated else ())):
        table.add_column(name, justify="left" if name == "stage" else "right")
    gate_lr = getattr(config.method, "gate_lr", None) or config.lr
    for plan in plans:
        steps, lr_steps = plan.total_steps, plan.lr_steps or plan.total_steps
        cells = [plan.name, f"{steps:,}"]
        if gated:
            total = sum(
                plan.strength(t, steps).threshold(gate_lr * lr_factor(config.optimizer, t + plan.lr_offset, lr_steps))
                for t in range(steps)
            )
            cells.append(f"{total:.4g}")
        table.add_row(*cells)
    return table


def _memory_table(config: RunConfig, model: torch.nn.Module, numbers: Counts) -> Table:
    """Bytes by kind for one training step at full length: an estimate, an upper one where inputs are shorter.

    Activations follow Korthikanti et al. 2022 (arXiv 2205.05198), Eq. 2: S·B·h·(34 + 5·a·S/h) bytes per layer at
    16 bits, twice that at 32; a is the number of heads.
    """
    shape: Any = model.config
    rows = config.trainer.micro_batch_size or config.trainer.batch_size
    length, hidden, heads = config.task.max_length, shape.hidden_size, shape.num_attention_heads
    trained = numbers.trained + numbers.head
    saved = _saved(config)
    weights = 4 * (numbers.backbone + numbers.head) - saved
    if not math.isclose(numbers.trained, numbers.backbone):
        weights += 4 * numbers.trained
    halves = 1 if config.trainer.precision == "bf16" else 2
    layer = halves * length * rows * hidden * (34 + 5 * heads * length / hidden)
    states = {"adamw": 8, "paged_adamw": 8, "adafactor": 4, "sgd": 4}[config.optimizer.name]
    parts = {
        "weights": weights,
        "gradients": 4 * trained,
        "optimizer": states * trained,
        "activations": layer * shape.num_hidden_layers,
    }
    rows_ = [(name, f"{size / _MB:,.0f} MB") for name, size in parts.items()]
    rows_.append(("in all", f"{sum(parts.values()) / _MB:,.0f} MB"))
    if saved:
        plain = 4 * numbers.backbone
        sizes = {config.model.quantization: plain - saved, "fp32": plain, "bf16": plain / 2}
        rows_ += [(f"backbone in {name}", f"{size / _MB:,.0f} MB") for name, size in sizes.items()]
    return _table(f"memory, estimated ({rows} rows of {length} tokens)", rows_)


def _saved(config: RunConfig) -> int:
    """Bytes by which the backbone is smaller than in float32."""
    if config.model.quantization is None:
        return 0
    maps = [site.in_features * site.out_features for site in sites(_bare(config), ROLES)]
    return sum(4 * size - packed_bytes(size, config.model.double_quant) for size in maps)
