"""Linear maps with low-rank updates as one differentiable function.

Written out, a low-rank branch costs more memory traffic than arithmetic: three passes over wide tensors forward and
five backward, for products of a few columns. Here, where the batch is larger than the weight, gate and update are
folded into W for the step, so that forward and input gradient cost what the frozen map costs; elsewhere the product is
added in place.
Maps that read the same input share its casts and products.

Shapes: N tokens, I in, O out, R rank; a letter with `_i` is one map's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Map:
    """h = W x + b + s · B (g ⊙ A u), with W and b frozen.

    Attributes:
        weight: W, (O, I). bias: b, (O,) or None. a: A, (R, I). b: B, (O, R). gate: g, (R,) or None. scaling: s.
    """

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    gate: Tensor | None
    scaling: float


def low_rank_maps(x: Tensor, maps: Sequence[Map], branch: Tensor | None = None) -> tuple[Tensor, ...]:
    """Every map's output for one input, in the type that autocast asks for, else the input's.

    Args:
        x: (..., I).
        maps: with one I; ranks, widths and scalings may differ.
        branch: u, x after dropout, (..., I); None: x itself.

    Returns:
        (..., O_i) of each map.
    """
    kind = x.device.type
    mixed = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if mixed else x.dtype
    if not torch.is_grad_enabled():
        # Decoding is many calls for a few tokens each, and none of them is needed for a backward pass.
        with torch.autocast(kind, enabled=False) if mixed else nullcontext():
            flat = _flat(x).to(dtype)
            wet = flat if branch is None else _flat(branch).to(dtype)
            outputs = _form(len(flat), branch is not None, maps)(flat, wet, maps)
        return tuple(out.view(*x.shape[:-1], out.shape[-1]) for out in outputs)
    tensors = [t for m in maps for t in (m.weight, m.bias, m.a, m.b, m.gate)]
    with torch.autocast(kind, enabled=False):
        return _LowRankMaps.apply(x, branch, dtype, [m.scaling for m in maps], *tensors)  # type: ignore[no-any-return]


def folds(tokens: int, inputs: int, outputs: int) -> bool:
    """Whether W + s·B diag(g) A costs fewer passes over memory than adding the branch to the output does."""
    return 2 * outputs * inputs < tokens * (inputs + 2 * outputs)


def _form(tokens: int, apart: bool, maps: Sequence[Map]) -> Callable[[Tensor, Tensor, Sequence[Map]], list[Tensor]]:
    """`_folded` where that pays for every map and nothing was dropped before the branches, else `_added`.

    A weight of fewer digits than its factors is never folded: added to it and rounded again, all of an update below
    half of its last digit would be gone.
    """
    fold = not apart and all(
        m.weight.dtype == m.a.dtype and folds(tokens, m.weight.shape[1], m.weight.shape[0]) for m in maps
    )
    return _folded if fold else _added


class _LowRankMaps(torch.autograd.Function):
    """Saves the input, and W, A, B and g, which live anyway; the backward pass makes again what is made of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor | None, dtype: torch.dtype, scalings: list[float], *tensors):
        begins = range(0, len(tensors), 5)
        maps = [Map(*tensors[i : i + 5], s) for i, s in zip(begins, scalings, strict=True)]  # type: ignore[call-arg]
        flat = _flat(x).to(dtype)
        wet = flat if u is None else _flat(u).to(dtype)
        form = _form(len(flat), u is not None, maps)
        outputs = form(flat, wet, maps)
        ctx.save_for_backward(wet, *(t for m in maps for t in (m.weight, m.a, m.b, m.gate)))
        ctx.apart, ctx.fold, ctx.scalings = u is not None, form is _folded, scalings
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, None if u is None else u.dtype)
        # Not views for autograd, so that a model may change them in place.
        return tuple(torch.ops.aten._unsafe_view(out, [*x.shape[:-1], out.shape[-1]]) for out in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):  # type: ignore[override]
        wet, *saved = ctx.saved_tensors
        groups = zip(*(saved[i::4] for i in range(4)), ctx.scalings, strict=True)
        maps = [Map(weight, None, *factors) for weight, *factors in groups]
        grads = tuple(_flat(grad).to(wet.dtype) for grad in grads)
        to_low = torch.cat([grad @ m.b.to(grad.dtype) for grad, m in zip(grads, maps, strict=True)], 1)
        wanted_x, wanted_u = ctx.needs_input_grad[:2]
        rows = _scaled(maps)
        scaled = rows.to(wet.dtype)
        to_x = to_u = None
        if wanted_x:
            weights = [_sum(maps, rows, wet.dtype)] if ctx.fold else [m.weight.to(wet.dtype) for m in maps]
            to_x = _times(grads, weights)
            if not ctx.fold and not ctx.apart:
                to_x.addmm_(to_low, scaled)
        if wanted_u:
            to_u = to_low @ scaled
        updates = _factor_gradients(wet @ scaled.t(), wet, to_low, grads, maps)
        shaped = (None if t is None else t.view(ctx.shape).to(d) for t, d in zip((to_x, to_u), ctx.dtypes, strict=True))
        return *shaped, None, None, *updates


def _factor_gradients(
    low: Tensor, wet: Tensor, to_low: Tensor, grads: Sequence[Tensor], maps: Sequence[Map]
) -> list[Tensor | None]:
    """For each map: nothing for W and b, then the gradients of A, B and g.

    Here `low` is s·g ⊙ A u of all maps, (N, Σ R_i), and `wet` u; `to_low` is the loss by B's input, `grads` by h_i.
    """
    ranks = [len(m.a) for m in maps]
    # A few rows times a wide matrix is several times faster than its transpose.
    to_a = (to_low.t() @ wet).to(maps[0].a.dtype).split(ranks)
    found: list[Tensor | None] = []
    for m, products, grad, rows in zip(maps, low.split(ranks, 1), grads, to_a, strict=True):
        to_b = (products.t() @ grad).t().to(m.b.dtype)
        if m.gate is None:
            found += [None, None, rows * m.scaling, to_b, None]
        else:
            found += [None, None, rows * (m.scaling * m.gate)[:, None], to_b, m.scaling * (rows * m.a).sum(1)]
    return found


def _scaled(maps: Sequence[Map]) -> Tensor:
    """Every s·diag(g) A, one above the other, (Σ R_i, I)."""
    rows = [m.a * (m.scaling if m.gate is None else (m.scaling * m.gate)[:, None]) for m in maps]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _sum(maps: Sequence[Map], scaled: Tensor, dtype: torch.dtype) -> Tensor:
    """W + s·B diag(g) A of all maps as one matrix, (Σ O_i, I); `scaled` is `_scaled` of them."""
    widths = [len(m.weight) for m in maps]
    weight = torch.empty(sum(widths), scaled.shape[1], dtype=dtype, device=scaled.device)
    for place, m, rows in zip(weight.split(widths), maps, scaled.split([len(m.a) for m in maps]), strict=True):
        if weight.dtype == m.weight.dtype:
            torch.addmm(m.weight, m.b, rows, out=place)
        else:
            place.copy_(torch.addmm(m.weight, m.b, rows))
    return weight


def _folded(x: Tensor, _: Tensor, maps: Sequence[Map]) -> list[Tensor]:
    """X times the sum of W and its update, for all maps at once."""
    weight, widths = _sum(maps, _scaled(maps), x.dtype), [len(m.weight) for m in maps]
    return list(torch.nn.functional.linear(x, weight, _bias(maps, x)).unsafe_split_with_sizes(widths, 1))


def _bias(maps: Sequence[Map], x: Tensor) -> Tensor | None:
    """All maps' biases one after another, of x's type."""
    if all(m.bias is None for m in maps):
        return None
    biases = [x.new_zeros(len(m.weight)) if m.bias is None else m.bias.to(x.dtype) for m in maps]
    return biases[0] if len(biases) == 1 else torch.cat(biases)


def _added(x: Tensor, wet: Tensor, maps: Sequence[Map]) -> list[Tensor]:
    """X times each map's W, with the branch added in place; s is a factor of that sum, and costs nothing."""
    rows = maps[0].a if len(maps) == 1 else torch.cat([m.a for m in maps])
    low = (wet @ rows.to(x.dtype).t()).split([len(m.a) for m in maps], 1)
    outputs = []
    for m, product in zip(maps, low, strict=True):
        bias = None if m.bias is None else m.bias.to(x.dtype)
        if m.gate is not None:
            product = product * m.gate.to(x.dtype)
        output = torch.nn.functional.linear(x, m.weight.to(x.dtype), bias)
        outputs.append(output.addmm_(product, m.b.to(x.dtype).t(), alpha=m.scaling))
    return outputs


def _times(grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Σ grad_i W_i, (N, I); the weights are one matrix or one each."""
    if len(weights) == 1:
        return (grads[0] if len(grads) == 1 else torch.cat(tuple(grads), 1)) @ weights[0]
    total = grads[0] @ weights[0]
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        total.addmm_(grad, weight)
    return total


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
