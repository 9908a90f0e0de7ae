"""A linear map with a low-rank update beside it. Shapes: B batch, S sequence, I in, O out, R rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.layers.dropout import dropout
from peftbench.layers.low_rank_maps import Map, low_rank_maps
from peftbench.layers.surgery import device_beside


class LowRankLinear(nn.Module):
    """h = W x + b + s · B (g ⊙ A x), with W and b frozen.

    Without a gate it is LoRA's layer (Hu et al. 2021, Eq. 3); with one it is SoRA's (Ding et al. 2023, §3), or
    AdaLoRA's, whose P, Λ and Q are B, g and A (Zhang et al. 2023, Eq. 3).

    Args:
        linear: the frozen map, weight (O, I).
        rank: R.
        scaling: s.
        dropout: probability on the branch's input.
        gated: whether there is a gate of shape (R,); it starts at one.

    Attributes:
        lora_A: (R, I). lora_B: (O, R). gate: (R,) or None. All fp32, whatever the linear's type.
    """

    def __init__(self, linear: nn.Linear, rank: int, scaling: float, dropout: float = 0.0, gated: bool = False):
        super().__init__()
        device = device_beside(linear.weight)
        self.linear = linear
        self.scaling = scaling
        self.dropout = dropout
        self.lora_A = nn.Parameter(torch.zeros(rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        self.gate = nn.Parameter(torch.ones(rank, device=device)) if gated else None
        self.shared: SharedInput | None = None

    @property
    def weight(self) -> Tensor:
        """W, (O, I). T5 asks its feed-forward maps for their type."""
        return self.linear.weight

    @property
    def rank(self) -> int:
        """R."""
        return self.lora_A.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """X of shape (B, S, I) to h of shape (B, S, O)."""
        dropped = dropout(x, self.dropout) if self.dropout and self.training else None
        if not self.is_fused:
            return self._written_out(x, x if dropped is None else dropped)
        if dropped is None and self.shared is not None:
            return self.shared.output(self, x)
        return low_rank_maps(x, [self.map], dropped)[0]

    @property
    def is_fused(self) -> bool:
        """Whether the frozen map is a plain one: not quantised, not parametrised, neither W nor b trained."""
        linear = self.linear
        if type(linear) is not nn.Linear or linear.weight.requires_grad:
            return False
        return linear.bias is None or not linear.bias.requires_grad

    @property
    def map(self) -> Map:
        """The layer as the fused function takes it."""
        return Map(self.linear.weight, self.linear.bias, self.lora_A, self.lora_B, self.gate, self.scaling)

    def _written_out(self, x: Tensor, branch: Tensor) -> Tensor:
        wide = branch if torch.is_autocast_enabled(x.device.type) else branch.to(self.lora_A.dtype)
        # Scaling the (B, S, R) product is cheaper than scaling the (B, S, O) output.
        low = F.linear(wide, self.lora_A) * (self.scaling if self.gate is None else self.scaling * self.gate)
        output = self.linear(x)
        return output + F.linear(low, self.lora_B).to(output.dtype)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """A' (R', I) and B' (O, R') with zero-gated ranks removed and the gate folded into A: the plain LoRA."""
        if self.gate is None:
            return self.lora_A.detach().clone(), self.lora_B.detach().clone()
        kept = self.gate != 0
        return (self.gate[kept].unsqueeze(1) * self.lora_A[kept]).detach(), self.lora_B[:, kept].detach().clone()

    @torch.no_grad()
    def delta(self) -> Tensor:
        """ΔW = s · B diag(g) A, shape (O, I)."""
        a, b = self.folded()
        return self.scaling * (b @ a)


class SharedInput:
    """Layers that a model calls with one and the same input: the first called computes all.

    Args:
        layers: with one input width. One that is called with another tensor than the first, with what that was
            before a change in place, or with gradients where the first had none, begins anew.
    """

    def __init__(self, layers: Sequence[LowRankLinear]):
        self.layers = list(layers)
        self._input: Tensor | None = None
        self._of: tuple[int, bool] | None = None
        self._outputs: dict[int, Tensor] = {}
        for layer in layers:
            layer.shared = self

    def output(self, layer: LowRankLinear, x: Tensor) -> Tensor:
        """What `layer` gives for `x`."""
        of = 0 if x.is_inference() else x._version, torch.is_grad_enabled()
        if x is not self._input or of != self._of or id(layer) not in self._outputs:
            outputs = low_rank_maps(x, [other.map for other in self.layers])
            self._input, self._of = x, of
            self._outputs = {id(other): out for other, out in zip(self.layers, outputs, strict=True)}
        found = self._outputs.pop(id(layer))
        if not self._outputs:
            self._input = None
        return found

    def dissolve(self) -> None:
        """Every layer computes for itself again."""
        for layer in self.layers:
            layer.shared = None
        self.forget()

    def forget(self) -> None:
        """Drop what a pass that did not come to its end has left."""
        self._input, self._outputs = None, {}


def kaiming_uniform_(weight: Tensor, generator: torch.Generator) -> None:
    """LoRA's initialisation of A (loralib: a = √5), drawn from `generator`: U(−1/√I, 1/√I)."""
    uniform_(weight, math.sqrt(6 / (1 + 5) / weight.shape[1]), generator)


def uniform_(weight: Tensor, bound: float, generator: torch.Generator) -> None:
    """U(−bound, bound), drawn from `generator`."""
    _fill(weight, torch.rand(weight.shape, generator=generator) * 2 * bound - bound)


def normal_(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """N(0, std²), drawn from `generator`."""
    _fill(weight, torch.randn(weight.shape, generator=generator) * std)


def drawn_linear(
    inputs: int, outputs: int, generator: torch.Generator, device: torch.device | str | None = None
) -> nn.Linear:
    """A linear map that starts as torch's, weight and bias U(−1/√I, 1/√I), drawn from `generator`."""
    # Made without values: torch's own start would draw from the global generator.
    linear = nn.Linear(inputs, outputs, device="meta").to_empty(device=device or "cpu")
    for parameter in (linear.weight, linear.bias):
        uniform_(parameter, inputs**-0.5, generator)
    return linear


@torch.no_grad()
def _fill(weight: Tensor, values: Tensor) -> None:
    # Drawn on the CPU and copied, so that one seed gives one adapter on every device.
    weight.copy_(values)
