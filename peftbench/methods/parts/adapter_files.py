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

from peftbench.backbones.projections import FUSED, SplitProjections
from peftbench.durable import sync, write_text


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

    PEFT scales by alpha/rank of each site, so a site of rank R gets alpha = scaling·R by its full path.

    Args:
        folder: created if missing.
        updates: what `peft_updates` made of the sites'.
        model: where the head's tensors are.
        head: names of the head's modules; PEFT keeps whole modules, found by the end of their names.
        backbone_id: what `base_model_name_or_path` will say.
    """
    tensors = {}
    for update in updates:
        tensors[f"base_model.model.{update.name}.lora_A.weight"] = update.a
        tensors[f"base_model.model.{update.name}.lora_B.weight"] = update.b
    tensors |= {f"base_model.model.{name}": tensor for name, tensor in head_tensors(model, head).items()}
    write_files(folder, tensors, _config(updates, model, head, backbone_id))


def peft_updates(updates: Sequence[LowRankUpdate], model: nn.Module) -> list[LowRankUpdate]:
    """The updates as the file holds them: of the maps that the stock architecture has, all with a rank.

    PEFT refuses rank 0 and an empty adapter: sites without rank are left out, and where none has any, one zero rank
    stands in.
    """
    stock = _of_fused_maps(updates, model)
    if live := [u for u in stock if len(u.a)]:
        return live
    first = stock[0]
    return [LowRankUpdate(first.name, first.a.new_zeros(1, first.a.shape[1]), first.b.new_zeros(len(first.b), 1), 1.0)]


def _of_fused_maps(updates: Sequence[LowRankUpdate], model: nn.Module) -> list[LowRankUpdate]:
    """One update of the fused map in place of those of its query, key and value.

    Their A are stacked to (ΣR, I) and their B put into the rows of (3·O, ΣR) that are theirs, so the sum is exact. The
    first one's scaling holds for all: what another has more or less goes into its B.
    """
    fused: dict[str, LowRankUpdate] = {}
    for update in updates:
        name, a, b, scaling = update.name, update.a, update.b, update.scaling
        parent, _, part = name.rpartition(".")
        if isinstance(model.get_submodule(parent), SplitProjections):
            name, rows = parent, [b if part == other else torch.zeros_like(b) for other in FUSED]
            b = torch.cat(rows)
        if name in fused:
            first = fused[name]
            a, b = torch.cat([first.a, a]), torch.cat([first.b, b * (scaling / first.scaling)], dim=1)
            scaling = first.scaling
        fused[name] = LowRankUpdate(name, a, b, scaling)
    return list(fused.values())


def write_files(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """`adapter_model.safetensors` and `adapter_config.json`, each replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "adapter_model.safetensors"
    partial = weights.with_suffix(".partial")
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, str(partial), {"format": "pt"})
    sync(partial)
    os.replace(partial, weights)
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _config(
    updates: Sequence[LowRankUpdate], model: nn.Module, head: Sequence[str], backbone_id: str
) -> dict[str, Any]:
    ranks = {u.name: len(u.a) for u in updates}
    alphas = {u.name: u.scaling * len(u.a) for u in updates}
    return {
        "peft_type": "LORA",
        "task_type": _task_type(model),
        "base_model_name_or_path": backbone_id,
        "target_modules": sorted(ranks),
        "r": max(ranks.values()),
        "lora_alpha": max(alphas.values()),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "lora_dropout": 0.0,
        "bias": "none",
        # GPT-2 keeps all its maps transposed.
        "fan_in_fan_out": any(isinstance(module, SplitProjections) for module in model.modules()),
        "inference_mode": True,
        "modules_to_save": sorted(head) or None,
    }


def _task_type(model: Any) -> str:
    """PEFT's word for what the model is for: one with an output projection onto the vocabulary writes text."""
    if model.get_output_embeddings() is None:
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
