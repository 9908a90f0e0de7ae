"""SIGINT, SIGTERM and a cluster's own signals while training: the step in hand is finished and written down first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from peftbench.processes import cluster_keeps_sigterm, cluster_signals


class Interruption:
    """While open, the first signal only asks the loop to end; a second one interrupts at once.

    Args:
        tell: says so to the user.

    Attributes:
        asked: whether a signal came.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None):
        self._tell = tell
        self._before: dict[int, Any] = {}
        self._number: int | None = None
        self.asked = False

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers.
            # A cluster sends SIGTERM with its own signal, and its handler of the former lets that be.
            own = (signal.SIGINT,) if cluster_keeps_sigterm() else (signal.SIGINT, signal.SIGTERM)
            for number in own:
                if signal.getsignal(number) is not signal.SIG_IGN:  # As a shell does for what it puts in background.
                    self._before[number] = signal.signal(number, self._on_signal)
            for number in cluster_signals():
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)
        if self._number is not None and self._number in (signal.SIGUSR1, signal.SIGUSR2):
            before[self._number](self._number, None)  # The checkpoint is written: now the job may be queued again.

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked, self._number = True, number
        self._tell(f"{signal.Signals(number).name}: ends after this step, with a checkpoint; again: at once")
