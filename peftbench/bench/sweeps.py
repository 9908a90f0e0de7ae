"""A sweep as a user starts it: a process of its own, timed and read back."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def sweep(words: Sequence[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds that it took from its start to its end, and its records in the order of their seeds.

    Raises:
        RuntimeError: it failed, with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "peftbench", "-m", *words, f"outputs={folder}"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {last_line(done.stderr)}")
        records = [json.loads(file.read_text(encoding="utf-8")) for file in Path(folder).glob("*/*/*/record.json")]
    return seconds, sorted(records, key=lambda record: record["seed"])


def last_line(said: str) -> str:
    """What a process that failed said last."""
    return next(reversed(said.strip().splitlines()), "it said nothing")
