"""Tables of virtual keys and values. Shapes: P virtual tokens, L attentions, W key width, D embedding, K hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PrefixTable(nn.Module):
    """Keys and values of P virtual tokens for L alike attentions: a table (P, 2·L·W), or an MLP that computes it.

    Prefix-Tuning (Li & Liang 2021, §4.3): P_θ[i] = MLP(P'_θ[i]), the MLP being Linear(D, K), tanh, Linear(K, 2·L·W) as
    in the official code.

    Args:
        length: P. attentions: L. width: W, key heads times their width.
        embedding_dim: D. hidden: K; None: the table itself is trained.
        dropout: on the table's values, as P-Tuning v2 applies the model's own.
        generator: draws the initialisation (embedding N(0, 1), linear maps torch's default).

    Attributes:
        table: (P, 2·L·W), or (P, D) under an MLP.
    """

    def __init__(
        self,
        length: int,
        attentions: int,
        width: int,
        embedding_dim: int,
        hidden: int | None,
        dropout: float,
        generator: torch.Generator,
    ):
        super().__init__()
        self.attentions, self.dropout = attentions, dropout
        out = 2 * attentions * width
        # No host tensor to ask for a device: a table is small, so it is real even beside a model without storage.
        with torch.device("cpu"):
            self.table = nn.Parameter(torch.empty(length, out if hidden is None else embedding_dim))
            self.mlp = None if hidden is None else _mlp(embedding_dim, hidden, out, generator)
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator))

    def values(self) -> Tensor:
        """The table's values (P, 2·L·W), before dropout."""
        return self.table if self.mlp is None else self.mlp(self.table)

    def forward(self) -> Tensor:
        """Keys and values, (L, 2, P, W)."""
        values = nn.functional.dropout(self.values(), self.dropout, self.training)
        return values.view(len(values), self.attentions, 2, -1).permute(1, 2, 0, 3)

    @torch.no_grad()
    def fold(self) -> None:
        """Evaluate the MLP once and keep only what it gives."""
        self.table = nn.Parameter(self.values().detach().clone())
        self.mlp = None

    def set_values(self, values: Tensor, steps: int, lr: float) -> None:
        """Start from `values` (L, 2, P, W): copied into a table; under an MLP, fitted by Adam on the squared error.

        The fit is the official code's low-data initialisation (500 steps at 1e-4).
        """
        flat = values.permute(2, 0, 1, 3).reshape(values.shape[2], -1).to(self.table)
        if self.mlp is None:
            with torch.no_grad():
                self.table.copy_(flat)
            return
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.mse_loss(self.values(), flat).backward()
                optimizer.step()
        optimizer.zero_grad()


def _mlp(inputs: int, hidden: int, out: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(_linear(inputs, hidden, generator), nn.Tanh(), _linear(hidden, out, generator))


@torch.no_grad()
def _linear(inputs: int, out: int, generator: torch.Generator) -> nn.Linear:
    linear, bound = nn.Linear(inputs, out), inputs**-0.5
    for parameter in (linear.weight, linear.bias):
        parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
    return linear
