"""SoRA's proximal step: thresholding operators and the gates' own Adam step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def soft_threshold_(gates: Sequence[Tensor], xi: float) -> None:
    """T_ξ in place: x ∓ ξ where |x| > ξ, else 0 (SoRA, Eq. 10). Shapes: any.

    Args:
        gates: tensors to shrink.
        xi: the threshold, at least 0; 0 changes nothing.
    """
    if xi:
        # T_ξ(x) = x − clip(x, −ξ, ξ): three kernels for all gates, where softshrink takes one for each.
        clipped = torch._foreach_clamp_max(list(gates), xi)
        torch._foreach_clamp_min_(clipped, -xi)
        torch._foreach_sub_(list(gates), clipped)


@torch.no_grad()
def official_threshold_(gates: Sequence[Tensor], xi: float) -> None:
    """The released SoRA code's shrink, in place: x ∓ ξ where |x| ≥ 2ξ, 0 where |x| < 2ξ, |x| = ξ left as it is.

    The code subtracts ξ first and zeroes what is then below ξ, so its dead zone is 2ξ wide, twice the paper's; a value
    of exactly ±ξ passes both tests untouched. Shapes: any.

    Args:
        gates: tensors to shrink.
        xi: the threshold, at least 0; 0 changes nothing.
    """
    gates = list(gates)
    if not gates:
        return
    flat = torch.cat([gate.flatten() for gate in gates])
    shrunk = torch.where(flat > xi, flat - xi, torch.where(flat < -xi, flat + xi, flat))
    shrunk.masked_fill_(shrunk.abs() < xi, 0)
    pieces = shrunk.split([gate.numel() for gate in gates])
    torch._foreach_copy_(gates, [piece.view_as(gate) for piece, gate in zip(pieces, gates, strict=True)])


THRESHOLDS = {"soft": soft_threshold_, "official": official_threshold_}


class GateAdam(torch.optim.Optimizer):
    """Adam as the released SoRA code applies it to gates (transformers' former AdamW).

    p ← p − lr·√(1−β2ᵗ)/(1−β1ᵗ) · m/(√v + eps) − lr·wd·p, both terms of the value before the step. torch's AdamW adds
    eps after the bias correction instead, which moves small gates differently.

    Args:
        params: parameters or groups.
        lr: learning rate. betas: decay rates of m and v. eps: added to √v. weight_decay: decoupled decay.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.state[p]["step"] += 1
        grads = [p.grad for p in params]
        m = [self.state[p]["exp_avg"] for p in params]
        v = [self.state[p]["exp_avg_sq"] for p in params]
        (beta1, beta2), step = group["betas"], self.state[params[0]]["step"]
        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, grads, alpha=1 - beta1)  # type: ignore[arg-type]
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)  # type: ignore[arg-type]
        denominator = torch._foreach_sqrt(v)
        torch._foreach_add_(denominator, group["eps"])
        if group["weight_decay"]:
            # Decay and step both start from the value before the step, so the decay is taken first but not compounded.
            decay = torch._foreach_mul(params, group["lr"] * group["weight_decay"])
        size = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        torch._foreach_addcdiv_(params, m, denominator, -size)
        if group["weight_decay"]:
            torch._foreach_sub_(params, decay)  # type: ignore[possibly-undefined]
