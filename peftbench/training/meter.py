"""Time and memory of a run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Meter:
    """Seconds by kind, and tokens. Evaluation and checkpoints are outside the training's seconds.

    Attributes:
        epoch_s: training seconds of each whole epoch. train_s: of all steps, those of a broken-off epoch too.
        eval_s, checkpoint_s: what the two took. steps: optimizer steps. tokens: real tokens trained on.
        padded_tokens: tokens with padding. generation_s, generated_tokens: of texts written.
    """

    device: torch.device
    epoch_s: list[float] = field(default_factory=list)
    train_s: float = 0.0
    eval_s: float = 0.0
    checkpoint_s: float = 0.0
    steps: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    generation_s: float = 0.0
    generated_tokens: int = 0

    def now(self) -> float:
        """Seconds of a monotonic clock, once the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timing(self) -> dict[str, float | list[float] | None]:
        """The record's `timing`, but for `setup_s`. Units: seconds; tokens (without padding) per second."""
        return {
            "train_s": round(self.train_s, 3),
            "epoch_s": [round(s, 3) for s in self.epoch_s],
            "epoch_median_s": round(statistics.median(self.epoch_s), 3) if self.epoch_s else None,
            "eval_s": round(self.eval_s, 3),
            "checkpoint_s": round(self.checkpoint_s, 3),
            "step_mean_s": round(self.train_s / self.steps, 4) if self.steps else None,
            "tokens_per_s": _rate(self.tokens, self.train_s),
            "generation_s": round(self.generation_s, 3),
            "generated_tokens_per_s": _rate(self.generated_tokens, self.generation_s),
            "padding_share": round(1 - self.tokens / self.padded_tokens, 4) if self.padded_tokens else None,
        }


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if seconds else None


def reset_peak_memory() -> None:
    """Start peaks anew, so that a run does not inherit the peak of one before it in the same process."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # The C library keeps freed memory; glibc can be asked for it.
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # Not Linux, or not allowed: the peak is then the process's own.


def peak_memory() -> dict[str, float | None]:
    """Peak resident and CUDA memory since the reset, in MB (10⁶ bytes)."""
    cuda = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {"peak_rss_mb": round(_peak_rss() / 1e6, 1), "peak_cuda_mb": cuda}


def _peak_rss() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
