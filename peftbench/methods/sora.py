"""SoRA: sparse low-rank adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from peftbench.backbones.families import ROLES, Role
from peftbench.doors import Clock, Context, Counts, ParameterGroup
from peftbench.layers.low_rank import LowRankLinear, kaiming_uniform_, normal_
from peftbench.layers.proximal import THRESHOLDS
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.low_rank import LowRankAttachment
from peftbench.methods.registry import register
from peftbench.strict import bounded, distinct


@register("sora")
@dataclass(frozen=True)
class SoRA(Method):
    """SoRA (Ding et al. 2023, EMNLP, arXiv 2311.11696; code: TsinghuaC3I/SoRA at c275ac2).

    Idea: LoRA with a gate between its projections; a proximal step drives gate entries to exact zero, and their ranks
    are removed after training.
    Maths: h = W x + (α/r) B (g ⊙ A x); A and B take the optimizer's step, g its own Adam step and then the proximal
    one, g ← T_ξ(g) with ξ = η_t·λ (Eq. 10).
    Parameters: r_max·(in + out) + r_max per site while training; Σ live rank·(in + out) afterwards.
    Deviations: thresholding is the paper's (`sparsity.operator=official` is the code's dead zone of 2ξ); the L1 term
    that the code adds to the loss is off unless `gate_l1` sets it; the head is trained (the released code, by a slip
    of name matching, leaves it at its random start; `trainer.head=freeze` does that); effective parameters are
    exact per site (the code's own count, wrong for feed-forward maps, is the record's `paper`).
    Traps: a zero gate can revive, so ranks are removed only at the end. With `xi` the threshold does not shrink with
    the learning rate, so late steps push every gate to zero.

    Attributes:
        rank: r_max, the rank before sparsification.
        alpha: α; the branch is scaled by α/r_max, also after pruning.
        dropout: on the branch's input.
        sites: roles of the adapted maps.
        gate_lr: the gates' peak learning rate; null: the optimizer's.
        gate_init: `normal`, N(0, 1) as released; `ones`.
        gate_l1: coefficient of the mean absolute gate added to the loss (`sparse_lambda` in the code).
    """

    default_lr: ClassVar[float] = 1e-3
    # Gates of one and zero B leave the output as it was; so do random gates.
    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, exports_peft=True, gated=True, quantised_base="allowed"
    )

    rank: int = bounded(8, at_least=1)
    alpha: float = bounded(16.0, above=0)
    dropout: float = bounded(0.0, at_least=0, at_most=0.99)
    sites: tuple[Role, ...] = distinct(ROLES)
    gate_lr: float | None = bounded(None, above=0)
    gate_init: Literal["normal", "ones"] = "normal"
    gate_l1: float = bounded(0.0, at_least=0)

    def attach(self, model: nn.Module, context: Context) -> SoRAAttachment:
        """Put a gated low-rank branch beside every site's linear map."""

        def make(linear: nn.Linear) -> LowRankLinear:
            layer = LowRankLinear(linear, self.rank, self.alpha / self.rank, self.dropout, gated=True)
            kaiming_uniform_(layer.lora_A, context.generator)
            if self.gate_init == "normal" and layer.gate is not None:
                normal_(layer.gate, 1.0, context.generator)
            return layer

        return SoRAAttachment(model, context, self, make)


class SoRAAttachment(LowRankAttachment):
    """Gated low-rank layers and their proximal step."""

    def __init__(self, model: nn.Module, context: Context, method: SoRA, make):
        super().__init__(model, context, method.sites, make)
        self.method = method
        self.pressed = False

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `low_rank` and `gate`; gates are never decayed, as in the code."""
        gates = ParameterGroup("gate", self.gates, lr=self.method.gate_lr, decays=False, rule="gate_adam")
        return [*super().parameter_groups(), gates]

    def penalty(self) -> Tensor | None:
        """gate_l1 · mean |g| over all gate entries, where `gate_l1` is set."""
        if not self.method.gate_l1:
            return None
        return self.method.gate_l1 * torch.cat(self.gates).abs().mean()

    def after_step(self, clock: Clock) -> None:
        """The proximal step, with the threshold that belongs to this step's learning rate."""
        xi = clock.strength.threshold(clock.lrs["gate"])
        self.pressed |= xi > 0
        THRESHOLDS[clock.strength.operator](self.gates, xi)

    def flags(self) -> list[str]:
        """That thresholding removed nothing, where that is so."""
        if not self.pressed or sum(self.ranks().values()) < self.method.rank * len(self.layers):
            return []
        return ["the budget never moved: the threshold removed no rank; raise sparsity.lambda or sparsity.xi"]

    def state_dict(self) -> dict[str, Any]:
        """Whether there was a threshold."""
        return {"pressed": self.pressed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take `state_dict`'s answer back."""
        self.pressed = bool(state["pressed"])

    def status(self) -> dict[str, Any]:
        """Ranks at exactly zero, of all."""
        total = self.method.rank * len(self.layers)
        return {"zero_ranks": total - sum(self.ranks().values()), "ranks": total}

    def count(self) -> Counts:
        """Counts; `paper` is the code's: A and B of all ranks, less 2·hidden per zero gate whatever the site."""
        counts = super().count()
        factors = sum(p.numel() for p in super().parameter_groups()[0].parameters)
        zero = sum(int((gate == 0).sum()) for gate in self.gates)
        hidden = int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        return replace(counts, paper=factors - zero * 2 * hidden)
