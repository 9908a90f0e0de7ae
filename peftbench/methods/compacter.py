"""Compacter: adapters whose maps are sums of Kronecker products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.layers.bottleneck import Bottleneck, HypercomplexLinear, gelu_tanh, glorot_uniform_
from peftbench.layers.low_rank import normal_
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, Placed, Sublayer, place_sequential, reduced
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("compacter")
@dataclass(frozen=True)
class Compacter(Method):
    """Compacter and Compacter++ (Karimi Mahabadi et al. 2021, arXiv 2106.04647; code: rabeehk/compacter).

    Idea: adapters whose maps are sums of Kronecker products of one small shared matrix and one of low rank.
    Maths: h ← h + φ(h W_down + b_down) W_up + b_up with W = Σ_{i=1..n} A_i ⊗ (s_i t_iᵀ); A (n, n, n) is shared by
    every map of every layer, s and t are each map's own; φ is the tanh approximation of GELU. A is N(0, 1e-4²), s and
    t are Glorot-uniform with gain √2, biases zero.
    Parameters: per map rank·(in + out) + out, once n³ for A, and every layer norm of the backbone.
    Deviations: no adapter after cross-attention. The host's dropout comes after the adapter, as in the released code.
    Traps: not mergeable. Width and bottleneck must be divisible by n. The published rate is high (3e-3).

    Attributes:
        n: terms of the sum.
        rank: of s tᵀ; 1 in the paper; null: full matrices, which is the PHM adapter.
        reduction: backbone width / bottleneck width.
        placement: `both`, after attention and feed-forward; `ffn`, after the feed-forward only: Compacter++.
    """

    default_lr: ClassVar[float] = 3e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    n: int = bounded(4, at_least=1)
    rank: int | None = bounded(1, at_least=1)
    reduction: int = bounded(32, at_least=1)
    placement: Literal["both", "ffn"] = "both"

    def attach(self, model: nn.Module, context: Context) -> BottleneckAttachment:
        """Put the adapters in and unfreeze every layer norm."""
        sublayers: tuple[Sublayer, ...] = ("ffn",) if self.placement == "ffn" else ("attention", "ffn")

        def place() -> Placed:
            # Made beside the first adapter, so that it is where the backbone is.
            rules: list[nn.Parameter] = []

            def make(width: int, device: torch.device) -> Bottleneck:
                if not rules:
                    rules.append(nn.Parameter(torch.empty(self.n, self.n, self.n, device=device)))
                    normal_(rules[0], 1e-4, context.generator)
                return self._bottleneck(rules[0], width, context.generator)

            return place_sequential(model, make, sublayers)

        return BottleneckAttachment(model, context, self, place, norms="all")

    def _bottleneck(self, rule: nn.Parameter, width: int, generator: torch.Generator) -> Bottleneck:
        size = reduced(width, self.reduction)
        if width % self.n or size % self.n:
            raise ConfigurationError(
                f"method.n: {self.n} must divide the backbone's width {width} and the bottleneck's {size} "
                f"({width}/{self.reduction}); change method.n or method.reduction"
            )
        down = HypercomplexLinear(rule, width, size, self.rank)
        up = HypercomplexLinear(rule, size, width, self.rank)
        for factors in (*down.factors, *up.factors):
            glorot_uniform_(factors, generator)
        return Bottleneck(down, up, gelu_tanh)
