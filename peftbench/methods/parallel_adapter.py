"""Parallel adapter: a bottleneck beside the feed-forward sub-layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, parallel_adapters
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("parallel_adapter")
@dataclass(frozen=True)
class ParallelAdapter(Method):
    """Parallel adapter (He et al. 2022, arXiv 2110.04366, §4; code: jxhe/unify-parameter-efficient-tuning).

    Idea: the bottleneck reads what the feed-forward sub-layer reads and adds to what it gives.
    Maths: h ← FFN(x) + ReLU(x W_down + b_down) W_up + b_up, before residual connection and norm; x is what the
    feed-forward's first map reads, in a pre-norm layer after the norm. Weights N(0, 0.02²), biases zero.
    Parameters: 2·M·D + M + D per layer.
    Deviations: the official RoBERTa code has dropout (`hidden_dropout_prob`) after the ReLU; here there is none inside
    the adapter, and the host's on the feed-forward's output covers the adapter's too.
    Traps: not mergeable, because of the ReLU.

    Attributes:
        size: M.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    size: int = bounded(64, at_least=1)

    def attach(self, model: nn.Module, context: Context) -> BottleneckAttachment:
        """Put one adapter beside every feed-forward sub-layer."""

        def place():
            return parallel_adapters(model, context.generator, self.size, "bert")

        return BottleneckAttachment(model, context, self, place)
