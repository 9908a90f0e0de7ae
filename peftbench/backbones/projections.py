"""GPT-2's linear maps as everybody else's.

GPT-2 keeps query, key and value in one fused map and all maps in `Conv1D`, whose weight is transposed. Splitting them
into plain linear maps when the model is loaded lets every method adapt each projection by itself, as loralib's
`MergedLinear` does for LoRA; fusing them again gives back the architecture's own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers.pytorch_utils import Conv1D

FUSED = ("query", "key", "value")
"""The parts of the fused map, in the order of its outputs."""

_CONV1D = re.compile(r"(^|\.)h\.\d+\.(attn|mlp)\.c_(fc|proj)$")
"""The names of the maps that the architecture keeps transposed but not fused."""


class SplitProjections(nn.Module):
    """Query, key and value of one input, side by side: x of shape (B, S, D) to (B, S, 3D), as the fused map gives."""

    def __init__(self, fused: Conv1D):
        super().__init__()
        parts = zip(fused.weight.chunk(3, dim=1), fused.bias.chunk(3), strict=True)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in parts)

    def forward(self, x: Tensor) -> Tensor:
        """The three maps' outputs, concatenated."""
        return torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)


def split_fused(model: nn.Module) -> None:
    """Put linear maps in place of every `Conv1D`, and three of them where it fuses query, key and value."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            fused = name.endswith(".c_attn") and module.nf == 3 * module.nx
            _put(model, name, SplitProjections(module) if fused else _linear(module.weight, module.bias))


@torch.no_grad()
def fuse(model: nn.Module) -> None:
    """Undo `split_fused`, for saving under the architecture's own names. Maps must be bare linear ones."""
    if getattr(getattr(model, "config", None), "model_type", None) != "gpt2":
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, SplitProjections):
            _put(model, name, _conv1d([module.query, module.key, module.value]))
        elif isinstance(module, nn.Linear) and _CONV1D.search(name):
            _put(model, name, _conv1d([module]))


def fused_tensors(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Whole weights by the names and in the shapes that the architecture stores them in."""
    if getattr(getattr(model, "config", None), "model_type", None) != "gpt2":
        return dict(tensors)
    own = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.c_attn)\.(query|key|value)\.(weight|bias)", name)
        if match is None:
            turned = name.endswith(".weight") and _CONV1D.search(name.removesuffix(".weight"))
            own[name] = tensor.T if turned else tensor
        elif match[2] == "query":
            parts = [tensors[f"{match[1]}.{part}.{match[3]}"] for part in FUSED]
            own[f"{match[1]}.{match[3]}"] = torch.cat([p.T if p.ndim > 1 else p for p in parts], dim=-1)
    return own


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    linear.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear


def _conv1d(maps: list[nn.Linear]) -> Conv1D:
    from transformers.pytorch_utils import Conv1D

    conv = Conv1D(sum(m.out_features for m in maps), maps[0].in_features)
    conv.weight = nn.Parameter(torch.cat([m.weight.T for m in maps], dim=1).contiguous())
    conv.bias = nn.Parameter(torch.cat([m.bias for m in maps]))
    return conv
