"""What is measured against what: our methods, HF PEFT's on the stock model, and the stock model frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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
from peftbench.doors import Attachment

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


def ours(*overrides: str) -> tuple[nn.Module, Attachment]:
    """The backbone with a method attached, its head frozen, in training mode."""
    config = configured("trainer.head=freeze", *overrides)
    backbone = load_backbone(config.model, 2, seed=0)
    attachment, _ = attach(config, backbone.model, backbone.identity, 100, 64, backbone.tokenizer)
    warm_factors(backbone.model)
    return backbone.model.train(), attachment


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


def hf_peft(kind: str) -> nn.Module:
    """HF PEFT's LoRA of rank 8, or AdaLoRA from 8 to 4, over the stock classifier; `kind`: `lora` or `adalora`."""
    import peft

    if kind == "lora":
        config: Any = peft.LoraConfig(r=8, lora_alpha=16, target_modules=PEFT_SITES)
    else:
        config = peft.AdaLoraConfig(init_r=8, target_r=4, lora_alpha=16, total_step=1000, target_modules=PEFT_SITES)
    model = peft.get_peft_model(stock(), config)  # type: ignore[arg-type]
    warm_factors(model)
    return model.train()


@torch.no_grad()
def warm_factors(model: nn.Module) -> None:
    """Small values where a factor starts at zero: products with zeros are not what training computes."""
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.normal_(std=0.01)


def step(model: nn.Module, batch: Batch, bf16: bool, frozen: bool = False) -> Callable[[], None]:
    """Forward and backward once, gradients dropped; no optimizer.

    Args:
        model: in training mode.
        batch: what it sees.
        bf16: under autocast.
        frozen: nothing is trained, so the word vectors are asked for their gradient: the pass for activations alone.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]

    def once() -> None:
        loss(model, batch, bf16, frozen).backward()
        for parameter in parameters:
            parameter.grad = None

    return once


def loss(model: nn.Module, batch: Batch, bf16: bool, frozen: bool = False) -> Tensor:
    """The mean cross-entropy of a batch."""
    inputs = batch.inputs()
    if frozen:
        words: Any = model.get_input_embeddings()  # type: ignore[operator]
        inputs["inputs_embeds"] = words(inputs.pop("input_ids")).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
        return model(**inputs).loss
