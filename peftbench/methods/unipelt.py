"""UniPELT: gated LoRA, prefix and adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from peftbench.backbones.anatomy import Site, attentions, backbone, sites, stacks
from peftbench.doors import Context, ParameterGroup
from peftbench.errors import ConfigurationError
from peftbench.layers.gating import GatedLowRank, SequenceGate, Tokens
from peftbench.layers.surgery import device_beside
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.bottlenecks import BottleneckAttachment, pfeiffer_adapters
from peftbench.methods.parts.composition import Composition
from peftbench.methods.parts.prefixes import PrefixAttachment, PrefixShape
from peftbench.methods.parts.stored_tensors import StoredTensors
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("unipelt")
@dataclass(frozen=True)
class UniPELT(Method):
    """UniPELT (Mao et al. 2022, ACL, arXiv 2110.07577; code: morningmoni/UniPELT).

    Idea: which method suits a task is not known beforehand, so train several and let gates weigh them by the input.
    Maths: h' = G_A·h_A + h_F (adapter); P_K, P_V multiplied by G_P (prefix); W x + G_L·B A x (LoRA on query and value,
    a gate each, in the place of α/r). G = mean over tokens of σ(Linear(x)): one number per row, layer and part.
    Parameters: stored: prefix 2·L·l·d, adapter L·(2·m·d + m + d), LoRA 4·L·d·r, gates d + 1 each (four per layer, two
    without LoRA).
    Prefix and MLP start as N(0, 0.02²).
    Deviations: the gates' mean leaves padding out (the code counts it, so that its outputs depend on the batch).
    The gated mean is the code's; the paper's text has a gate per token. No central gate.
    On DeBERTa LoRA leaves the projections of relative positions as they were.
    Traps: LoRA cannot be merged, its gate depends on the input. Gates average over the whole sequence, which a decoder
    must not see: encoders only.

    Attributes:
        prefix_length: l. mlp_hidden: width of the MLP that computes the prefix while training.
        reduction: d/m of the adapter. rank: r.
        lora: with LoRA (APL) or without (AP).
    """

    default_lr: ClassVar[float] = 5e-4
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    prefix_length: int = bounded(10, at_least=1)
    mlp_hidden: int = bounded(512, at_least=1)
    reduction: int = bounded(16, at_least=1)
    rank: int = bounded(8, at_least=1)
    lora: bool = True

    def attach(self, model: nn.Module, context: Context) -> UniPELTAttachment:
        """Put in the adapters, the prefix and LoRA, each with its gates.

        Raises:
            ConfigurationError: the backbone has a decoder.
        """
        if "decoder" in stacks(model):
            raise ConfigurationError(
                "method.name: unipelt averages its gates over the whole sequence, which a decoder must not see;"
                " choose an encoder, or mam"
            )
        return UniPELTAttachment(model, context, self)


class UniPELTAttachment(Composition):
    """The parts and their gates."""

    def __init__(self, model: nn.Module, context: Context, method: UniPELT):
        self.gates: dict[str, list[SequenceGate]] = {}
        self.tokens = Tokens()
        backbone(model).register_forward_pre_hook(self.tokens.keep_mask, with_kwargs=True)
        for attention in attentions(model):
            model.get_submodule(attention.name).register_forward_pre_hook(self.tokens.keep_states, with_kwargs=True)
        self._generator = context.generator
        # The released model starts what its checkpoint lacks as N(0, 0.02²).
        shape = PrefixShape(method.prefix_length, method.mlp_hidden, 0.02)

        def place():
            placed = pfeiffer_adapters(model, context.generator, reduction=method.reduction)
            for adapter in placed.values():
                adapter.gate = self._gate("adapter", model)
            return placed

        parts = [
            lambda: BottleneckAttachment(model, context, method, place),
            lambda: GatedPrefix(model, context, method, shape, lambda: self._gate("prefix", model)),
        ]
        if method.lora:
            parts.append(lambda: GatedLoRA(model, context, method, self._lora_gate))
        super().__init__(model, context, method, parts)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of all parts and `adapter_gate`."""
        return [*super().parameter_groups(), _gate_group("adapter_gate", self.gates["adapter"])]

    def stored(self) -> dict[str, Tensor]:
        """The tensors of all parts and the adapters' gates."""
        gates = {id(p) for gate in self.gates["adapter"] for p in gate.parameters()}
        return super().stored() | {n: p.detach() for n, p in self.model.named_parameters() if id(p) in gates}

    def _gate(self, part: str, model: nn.Module) -> SequenceGate:
        width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        gate = SequenceGate(width, self.tokens, device_beside(backbone(model)), self._generator)
        self.gates.setdefault(part, []).append(gate)
        return gate

    def _lora_gate(self, site: Site) -> SequenceGate:
        return self._gate(f"lora_{site.role}", self.model)

    def finalize(self) -> None:
        """Drop the prefix's MLP; from now on the gates' values are summed up, for `analysis`."""
        super().finalize()
        for gates in self.gates.values():
            for gate in gates:
                gate.record()

    def analysis(self) -> dict[str, Any]:
        """Mean and standard deviation of every gate, by part and layer, over the rows seen since `finalize`."""
        return {"gates": {part: [gate.recorded() for gate in gates] for part, gates in self.gates.items()}}


class GatedPrefix(PrefixAttachment):
    """A prefix whose keys and values are weighed by a gate on the layer's input."""

    def __init__(self, model: nn.Module, context: Context, method: UniPELT, shape: PrefixShape, gate):
        super().__init__(model, context, method, shape)
        self.gates = []
        for place in attentions(model):
            module = model.get_submodule(place.name)
            module.add_module("prefix_gate", gate())
            module.register_forward_pre_hook(_weigh_prefix)
            self.gates.append((place, module.prefix_gate))

    def parameter_groups(self) -> list[ParameterGroup]:
        """The prefix's group and `prefix_gate`."""
        return [*super().parameter_groups(), _gate_group("prefix_gate", [gate for _, gate in self.gates])]

    def stored(self) -> dict[str, Tensor]:
        """The prefix's tables and its gates."""
        return super().stored() | {
            f"{place.name}.prefix_gate.{name}": tensor.detach()
            for place, gate in self.gates
            for name, tensor in gate.named_parameters()
        }


def _weigh_prefix(module: Any, args: Any) -> None:
    gate: SequenceGate = module.prefix_gate
    module.virtual_tokens.gate = gate(gate.tokens.states).unsqueeze(-1)


class GatedLoRA(StoredTensors):
    """Low-rank updates of query and value, each weighed by a gate on the layer's input."""

    def __init__(self, model: nn.Module, context: Context, method: UniPELT, gate):
        super().__init__(model, context, method)
        self.layers = []
        for site in sites(model, ("query", "value")):
            linear = model.get_submodule(site.name)
            layer = GatedLowRank(linear, method.rank, gate(site), context.generator)
            linear.add_module("lora", layer)
            linear.register_forward_hook(layer.beside)
            self.layers.append(layer)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `low_rank` and `lora_gate`."""
        factors = [p for layer in self.layers for p in (layer.lora_A, layer.lora_B)]
        gates = _gate_group("lora_gate", [layer.gate for layer in self.layers])
        return [ParameterGroup("low_rank", factors), gates]


def _gate_group(name: str, gates: list[SequenceGate]) -> ParameterGroup:
    return ParameterGroup(name, [p for gate in gates for p in gate.parameters()], decays=False)
