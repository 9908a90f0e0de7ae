"""Any tuner of HF PEFT, by its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.families import Role
from peftbench.doors import Attachment, Context, Counts, ParameterGroup, elements
from peftbench.errors import ConfigurationError
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.adapter_files import head_tensors, write_files
from peftbench.methods.parts.peft_tuners import NOT_MERGEABLE, check_settings, inject, make_config, resolve_targets
from peftbench.methods.registry import register
from peftbench.strict import distinct

_KEY = "base_model.model."
"""What PEFT puts before the name of every tensor of the wrapped model."""
_VECTORS = frozenset({"beft_bias", "boft_s", "ia3_l"})
"""Biases and scales that PEFT keeps as matrices of one row or column, which factors of rank 1 are too."""


@register("peft")
@dataclass(frozen=True)
class Peft(Method):
    """Any tuner of HF PEFT (github.com/huggingface/peft) through this loop, its counts and its record.

    Idea: PEFT's layers go into the model in place; training, selection, head and record are ours.
    Maths: the tuner's own; docs/peft_tuners.md says which tuners train here.
    Parameters: what the tuner makes trainable outside the head; stored: the tensors of PEFT's own adapter file, with
    fixed projections where the tuner saves them (VERA's `save_projection`).
    Deviations: targets are resolved to exact module names outside the head. PEFT's default targets are taken where it
    has some that fit; GPT-2's do not, since its fused projection is split while loading.
    Traps: projections drawn from a key of PEFT's (`projection_prng_key`) are the same for every seed. PEFT does not
    check a value's type before it is used. An adapter of GPT-2 loads onto a model after
    `peftbench.backbones.projections.split_fused`, whose names it has.

    Attributes:
        config: `peft_type` and any key of that type's configuration class, by PEFT's own names.
        sites: roles of the adapted maps, instead of `config.target_modules`.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True, exports_peft=True, identity_at_start=False)

    config: dict = dataclasses.field(default_factory=lambda: {"peft_type": "LORA"})
    sites: tuple[Role, ...] | None = distinct(None)

    def __post_init__(self):
        check_settings(self.config)
        if self.sites is not None:
            if "target_modules" in self.config:
                raise ConfigurationError("method.sites and method.config.target_modules: give one of them")
            if self.peft_type in ("LN_TUNING", "TRAINABLE_TOKENS"):
                raise ConfigurationError(f"method.sites: {self.peft_type} does not adapt linear maps; leave it null")

    @property
    def peft_type(self) -> str:
        """PEFT's name of the tuner."""
        return self.config["peft_type"]

    def check(self, head: str, merge: bool) -> None:
        """Whether an update can be folded depends on the tuner."""
        super().check(head, merge)
        if merge and self.peft_type in NOT_MERGEABLE:
            raise ConfigurationError(f"trainer.merge=true: PEFT's {self.peft_type} cannot be folded into the backbone")

    def attach(self, model: nn.Module, context: Context) -> PeftAttachment:
        """Let PEFT put its layers into the model."""
        return PeftAttachment(model, context, self)


class PeftAttachment(Attachment):
    """PEFT's layers inside the model.

    Args:
        model: the backbone with its head, all frozen.
        context: see `Context`.
        method: the hyper-parameters.

    Raises:
        ConfigurationError: no module matches, or PEFT refuses the model.
    """

    def __init__(self, model: nn.Module, context: Context, method: Peft):
        self.model = model
        self.context = context
        self.in_head = tuple(f"{name}." for name in context.head)
        self.backbone_size = elements([p for n, p in model.named_parameters() if not n.startswith(self.in_head)])
        config = make_config(method.config)
        resolve_targets(config, model, context.head, method.sites)
        seed = int(torch.randint(2**31, (), generator=context.generator))
        if getattr(config, "random_seed", seed) is None:
            config.random_seed = seed
        if getattr(config, "progressbar", False) and "progressbar" not in method.config:
            config.progressbar = False
        self.tuner = inject(model, config, seed)
        for name in context.head:
            model.get_submodule(name).requires_grad_(False)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        outside = {id(p) for p in self.tuner.parameters() if p.requires_grad} - {id(p) for p in self.trained}
        if outside or not elements(self.trained):
            what = "trains parameters outside the model" if outside else "trains nothing with these settings"
            raise ConfigurationError(f"method.config: PEFT's {method.peft_type} {what}")

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `peft` and, undecayed, `peft_vectors`: what has one dimension, by shape or as PEFT uses it."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        vectors = [p for p in self.trained if p.ndim < 2 or _VECTORS.intersection(names[id(p)].split("."))]
        alone = {id(p) for p in vectors}
        matrices = [p for p in self.trained if id(p) not in alone]
        groups = [ParameterGroup("peft", matrices), ParameterGroup("peft_vectors", vectors, decays=False)]
        return [group for group in groups if group.parameters]

    def stored(self) -> dict[str, Tensor]:
        """The tensors of PEFT's adapter file, without the head."""
        from peft.utils import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(_Wrapper(self.tuner), adapter_name="default", save_embedding_layers=False)
        return {n: t.detach() for n, t in tensors.items() if not n.removeprefix(_KEY).startswith(self.in_head)}

    def count(self) -> Counts:
        """`effective` is what is trained; `stored` has fixed projections too, where the tuner saves them."""
        trained = elements(self.trained)
        return Counts(self.backbone_size, trained, effective=trained, stored=elements(list(self.stored().values())))

    @torch.no_grad()
    def merge(self) -> None:
        """PEFT's own."""
        self.tuner.merge_and_unload()

    def export(self, folder: Path) -> None:
        """PEFT's own format; the head is among its `modules_to_save`."""
        head = {f"{_KEY}{n}": t for n, t in head_tensors(self.model, self.context.head).items()}
        write_files(folder, _unshared(self.stored() | head), self._described())

    def _described(self) -> dict[str, Any]:
        values = self.tuner.peft_config["default"].to_dict()
        head = sorted(self.context.head)
        values |= {
            "peft_type": values["peft_type"].value,
            "task_type": "SEQ_CLS" if head else None,
            "base_model_name_or_path": self.context.backbone_id,
            "inference_mode": True,
        }
        if "modules_to_save" in values:
            values["modules_to_save"] = head or None
        return {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}


class _Wrapper(nn.Module):
    """Stands where PEFT's `PeftModel` stands, so that tensors get the names it gives them."""

    def __init__(self, tuner: Any):
        super().__init__()
        self.base_model = tuner
        self.peft_config = tuner.peft_config


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies where several names share storage, which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        own[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return own
