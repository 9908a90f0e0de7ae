"""Updates of single weights: a module reads θ = W + δ where it read W; W itself stays as it is.

A δ is a parametrisation (`torch.nn.utils.parametrize`), so attention kernels, tied embeddings and autocast see an
ordinary weight. Shapes: N elements of one weight, K of them kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Target:
    """A parameter and everyone who reads it.

    Attributes:
        name: its first qualified name in the model. parameter: W.
        places: (module, attribute) of each reader; more than one where weights are tied.
    """

    name: str
    parameter: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]

    @property
    def value(self) -> Tensor:
        """What the readers see: θ under a δ, else W."""
        module, attribute = self.places[0]
        return getattr(module, attribute).detach()


def targets(model: nn.Module) -> list[Target]:
    """Every parameter of `model` once, in the model's order."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append((module, attribute))
    return [Target(name, p, tuple(places[id(p)])) for name, p in model.named_parameters()]


def install(target: Target, delta: nn.Module) -> None:
    """Let every reader of the parameter see `delta(W)`; a second call replaces the first call's δ."""
    for module, attribute in target.places:
        if parametrize.is_parametrized(module, attribute):
            module.parametrizations[attribute][0] = delta  # type: ignore[index, operator]
        else:
            # Unchecked, since the check evaluates θ, which a weight without storage does not have.
            parametrize.register_parametrization(module, attribute, delta, unsafe=True)


@torch.no_grad()
def fold(target: Target, delta: nn.Module) -> None:
    """W ← θ, once however many readers there are; the modules are plain again and stay tied."""
    target.parameter.copy_(delta(target.parameter))
    for module, attribute in target.places:
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


def by_owner(flat: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Sorted positions in a concatenation of tensors of `sizes` elements, as positions in each of them."""
    ends = torch.tensor(sizes, dtype=torch.long).cumsum(0)
    cuts = torch.searchsorted(flat, ends.to(flat.device)).tolist()
    starts = [0, *ends.tolist()[:-1]]
    return [flat[a:b] - start for a, b, start in zip([0, *cuts[:-1]], cuts, starts, strict=True)]


def _added(weight: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """θ: `weight` with `values` (K,) added at `indices` (K,) of its flattened form. Added in the values' type."""
    flat = weight.flatten()
    there = flat.index_select(0, indices).to(values.dtype) + values
    return flat.index_copy(0, indices, there.to(flat.dtype)).view_as(weight)


class SparseDelta(nn.Module):
    """θ = W with v added at fixed positions; the gradient of v is gathered from there and reaches nothing else.

    Args:
        indices: (K,), distinct positions in the flattened weight.
        values: v, (K,); None: zeros.

    Attributes:
        values: v, fp32 unless given otherwise.
    """

    indices: Tensor

    def __init__(self, indices: Tensor, values: Tensor | None = None):
        super().__init__()
        self.register_buffer("indices", indices, persistent=False)
        start = torch.zeros(len(indices), device=indices.device) if values is None else values
        self.values = nn.Parameter(start)

    def forward(self, weight: Tensor) -> Tensor:
        """W to θ, of W's shape and type."""
        return _added(weight, self.indices, self.values)


class HardConcreteDelta(nn.Module):
    """θ = W + z ⊙ z_g ⊙ w with hard-concrete gates z per element and z_g for the whole (Guo et al. 2021, §3).

    While training z is sampled: s = σ(log u − log(1−u) + α) with u uniform, z = min(1, max(0, s (r−l) + l)). In
    evaluation it is its value at u = 1/2. After `keep`, θ is W + w at the kept positions and W elsewhere.

    Args:
        weight: W, (N elements of any shape).
        alpha: every α at the start.
        low: l < 0. high: r ≥ 1.
        grouped: whether there is a z_g.

    Attributes:
        w: of W's shape, starts at zero. alpha: of W's shape. group_alpha: () or None. All fp32, where W is.
        kept: (K,) positions in the flattened weight once the mask is fixed, else None.
    """

    kept: Tensor | None

    def __init__(self, weight: Tensor, alpha: float, low: float, high: float, grouped: bool):
        super().__init__()
        self.low, self.high = low, high
        self.w = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))
        self.alpha = nn.Parameter(torch.full_like(weight, alpha, dtype=torch.float32))
        self.group_alpha = nn.Parameter(self.alpha.new_full((), alpha)) if grouped else None
        self.register_buffer("kept", None, persistent=False)
        self._sample: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """W to θ, of W's shape and type."""
        if self.kept is not None:
            return _added(weight, self.kept, self.w.flatten().index_select(0, self.kept))
        if self.training:
            return self._drawn(weight) if self._sample is None else self._sample
        return (weight + self.update()).to(weight.dtype)

    def draw(self, weight: Tensor) -> None:
        """Sample θ once for every reader of the coming forward pass, and for what a checkpoint computes again."""
        self._sample = self._drawn(weight)

    def release(self) -> None:
        """Forget the sample."""
        self._sample = None

    def _drawn(self, weight: Tensor) -> Tensor:
        alpha = self.group_alpha
        group = self.w.new_ones(()) if alpha is None else self._gate(torch.rand_like(alpha).logit() + alpha)
        return _SampledUpdate.apply(weight, self.w, self.alpha, group, self.low, self.high)  # type: ignore[no-any-return]

    def _gate(self, logits: Tensor) -> Tensor:
        return (torch.sigmoid(logits) * (self.high - self.low) + self.low).clamp(0, 1)

    def update(self) -> Tensor:
        """δ with the gates of evaluation, of W's shape."""
        gated = self._gate(self.alpha) * self.w
        return gated if self.group_alpha is None else gated * self._gate(self.group_alpha)

    def expected_nonzeros(self) -> Tensor:
        """E‖z ⊙ z_g‖_0 = Σ σ(α − log(−l/r)) · σ(α_g − log(−l/r)), differentiable, ()."""
        shift = math.log(-self.low / self.high)
        elements: Tensor = _SumOfSigmoids.apply(self.alpha, shift)  # type: ignore[assignment]
        return elements if self.group_alpha is None else elements * torch.sigmoid(self.group_alpha - shift)

    @torch.no_grad()
    def keep(self, indices: Tensor) -> None:
        """Fix the mask: fold the gates into w; from now on only w at `indices` counts."""
        self.w.copy_(self.update())
        self.kept = indices
        self.release()

    @torch.no_grad()
    def sparse(self) -> SparseDelta:
        """δ as of evaluation: the kept elements, or before `keep` all that are not zero."""
        flat = (self.w if self.kept is not None else self.update()).flatten()
        indices = flat.nonzero().squeeze(1) if self.kept is None else self.kept
        return SparseDelta(indices, flat[indices])


class _SampledUpdate(torch.autograd.Function):
    """W + z z_g w for sampled z. Saves z alone: its slope follows from its value, (z−l)(r−z)/(r−l) inside (0, 1)."""

    @staticmethod
    def forward(ctx, weight: Tensor, w: Tensor, alpha: Tensor, group: Tensor, low: float, high: float) -> Tensor:
        z = torch.rand_like(alpha).logit_().add_(alpha).sigmoid_().mul_(high - low).add_(low).clamp_(0, 1)
        ctx.save_for_backward(z, w, group)
        ctx.low, ctx.high = low, high
        return (z * w).mul_(group).add_(weight).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        z, w, group = ctx.saved_tensors
        grad = grad.to(w.dtype)
        to_gate = grad * w
        to_group = torch.dot(to_gate.flatten(), z.flatten())
        # Buffers are as large as the weight, and making one costs more than filling it: the fewest that do.
        to_alpha = torch.ops.aten.hardtanh_backward(to_gate, z, 0, 1)
        buffer = z - ctx.low
        to_alpha.mul_(buffer)
        buffer.neg_().add_(ctx.high - ctx.low)
        to_alpha.mul_(buffer).mul_(group / (ctx.high - ctx.low))
        to_w = torch.mul(grad, z, out=buffer).mul_(group)
        return None, to_w, to_alpha, to_group, None, None


class _SumOfSigmoids(torch.autograd.Function):
    """Σ σ(α − shift). Saves nothing beside α, which is as large as the weight."""

    @staticmethod
    def forward(ctx, alpha: Tensor, shift: float) -> Tensor:
        ctx.save_for_backward(alpha)
        ctx.shift = shift
        return (alpha - shift).sigmoid_().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (alpha,) = ctx.saved_tensors
        s = (alpha - ctx.shift).sigmoid_()
        return s.addcmul_(s, s, value=-1).mul_(grad), None
