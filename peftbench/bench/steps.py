"""Time and memory of a step: layers over the frozen backbone, beside HF PEFT's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from peftbench.bench.measure import Ratio, in_turn, saved_megabytes
from peftbench.bench.models import Batch, hf_peft, loss, ours, step, stock
from peftbench.environment import multiplies_bf16

SECTION = "a step at six sites of MiniLM, rank 8, 32 x 64 tokens"
OURS = {"lora": "HF PEFT LoRA", "sora": "HF PEFT LoRA", "adalora": "HF PEFT AdaLoRA"}
"""Our methods, and what their memory is compared with."""
BOUNDS = {"frozen bound": False, "frozen bound, our dropout": True}
"""The physical limits: the stock model with nothing trained, in bfloat16 with its weights in that type.

Against the first, cheaper dropout counts for us; against the second the layers alone do.
"""
TARGETS = {False: 1.15, True: 1.05}
"""Over a frozen bound: float32, bfloat16."""


def measure(repeats: int, progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Ratios over the frozen bounds and over HF PEFT, in float32 and in bfloat16 (of ours and HF PEFT's: autocast).

    Of bfloat16 none on a processor that has no instructions for it.
    """
    batch = Batch.of(32, 64)
    models: dict[str, nn.Module] = {"HF PEFT LoRA": hf_peft("lora"), "HF PEFT AdaLoRA": hf_peft("adalora")}
    ranks = {"adalora": ("method.rank=8", "method.target_rank=4")}
    models |= {name: ours(f"method={name}", *ranks.get(name, ("method.rank=8",)))[0] for name in OURS}
    found = []
    for bf16 in (False, True) if multiplies_bf16() else (False,):
        bounds = {name: stock(cheap).to(torch.bfloat16 if bf16 else torch.float32) for name, cheap in BOUNDS.items()}
        found += _of_precision(bounds, models, batch, bf16, repeats, progress)
    return found


def _of_precision(
    bounds: Mapping[str, nn.Module],
    models: Mapping[str, nn.Module],
    batch: Batch,
    bf16: bool,
    repeats: int,
    progress: Callable[[], None],
) -> list[Ratio]:
    word = "bf16" if bf16 else "fp32"
    cases = {name: step(model, batch, False, frozen=True) for name, model in bounds.items()}
    cases |= {name: step(model, batch, bf16) for name, model in models.items()}
    seconds = in_turn(cases, repeats, progress=progress)

    def over(name: str, other: str, target: float | None) -> Ratio:
        told = f"{1e3 * seconds[name]:.0f} against {1e3 * seconds[other]:.0f} ms"
        return Ratio(SECTION, f"{name}, {word}", other, seconds[name] / seconds[other], target, detail=told)

    found = [over(name, "frozen bound", None) for name in models if name.startswith("HF")]
    found += [
        over(name, bound, target) for bound, target in zip(BOUNDS, (TARGETS[bf16], None), strict=True) for name in OURS
    ]
    found += [over(name, "HF PEFT LoRA", 0.80) for name in OURS]
    held = {name: saved_megabytes(lambda m=model: loss(m, batch, bf16)) for name, model in models.items()}
    for name, peft in OURS.items():
        told = f"{held[name]:.0f} against {held[peft]:.0f} MB kept for the backward pass"
        found.append(Ratio(SECTION, f"memory of {name}, {word}", peft, held[name] / held[peft], 1.0, detail=told))
    return found
