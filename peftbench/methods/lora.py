"""LoRA: low-rank adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.backbones.families import ROLES, Role
from peftbench.doors import Context
from peftbench.layers.low_rank import LowRankLinear, kaiming_uniform_
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.low_rank import LowRankAttachment
from peftbench.methods.registry import register
from peftbench.strict import bounded, distinct


@register("lora")
@dataclass(frozen=True)
class LoRA(Method):
    """LoRA (Hu et al. 2021, arXiv 2106.09685; code: microsoft/LoRA).

    Idea: the update of a weight matrix has low rank; train its two factors, freeze the matrix.
    Maths: h = W x + (α/r) B A x; A is Kaiming-uniform with a = √5 (the code's; the paper says Gaussian), B zero.
    Parameters: r·(in + out) per site, outside the head.
    Deviations: the paper adapts query and value only; the default here is all six linear maps, as the SoRA and
    AdaLoRA papers' LoRA rows do (1.33M at rank 8 on DeBERTaV3-base). `sites=[query,value]` is the paper's own.
    Traps: the gradient of A is zero at the first step, since B is zero.

    Attributes:
        rank: r.
        alpha: α; the branch is scaled by α/r.
        dropout: on the branch's input.
        sites: roles of the adapted maps.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True, exports_peft=True, quantised_base="allowed")

    rank: int = bounded(8, at_least=1)
    alpha: float = bounded(16.0, above=0)
    dropout: float = bounded(0.0, at_least=0, at_most=0.99)
    sites: tuple[Role, ...] = distinct(ROLES)

    def attach(self, model: nn.Module, context: Context) -> LowRankAttachment:
        """Put a low-rank branch beside every site's linear map."""

        def make(linear: nn.Linear) -> LowRankLinear:
            layer = LowRankLinear(linear, self.rank, self.alpha / self.rank, self.dropout)
            kaiming_uniform_(layer.lora_A, context.generator)
            return layer

        return LowRankAttachment(model, context, self.sites, make)
