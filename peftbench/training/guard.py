"""Non-finite numbers, caught before they reach the weights, and the word for how a run ended."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peftbench.errors import RunError
from peftbench.record import Status


class Diverged(RunError):
    """The loss or a gradient is not finite. `step` is the optimizer step (from 1) that was not taken."""

    def __init__(self, step: int, what: str):
        super().__init__(
            f"diverged at step {step}: {what} is not finite; lower optimizer.lr, or set trainer.max_grad_norm"
        )
        self.step = step


def check_finite(loss: Tensor, gradient_norm: Tensor, step: int) -> None:
    """Raise `Diverged` unless both scalars are finite. Waits for the device once."""
    if not bool(torch.isfinite(loss + gradient_norm)):
        raise Diverged(step, "the gradient's norm" if bool(torch.isfinite(loss)) else "the loss")


def failure(error: BaseException) -> dict[str, Any]:
    """What the record says of a run that an exception ended: its status and its error."""
    told = {"type": type(error).__name__, "message": str(error) or type(error).__name__}
    return {"status": status_of(error), "error": told | {"step": getattr(error, "step", None)}}


def status_of(error: BaseException) -> Status:
    """The record's word for what ended a run."""
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
        return "out_of_memory"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
