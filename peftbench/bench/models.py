"""What is measured against what: our methods, HF PEFT's on the stock model, and the stock model frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.assembly import attach
from peftbench.backbones.loading import load_backbone, quiet_transformers
from peftbench.backbones.noise import cheapen_dropout
from peftbench.backbones.origin import locate
from peftbench.compose import compose_run
from peftbench.config import RunConfig
from peftbench.doors import Attachment, Clock, ParameterGroup
from peftbench.sparsity import Strength
from peftbench.training.optimizers import Optimizers

STEPS = 1000
"""Of the training that a measured step is one of."""
PEFT_SITES = r".*encoder\.layer\.\d+\..*(query|key|value|dense)"
"""The six sites of BERT's kin as HF PEFT is told of them."""


@dataclass(frozen=True)
class Batch:
    """Token ids of a full batch without padding, and labels. ids: (B, S). labels: (B,)."""

    ids: Tensor
    labels: Tensor

    @classmethod
    def of(cls, rows: int, length: int) -> Batch:
        """Random tokens from a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 30_000, (rows, length), generator=generator)
        return cls(ids, torch.arange(rows) % 2)

    def inputs(self) -> dict[str, Tensor]:
        """As a model takes them."""
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "labels": self.labels}


def configured(*overrides: str) -> RunConfig:
    """A run's configuration on sample MRPC with the real small backbone."""
    return compose_run(["task=mrpc", "data=sample", "model=minilm", *overrides])


@dataclass
class Trained:
    """A model that is trained, and all that a step of it is made of.

    Attributes:
        model: in training mode.
        penalty: what joins the loss, or None; HF PEFT's model adds its own inside.
        optimize: moves the weights. door: what the method does once they have moved, given the step's number from 1.
        clear: drops the gradients. clipped: the parameters whose gradients are clipped to a norm of 1 together.
        taken: steps so far.
    """

    model: nn.Module
    penalty: Callable[[], Tensor | None]
    optimize: Callable[[], object]
    door: Callable[[int], object]
    clear: Callable[[], object]
    clipped: Sequence[nn.Parameter]
    taken: int = 0

    def step(self, batch: Batch, bf16: bool) -> None:
        """Forward, penalty, backward, clipping, optimizer and door, once; forward under autocast where `bf16`."""
        self.taken += 1
        found, penalty = loss(self.model, batch, bf16), self.penalty()
        (found if penalty is None else found + penalty).backward()
        bool(torch.nn.utils.clip_grad_norm_(self.clipped, 1.0).isfinite())
        self.optimize()
        self.door(self.taken)
        self.clear()


def ours(*overrides: str) -> tuple[nn.Module, Attachment]:
    """The backbone with a method attached, its head frozen, in training mode."""
    model, attachment, _, _ = _attached("trainer.head=freeze", *overrides)
    return model, attachment


def trained(*overrides: str) -> Trained:
    """The same with the run's optimizer; SoRA's λ is 2."""
    model, attachment, groups, config = _attached(*overrides)
    optimizers = Optimizers(groups, config.optimizer, config.lr)
    strength = Strength(2.0, scales_with_lr=True)

    def door(step: int) -> None:
        attachment.after_step(Clock(step, STEPS, 0, optimizers.lrs, strength))

    return Trained(model, attachment.penalty, optimizers.step, door, optimizers.zero_grad, _trained(model))


def _attached(*overrides: str) -> tuple[nn.Module, Attachment, list[ParameterGroup], RunConfig]:
    config = configured("preset=none", *overrides)
    backbone = load_backbone(config.model, 2, seed=0)
    length = config.task.max_length
    attachment, groups = attach(config, backbone.model, backbone.identity, STEPS, length, backbone.tokenizer)
    warm_factors(backbone.model)
    return backbone.model.train(), attachment, groups, config


def stock(cheap: bool = False) -> nn.Module:
    """The same classifier as transformers loads it, all of it frozen, in training mode.

    Args:
        cheap: with our dropout in place of torch's.
    """
    from transformers import AutoModelForSequenceClassification

    quiet_transformers()
    config = configured().model
    where = locate(config).folder or config.repo
    model = AutoModelForSequenceClassification.from_pretrained(str(where), num_labels=2, dtype=torch.float32)
    if cheap:
        cheapen_dropout(model)
    return model.requires_grad_(False).train()


def hf_peft(kind: str, cheap: bool = False) -> Trained:
    """HF PEFT's LoRA of rank 8, or AdaLoRA from 8 to 4, over the stock classifier, with torch's fused AdamW.

    Args:
        kind: `lora` or `adalora`, whose budget is moved after every step.
        cheap: with our dropout in place of torch's.
    """
    import peft

    if kind == "lora":
        config: Any = peft.LoraConfig(r=8, lora_alpha=16, target_modules=PEFT_SITES)
    else:
        config = peft.AdaLoraConfig(init_r=8, target_r=4, lora_alpha=16, total_step=STEPS, target_modules=PEFT_SITES)
    model: Any = peft.get_peft_model(stock(cheap), config)  # type: ignore[arg-type]
    warm_factors(model)
    optimizer = torch.optim.AdamW(_trained(model), lr=1e-3, fused=True)
    door = model.base_model.update_and_allocate if kind == "adalora" else lambda _: None
    return Trained(model.train(), lambda: None, optimizer.step, door, optimizer.zero_grad, _trained(model))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


@torch.no_grad()
def warm_factors(model: nn.Module) -> None:
    """Small values where a factor starts at zero: products with zeros are not what training computes."""
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.normal_(std=0.01)


def step(model: nn.Module, batch: Batch, bf16: bool) -> Callable[[], None]:
    """Forward and backward once, gradients dropped; no optimizer.

    Args:
        model: in training mode.
        batch: what it sees.
        bf16: under autocast.
    """
    parameters = _trained(model)

    def once() -> None:
        loss(model, batch, bf16).backward()
        for parameter in parameters:
            parameter.grad = None

    return once


def frozen_bound(cheap: bool = False) -> nn.Module:
    """The stock classifier whose backward pass is for activations alone, as far down as a method's goes.

    Nothing of it is trained. The outputs of the first layer's query, key and value are asked for their gradients: an
    adapter there needs those, and none below.
    """
    model: Any = stock(cheap)
    attention = model.bert.encoder.layer[0].attention.self
    for linear in (attention.query, attention.key, attention.value):
        linear.register_forward_hook(lambda _, __, output: output.requires_grad_())
    return model


def loss(model: nn.Module, batch: Batch, bf16: bool) -> Tensor:
    """The mean cross-entropy of a batch."""
    with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
        return model(**batch.inputs()).loss
