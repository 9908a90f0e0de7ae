"""The stages of a run: one, or Algorithm 1's dense stage and one per threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from peftbench.config import RunConfig
from peftbench.sparsity import Stages
from peftbench.training.loop import Plan


def plan_stages(config: RunConfig, rows: int) -> list[Plan]:
    """What each stage trains.

    Algorithm 1 (SoRA, §3.3): dense first, selected as the trainer says, then one stage per rising threshold, each from
    the parameters of the one before and taken at its last step, since an earlier one would be denser.

    Args:
        config: the run's.
        rows: number of training rows.
    """
    per_epoch = math.ceil(rows / config.trainer.batch_size)
    total = config.trainer.max_steps or config.trainer.epochs * per_epoch
    sparsity = config.sparsity
    staged = isinstance(sparsity, Stages) and config.method.capabilities.gated
    first = Plan("dense" if staged else "train", 0, total, sparsity.at, config.trainer.selection)
    if not staged:
        return [first]
    assert isinstance(sparsity, Stages)
    steps = sparsity.stage_epochs * per_epoch
    if config.trainer.max_steps is not None:
        steps = min(steps, config.trainer.max_steps)
    plans = [first]
    for index, level in enumerate(sparsity.sparse_levels(), start=1):
        strength = sparsity.strength(level)
        symbol = "lambda" if strength.scales_with_lr else "xi"
        # The released code never resets its schedule: past its end the learning rate is 0.
        spent = {"lr_offset": total, "lr_steps": total} if sparsity.restart == "official" else {}
        name = f"{symbol}={level:.6g}"
        plans.append(Plan(name, index, steps, lambda *_, s=strength: s, "last", **spent))
    return plans


def stage_result(
    plan: Plan,
    done: Sequence[dict[str, Any]],
    metrics: dict[str, Any],
    selection: tuple[str, str],
    **measured: Any,
) -> dict[str, Any]:
    """One stage's entry in the record.

    `generalization` and `memorization` are the selecting metric on its split and on the memorization subset, in
    percent of the dense stage's (the released code's definitions).

    Args:
        plan: the stage's.
        done: results of the stages before it.
        metrics: by split, `memorization` among them.
        selection: the split and the metric that select.
        measured: whatever else is known of the stage.
    """
    split, metric = selection
    strength = plan.strength(0, plan.total_steps)
    dense = done[0]["metrics"] if done else metrics
    return {
        "name": plan.name,
        "unit": "lambda" if strength.scales_with_lr else "xi",
        "value": strength.value,
        "steps": plan.total_steps,
        "metrics": metrics,
        "generalization": _percent(metrics[split][metric], dense[split][metric]),
        "memorization": _percent(metrics["memorization"][metric], dense["memorization"][metric]),
        **measured,
    }


def _percent(value: float, reference: float) -> float | None:
    """None where the dense stage scored 0 or less (a correlation can), of which nothing is a share."""
    return 100 * value / reference if reference > 0 else None
