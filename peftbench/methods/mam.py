"""MAM adapter: prefix in the attention, scaled parallel adapter in the feed-forward sub-layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, parallel_adapters
from peftbench.methods.parts.composition import Composition
from peftbench.methods.parts.prefixes import PrefixAttachment, PrefixShape
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("mam")
@dataclass(frozen=True)
class MAM(Method):
    """MAM adapter (He et al. 2022, ICLR, arXiv 2110.04366; code: jxhe/unify-parameter-efficient-tuning).

    Idea: a small prefix is the best use of few parameters in the attention, a scaled parallel adapter of many in the
    feed-forward sub-layer; together they come close to full fine-tuning.
    Maths: K ← [P_K; K], V ← [P_V; V] with |P| = l; h ← FFN(x) + s·ReLU(x W_down + b_down) W_up + b_up.
    Parameters: stored 2·l·d per attention and 2·r·d + r + d per feed-forward sub-layer; while training the MLP too.
    Deviations: no dropout inside the adapter (the code's RoBERTa has the model's own after the ReLU); the prefix is not
    decayed (0.1 there for classification). The defaults are the code's for classification
    (l = r = 16, s = 2); summarisation and translation use l = 30, r = 512, s = 4.
    Traps: the paper's "6.7%" of BART-large counts weights alone; biases come on top.

    Attributes:
        prefix_length: l. mlp_hidden: width of the MLP that computes the prefix while training.
        size: r, the adapter's bottleneck. scaling: s.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    prefix_length: int = bounded(16, at_least=1)
    mlp_hidden: int = bounded(800, at_least=1)
    size: int = bounded(16, at_least=1)
    scaling: float = bounded(2.0, above=0)

    def attach(self, model: nn.Module, context: Context) -> Composition:
        """Put in the adapters, then the prefix."""
        shape = PrefixShape(self.prefix_length, self.mlp_hidden)

        def adapters() -> BottleneckAttachment:
            def place():
                return parallel_adapters(model, context.generator, self.size, "lora", self.scaling)

            return BottleneckAttachment(model, context, self, place)

        return Composition(model, context, self, [adapters, lambda: PrefixAttachment(model, context, self, shape)])
