"""The processes that a launcher started for one run, as it tells them in the environment. Standard library only."""

from __future__ import annotations

import os
import signal


def processes() -> int:
    """How many there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def local_processes() -> int:
    """How many of them are on this machine; they share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def is_main() -> bool:
    """Whether this is the one that writes and speaks."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"  # RANK alone is no launcher's.


def cluster_signals() -> list[signal.Signals]:
    """Those that a cluster's launcher has handlers for: the time is nearly up, or the node is wanted (submitit's)."""
    return [number for number in (signal.SIGUSR1, signal.SIGUSR2) if callable(signal.getsignal(number))]


def cluster_keeps_sigterm() -> bool:
    """Whether its launcher handles SIGTERM too, which a cluster sends along with its own signal."""
    handler = signal.getsignal(signal.SIGTERM)
    return bool(cluster_signals()) and callable(handler) and handler is not signal.default_int_handler
