"""Diff-Pruning: a sparse difference to the pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.doors import Clock, Context, Counts, ParameterGroup, elements
from peftbench.errors import RunError
from peftbench.layers.delta import HardConcreteDelta, SparseDelta, by_owner, fold, install
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.parameter_kinds import ParameterKinds, by_layer
from peftbench.methods.parts.sparse_updates import backbone_targets, sparse_tensors
from peftbench.methods.parts.stored_tensors import StoredTensors
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("diff_pruning")
@dataclass(frozen=True)
class DiffPruning(Method):
    """Diff-Pruning (Guo, Rush & Kim 2021, arXiv 2012.07463; code: dguo98/DiffPruning).

    Idea: learn a difference to every pretrained weight together with gates that close most of them, then keep the
    largest few and train only those.
    Maths: θ = θ_0 + δ, δ_i = z_i · z_g · w_i for element i of group g (a weight matrix or a vector); z are
    hard-concrete gates of log-odds α, stretched to (l, r). Loss: task + λ Σ_i σ(α_i − log(−l/r)) σ(α_g − log(−l/r)),
    the expected number of non-zeros. At step (1 − fixed_mask_share) · steps the `target` share of all elements with
    the largest |δ| is kept, exactly; z is folded into w, the gates and the penalty go, and w trains on under the mask.
    Parameters: w and α for every weight of the backbone, embeddings too, and an α per group while it trains;
    target · |θ| values, with their positions, are what is stored. Tied weights have one δ.
    Deviations: the rate of α, 0.1, is a constant of the released code. That code adds the groups' own probabilities to
    the penalty where the paper multiplies them in: here the product. It evaluates and projects with the last training
    sample of z, here z is deterministic outside training. It finds the mask by bisecting a threshold over all weights,
    pooler and output layer among them; here the number is exact, and those two are the head, trained whole. It clips
    the gradients of w and α apart, here the trainer clips all together. It trains the fixed mask in a second run with
    a rate of its own (5e-5), here the same run and its schedule go on. Its rate of w is 1e-5, on BERT-large over whole
    epochs; the default here is for small encoders and few hundred steps.
    Traps: takes the memory of two full fine-tunings. A penalty of the paper's size is a sum over all weights, so its
    strength goes with the backbone's size. Positions are of the modules' own shapes (GPT-2's projections split).

    Attributes:
        l: lower end of the stretched gate, below 0.
        r: its upper end, 1 at least.
        alpha_init: α at the start; 5 is an open gate.
        sparsity_penalty: λ.
        target: share of the backbone's weights that is kept.
        structured: whether there is a gate per group.
        fixed_mask_share: share of the steps that comes after the mask is fixed.
        gate_lr: learning rate of α; null: the optimizer's.
    """

    default_lr: ClassVar[float] = 1e-4
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True)

    l: float = -1.5  # noqa: E741 - the paper's letter
    r: float = bounded(1.5, at_least=1)
    alpha_init: float = 5.0
    sparsity_penalty: float = bounded(1.25e-7, at_least=0)
    target: float = bounded(0.005, above=0, at_most=1)
    structured: bool = True
    fixed_mask_share: float = bounded(0.5, at_least=0, at_most=0.99)
    gate_lr: float | None = bounded(0.1, above=0)

    def __post_init__(self):
        if self.l >= 0:
            raise ValueError(f"l: {self.l} must be below 0, or no gate ever closes")

    def attach(self, model: nn.Module, context: Context) -> DiffPruningAttachment:
        """Put a δ on every parameter of the backbone."""
        return DiffPruningAttachment(model, context, self)


class DiffPruningAttachment(StoredTensors):
    """A δ on every parameter outside the head: gated and dense, then under a fixed mask, then sparse."""

    method: DiffPruning

    def __init__(self, model: nn.Module, context: Context, method: DiffPruning):
        super().__init__(model, context, method)
        self.targets = backbone_targets(model, context)
        self.kinds = ParameterKinds(model)
        self.sizes = [target.parameter.numel() for target in self.targets]
        self.size = max(1, round(method.target * sum(self.sizes)))
        self.projection_step = max(1, round((1 - method.fixed_mask_share) * context.total_steps))
        self.selectable = False
        self.learned_share: float | None = None
        self._expected: Tensor | None = None
        self.deltas: list[HardConcreteDelta] = []
        for target in self.targets:
            delta = HardConcreteDelta(target.parameter, method.alpha_init, method.l, method.r, method.structured)
            delta.train(model.training)
            install(target, delta)
            self.deltas.append(delta)
        self.finished: list[SparseDelta] | None = None
        self._hook = model.register_forward_pre_hook(self._draw)
        self._trained = elements([p for group in self.parameter_groups() for p in group.parameters])

    @property
    def projected(self) -> bool:
        """Whether the mask is fixed."""
        return self.deltas[0].kept is not None

    def _draw(self, model: nn.Module, _: Any) -> None:
        """One sample of z per forward pass, however often a weight is read in it."""
        if model.training and not self.projected:
            for target, delta in zip(self.targets, self.deltas, strict=True):
                delta.draw(target.parameter)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `delta` and, undecayed, `delta_no_decay` (w of matrices and of vectors) and `gate` (all α)."""
        w = [delta.w for delta in self.deltas]
        gates = [p for d in self.deltas for p in (d.alpha, d.group_alpha) if p is not None]
        groups = [
            ParameterGroup("delta", [p for p in w if p.ndim > 1]),
            ParameterGroup("delta_no_decay", [p for p in w if p.ndim < 2], decays=False),
            ParameterGroup("gate", gates, lr=self.method.gate_lr, decays=False),
        ]
        return [group for group in groups if group.parameters]

    def penalty(self) -> Tensor | None:
        """λ times the expected number of non-zeros; None once the mask is fixed."""
        if self.projected or not self.method.sparsity_penalty:
            return None
        expected = torch.stack([delta.expected_nonzeros() for delta in self.deltas]).sum()
        self._expected = expected.detach()
        return self.method.sparsity_penalty * expected

    def after_step(self, clock: Clock) -> None:
        """Forget the sample; fix the mask when it is due."""
        for delta in self.deltas:
            delta.release()
        if not self.projected and clock.step >= self.projection_step:
            self._project()

    @torch.no_grad()
    def _project(self) -> None:
        """Keep exactly the `size` elements with the largest |δ| of all parameters."""
        # One buffer for all magnitudes: it is as large as the backbone.
        magnitude = torch.empty(sum(self.sizes), device=self.deltas[0].w.device)
        for delta, part in zip(self.deltas, magnitude.split(self.sizes), strict=True):
            torch.abs(delta.update().flatten(), out=part)
        self.learned_share = int(magnitude.count_nonzero()) / len(magnitude)
        kept = magnitude.topk(self.size, sorted=False).indices
        del magnitude
        self._fix(kept.sort().values)

    def _fix(self, kept: Tensor) -> None:
        for delta, indices in zip(self.deltas, by_owner(kept, self.sizes), strict=True):
            delta.keep(indices)
        self.selectable = True

    def status(self) -> dict[str, Any]:
        """Expected share of elements that are not zero; the kept share once the mask is fixed."""
        if self.projected:
            return {"nonzero_share": self.size / sum(self.sizes)}
        return {} if self._expected is None else {"nonzero_share": float(self._expected) / sum(self.sizes)}

    def state_dict(self) -> dict[str, Any]:
        """The mask, as positions in all parameters one after another, and the share that the gates had left."""
        if not self.projected:
            return {"projected": False}
        starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        kept = [delta.kept + start for delta, start in zip(self.deltas, starts, strict=False)]  # type: ignore[operator]
        return {"projected": True, "learned_share": self.learned_share, "kept": torch.cat(kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take `state_dict`'s answer back; w is restored before, gates folded in."""
        self.selectable = bool(state["projected"])
        self.learned_share = state.get("learned_share")
        kept = state.get("kept")
        parts = [None] * len(self.deltas)
        if kept is not None:
            parts = by_owner(kept.to(self.deltas[0].w.device), self.sizes)
        for delta, indices in zip(self.deltas, parts, strict=True):
            delta.kept = indices
            delta.release()

    def sparse(self) -> list[SparseDelta]:
        """Every parameter's δ as it is evaluated."""
        return [delta.sparse() for delta in self.deltas] if self.finished is None else self.finished

    def stored(self) -> dict[str, Tensor]:
        """Positions and values of every parameter that has any."""
        tensors = {}
        for target, delta in zip(self.targets, self.sparse(), strict=True):
            tensors |= sparse_tensors(target, delta)
        return tensors

    def count(self) -> Counts:
        """`effective` and `stored` are the kept values, from the start; their positions are not counted."""
        return Counts(self.backbone_size, trained=self._trained, effective=self.size, stored=self.size)

    def analysis(self) -> dict[str, Any]:
        """Share of changed elements by kind and layer, groups left as they were, and what the gates had left open."""
        changed: dict[tuple[str, int | None], list[int]] = {}
        untouched = 0
        for target, size, delta in zip(self.targets, self.sizes, self.sparse(), strict=True):
            entry = changed.setdefault(self.kinds.of(target.name), [0, 0])
            entry[0] += len(delta.indices)
            entry[1] += size
            untouched += not len(delta.indices)
        return {
            "nonzero_share": by_layer({key: nonzero / size for key, (nonzero, size) in changed.items()}),
            "groups": len(self.targets),
            "zero_groups": untouched,
            "learned_share": self.learned_share,
        }

    def check_finished(self) -> None:
        """Raise RunError where the mask was never fixed."""
        if not self.projected:
            raise RunError(
                f"Diff-Pruning never fixed its mask: training ended before step {self.projection_step}, where the"
                f" largest {self.size} differences are kept"
            )

    def finalize(self) -> None:
        """Drop w outside the mask and all gates: every δ becomes positions and values."""
        if self.finished is not None:
            return
        self.finished = self.sparse()
        self._hook.remove()
        for target, delta in zip(self.targets, self.finished, strict=True):
            install(target, delta)

    def merge(self) -> None:
        """θ_0 ← θ_0 + δ, on the kept elements alone."""
        self.finalize()
        for target, delta in zip(self.targets, self.sparse(), strict=True):
            fold(target, delta)
