"""Bottleneck adapters: down, nonlinearity, up. Shapes: B batch, S sequence, D width, M bottleneck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.layers.low_rank import kaiming_uniform_, normal_

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, any shape."""
    return F.gelu(x, approximate="tanh")


class Bottleneck(nn.Module):
    """f(x) = g(x) · s · (φ(x W_down + b_down) W_up + b_up), without the residual connection.

    Its hooks put it into a layer. They are methods, so that a deep copy of the model calls its own adapters.

    Args:
        down: (B, S, D) to (B, S, M). up: (B, S, M) to (B, S, D), with a `bias`.
        activation: φ.
        scaling: s; `learned`: a scalar that starts at one; None: one.

    Attributes:
        scaling: s, a number, a parameter of shape (1,), or None.
        gate: g, from x (B, S, D) to (B, 1, 1), or None; set by methods that gate their parts.
    """

    def __init__(
        self,
        down: nn.Module,
        up: nn.Module,
        activation: Activation,
        scaling: float | Literal["learned"] | None = None,
    ):
        super().__init__()
        self.down, self.up, self.activation = down, up, activation
        self.scaling: float | nn.Parameter | None = (
            nn.Parameter(torch.ones(1, device=self._bias.device)) if isinstance(scaling, str) else scaling
        )
        self.gate: nn.Module | None = None
        self._kept: Tensor | None = None

    @property
    def _bias(self) -> Tensor:
        bias = self.up.bias
        assert isinstance(bias, Tensor)
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """X of shape (B, S, D) to f(x) of the same shape and type."""
        wide = x if torch.is_autocast_enabled(x.device.type) else x.to(self._bias.dtype)
        out = self.up(self.activation(self.down(wide)))
        if self.scaling is not None:
            out = out * self.scaling
        if self.gate is not None:
            out = self.gate(x) * out
        return out.to(x.dtype)

    def after(self, host: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook, sequential: h + f(h) of the host's output h (B, S, D)."""
        return output + self(output)

    def around_norm(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of a norm LN of y (B, S, D): LN(y + f(LN(y)))."""
        return norm.forward(args[0] + self(output))

    def keep_input(self, host: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of the first map: keep its input x for `beside`."""
        self._kept = args[0]

    def beside(self, host: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of the last map, parallel: h + f(x) with the x that `keep_input` kept."""
        x, self._kept = self._kept, None
        assert x is not None
        return output + self(x)


class HypercomplexLinear(nn.Module):
    """y = x W + b with W = Σ_i A_i ⊗ B_i (Karimi Mahabadi et al. 2021, Eq. 3 to 5); N is the number of terms.

    Args:
        rule: A, (N, N, N), A_i first; shared by every map that is given it.
        in_features: I, divisible by N. out_features: O, divisible by N.
        rank: R of B_i = left_i right_i; None: B_i is one full matrix.

    Attributes:
        rule: A. bias: (O,).
        factors: left (N, I/N, R) and right (N, R, O/N), or only B (N, I/N, O/N). All fp32 and zero at first.
    """

    def __init__(self, rule: nn.Parameter, in_features: int, out_features: int, rank: int | None):
        super().__init__()
        n, device = rule.shape[0], rule.device
        rows, columns = in_features // n, out_features // n
        shapes = [(n, rows, columns)] if rank is None else [(n, rows, rank), (n, rank, columns)]
        self.rule = rule
        self.factors = nn.ParameterList(torch.zeros(shape, device=device) for shape in shapes)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device))

    def weight(self) -> Tensor:
        """W, (I, O)."""
        terms = self.factors[0] if len(self.factors) == 1 else self.factors[0] @ self.factors[1]
        blocks = torch.einsum("nac,nbd->abcd", self.rule, terms)
        n, rows, m, columns = blocks.shape
        return blocks.reshape(n * rows, m * columns)

    def forward(self, x: Tensor) -> Tensor:
        """X of shape (B, S, I) to (B, S, O)."""
        return F.linear(x, self.weight().T, self.bias)


def plain_bottleneck(
    width: int,
    size: int,
    activation: Activation,
    device: torch.device | str,
    scaling: float | Literal["learned"] | None = None,
) -> Bottleneck:
    """A bottleneck of two fp32 linear maps D -> M -> D whose biases are zero; its weights are still to be drawn."""
    shapes = ((width, size), (size, width))
    # Their own initialisation is skipped, since it draws from the global generator.
    down, up = (nn.utils.skip_init(nn.Linear, *s, device=device, dtype=torch.float32) for s in shapes)
    for linear in (down, up):
        nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
    return Bottleneck(down, up, activation, scaling)


def near_identity_(adapter: Bottleneck, std: float, generator: torch.Generator) -> None:
    """Both weights from a normal distribution cut at two standard deviations (Houlsby et al. 2019, §2.1)."""
    for linear in (adapter.down, adapter.up):
        truncated_normal_(linear.weight, std, generator)  # type: ignore[arg-type]


def bert_(adapter: Bottleneck, generator: torch.Generator) -> None:
    """Both weights from N(0, 0.02²), as BERT's own maps were."""
    for linear in (adapter.down, adapter.up):
        normal_(linear.weight, 0.02, generator)  # type: ignore[arg-type]


def zero_up_(adapter: Bottleneck, generator: torch.Generator) -> None:
    """Down Kaiming-uniform with a = √5, up zero (He et al. 2022, after low-rank updates): f is zero at first."""
    kaiming_uniform_(adapter.down.weight, generator)  # type: ignore[arg-type]
    nn.init.zeros_(adapter.up.weight)  # type: ignore[arg-type]


@torch.no_grad()
def truncated_normal_(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """N(0, std²) without what is beyond 2 std, drawn from `generator`."""
    values = torch.empty(weight.shape)
    weight.copy_(nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator))


@torch.no_grad()
def glorot_uniform_(factors: Tensor, generator: torch.Generator) -> None:
    """Every matrix of (N, rows, columns) from Glorot's uniform distribution with gain √2, drawn from `generator`."""
    values = torch.empty(factors.shape)
    for matrix in values:
        nn.init.xavier_uniform_(matrix, gain=2**0.5, generator=generator)
    factors.copy_(values)
