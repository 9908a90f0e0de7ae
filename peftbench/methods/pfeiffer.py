"""Pfeiffer: one bottleneck adapter per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, pfeiffer_adapters
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("pfeiffer")
@dataclass(frozen=True)
class Pfeiffer(Method):
    """Single adapters (Pfeiffer et al. 2021, arXiv 2005.00247; code: adapter-hub/adapters, `SeqBnConfig`).

    Idea: one bottleneck per layer, after the feed-forward sub-layer only, is as good as two.
    Maths: with y = FFN(x) + x before the layer's last norm, h = LN(y + ReLU(LN(y) W_down + b_down) W_up + b_up): the
    one frozen LN is applied before and after the adapter. Weights N(0, 0.02²), biases zero.
    Parameters: 2·M·D + M + D per layer; layer norms stay frozen.
    Deviations: in pre-norm layers (GPT-2, Llama, T5), which have no LN there, the adapter is applied to the
    feed-forward's output before the residual connection.
    Traps: not mergeable. Adding the residual after LN instead of before it is another, weaker model.

    Attributes:
        size: M; null: D / reduction.
        reduction: D / M.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    size: int | None = bounded(None, at_least=1)
    reduction: int = bounded(16, at_least=1)

    def attach(self, model: nn.Module, context: Context) -> BottleneckAttachment:
        """Put one adapter into every layer."""

        def place():
            return pfeiffer_adapters(model, context.generator, self.size, self.reduction)

        return BottleneckAttachment(model, context, self, place)
