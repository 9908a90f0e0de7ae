"""Dropout whose noise is cheap on a CPU: sixteen random bits an element where torch draws a double for each.

Frozen backbones make dropout visible: its noise alone takes a sixth of a training step of BERT's kin with torch's own.
On other devices everything here is torch's. Shapes: B batch, H heads, Q queries, K keys, d a head's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LEVELS = 1 << 16


def is_cheap(p: float, device: torch.device) -> bool:
    """Whether noise of this probability is drawn here: on a CPU, where p is not rounded to 1."""
    return device.type == "cpu" and round(p * _LEVELS) < _LEVELS


class Dropout(nn.Dropout):
    """torch's module with `dropout`'s noise."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same; in evaluation the input itself."""
        if not self.training or not self.p:
            return input
        return dropout(input, self.p)


def dropout(x: Tensor, p: float) -> Tensor:
    """Each element zero with probability p, else divided by 1 − p; p is rounded to a multiple of 2⁻¹⁶.

    Args:
        x: any shape.
        p: from 0 up to, not including, 1 − 2⁻¹⁶; beyond it torch's own dropout runs.
    """
    if not is_cheap(p, x.device):
        return F.dropout(x, p)
    return _Dropout.apply(x, p)  # type: ignore[no-any-return]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, p: float, scale: float) -> Tensor:
    """dropout(softmax(scale · q kᵀ + bias)) v, on the CPU, where torch's kernel for it works in float32 step by step.

    Args:
        q: (B, H, Q, d).
        k: (B, H, K, d).
        v: (B, H, K, d).
        bias: added to the scores, broadcastable to (B, H, Q, K), without gradient; None: none.
        p: see `dropout`; where `is_cheap` alone.
        scale: of the scores.

    Returns:
        (B, H, Q, d).
    """
    with torch.autocast(q.device.type, enabled=False):
        return _Attention.apply(q, k.to(q.dtype), v.to(q.dtype), bias, p, scale)  # type: ignore[no-any-return]


def _kept(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Which elements stay, a bool of the shape, and what those are multiplied by."""
    dropped = round(p * _LEVELS)
    count = like.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[:count] >= dropped - _LEVELS // 2
    return kept.view(like.shape), _LEVELS / (_LEVELS - dropped)


class _Dropout(torch.autograd.Function):
    """Saves which elements stay, a byte each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept, ctx.scale = _kept(x, p)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None


class _Attention(torch.autograd.Function):
    """Saves q, k, v, the probabilities before dropout and which of them stay."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, p: float, scale: float) -> Tensor:
        shape = (*q.shape[:3], k.shape[2])
        # One matrix a head, laid out once for all products.
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
        if bias is not None:
            scores.view(shape).add_(bias)
        probabilities = scores.softmax(-1)
        kept, ctx.factor = _kept(probabilities, p)
        ctx.scale, ctx.shape = scale, shape
        ctx.save_for_backward(q, k, v, probabilities, kept)
        return torch.bmm(probabilities * kept, v).mul_(ctx.factor).view(*shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        q, k, v, probabilities, kept = ctx.saved_tensors
        grad = grad.reshape(len(q), *grad.shape[2:]) * ctx.factor
        to_v = torch.bmm((probabilities * kept).transpose(1, 2), grad)
        to_scores = torch.bmm(grad, v.transpose(1, 2)).mul_(kept)
        to_scores = torch._softmax_backward_data(to_scores, probabilities, -1, probabilities.dtype)
        to_q = torch.baddbmm(q.new_empty(()), to_scores, k, beta=0, alpha=ctx.scale)
        to_k = torch.baddbmm(q.new_empty(()), to_scores.transpose(1, 2), q, beta=0, alpha=ctx.scale)
        batch, heads = ctx.shape[:2]
        return *(x.view(batch, heads, *x.shape[1:]) for x in (to_q, to_k, to_v)), None, None, None
