"""Houlsby: two bottleneck adapters per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, houlsby_adapters
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("houlsby")
@dataclass(frozen=True)
class Houlsby(Method):
    """Adapters (Houlsby et al. 2019, arXiv 1902.00751, §2; code: google-research/adapter-bert).

    Idea: small bottlenecks inside every layer, near the identity at first; the rest stays frozen.
    Maths: h ← h + φ(h W_down + b_down) W_up + b_up, after the attention's and after the feed-forward's output map,
    each before its residual connection; φ is the tanh approximation of GELU. Both weights come from a normal
    distribution cut at two standard deviations, biases are zero.
    Parameters: 2·(2·M·D + M + D) per layer (three where cross-attention has one too), and the layer norms of the
    layers with adapters.
    Deviations: the released code trains the embeddings' layer norm too, and draws with 0.001 where the paper says
    0.01. The host's dropout comes after the adapter, not before it.
    Traps: not mergeable; a large `init_std` fails to train. Published counts leave the layer norms out.

    Attributes:
        size: M.
        init_std: standard deviation of both weights at the start.
        cross_attention: whether decoder layers get an adapter after cross-attention as well.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    size: int = bounded(64, at_least=1)
    init_std: float = bounded(1e-2, above=0)
    cross_attention: bool = False

    def attach(self, model: nn.Module, context: Context) -> BottleneckAttachment:
        """Put the adapters in and unfreeze the layer norms of their layers."""

        def place():
            return houlsby_adapters(model, context.generator, self.size, self.init_std, self.cross_attention)

        return BottleneckAttachment(model, context, self, place, norms="host")
