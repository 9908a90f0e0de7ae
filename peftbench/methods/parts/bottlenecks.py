"""What adapter methods share: where bottlenecks go, how they start, their groups. Compositions use the parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from peftbench.backbones.anatomy import ROLES, Site, attentions, ffn_norms, layer_norms, sites
from peftbench.doors import Context, ParameterGroup
from peftbench.errors import ConfigurationError
from peftbench.layers.bottleneck import Bottleneck, bert_, gelu_tanh, near_identity_, plain_bottleneck, zero_up_
from peftbench.layers.surgery import device_beside
from peftbench.methods.base import Method
from peftbench.methods.parts.stored_tensors import StoredTensors

Sublayer = Literal["attention", "cross", "ffn"]
Make = Callable[[int, torch.device], Bottleneck]
"""Makes an initialised bottleneck for a width, on a device."""


@dataclass(frozen=True)
class Place:
    """Which sub-layer an adapter belongs to.

    Attributes:
        stack: `encoder` or `decoder`. layer: index in its stack, from 0.
        sublayer: `attention` (to itself), `cross` or `ffn`.
    """

    stack: str
    layer: int
    sublayer: Sublayer


Placed = dict[Place, Bottleneck]


class BottleneckAttachment(StoredTensors):
    """Bottlenecks in a frozen backbone, and which layer norms are trained with them.

    Args:
        model: the backbone with its head, all frozen.
        context: see `Context`.
        method: the hyper-parameters, which the export names.
        place: puts the bottlenecks in.
        norms: those of the layers that have a bottleneck (`host`), of the whole backbone (`all`), or `none`.
    """

    def __init__(
        self,
        model: nn.Module,
        context: Context,
        method: Method,
        place: Callable[[], Placed],
        norms: Literal["none", "host", "all"] = "none",
    ):
        super().__init__(model, context, method)
        trained = {"none": (), "all": layer_norms(model)}.get(norms)
        self.adapters = place()
        names = tuple(_host_norms(model, self.adapters)) if trained is None else trained
        self.norms = [p for name in names for p in model.get_submodule(name).parameters()]
        for parameter in self.norms:
            parameter.requires_grad_(True)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `adapter` and, undecayed, `adapter_no_decay` (biases, scalars) and `layer_norm`."""
        groups = [*bottleneck_groups(self.adapters), ParameterGroup("layer_norm", self.norms, decays=False)]
        return [group for group in groups if group.parameters]


def bottleneck_groups(adapters: Placed) -> list[ParameterGroup]:
    """Groups `adapter` and, undecayed, `adapter_no_decay`, without gates; what adapters share stands in it once."""
    named = [pair for adapter in adapters.values() for pair in adapter.named_parameters()]
    own = list({id(p): p for name, p in named if not name.startswith("gate.")}.values())
    return [
        ParameterGroup("adapter", [p for p in own if p.ndim > 1]),
        ParameterGroup("adapter_no_decay", [p for p in own if p.ndim < 2], decays=False),
    ]


def houlsby_adapters(
    model: nn.Module, generator: torch.Generator, size: int, std: float, cross: bool = False, first_layer: int = 0
) -> Placed:
    """Two sequential adapters per layer from `first_layer` on, a third after cross-attention where asked for."""

    def make(width: int, device: torch.device) -> Bottleneck:
        adapter = plain_bottleneck(width, size, gelu_tanh, device)
        near_identity_(adapter, std, generator)
        return adapter

    sublayers: tuple[Sublayer, ...] = ("attention", "cross", "ffn") if cross else ("attention", "ffn")
    return place_sequential(model, make, sublayers, first_layer)


def pfeiffer_adapters(
    model: nn.Module,
    generator: torch.Generator,
    size: int | None = None,
    reduction: int = 16,
    first_layer: int = 0,
) -> Placed:
    """One adapter per layer from `first_layer` on, after the feed-forward sub-layer; D/reduction wide unless `size`."""

    def make(width: int, device: torch.device) -> Bottleneck:
        adapter = plain_bottleneck(width, size or reduced(width, reduction), F.relu, device)
        bert_(adapter, generator)
        return adapter

    return place_after_ffn_norm(model, make, first_layer)


def parallel_adapters(
    model: nn.Module,
    generator: torch.Generator,
    size: int,
    init: Literal["bert", "lora"],
    scaling: float | Literal["learned"] | None = None,
) -> Placed:
    """One adapter per layer beside the feed-forward sub-layer."""

    def make(width: int, device: torch.device) -> Bottleneck:
        adapter = plain_bottleneck(width, size, F.relu, device, scaling)
        (bert_ if init == "bert" else zero_up_)(adapter, generator)
        return adapter

    return place_parallel(model, make)


def place_sequential(model: nn.Module, make: Make, sublayers: Collection[Sublayer], first_layer: int = 0) -> Placed:
    """After the sub-layer's output map, before its residual connection: h + f(h)."""
    placed: Placed = {}
    crossing = tuple(f"{a.name}." for a in attentions(model) if a.kind == "cross")
    for site in _kept(sites(model, ("attention_output", "ffn_out")), first_layer):
        attention = "cross" if site.name.startswith(crossing) else "attention"
        sublayer: Sublayer = "ffn" if site.role == "ffn_out" else attention
        if sublayer in sublayers:
            host = model.get_submodule(site.name)
            adapter = _put(host, make(site.out_features, device_beside(host)))
            host.register_forward_hook(adapter.after)
            placed[Place(site.stack, site.layer, sublayer)] = adapter
    return placed


def place_after_ffn_norm(model: nn.Module, make: Make, first_layer: int = 0) -> Placed:
    """Where y = residual + FFN is normalised: LN(y + f(LN(y))); in pre-norm layers after the FFN's output map."""
    norms = ffn_norms(model)
    placed: Placed = {}
    for site in _kept(sites(model, ("ffn_out",)), first_layer):
        norm = norms.get((site.stack, site.layer))
        host = model.get_submodule(site.name if norm is None else norm)
        adapter = _put(host, make(site.out_features, device_beside(host)))
        host.register_forward_hook(adapter.after if norm is None else adapter.around_norm)
        placed[Place(site.stack, site.layer, "ffn")] = adapter
    return placed


def place_parallel(model: nn.Module, make: Make) -> Placed:
    """Beside the feed-forward sub-layer: f of its first map's input, added to its last map's output."""
    # A gated feed-forward has two first maps with one input: the first of them is read.
    first = {(s.stack, s.layer): s for s in reversed(sites(model, ("ffn_in",)))}
    placed: Placed = {}
    for site in sites(model, ("ffn_out",)):
        host = model.get_submodule(site.name)
        adapter = _put(host, make(site.out_features, device_beside(host)))
        model.get_submodule(first[site.stack, site.layer].name).register_forward_pre_hook(adapter.keep_input)
        host.register_forward_hook(adapter.beside)
        placed[Place(site.stack, site.layer, "ffn")] = adapter
    return placed


def reduced(width: int, reduction: int) -> int:
    """D / reduction, rounded down.

    Raises:
        ConfigurationError: nothing is left.
    """
    if reduction > width:
        raise ConfigurationError(f"method.reduction: {reduction} leaves nothing of the backbone's width {width}")
    return width // reduction


def _kept(found: tuple[Site, ...], first_layer: int) -> list[Site]:
    kept = [site for site in found if site.layer >= first_layer]
    if not kept:
        layers = 1 + max(site.layer for site in found)
        raise ConfigurationError(
            f"method.drop: leaving out {first_layer} layers leaves no adapter, the backbone has {layers}; "
            f"at most {layers - 1}"
        )
    return kept


def _put(host: nn.Module, adapter: Bottleneck) -> Bottleneck:
    # A child of its host: the host keeps its name, and the adapter gets one that says where it is.
    assert not hasattr(host, "adapter")
    host.add_module("adapter", adapter)
    return adapter


def _host_norms(model: nn.Module, places: Collection[Place]) -> Iterator[str]:
    parts: dict[tuple[str, int], list[list[str]]] = {(place.stack, place.layer): [] for place in places}
    for site in sites(model, ROLES):
        if (site.stack, site.layer) in parts:
            parts[site.stack, site.layer].append(site.name.split("."))
    prefixes = tuple(
        ".".join(same[0] for same in takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False))) + "."
        for names in parts.values()
    )
    return (name for name in layer_norms(model) if name.startswith(prefixes))
