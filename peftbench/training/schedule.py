"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math

from peftbench.config import Optimizer


def warmup_steps(optimizer: Optimizer, total_steps: int) -> int:
    """Steps of warm-up: the number given, else the share of all steps, rounded up."""
    if optimizer.warmup_steps is not None:
        return optimizer.warmup_steps
    return math.ceil(optimizer.warmup_ratio * total_steps)


def lr_factor(optimizer: Optimizer, step: int, total_steps: int) -> float:
    """Share of the peak learning rate that optimizer step `step` (from 0) uses, as transformers' schedules define it.

    Linear warm-up from 0, then linear or cosine decay to 0 at `total_steps` (and 0 beyond it), or none.
    """
    warmup = warmup_steps(optimizer, total_steps)
    if step < warmup:
        return step / warmup
    if optimizer.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return 1.0 - done if optimizer.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
