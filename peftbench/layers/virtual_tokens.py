"""Tables of virtual keys and values. Shapes: P virtual tokens, L attentions, W key width, D embedding, K hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.layers.low_rank import drawn_linear, normal_


class PrefixTable(nn.Module):
    """Keys and values of P virtual tokens for L alike attentions: a table (P, 2·L·W), or an MLP that computes it.

    Prefix-Tuning (Li & Liang 2021, §4.3): P_θ[i] = MLP(P'_θ[i]), the MLP being Linear(D, K), tanh, Linear(K, 2·L·W) as
    in the official code.

    Args:
        length: P.
        attentions: L.
        width: W, key heads times their width.
        embedding_dim: D.
        hidden: K; None: the table itself is trained.
        std: the table starts as N(0, std²), and the MLP's maps too, without bias; None: the table as N(0, 1), the maps
            as torch's linear ones do.
        generator: draws the start.

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
        std: float | None,
        generator: torch.Generator,
    ):
        super().__init__()
        self.attentions = attentions
        out = 2 * attentions * width
        # No host tensor to ask for a device: a table is small, so it is real even beside a model without storage.
        shape = (length, out if hidden is None else embedding_dim)
        self.table = nn.Parameter(torch.zeros(shape, device="cpu"))
        normal_(self.table, 1.0 if std is None else std, generator)
        self.mlp: nn.Sequential | None = None
        if hidden is not None:
            maps = drawn_linear(embedding_dim, hidden, generator), drawn_linear(hidden, out, generator)
            if std is not None:
                for linear in maps:
                    normal_(linear.weight, std, generator)
                    nn.init.zeros_(linear.bias)
            self.mlp = nn.Sequential(maps[0], nn.Tanh(), maps[1])

    def values(self) -> Tensor:
        """The table's values, (P, 2·L·W)."""
        if self.mlp is None:
            return self.table
        # In full precision, as they are folded: what is kept is what was trained.
        with torch.autocast(self.table.device.type, enabled=False):
            return self.mlp(self.table)

    def forward(self) -> Tensor:
        """Keys and values, (L, 2, P, W)."""
        values = self.values()
        return values.view(len(values), self.attentions, 2, -1).permute(1, 2, 0, 3)

    @torch.no_grad()
    def fold(self) -> None:
        """Evaluate the MLP once and keep only what it gives."""
        self.table = nn.Parameter(self.values().detach().clone())
        self.mlp = None

    def set_values(self, values: Tensor, steps: int, lr: float) -> None:
        """Start from `values` (L, 2, P, W): copied into a table; an MLP is fitted by Adam on the squared error.

        The fit is the official code's low-data start (500 steps at 1e-4); the MLP's input stays as drawn.
        """
        flat = values.permute(2, 0, 1, 3).reshape(values.shape[2], -1).to(self.table)
        if self.mlp is None:
            with torch.no_grad():
                self.table.copy_(flat)
            return
        optimizer = torch.optim.Adam(self.mlp.parameters(), lr=lr)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.mse_loss(self.values(), flat).backward()
                optimizer.step()
        self.zero_grad()
