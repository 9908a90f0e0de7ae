"""Time and memory of a training step: ours over the frozen backbone's passes, beside HF PEFT's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import nn

from peftbench.bench.measure import Ratio, in_turn, peak_megabytes, saved_megabytes
from peftbench.bench.models import Batch, Trained, frozen_bound, hf_peft, loss, step, trained
from peftbench.environment import multiplies_bf16

SECTION = "a step at six sites of MiniLM, rank 8 (AdaLoRA's 8 to 4), 32 x 64 tokens, medians of {repeats}"
OURS = {
    "lora": ("HF PEFT LoRA", ("method.rank=8",)),
    "sora": ("HF PEFT LoRA", ("method.rank=8",)),
    "adalora": ("HF PEFT AdaLoRA", ("method.rank=8", "method.target_rank=4", "method.t_initial=0", "method.t_final=0")),
}
"""Our methods: what their memory is compared with, and their words."""
BOUNDS = {"frozen bound": False, "frozen bound, our dropout": True}
"""The physical limits: the stock model with nothing trained, in bfloat16 with its weights in that type.

Against the first, cheaper dropout counts for us; against the second the layers alone do.
"""
ENOUGH = 10
"""Repeats from which on medians are judged."""
TARGETS = {False: 1.15, True: 1.05}
"""Over a frozen bound: float32, bfloat16."""
OUR_DROPOUT = ", our dropout"


def measure(repeats: int, progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Ratios over the frozen bounds and over HF PEFT, in float32 and in bfloat16.

    In bfloat16 ours have the frozen maps in it, as the bounds have all of their weights; HF PEFT's are under autocast
    alone, which is the faster of their two ways. A step of a method is a whole one: forward, penalty, backward,
    optimizer, and what it does to its ranks. Of bfloat16 there is none on a processor that has no instructions for it.
    """
    batch = Batch.of(32, 64)
    models = {"HF PEFT LoRA": hf_peft("lora"), "HF PEFT AdaLoRA": hf_peft("adalora")}
    models["HF PEFT LoRA" + OUR_DROPOUT] = hf_peft("lora", cheap=True)
    found = []
    for bf16 in (False, True) if multiplies_bf16() else (False,):
        kept = ["trainer.precision=bf16", "model.dtype=bfloat16"] if bf16 else []
        for name, (_, words) in OURS.items():
            models[name] = trained("trainer.head=freeze", f"method={name}", *words, *kept)
        bounds = {name: frozen_bound(c).to(torch.bfloat16 if bf16 else torch.float32) for name, c in BOUNDS.items()}
        found += _times(bounds, models, batch, bf16, repeats, progress)
        found += _memory(models, batch, bf16, SECTION.format(repeats=repeats))
    return found


def _times(
    bounds: Mapping[str, nn.Module],
    models: Mapping[str, Trained],
    batch: Batch,
    bf16: bool,
    repeats: int,
    progress: Callable[[], None],
) -> list[Ratio]:
    cases = {name: step(model, batch, False) for name, model in bounds.items()}
    cases |= {name: lambda m=model: m.step(batch, bf16) for name, model in models.items()}
    seconds = in_turn(cases, repeats, warmup=1, progress=progress)

    def over(name: str, other: str, target: float | None) -> Ratio:
        told = f"{1e3 * seconds[name]:.0f} against {1e3 * seconds[other]:.0f} ms"
        section, what = SECTION.format(repeats=repeats), f"{name}, {_word(bf16)}"
        judged = target if repeats >= ENOUGH else None
        return Ratio(section, what, other, seconds[name] / seconds[other], judged, detail=told)

    found = [over(name, "frozen bound", None) for name in ("HF PEFT LoRA", "HF PEFT AdaLoRA")]
    found += [over(name, bound, TARGETS[bf16]) for bound in BOUNDS for name in OURS]
    found += [over(name, "HF PEFT LoRA", 0.80) for name in OURS]
    found += [over(name, "HF PEFT LoRA" + OUR_DROPOUT, None) for name in OURS]
    return [*found, over("adalora", "HF PEFT AdaLoRA", None)]


def _memory(models: Mapping[str, Trained], batch: Batch, bf16: bool, section: str) -> list[Ratio]:
    """The peak of a whole step, and what is kept for the backward pass.

    Beside HF PEFT's with our dropout too, where the layers alone differ.
    """
    models = {**models, "HF PEFT AdaLoRA" + OUR_DROPOUT: hf_peft("adalora", cheap=True)}
    measured = {
        "peak of": {name: peak_megabytes(lambda m=m: m.step(batch, bf16)) for name, m in models.items()},
        "kept by": {name: saved_megabytes(lambda m=m: _whole_loss(m, batch, bf16)) for name, m in models.items()},
    }
    found = []
    for (word, held), (name, (peft, _)) in itertools.product(measured.items(), OURS.items()):
        for other in (peft, peft + OUR_DROPOUT):
            told = f"{held[name]:.0f} against {held[other]:.0f} MB"
            found.append(
                Ratio(section, f"{word} {name}, {_word(bf16)}", other, held[name] / held[other], 1.0, detail=told)
            )
    return found


def _whole_loss(model: Trained, batch: Batch, bf16: bool) -> torch.Tensor:
    found, penalty = loss(model.model, batch, bf16), model.penalty()
    return found if penalty is None else found + penalty


def _word(bf16: bool) -> str:
    return "bf16" if bf16 else "fp32"
