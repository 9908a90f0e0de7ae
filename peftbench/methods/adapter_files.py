"""Exported adapters: safetensors and JSON; low-rank ones in HF PEFT's own format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class LowRankUpdate:
    """ΔW = scaling · B A at one site; A is (R, I), B is (O, R), R may be 0."""

    name: str
    a: Tensor
    b: Tensor
    scaling: float


def head_tensors(model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
    """Every parameter of the modules named in `head`, trained or frozen, by qualified name."""
    prefixes = tuple(f"{name}." for name in head)
    return {name: p.detach() for name, p in model.named_parameters() if prefixes and name.startswith(prefixes)}


def write_low_rank(
    folder: Path, updates: Sequence[LowRankUpdate], model: nn.Module, head: Sequence[str], backbone_id: str
) -> None:
    """Write a low-rank adapter and the head so that `peft.PeftModel.from_pretrained` loads them.

    PEFT scales by alpha/rank of each site, so a site of rank R gets alpha = scaling·R by its full path. It refuses
    rank 0 and an empty adapter: sites without rank are left out, and where none has any, one zero rank stands in.

    Args:
        folder: created if missing.
        updates: one per site.
        model: where the head's tensors are.
        head: names of the head's modules; PEFT keeps whole modules, found by the end of their names.
        backbone_id: what `base_model_name_or_path` will say.
    """
    live = [u for u in updates if len(u.a)]
    if not live:
        first = updates[0]
        live = [LowRankUpdate(first.name, torch.zeros(1, first.a.shape[1]), torch.zeros(first.b.shape[0], 1), 1.0)]
    tensors = {}
    for update in live:
        tensors[f"base_model.model.{update.name}.lora_A.weight"] = update.a
        tensors[f"base_model.model.{update.name}.lora_B.weight"] = update.b
    tensors |= {f"base_model.model.{name}": tensor for name, tensor in head_tensors(model, head).items()}
    write_files(folder, tensors, _config(live, head, backbone_id))


def write_files(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """`adapter_model.safetensors` and `adapter_config.json`, each replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "adapter_model.safetensors"
    partial = weights.with_suffix(".partial")
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, str(partial), {"format": "pt"})
    os.replace(partial, weights)
    partial = folder / "adapter_config.partial"
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, folder / "adapter_config.json")


def _config(live: Sequence[LowRankUpdate], head: Sequence[str], backbone_id: str) -> dict[str, Any]:
    ranks = {u.name: len(u.a) for u in live}
    alphas = {u.name: u.scaling * len(u.a) for u in live}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": backbone_id,
        "target_modules": sorted(ranks),
        "r": max(ranks.values()),
        "lora_alpha": max(alphas.values()),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": sorted(head) or None,
    }
