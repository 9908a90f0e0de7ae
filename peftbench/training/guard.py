"""Non-finite numbers, caught before they reach the weights, and the word for how a run ended."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from peftbench.errors import RunError, is_out_of_memory
from peftbench.record import Status


class Diverged(RunError):
    """The loss or a gradient is not finite. `step` is the optimizer step (from 1) that was not taken.

    Attributes:
        last: the last evaluation's step and metrics; None: there was none.
    """

    def __init__(self, step: int, what: str, last: Mapping[str, Any] | None = None):
        super().__init__(
            f"diverged at step {step}: {what} is not finite; lower optimizer.lr, or set trainer.max_grad_norm"
        )
        self.step, self.last = step, last


class NotFinite(RunError):
    """An evaluation's logits are not finite, of some rows: its scores would say nothing."""

    def __init__(self, rows: int, of: int):
        super().__init__(
            f"diverged: in an evaluation the logits of {rows} of {of} rows are not finite; lower optimizer.lr, or set"
            " trainer.max_grad_norm"
        )


class OutOfMemory(RunError):
    """A step or an evaluation did not fit. `step` is the optimizer step (from 1) that was not taken.

    Args:
        step: see above; None: it was an evaluation.
        rows: of the forward pass that did it.
        width: tokens of its longest row.
        left: switches of the trainer that would help and are off.
    """

    def __init__(self, step: int | None, rows: int, width: int, left: Sequence[str] = ()):
        key = "eval_batch_size" if step is None else "micro_batch_size"
        smaller = f"set trainer.{key}={rows // 2} or less" if rows > 1 else "use a smaller task.max_length"
        when = "in an evaluation" if step is None else f"at step {step}"
        more = "".join(f", or trainer.{key}=true" for key in left)
        super().__init__(f"out of memory {when}, in a forward pass of {rows} x {width} tokens; {smaller}{more}")
        self.step = step


@contextlib.contextmanager
def fitting(rows: int, width: int) -> Iterator[None]:
    """An evaluation's forward pass of so many rows and tokens.

    Raises:
        OutOfMemory: it did not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(None, rows, width) from error


def not_finite(loss: Tensor, gradient_norm: Tensor) -> str | None:
    """Which of the two scalars is not finite, in words; None: both are. Waits for the device once."""
    if bool(torch.isfinite(loss + gradient_norm)):
        return None
    return "the gradient's norm" if bool(torch.isfinite(loss)) else "the loss"


def failure(error: BaseException) -> dict[str, Any]:
    """What the record says of a run that an exception ended: its status and its error."""
    told: dict[str, Any] = {"type": type(error).__name__, "message": str(error) or type(error).__name__}
    told |= {"step": getattr(error, "step", None)}
    if last := getattr(error, "last", None):
        told["last_evaluation"] = dict(last)
    return {"status": status_of(error), "error": told}


def status_of(error: BaseException) -> Status:
    """The record's word for what ended a run."""
    if isinstance(error, (Diverged, NotFinite)):
        return "diverged"
    if isinstance(error, OutOfMemory) or is_out_of_memory(error):
        return "out_of_memory"
    # A cluster's handlers end a process by SystemExit; once a disk has room, the same command goes on, a sweep's too.
    passing = isinstance(error, (KeyboardInterrupt, SystemExit)) or is_of_the_disk(error)
    return "interrupted" if passing else "failed"


def is_of_the_disk(error: BaseException) -> bool:
    """Whether the outputs folder took no more; safetensors tells of it in words of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return isinstance(error, SafetensorError) and "I/O error" in str(error)
