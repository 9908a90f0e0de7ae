"""BitFit: only the biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from peftbench.backbones.anatomy import ROLES, backbone, layer_norms, sites
from peftbench.backbones.projections import fused_tensors
from peftbench.doors import Context, Counts, ParameterGroup, elements
from peftbench.errors import ConfigurationError
from peftbench.layers.delta import SparseDelta, Target, by_owner, fold, install
from peftbench.layers.surgery import device_beside
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.parameter_kinds import ParameterKinds, by_layer
from peftbench.methods.parts.sparse_updates import backbone_targets, sparse_tensors
from peftbench.methods.parts.stored_tensors import StoredTensors
from peftbench.methods.registry import register
from peftbench.strict import did_you_mean

SUBSETS = (*ROLES, "layer_norms")


@register("bitfit")
@dataclass(frozen=True)
class BitFit(Method):
    """BitFit (Ben Zaken, Goldberg & Ravfogel 2022, arXiv 2106.10199; code: benzakenelad/BitFit).

    Idea: train the bias terms and freeze every matrix.
    Maths: h = W x + b with b trained, in every affine map; out = g ⊙ norm(x) + b with b trained, g frozen.
    Parameters: layers · (7 d + d_ff) + d for a post-norm encoder with all biases (102,144 on BERT-base); they replace
    the old ones, so nothing is added to the model. `control` trains as many other weights of the backbone instead.
    Deviations: the pooler belongs to the head here and is trained whole, with every method; the paper trains its bias
    and freezes its matrix, and counts it (102,912: `paper`). The released code finds subsets by parts of names, so its
    `output` is both attention output and feed-forward output; here each is a role of its own. Its controls draw with
    replacement and leave the masked weights to the optimizer's decay; here they are drawn without, in the biases'
    exact number, and nothing else can move. Its uniform control spreads over vectors too; here over matrices alone.
    Biases are never decayed.
    Traps: the key's bias hardly moves, since softmax does not see it. T5 and Llama have no biases.

    Attributes:
        biases: `all`, or some of the roles and `layer_norms`; the paper's half is `[query, ffn_in]`.
        control: null; `uniform`, single weights drawn over all matrices; `row_column`, for each bias a column of its
            own matrix, or as many whole rows as fill its size.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True)

    biases: tuple[str, ...] | str = "all"
    control: Literal["uniform", "row_column"] | None = None

    def __post_init__(self):
        if self.biases == "all":
            return
        if isinstance(self.biases, str):
            raise ValueError(f"biases: {self.biases!r} is neither all nor a list of subsets")
        if not self.biases:
            raise ValueError("biases: an empty list leaves nothing to train")
        for subset in self.biases:
            if subset not in SUBSETS:
                near = did_you_mean(subset, SUBSETS)
                raise ValueError(f"biases: {subset!r} is not a subset{near} (known: {', '.join(SUBSETS)})")
        if len(set(self.biases)) < len(self.biases):
            raise ValueError(f"biases: {', '.join(self.biases)} names a subset twice")

    def attach(self, model: nn.Module, context: Context) -> BitFitAttachment:
        """Unfreeze the biases, or put differences on as many other weights.

        Raises:
            ConfigurationError: the backbone has none of these biases.
        """
        return BitFitAttachment(model, context, self)

    def chosen(self, model: nn.Module, everything: list[Target]) -> list[Target]:
        """The biases, in the model's order.

        Raises:
            ConfigurationError: there are none, of one subset or at all.
        """
        # A name's end, not a part of it: T5's relative_attention_bias is a table of embeddings.
        present = {target.name: target for target in everything if target.name.endswith(".bias")}
        if not present:
            raise ConfigurationError(f"method.name=bitfit: a {_kind(model)} backbone has no biases to train")
        if isinstance(self.biases, str):
            return list(present.values())
        names: set[str] = set()
        for subset in self.biases:
            modules = layer_norms(model) if subset == "layer_norms" else [s.name for s in sites(model, (subset,))]
            found = present.keys() & {f"{module}.bias" for module in modules}
            if not found:
                raise ConfigurationError(f"method.biases: {subset} has no biases in a {_kind(model)} backbone")
            names |= found
        return [target for name, target in present.items() if name in names]


def _kind(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


class BitFitAttachment(StoredTensors):
    """Trained biases, or the control's weights."""

    method: BitFit

    def __init__(self, model: nn.Module, context: Context, method: BitFit):
        super().__init__(model, context, method)
        everything = backbone_targets(model, context)
        self.biases = method.chosen(model, everything)
        self.kinds = ParameterKinds(model)
        self.initial = {target.name: target.parameter.detach().clone() for target in self.biases}
        self.deltas: list[tuple[Target, SparseDelta]] = []
        if method.control is None:
            self.trained = [target.parameter for target in self.biases]
        else:
            self.deltas = [(target, SparseDelta(indices)) for target, indices in self._drawn(everything)]
            self.trained = [delta.values for _, delta in self.deltas]
        for target, delta in self.deltas:
            install(target, delta)
        for parameter in self.trained:
            parameter.requires_grad_(True)

    def _drawn(self, everything: list[Target]) -> list[tuple[Target, Tensor]]:
        """The control's weights, each with its changed positions."""
        if self.method.control == "uniform":
            drawn = _uniform(everything, elements([t.parameter for t in self.biases]), self.context.generator)
        else:
            drawn = _rows_and_columns(everything, self.biases, self.context.generator)
        return [(target, indices.to(device_beside(target.parameter))) for target, indices in drawn]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group `biases`, or `control`, undecayed."""
        return [ParameterGroup("biases" if self.method.control is None else "control", self.trained, decays=False)]

    def stored(self) -> dict[str, Tensor]:
        """The trained biases whole, or the control's positions and values."""
        if self.method.control is not None:
            return {k: v for target, delta in self.deltas for k, v in sparse_tensors(target, delta).items()}
        biases = {target.name: target.value for target in self.biases}
        # Single projections have no name in an architecture that fuses them.
        return fused_tensors(biases, self.model) if self.method.biases == "all" else biases

    def count(self) -> Counts:
        """`effective` and `stored` are the trained values; `paper` is with the pooler's bias, where all biases are."""
        trained = elements(self.trained)
        pooler = self._pooler_bias()
        whole = self.method.biases == "all" and self.method.control is None
        paper = trained + pooler if whole and pooler else None
        return Counts(self.backbone_size, trained=trained, effective=trained, stored=trained, paper=paper)

    def _pooler_bias(self) -> int:
        inside = set(backbone(self.model).modules())
        modules = [self.model.get_submodule(name) for name in self.context.head]
        biases = [p for m in modules if m in inside for n, p in m.named_parameters() if n.endswith("bias")]
        return elements(biases)

    def analysis(self) -> dict[str, Any]:
        """How far each bias went, (1/dim b) ‖b_0 − b_F‖_1, by kind and layer; none for a control."""
        if self.method.control is not None:
            return {}
        changes: dict[tuple[str, int | None], float] = {}
        for target in self.biases:
            kind, layer = self.kinds.of(target.name)
            if layer is not None:
                change = (target.value.float() - self.initial[target.name].float()).abs().mean()
                changes[kind, layer] = float(change)
        return {"bias_change": by_layer(changes)}

    def merge(self) -> None:
        """Biases are in place; a control's differences are added."""
        for target, delta in self.deltas:
            fold(target, delta)


def _uniform(everything: list[Target], count: int, generator: torch.Generator) -> list[tuple[Target, Tensor]]:
    """`count` distinct weights, every set of them as likely, over all matrices."""
    matrices = [target for target in everything if target.parameter.ndim > 1]
    sizes = [target.parameter.numel() for target in matrices]
    drawn = torch.empty(0, dtype=torch.long)
    # Drawing only what is missing never draws too much, so nothing is dropped and no position is favoured.
    while len(drawn) < count:
        more = torch.randint(sum(sizes), (count - len(drawn),), generator=generator)
        drawn = torch.cat([drawn, more]).unique()
    owned = zip(matrices, by_owner(drawn, sizes), strict=True)
    return [(target, indices) for target, indices in owned if len(indices)]


def _rows_and_columns(
    everything: list[Target], biases: list[Target], generator: torch.Generator
) -> list[tuple[Target, Tensor]]:
    """For each bias as many weights of its own module: a column, or whole rows where some number of them fits."""
    by_name = {target.name: target for target in everything}
    drawn = []
    for bias in biases:
        weight = by_name[f"{bias.name.removesuffix('bias')}weight"]
        out = bias.parameter.numel()
        width = weight.parameter.numel() // out
        positions = torch.arange(weight.parameter.numel()).view(out, width)
        if out % width == 0 and torch.randint(2, (), generator=generator):
            rows = torch.randperm(out, generator=generator)[: out // width].sort().values
            drawn.append((weight, positions[rows].flatten()))
        else:
            drawn.append((weight, positions[:, int(torch.randint(width, (), generator=generator))].clone()))
    return drawn
