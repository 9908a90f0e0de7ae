"""AdaLoRA: adaptive budget allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.families import ROLES, Role
from peftbench.doors import Clock, Context, ParameterGroup
from peftbench.errors import ConfigurationError, RunError
from peftbench.layers.low_rank import LowRankLinear, normal_
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.low_rank import LowRankAttachment
from peftbench.methods.registry import register
from peftbench.strict import bounded, distinct


@register("adalora")
@dataclass(frozen=True)
class AdaLoRA(Method):
    """AdaLoRA (Zhang et al. 2023, ICLR, arXiv 2303.10512; code: QingruZhang/AdaLoRA, HF PEFT).

    Idea: ΔW = P Λ Q like a singular value decomposition; one budget of ranks over all sites shrinks while training,
    and the least important triplets lose their singular value.
    Maths: R(P, Q) = ‖PᵀP − I‖_F + ‖QQᵀ − I‖_F, mean over all factors, times γ, joins the loss (un-squared as in the
    code; the paper's Eq. 4 squares it). Importance: smoothed sensitivity × uncertainty (Eqs. 8–10, β = 0.85), a
    triplet's score is λ's plus the means over its P column and Q row. Budget: cubic from b0 to b(T) between t_i and
    T − t_f (Eq. 14, in the code's form that starts at b0).
    Parameters: rank·(in + out) + rank per site while training; those of the live triplets afterwards.
    Deviations: none known from HF PEFT's 0.21; masks agree site by site.
    Traps: scores need gradients, so the door runs before they are cleared. The final mask is taken at step T − t_f;
    a checkpoint from before it is never selected, and a run that does not reach it fails. The branch is scaled by
    α/(rank + 1e-5) throughout, also after pruning.

    Attributes:
        rank: initial rank per site, b0 / sites.
        target_rank: mean rank per site at the end, b(T) / sites.
        alpha: α.
        dropout: on the branch's input.
        sites: roles of the adapted maps.
        gamma: γ, weight of the orthogonality penalty.
        t_initial: t_i, steps before the budget shrinks; null: 15% of all steps.
        t_final: t_f, steps after it has stopped; null: 45% of all steps (the paper's own: 600 and 1,800 of 3,900).
        delta_t: ΔT, steps between masks.
        beta1: smoothing of sensitivity. beta2: smoothing of uncertainty.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True, exports_peft=True, quantised_base="allowed")

    rank: int = bounded(12, at_least=1)
    target_rank: int = bounded(8, at_least=1)
    alpha: float = bounded(32.0, above=0)
    dropout: float = bounded(0.0, at_least=0, at_most=0.99)
    sites: tuple[Role, ...] = distinct(ROLES)
    gamma: float = bounded(0.1, at_least=0)
    t_initial: int | None = bounded(None, at_least=0)
    t_final: int | None = bounded(None, at_least=0)
    delta_t: int = bounded(1, at_least=1)
    beta1: float = bounded(0.85, above=0, at_most=0.9999)
    beta2: float = bounded(0.85, above=0, at_most=0.9999)

    def __post_init__(self):
        if self.target_rank > self.rank:
            raise ValueError(f"target_rank {self.target_rank} exceeds rank {self.rank}: the budget only shrinks")

    def attach(self, model: nn.Module, context: Context) -> AdaLoRAAttachment:
        """Put a branch P Λ Q beside every site's linear map.

        Raises:
            ConfigurationError: t_i and t_f leave no step for the budget to shrink in.
        """
        t_initial = int(0.15 * context.total_steps) if self.t_initial is None else self.t_initial
        t_final = int(0.45 * context.total_steps) if self.t_final is None else self.t_final
        # One step at least before the final mask has to be scored, or all triplets tie and all of them go.
        if max(t_initial, 1) >= context.total_steps - t_final:
            raise ConfigurationError(
                f"method.t_initial {t_initial} and method.t_final {t_final} leave no step of {context.total_steps}"
                " for the budget to shrink in; lower them or train longer"
            )

        def make(linear: nn.Linear) -> LowRankLinear:
            layer = LowRankLinear(linear, self.rank, self.alpha / (self.rank + 1e-5), self.dropout, gated=True)
            normal_(layer.lora_A, 0.02, context.generator)
            normal_(layer.lora_B, 0.02, context.generator)
            nn.init.zeros_(layer.gate)  # type: ignore[arg-type]
            return layer

        return AdaLoRAAttachment(model, context, self, make, t_initial, t_final)


class AdaLoRAAttachment(LowRankAttachment):
    """P Λ Q layers, their penalty and the allocator of their budget."""

    def __init__(self, model: nn.Module, context: Context, method: AdaLoRA, make, t_initial: int, t_final: int):
        super().__init__(model, context, method.sites, make)
        self.method = method
        self.t_initial = t_initial
        self.last_allocation = context.total_steps - t_final
        self.initial_budget = method.rank * len(self.layers)
        self.target_budget = method.target_rank * len(self.layers)
        self.sensitivity = [torch.zeros_like(p) for p in self._triplet_parameters()]
        self.uncertainty = [torch.zeros_like(p) for p in self._triplet_parameters()]
        self._alike = _alike([(site.in_features, site.out_features) for site in self.layers])
        placed = torch.tensor([i for places in self._alike for i in places], device=self.gates[0].device)
        self._order = placed.argsort()
        self.mask: Tensor | None = None
        self.selectable = False

    def _triplet_parameters(self) -> list[Tensor]:
        """All Λ, then all Q (lora_A), then all P (lora_B)."""
        layers = list(self.layers.values())
        return [*self.gates, *(x.lora_A for x in layers), *(x.lora_B for x in layers)]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `low_rank` (P, Q) and `singular_values` (Λ)."""
        return [*super().parameter_groups(), ParameterGroup("singular_values", self.gates)]

    def penalty(self) -> Tensor | None:
        """γ times the mean over all factors of ‖PᵀP − I‖_F and ‖QQᵀ − I‖_F."""
        if not self.method.gamma:
            return None
        eye = torch.eye(self.method.rank, device=self.gates[0].device)
        layers = list(self.layers.values())
        grams = []
        for places in self._alike:
            p = torch.stack([layers[i].lora_B for i in places])
            q = torch.stack([layers[i].lora_A for i in places])
            grams += [p.mT @ p, q @ q.mT]
        return self.method.gamma * torch.linalg.matrix_norm(torch.cat(grams) - eye).mean()

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        """Score while the budget moves, mask when it is due, keep the final mask in force afterwards."""
        if clock.step < self.last_allocation:
            self._score()
            if clock.step > self.t_initial and clock.step % self.method.delta_t == 0:
                self._allocate(self.budget(clock.step))
        elif not self.selectable:  # At the last allocation, or after it where that step was skipped.
            self._allocate(self.budget(clock.step))
            self.selectable = True
        if self.mask is not None and clock.step > self.last_allocation:
            self._apply()

    def budget(self, step: int) -> int:
        """B(t), the number of live triplets after step `step` (paper Eq. 14)."""
        if step <= self.t_initial:
            return self.initial_budget
        if step > self.last_allocation:
            return self.target_budget
        left = 1 - (step - self.t_initial) / (self.last_allocation - self.t_initial)
        return int((self.initial_budget - self.target_budget) * left**3 + self.target_budget)

    def _score(self) -> None:
        parameters = self._triplet_parameters()
        now = torch._foreach_mul(parameters, [p.grad for p in parameters])  # type: ignore[misc]
        torch._foreach_abs_(now)
        beta1, beta2 = self.method.beta1, self.method.beta2
        torch._foreach_mul_(self.sensitivity, beta1)
        torch._foreach_add_(self.sensitivity, now, alpha=1 - beta1)
        torch._foreach_sub_(now, self.sensitivity)
        torch._foreach_abs_(now)
        torch._foreach_mul_(self.uncertainty, beta2)
        torch._foreach_add_(self.uncertainty, now, alpha=1 - beta2)

    def scores(self) -> Tensor:
        """Importance of every triplet (paper Eq. 9), shape (sites, rank)."""
        elementwise = torch._foreach_mul(self.sensitivity, self.uncertainty)
        n = len(self.layers)
        values, q, p = elementwise[:n], elementwise[n : 2 * n], elementwise[2 * n :]
        vectors = [
            torch.stack([q[i] for i in places]).mean(2) + torch.stack([p[i] for i in places]).mean(1)
            for places in self._alike
        ]
        return torch.stack(values) + torch.cat(vectors).index_select(0, self._order)

    def _allocate(self, budget: int) -> None:
        """Keep the `budget` highest triplets over all sites; those that tie with the threshold all go."""
        dropped = self.initial_budget - budget
        scores = self.scores()
        if dropped:
            threshold = torch.kthvalue(scores.flatten(), dropped).values
            self.mask = scores > threshold
        else:
            self.mask = torch.ones_like(scores, dtype=torch.bool)
        self._apply()

    def _apply(self) -> None:
        assert self.mask is not None
        torch._foreach_mul_(self.gates, list(self.mask.to(self.gates[0].dtype)))

    def status(self) -> dict[str, Any]:
        """Live triplets."""
        live = self.initial_budget if self.mask is None else int(self.mask.sum())
        return {"live_ranks": live, "ranks": self.initial_budget}

    def ranks(self) -> dict[str, int]:
        """Triplets that the mask keeps, by site; before the first mask Λ is zero by initialisation, not by budget."""
        if self.mask is None:
            return {site.name: self.method.rank for site in self.layers}
        return dict(zip([site.name for site in self.layers], self.mask.sum(1).tolist(), strict=True))

    def check_finished(self) -> None:
        """Raise RunError where the final budget was never put in force."""
        if not self.selectable or self.mask is None:
            raise RunError(
                f"AdaLoRA's budget never reached {self.target_budget}: training ended before step"
                f" {self.last_allocation}, where the final mask is taken"
            )
        live = int(self.mask.sum())
        if not live:
            raise RunError("AdaLoRA's final mask left no rank: all importance scores tie; train longer")
        if self.target_budget < self.initial_budget and live == self.initial_budget:
            raise RunError(f"AdaLoRA's budget never moved from {self.initial_budget} ranks")

    def state_dict(self) -> dict[str, Any]:
        """Importance averages, the mask, and whether it is final."""
        state: dict[str, Any] = {"selectable": self.selectable}
        for kind in ("sensitivity", "uncertainty"):
            state |= {f"{kind}.{i}": t for i, t in enumerate(getattr(self, kind))}
        return state if self.mask is None else state | {"mask": self.mask}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take `state_dict`'s answer back."""
        self.selectable = bool(state["selectable"])
        for kind in ("sensitivity", "uncertainty"):
            for i, tensor in enumerate(getattr(self, kind)):
                tensor.copy_(state[f"{kind}.{i}"])
        mask = state.get("mask")
        self.mask = None if mask is None else mask.to(self.gates[0].device).bool()


def _alike(shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Places of equal shapes: their factors are multiplied at once."""
    return [[i for i, shape in enumerate(shapes) if shape == one] for one in dict.fromkeys(shapes)]
