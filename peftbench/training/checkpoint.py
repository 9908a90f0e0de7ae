"""Resumable checkpoints: nested state as one safetensors file and one JSON file, replaced together."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VERSION = 1


def save_checkpoint(folder: Path, state: Any) -> None:
    """Write `state` (dicts, lists, tensors, JSON values) to `folder`, which is replaced as a whole.

    A reader finds the old checkpoint or the new one, never a mixture: see `load_checkpoint`.
    """
    tensors: dict[str, Tensor] = {}
    layout = _pack(state, tensors)
    partial, old = folder.with_suffix(".partial"), folder.with_suffix(".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, str(partial / "state.safetensors"))
    (partial / "state.json").write_text(json.dumps({"version": VERSION, "state": layout}), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, device: torch.device) -> Any | None:
    """The state saved in `folder`, on `device`; None where there is none."""
    for candidate in (folder, folder.with_suffix(".old")):
        if (candidate / "state.json").is_file():
            saved = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
            if saved["version"] != VERSION:
                return None
            return _unpack(saved["state"], load_file(str(candidate / "state.safetensors"), device=str(device)))
    return None


def delete_checkpoint(folder: Path) -> None:
    """Remove a checkpoint and what an interrupted write may have left beside it."""
    for path in (folder, folder.with_suffix(".old"), folder.with_suffix(".partial")):
        shutil.rmtree(path, ignore_errors=True)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Torch's random states, the only ones that training draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Take `random_states`' answer back."""
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


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
