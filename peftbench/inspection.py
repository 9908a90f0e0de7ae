"""`peftbench inspect`: what a run would train, told without weights, training or a record."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from peftbench.assembly import attach, check_examples, counts
from peftbench.backbones.anatomy import ROLES, is_decoder, sites
from peftbench.backbones.loading import quiet_transformers, random_model
from peftbench.backbones.quantisation import packed_bytes
from peftbench.config import RunConfig
from peftbench.console import data_line, paper
from peftbench.doors import Counts
from peftbench.errors import HubUnreachableError
from peftbench.forms.choice import Choice
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
    training = _training(config)
    plans = plan_stages(config, training.examples or training.rows)
    model, numbers = _attached(config, plans[0].total_steps)
    out.print(_run_table(config, training))
    if (per_role := _sites(config)) is not None:
        out.print(per_role)
    out.print(_count_table(numbers))
    if training.examples is not None or (config.trainer.max_steps is not None and len(plans) == 1):
        out.print(_step_table(config, plans))
    out.print(_memory_table(config, model, numbers, training.candidates))


@dataclass(frozen=True)
class _Training:
    """What there is to train on.

    Attributes:
        provenance: where it is from, for a reader.
        rows: of the training split.
        examples: what the loop counts; None: not known here.
        candidates: sequences in a row at most; None: not known here.
    """

    provenance: str
    rows: int
    examples: int | None
    candidates: int | None


def _training(config: RunConfig) -> _Training:
    """The training split's; the official release's where the data cannot be read from here.

    Raises:
        ConfigurationError: no row gives an example.
        HubUnreachableError: nor does a release say how many rows there are.
    """
    spec, form = configured(config.task), form_class(config)
    try:
        data = load_task(spec, config.task, config.data)
        candidates = max(map(len, data.train.columns["choices"])) if form is Choice else 1
        found = form.examples(spec, data.train)
        if found is not None:
            check_examples(found, len(data.train), spec.name, form.name)
        return _Training(data_line(data.provenance), len(data.train), found, candidates)
    except HubUnreachableError:
        if "train" not in spec.official_rows:
            raise
    rows = spec.official_rows["train"]
    if config.task.protocol == "sora" and spec.sora_holdout:
        rows -= 1000
    rows = min(rows, config.data.max_train_rows or rows)
    # A row is an example but where targets are free text: of those it may have several, or none.
    alike = form.head != "language" or (spec.text is not None and bool(spec.text.targets))
    candidates = len(spec.labels) or None if form is Choice else 1
    where = "hub (not reachable now; the official row count)"
    return _Training(where, rows, rows if alike else None, candidates)


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


def _run_table(config: RunConfig, training: _Training) -> Table:
    examples = "not known before they are read and tokenised, and so are the steps"
    return _table(
        "run",
        [
            ("task", config.task.name),
            ("method", config.method_name),
            ("model", config.model.name),
            ("preset", config.preset or "none"),
            ("data", training.provenance),
            ("training rows", f"{training.rows:,}"),
            ("training examples", examples if training.examples is None else f"{training.examples:,}"),
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


def _memory_table(config: RunConfig, model: torch.nn.Module, numbers: Counts, candidates: int | None) -> Table:
    """Bytes by kind for one training step at full length: an estimate, an upper one where inputs are shorter.

    Activations follow Korthikanti et al. 2022 (arXiv 2205.05198), Eq. 2: S·B·h·(34 + 5·a·S/h) bytes per layer at
    16 bits, twice that at 32; a is the number of heads. S is source and target in a decoder, and of an encoder-decoder
    the longer of the two, for both of its stacks; cross-attention and vocabulary logits are not counted.
    """
    shape: Any = model.config
    rows = config.trainer.micro_batch_size or config.trainer.batch_size
    length = form_class(config).positions(config.task, is_decoder(model))
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    layers = len({(site.stack, site.layer) for site in sites(_bare(config), ROLES)})
    trained = numbers.trained + numbers.head
    saved = _saved(config)
    weights = 4 * (numbers.backbone + numbers.head) - saved
    if not math.isclose(numbers.trained, numbers.backbone):
        weights += 4 * numbers.trained
    halves = 1 if config.trainer.precision == "bf16" else 2
    layer = halves * length * rows * (candidates or 1) * hidden * (34 + 5 * heads * length / hidden)
    states = {"adamw": 8, "paged_adamw": 8, "adafactor": 4, "sgd": 4}[config.optimizer.name]
    parts = {
        "weights": weights,
        "gradients": 4 * trained,
        "optimizer": states * trained,
        "activations": layer * layers,
    }
    rows_ = [(name, f"{size / _MB:,.0f} MB") for name, size in parts.items()]
    rows_.append(("in all", f"{sum(parts.values()) / _MB:,.0f} MB"))
    if saved:
        plain = 4 * numbers.backbone
        own = config.model.quantization or "bf16 maps"
        sizes = {own: plain - saved, "fp32": plain, "bf16": plain / 2}
        rows_ += [(f"backbone in {name}", f"{size / _MB:,.0f} MB") for name, size in sizes.items()]
    told = {1: "", None: " and one candidate, their number not being known"}
    several = told.get(candidates, f" and {candidates} candidates")
    return _table(f"memory, estimated ({rows} rows of {length} tokens{several})", rows_)


def _saved(config: RunConfig) -> int:
    """Bytes by which the backbone is smaller than in float32."""
    if config.model.quantization is None and config.model.dtype == "float32":
        return 0
    maps = [site.in_features * site.out_features for site in sites(_bare(config), ROLES)]
    if config.model.quantization is None:
        return 2 * sum(maps)
    return sum(4 * size - packed_bytes(size, config.model.double_quant) for size in maps)
