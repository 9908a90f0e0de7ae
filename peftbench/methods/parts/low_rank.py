"""What LoRA, SoRA and AdaLoRA share: layers at sites, counts, ranks, pruning, merging, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.anatomy import Site, same_input, sites
from peftbench.backbones.quantisation import backbone_elements, dequantise
from peftbench.doors import Attachment, Context, Counts, ParameterGroup, elements
from peftbench.layers.low_rank import LowRankLinear, SharedInput
from peftbench.layers.surgery import replace_module
from peftbench.methods.parts.adapter_files import LowRankUpdate, peft_updates, write_low_rank


class LowRankAttachment(Attachment):
    """Low-rank layers in place of the linear maps at every site of `roles`.

    Args:
        model: the backbone with its head, all frozen.
        context: see `Context`.
        roles: which linear maps.
        make: the layer for a linear map, initialised.

    Raises:
        ConfigurationError: one of `roles` is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        context: Context,
        roles: tuple[str, ...],
        make: Callable[[nn.Linear], LowRankLinear],
    ):
        self.model = model
        self.context = context
        self.backbone_size = backbone_elements(model, context.head)
        self.layers: dict[Site, LowRankLinear] = {}
        for site in sites(model, roles):
            layer = make(model.get_submodule(site.name))  # type: ignore[arg-type]
            replace_module(model, site.name, layer)
            self.layers[site] = layer
        fused = [group for group in same_input(model, self.layers) if all(self.layers[site].is_fused for site in group)]
        self._shared = [SharedInput([self.layers[site] for site in group]) for group in fused]
        self._before_a_pass = model.register_forward_pre_hook(self._forget)

    def _forget(self, *_: object) -> None:
        """A pass that failed half-way would keep its activations, while its batch is tried again in pieces."""
        for shared in self._shared:
            shared.forget()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group `low_rank`: every A and B."""
        return [ParameterGroup("low_rank", [p for x in self.layers.values() for p in (x.lora_A, x.lora_B)])]

    @property
    def gates(self) -> list[Tensor]:
        """The gates of all sites, in order."""
        return [layer.gate for layer in self.layers.values() if layer.gate is not None]

    def ranks(self) -> dict[str, int]:
        """Number of ranks whose gate is not exactly zero, by site."""
        if not self.gates:
            return {site.name: layer.rank for site, layer in self.layers.items()}
        # One transfer for all sites: each would otherwise wait for the device.
        live = torch.stack([torch.count_nonzero(gate) for gate in self.gates]).tolist()
        return dict(zip([site.name for site in self.layers], live, strict=True))

    def count(self) -> Counts:
        """Counts; `effective` is Σ live rank · (in + out), exact for every site; `stored`, the file's."""
        ranks = self.ranks()
        effective = sum(ranks[site.name] * (site.in_features + site.out_features) for site in self.layers)
        trained = elements([p for group in self.parameter_groups() for p in group.parameters])
        stored = elements([factor for update in self._exported() for factor in (update.a, update.b)])
        return Counts(self.backbone_size, trained, effective, stored)

    def _exported(self) -> list[LowRankUpdate]:
        updates = [LowRankUpdate(site.name, *layer.folded(), layer.scaling) for site, layer in self.layers.items()]
        return peft_updates(updates, self.model)

    def analysis(self) -> dict[str, Any]:
        """Live rank of every site with its layer and role, as the papers draw them."""
        ranks = self.ranks()
        rows = [{"stack": s.stack, "layer": s.layer, "role": s.role, "rank": ranks[s.name]} for s in self.layers]
        return {"ranks": rows}

    def finalize(self) -> None:
        """Drop zero ranks and fold the gate: every site becomes a plain LoRA, or the bare linear map."""
        for site, layer in self.layers.items():
            if layer.gate is not None:
                self._prune(site, layer)

    def _prune(self, site: Site, layer: LowRankLinear) -> None:
        a, b = layer.folded()
        if not len(a):
            replace_module(self.model, site.name, layer.linear)
            if layer.shared is not None:
                layer.shared.dissolve()
        layer.lora_A, layer.lora_B, layer.gate = nn.Parameter(a), nn.Parameter(b), None

    @torch.no_grad()
    def merge(self) -> None:
        """W ← W + s·B diag(g) A at every site; the linear map stands alone again. Nothing stays in 4 bits."""
        dequantise(self.model)
        self._before_a_pass.remove()
        for site, layer in self.layers.items():
            if self.model.get_submodule(site.name) is not layer:  # Without rank: `finalize` left the bare map.
                continue
            weight = layer.linear.weight
            weight.copy_((weight.to(layer.lora_A.dtype) + layer.delta()).to(weight.dtype))
            replace_module(self.model, site.name, layer.linear)

    def export(self, folder: Path) -> None:
        """PEFT's own format, gates folded, zero ranks left out."""
        write_low_rank(folder, self._exported(), self.model, self.context.head, self.context.backbone_id)
