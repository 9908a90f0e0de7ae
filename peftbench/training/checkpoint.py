"""Resumable checkpoints: nested state as one safetensors file and one JSON file, replaced together."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftbench.durable import sync
from peftbench.errors import RunError, first_line

VERSION = 2
"""Of the layout; a checkpoint of another version is not read."""

_TENSORS, _LAYOUT = "state.safetensors", "state.json"


def save_checkpoint(folder: Path, state: Any) -> None:
    """Write `state` (dicts, lists, tensors, JSON values) to `folder`, which is replaced as a whole.

    The checkpoint before it stays beside it as `<folder>.old`, and at every moment one of the two is whole: see
    `load_checkpoint`.
    """
    tensors: dict[str, Tensor] = {}
    layout = json.dumps(_pack(state, tensors))
    partial, old = folder.with_suffix(".partial"), folder.with_suffix(".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, str(partial / _TENSORS))
    sums = {"tensors": _sum(partial / _TENSORS), "state": hashlib.sha256(layout.encode()).hexdigest()}
    head = json.dumps({"version": VERSION, "sha256": sums})
    (partial / _LAYOUT).write_text(f"{head}\n{layout}\n", encoding="utf-8")
    for path in (partial / _TENSORS, partial / _LAYOUT, partial):
        sync(path)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(partial, folder)
    sync(folder.parent)


def load_checkpoint(folder: Path, warn: Callable[[str], None] = lambda _: None) -> Any | None:
    """The newest whole state saved in `folder`, on the CPU; None where there is none.

    Args:
        folder: of the checkpoint.
        warn: is told of one that is broken, which is removed, or of another version, which is set aside, and the one
            before it taken.

    Raises:
        RunError: one cannot be read for another reason; it stays where it is.
    """
    old = folder.with_suffix(".old")
    for candidate in (folder, old):
        if candidate.is_dir():
            try:
                return _load(candidate)
            except Exception as error:  # Whatever a damaged file makes its readers raise.
                if isinstance(error, (OSError, MemoryError)) and not isinstance(error, FileNotFoundError):
                    raise RunError(
                        f"checkpoint {candidate} cannot be read ({first_line(error)}); it was left as it is, and once"
                        " it can be read the same command goes on"
                    ) from error
                next_one = "going back to the one before it" if candidate != old and old.is_dir() else "starting anew"
                warn(f"checkpoint {candidate.name} is not used ({first_line(error)}); {next_one}")
                # Else the next save would take it for the good one, and let go of that.
                if isinstance(error, _OtherVersion):
                    aside = candidate.with_name(f"{candidate.name}.unused")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.rename(candidate, aside)
                else:
                    shutil.rmtree(candidate, ignore_errors=True)
    return None


class _OtherVersion(ValueError):
    """A checkpoint whose layout another version of this program wrote."""


def _load(folder: Path) -> Any:
    head, layout = (folder / _LAYOUT).read_text(encoding="utf-8").splitlines()
    found = json.loads(head)
    if found["version"] != VERSION:
        raise _OtherVersion(f"version {found['version']}, this program reads {VERSION}; kept as {folder.name}.unused")
    sums = {"tensors": _sum(folder / _TENSORS), "state": hashlib.sha256(layout.encode()).hexdigest()}
    if sums != found["sha256"]:
        raise ValueError("its checksum is not that of its content")
    return _unpack(json.loads(layout), load_file(str(folder / _TENSORS)))


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def delete_checkpoint(folder: Path) -> None:
    """Remove a checkpoint and what lies beside it: the one before it, a half-written one, those of other versions."""
    for path in (folder, *folder.parent.glob(f"{folder.name}.*")):
        shutil.rmtree(path, ignore_errors=True)


def random_states(device: torch.device) -> dict[str, Any]:
    """The random states of torch, CUDA, NumPy and Python: whoever draws in a training step goes on where it was."""
    version, numbers, gauss = random.getstate()
    kind, key, *rest = np.random.get_state()
    states: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(key, np.int64)), *rest],
    }
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Take `random_states`' answer back."""
    torch.set_rng_state(states["cpu"].cpu())
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, key.cpu().numpy().astype(np.uint32), *rest))
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def seed_everything(seed: int) -> None:
    """Torch on every device, NumPy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Tensors out of a nested value, into `tensors`; what is left is JSON, tagged so that int keys survive."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[k, _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_pack(v, tensors) for v in value]}
    return {"value": value}


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {k: _unpack(v, tensors) for k, v in value}
    if kind == "list":
        return [_unpack(v, tensors) for v in value]
    return value
