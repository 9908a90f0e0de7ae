"""(IA)³: activations rescaled by learned vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from peftbench.backbones.anatomy import Site, sites
from peftbench.doors import Context, ParameterGroup
from peftbench.layers.rescaling import Rescaling
from peftbench.layers.surgery import device_beside
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.stored_tensors import StoredTensors
from peftbench.methods.registry import register


@register("ia3")
@dataclass(frozen=True)
class IA3(Method):
    """(IA)³ (Liu et al. 2022, arXiv 2205.05638, Eq. 1 and 2; code: r-three/t-few).

    Idea: learn one vector each for keys, values and the feed-forward's intermediate, and multiply by it.
    Maths: softmax(Q (l_k ⊙ K)ᵀ / √d_k) (l_v ⊙ V) in self- and cross-attention, (l_ff ⊙ γ(x W_1)) W_2; all l are ones
    at first. A gated feed-forward is rescaled after its product, before its last map.
    Parameters: d_k + d_v + d_ff per layer, 2·d_k + 2·d_v + d_ff in a decoder layer with cross-attention.
    Traps: weight decay would pull l to zero instead of one, so there is none. BERT's `output.dense` is also the end
    of `attention.output.dense`, which is not rescaled: sites go by role. DeBERTa's shared key map also serves the
    relative positions, whose keys l_k then rescales too. Bias terms are rescaled with the rows.
    """

    default_lr: ClassVar[float] = 1e-2
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True)

    def attach(self, model: nn.Module, context: Context) -> IA3Attachment:
        """Rescale the keys, the values and what the feed-forward's last map reads."""
        return IA3Attachment(model, context, self)


class IA3Attachment(StoredTensors):
    """The vectors.

    Attributes:
        rescalings: the vector of every site.
    """

    def __init__(self, model: nn.Module, context: Context, method: IA3):
        super().__init__(model, context, method)
        self.rescalings: dict[Site, Rescaling] = {}
        self._handles: list[RemovableHandle] = []
        for site in sites(model, ("key", "value", "ffn_out")):
            linear = model.get_submodule(site.name)
            assert isinstance(linear, nn.Linear)
            width = site.in_features if site.role == "ffn_out" else site.out_features
            rescaling = Rescaling(width, device_beside(linear))
            linear.add_module("ia3", rescaling)
            if site.role == "ffn_out":
                handle = linear.register_forward_pre_hook(rescaling.of_input)
            else:
                handle = linear.register_forward_hook(rescaling.of_output)
            self.rescalings[site] = rescaling
            self._handles.append(handle)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group `ia3`, undecayed: every vector."""
        return [ParameterGroup("ia3", [r.vector for r in self.rescalings.values()], decays=False)]

    @torch.no_grad()
    def merge(self) -> None:
        """Rows of W_k and W_v with their biases times l, columns of the feed-forward's last map times l."""
        for site, rescaling in self.rescalings.items():
            linear = self.model.get_submodule(site.name)
            assert isinstance(linear, nn.Linear)
            vector, weight = rescaling.vector, linear.weight
            weight.copy_(weight * (vector if site.role == "ffn_out" else vector.unsqueeze(1)))
            if site.role != "ffn_out" and linear.bias is not None:
                linear.bias.copy_(linear.bias * vector)
            del linear.ia3
        for handle in self._handles:
            handle.remove()
