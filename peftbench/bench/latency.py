"""What a method costs when it is used: a forward pass beside the bare backbone's, as attached and merged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from peftbench.bench.measure import Ratio, in_turn
from peftbench.bench.models import Batch, hf_peft, ours, stock
from peftbench.errors import ConfigurationError
from peftbench.methods.registry import method_class

METHODS = (
    "full", "bitfit", "diff_pruning", "lora", "sora", "adalora", "qlora", "houlsby", "pfeiffer",
    "parallel_adapter", "scaled_parallel_adapter", "compacter", "adapter_drop", "ia3", "prefix_tuning", "p_tuning_v2",
    "prompt_tuning", "p_tuning", "mam", "unipelt",
)  # fmt: skip
"""Those whose result is more than the head."""
HF_PEFT = "HF PEFT LoRA"
ROWS, LENGTH = (1, 32), 32


def measure(repeats: int, progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Ratios to the bare backbone at each batch size, for what training leaves and, where it folds, merged."""
    bare = stock().eval()
    found = _ratios(HF_PEFT, bare, hf_peft("lora").model, repeats)
    for name in METHODS:
        try:
            model, attachment = ours(f"method={name}")
        except (ConfigurationError, ImportError) as error:
            found.append(Ratio(_section(ROWS[0]), name, "bare backbone", float("nan"), detail=str(error)))
            continue
        attachment.finalize()
        found += _ratios(name, bare, model, repeats)
        if method_class(name).capabilities.mergeable:
            attachment.merge()
            found += _ratios(f"{name}, merged", bare, model, repeats)
        progress()
    return sorted(found, key=lambda ratio: ratio.section)


def _section(rows: int) -> str:
    return f"a forward pass of {rows} x {LENGTH} tokens"


@torch.no_grad()
def _ratios(name: str, bare: nn.Module, model: nn.Module, repeats: int) -> list[Ratio]:
    found = []
    model.eval()
    for count in ROWS:
        inputs = Batch.of(count, LENGTH).inputs()
        cases = {"bare": lambda i=inputs: bare(**i), "method": lambda i=inputs: model(**i)}
        # A single row is over in milliseconds, and noise with it: more repeats.
        seconds = in_turn(cases, repeats if count > 1 else 5 * repeats, warmup=1)
        told = f"{1e3 * seconds['method']:.1f} against {1e3 * seconds['bare']:.1f} ms"
        value = seconds["method"] / seconds["bare"]
        found.append(Ratio(_section(count), name, "bare backbone", value, detail=told))
    return found
