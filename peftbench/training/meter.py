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
from typing import Any

import torch


@dataclass
class Meter:
    """Seconds by kind, and tokens. Evaluation and checkpoints are outside the training's seconds.

    Attributes:
        epoch_s: training seconds of each whole epoch. train_s: of all steps, those of a broken-off epoch too.
        eval_s, checkpoint_s: what the two took. steps: optimizer steps. tokens: real tokens trained on.
        padded_tokens: tokens with padding. generation_s, generated_tokens: of texts written.
        skipped_steps: that were not taken, since loss or gradient was not finite. micro_batch_size: rows of a forward
            pass, where memory asked for fewer than configured.
        phase: what is done now. peaks: of `rss` (resident memory) and `cuda`, by phase, MB (10⁶ bytes).
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
    skipped_steps: int = 0
    micro_batch_size: int | None = None
    phase: str = "setup"
    peaks: dict[str, dict[str, float]] = field(default_factory=dict)

    def enter(self, phase: str) -> None:
        """The current phase ends and `phase` (`training`, `evaluation`) begins; peaks are kept apart."""
        for kind, megabytes in _peaks().items():
            of = self.peaks.setdefault(kind, {})
            of[self.phase] = max(of.get(self.phase, 0.0), round(megabytes, 1))
        _restart_peaks()
        self.phase = phase

    def memory(self) -> dict[str, Any]:
        """The record's `memory`: peaks of the whole run and of its phases, in MB; CUDA's where there is any."""
        self.enter(self.phase)
        found: dict[str, Any] = {"peak_rss_mb": None, "peak_cuda_mb": None}
        found |= {f"peak_{kind}_mb": max(of.values()) for kind, of in self.peaks.items()}
        return found | {f"peak_{kind}_mb_by_phase": dict(of) for kind, of in self.peaks.items()}

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
            "skipped_steps": self.skipped_steps,
            "micro_batch_size": self.micro_batch_size,
            "padding_share": round(1 - self.tokens / self.padded_tokens, 4) if self.padded_tokens else None,
        }


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if seconds else None


def reset_peak_memory() -> None:
    """Give freed memory back and start peaks anew, so that a run does not inherit those of one before it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # The C library keeps freed memory; glibc can be asked for it.
        ctypes.CDLL(None).malloc_trim(0)
    _restart_peaks()


def _restart_peaks() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Not Linux, or not allowed: the peak is then the process's own.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peaks() -> dict[str, float]:
    """Peak resident and CUDA memory since the restart, MB."""
    peaks = {"rss": _resident() / 1e6}
    return peaks | ({"cuda": torch.cuda.max_memory_allocated() / 1e6} if torch.cuda.is_available() else {})


def _resident() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
