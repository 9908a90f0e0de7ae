"""The machine and the software a run ran on."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

from peftbench.hub import settle_offline
from peftbench.processes import cluster_keeps_sigterm, processes

PACKAGES = (
    "peftbench", "torch", "transformers", "datasets", "evaluate", "accelerate", "hydra-core", "omegaconf",
    "safetensors", "tokenizers", "numpy", "peft", "bitsandbytes",
)  # fmt: skip


def prepare_process() -> None:
    """What a process that trains settles before it imports torch: offline or not, determinism, how a signal ends it."""
    settle_offline()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Determinism on CUDA wants it before cuBLAS starts.
    if threading.current_thread() is threading.main_thread() and not cluster_keeps_sigterm():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends like an interrupt: with a record.


def versions() -> dict[str, str | None]:
    """Installed versions of what results depend on; None where a package is absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory (MB), GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "memory_mb": _memory_mb(), "gpus": gpus}


def multiplies_bf16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor; torch's own loops take many times as long as in float32."""
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def environment() -> dict[str, Any]:
    """The record's `environment`."""
    import torch

    return {
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "processes": processes(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether it is modified; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6
    except (OSError, ValueError):
        return None
