"""Cheap dropout in a backbone: its dropout modules, and the attention that the model calls by a registered name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.layers.dropout import Dropout, attention, is_cheap

_NAME = "cheap_dropout"


def cheapen_dropout(model: nn.Module) -> None:
    """Let `model` drop with `peftbench.layers.dropout`: the same law, other draws."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = _NAME  # type: ignore[union-attr]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function: (B, H, S, d) to (B, S, H, d). Torch's kernels wherever nothing is dropped."""
    plain = position_bias is None and query.shape[1] == key.shape[1]
    if not (dropout and plain and is_cheap(dropout, query.device)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        options = {"scaling": scaling, "is_causal": is_causal, "position_bias": position_bias, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **options)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = attention(query, key, value, _bias(attention_mask, query.dtype), dropout, scale)
    return out.transpose(1, 2).contiguous(), None


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to scores: nothing where a key counts, the type's lowest number where not."""
    if mask is None or mask.dtype != torch.bool:
        return mask if mask is None else mask.to(dtype)
    return torch.zeros((), dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
