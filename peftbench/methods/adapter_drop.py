"""AdapterDrop: adapters in the upper layers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from peftbench.backbones.anatomy import sites
from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, Placed, houlsby_adapters, pfeiffer_adapters
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("adapter_drop")
@dataclass(frozen=True)
class AdapterDrop(Method):
    """AdapterDrop, specialised (Rücklé et al. 2021, arXiv 2010.11918; code: adapter-hub/adapters, `leave_out`).

    Idea: adapters of the first layers matter least; without them training and inference are faster.
    Maths: those of the placement, in layers `drop` and above of every stack.
    Parameters: those of the placement, times the share of the layers that keep their adapters.
    Deviations: the robust variant, which draws the number of dropped layers anew during training, is not
    reproduced, since its details are not at hand.
    Traps: not mergeable.

    Attributes:
        drop: layers without adapters, from the first, in the encoder and in the decoder; null: five of twelve, and as
            large a share of another number of layers.
        placement: `pfeiffer`, one after the feed-forward; `houlsby`, two per layer, with the layers' norms trained.
        size: bottleneck width.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    drop: int | None = bounded(None, at_least=0)
    placement: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    size: int = bounded(48, at_least=1)

    def attach(self, model: nn.Module, context: Context) -> BottleneckAttachment:
        """Put adapters into the layers that keep theirs."""
        layers = 1 + max(site.layer for site in sites(model, ("ffn_out",)))
        first_layer = layers * 5 // 12 if self.drop is None else self.drop

        def place() -> Placed:
            if self.placement == "houlsby":
                return houlsby_adapters(model, context.generator, self.size, 1e-2, first_layer=first_layer)
            return pfeiffer_adapters(model, context.generator, self.size, first_layer=first_layer)

        norms = "host" if self.placement == "houlsby" else "none"
        return BottleneckAttachment(model, context, self, place, norms)
