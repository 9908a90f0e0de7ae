"""Scaled parallel adapter: a scaled bottleneck beside the feed-forward sub-layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, parallel_adapters
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("scaled_parallel_adapter")
@dataclass(frozen=True)
class ScaledParallelAdapter(Method):
    """Scaled parallel adapter (He et al. 2022, arXiv 2110.04366, §4; code: jxhe/unify-parameter-efficient-tuning).

    Idea: a parallel adapter that starts like a low-rank update and is scaled like one.
    Maths: h ← FFN(x) + s·(ReLU(x W_down + b_down) W_up + b_up), before residual connection and norm. Down is
    Kaiming-uniform with a = √5, up and biases are zero; a learned s is one scalar per layer, one at first.
    Parameters: 2·M·D + M + D per layer, and one more where s is learned.
    Deviations: the paper fixes s = 4 on BART; the default is the 2 of the released script for an encoder. The official
    RoBERTa code has dropout (`hidden_dropout_prob`) after the ReLU; here there is none inside the adapter.
    Traps: not mergeable, because of the ReLU. The gradient of down is zero at the first step, since up is zero.

    Attributes:
        size: M.
        scaling: s, or `learned`.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities()

    size: int = bounded(64, at_least=1)
    scaling: float | Literal["learned"] = 2.0

    def __post_init__(self):
        if self.scaling != "learned" and not self.scaling > 0:
            raise ValueError(f"scaling: {self.scaling} is too small, it must be above 0")

    def attach(self, model: nn.Module, context: Context) -> BottleneckAttachment:
        """Put one scaled adapter beside every feed-forward sub-layer."""

        def place():
            return parallel_adapters(model, context.generator, self.size, "lora", self.scaling)

        return BottleneckAttachment(model, context, self, place)
