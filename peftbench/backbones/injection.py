"""Keys and values of virtual tokens, put in at the attention itself, one way for every architecture.

Most models of transformers route attention through a registered function that sees query, key, value and mask after
caching, rotation and grouping of heads; one function registered here puts virtual keys and values before the real
ones, with a mask that lets every query see them and a relative position bias of zero. Nothing enters the cache, so
generation and beam search work as they are. DeBERTa and MPNet compute attention in place and get a forward of their
own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.anatomy import attentions, positions
from peftbench.backbones.noise import attend
from peftbench.layers.prompt import tokens_in_cache

_NAME = "virtual_tokens"


@dataclass
class KeyValues:
    """Virtual tokens of one attention, on the module as `virtual_tokens`.

    Attributes:
        key: (1 or B, H, P, d), H the key heads, after rotation where positions are rotary. value: alike.
        mask: (B, P), False where a row's virtual token is padding; None: all count.
        gate: (B, 1, 1, 1), a factor on keys and values (UniPELT); None: one.
        dropout: probability with which an element of a row's keys and values is dropped.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    gate: Tensor | None = None
    dropout: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied model has none until its own forward lays them: these belong to the original's graph."""

    def rows(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value for the B rows of `like` (B, H, S, d), in its type; beams repeat their row."""
        key, value = (x if self.gate is None else x * self.gate for x in (self.key, self.value))
        key, value = _repeat(key, len(like)), _repeat(value, len(like))
        if self.dropout:
            key, value = nn.functional.dropout(key, self.dropout), nn.functional.dropout(value, self.dropout)
        return key.to(like.dtype), value.to(like.dtype)


def _repeat(x: Tensor, rows: int) -> Tensor:
    return x.expand(rows, *x.shape[1:]) if len(x) == 1 else x.repeat_interleave(rows // len(x), 0)


def inject(model: nn.Module) -> dict[str, nn.Module]:
    """Make every attention of `model` read `virtual_tokens` off its module; None there changes nothing.

    Returns:
        The attention modules by qualified name, in anatomy's order.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, _whole_mask)
    found = {attention.name: model.get_submodule(attention.name) for attention in attentions(model)}
    for module in found.values():
        module.virtual_tokens = None  # type: ignore[assignment]
        if type(module).__name__ in _IN_PLACE:
            module.forward = partial(_IN_PLACE[type(module).__name__], module)  # type: ignore[method-assign]
    if not any(type(module).__name__ in _IN_PLACE for module in found.values()):
        for module in model.modules():
            if hasattr(module, "config") and hasattr(module.config, "_attn_implementation"):
                module.config._attn_implementation = _NAME  # type: ignore[union-attr]
    return found


def count_positions_from_mask(stack: nn.Module) -> None:
    """Make a decoder's positions skip padding where the caller gives none, so that left padding changes nothing."""

    def fill(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask, seen = kwargs.get("attention_mask"), tokens_in_cache(kwargs)
        if kwargs.get("position_ids") is None and mask is not None and mask.ndim == 2:
            kwargs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, seen:]
        return args, kwargs

    stack.register_forward_pre_hook(fill, with_kwargs=True)


class ShiftedPositions:
    """Positions of real tokens, moved behind the virtual ones; nothing where the architecture counts none.

    Attributes:
        amount: P, or (B, 1) where each row has its own; may be exchanged between forward passes.
    """

    def __init__(self, model: nn.Module, amount: int | Tensor):
        self.amount = amount
        for name in positions(model):
            model.get_submodule(name).register_forward_pre_hook(self._shift, with_kwargs=True)

    def _shift(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # Position ids are the last argument of a table and of a rotary embedding alike.
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": self._moved(kwargs["position_ids"])}
        return (*args[:-1], self._moved(args[-1])), kwargs

    def _moved(self, ids: Tensor) -> Tensor:
        if isinstance(self.amount, int):
            return ids + self.amount
        return ids + self.amount.repeat_interleave(max(len(ids) // len(self.amount), 1), 0)


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """While open, the keys and values (B, H, S, d) that each attention computes itself, by name."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in modules.items():
        module.record = partial(seen.__setitem__, name)  # type: ignore[assignment]
    try:
        yield seen
    finally:
        for module in modules.values():
            del module.record


def _whole_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """A mask always written out: a skipped one would mean "causal from the corner", which virtual keys move."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    key, value, attention_mask, position_bias = _prepended(module, query, key, value, attention_mask, position_bias)
    return attend(module, query, key, value, attention_mask, position_bias=position_bias, **kwargs)


def _prepended(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Key, value, mask and relative position bias, with the module's virtual tokens first."""
    virtual = _virtual(module, key, value)
    if virtual is None:
        return key, value, mask, bias
    more_key, more_value = virtual.rows(key)
    length = more_key.shape[2]
    key, value = torch.cat([more_key, key], 2), torch.cat([more_value, value], 2)
    bias = None if bias is None else nn.functional.pad(bias, (length, 0))
    return key, value, _widen(mask, virtual, length, query, key), bias


def _virtual(module: nn.Module, key: Tensor, value: Tensor) -> KeyValues | None:
    record = getattr(module, "record", None)
    if record is not None:
        record((key.detach(), value.detach()))
    return getattr(module, "virtual_tokens", None)


def _widen(mask: Tensor | None, virtual: KeyValues, length: int, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask (B, 1, Q, K) with `length` visible columns before the others."""
    if mask is None:
        if virtual.mask is None:
            return None
        mask = query.new_ones((len(query), 1, query.shape[2], key.shape[2] - length), dtype=torch.bool)
    visible = mask.new_full((*mask.shape[:-1], length), mask.dtype == torch.bool)
    if virtual.mask is not None:
        seen = _repeat(virtual.mask, len(query))[:, None, None, :]
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        visible = visible.expand(len(query), *visible.shape[1:]).masked_fill(~seen, hidden)
        mask = mask.expand(len(query), *mask.shape[1:])
    return torch.cat([visible, mask], -1)


def _attend_disentangled(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DeBERTa's attention; virtual keys have no position, so content-to-position terms of theirs are zero."""
    heads = self.num_attention_heads

    def split(x: Tensor) -> Tensor:
        return self.transpose_for_scores(x, heads)  # (B·H, S, d)

    query = split(self.query_proj(hidden_states if query_states is None else query_states))
    key, value = split(self.key_proj(hidden_states)), split(self.value_proj(hidden_states))
    factor = 1 + sum(kind in self.pos_att_type for kind in ("c2p", "p2c"))
    scores = query @ (key.transpose(1, 2) / math.sqrt(query.shape[-1] * factor))
    if self.relative_attention:
        positions = self.pos_dropout(rel_embeddings)
        scores = scores + self.disentangled_attention_bias(query, key, relative_pos, positions, factor)
    shape = (-1, heads, key.shape[1], key.shape[2])
    scores = scores.view(-1, heads, *scores.shape[1:])
    mask, key, value = attention_mask.bool(), key.view(shape), value.view(shape)
    virtual = _virtual(self, key, value)
    if virtual is not None:
        more_key, more_value = virtual.rows(key)
        more = query.view(-1, heads, *query.shape[1:]) @ (more_key.transpose(2, 3) / math.sqrt(key.shape[-1] * factor))
        scores, value = torch.cat([more, scores], -1), torch.cat([more_value, value], 2)
        mask = _widen(mask, virtual, more_key.shape[2], query.view(-1, heads, *query.shape[1:]), value)
        assert mask is not None
    probabilities = scores.masked_fill(~mask, torch.finfo(query.dtype).min).softmax(-1)
    context = self.dropout(probabilities) @ value
    return context.transpose(1, 2).flatten(2), probabilities if output_attentions else None


def _attend_mpnet(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **_: Any,
) -> tuple[Tensor, ...]:
    """MPNet's attention; its mask is additive, its relative bias of a virtual key is zero."""

    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.attention_head_size).transpose(1, 2)

    query, key, value = split(self.q(hidden_states)), split(self.k(hidden_states)), split(self.v(hidden_states))
    key, value, attention_mask, position_bias = _prepended(self, query, key, value, attention_mask, position_bias)
    scores = query @ key.transpose(2, 3) / math.sqrt(self.attention_head_size)
    for bias in (position_bias, attention_mask):
        scores = scores if bias is None else scores + bias
    probabilities = scores.softmax(-1)
    context = (self.dropout(probabilities) @ value).transpose(1, 2).flatten(2)
    return (self.o(context), probabilities) if output_attentions else (self.o(context),)


_IN_PLACE = {"DisentangledSelfAttention": _attend_disentangled, "MPNetSelfAttention": _attend_mpnet}
