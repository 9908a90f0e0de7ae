"""Which kind of thing a parameter belongs to, for analyses by kind and layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from peftbench.backbones.anatomy import ROLES, attentions, embeddings, layer_norms, sites, stacks

_NORMS = {
    2: ("attention_layer_norm", "ffn_layer_norm"),
    3: ("attention_layer_norm", "cross_attention_layer_norm", "ffn_layer_norm"),
}


class ParameterKinds:
    """Kind and layer of the backbone's parameters by name.

    Kinds are the roles and `attention_layer_norm`, `ffn_layer_norm`; in a decoder that attends to an encoder `cross_`
    stands before them where it does so, and with two stacks `encoder.` or `decoder.` before all. What lies outside
    the layers is `embeddings` or `other`.

    Args:
        model: with or without a task head, before anything is put in place of its modules.
    """

    def __init__(self, model: nn.Module):
        self._embeddings = embeddings(model)
        self._modules: dict[str, tuple[str, int]] = {}
        two = len(stacks(model)) > 1
        crossing = tuple(f"{a.name}." for a in attentions(model) if a.kind == "cross")
        layer_lists: dict[str, str] = {}
        for site in sites(model, ROLES):
            cross = "cross_" if crossing and site.name.startswith(crossing) else ""
            prefix = f"{site.stack}." if two else ""
            self._modules[site.name] = (f"{prefix}{cross}{site.role}", site.layer)
            layer_lists[_layer_of(site.name)[0]] = prefix
        norms: dict[tuple[str, int], list[str]] = {}
        for name in layer_norms(model):
            path, layer = _layer_of(name)
            if path in layer_lists:
                norms.setdefault((path, layer), []).append(name)
        for (path, layer), names in norms.items():
            kinds = _NORMS.get(len(names)) or [f"layer_norm_{i}" for i in range(1, len(names) + 1)]
            for name, kind in zip(names, kinds, strict=True):
                self._modules[name] = (layer_lists[path] + kind, layer)

    def of(self, parameter: str) -> tuple[str, int | None]:
        """Kind and layer of the parameter of that name; the layer is None outside the layers."""
        module = parameter.rpartition(".")[0]
        if module in self._modules:
            return self._modules[module]
        return ("embeddings" if f"{module}.".startswith(f"{self._embeddings}.") else "other"), None


def by_layer(values: Mapping[tuple[str, int | None], float]) -> dict[str, list[float]]:
    """(kind, layer) to a number, as kind to the numbers in the order of the layers."""
    table: dict[str, list[float]] = {}
    for kind, layer in sorted(values, key=lambda key: -1 if key[1] is None else key[1]):
        table.setdefault(kind, []).append(values[kind, layer])
    return table


def _layer_of(name: str) -> tuple[str, int]:
    """Path of the list of layers and index in it; ("", -1) where the name holds no index."""
    match = re.match(r"(.*?)\.(\d+)\.", name)
    return (match[1], int(match[2])) if match else ("", -1)
