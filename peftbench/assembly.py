"""The parts of a run, put together: device, frozen backbone, attached method, head policy, token rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from peftbench.backbones.anatomy import head_modules, max_positions
from peftbench.backbones.quantisation import require_bitsandbytes
from peftbench.config import RunConfig
from peftbench.doors import Attachment, Context, Counts, ParameterGroup, elements
from peftbench.errors import ConfigurationError
from peftbench.forms.base import Form
from peftbench.kept import Kept
from peftbench.processes import local_processes, processes
from peftbench.tasks.base import Split, TaskData
from peftbench.tasks.registry import task_spec
from peftbench.tasks.text_metrics import require_text_metrics
from peftbench.tracking import check_tracker
from peftbench.training.batching import Rows
from peftbench.training.optimizers import check_groups, check_paging

HEAD, METHOD, DROPOUT = 0, 1, 3
"""Streams of the run's seed; each draw has its own, so that one method's draws never shift another's."""


_DEFAULT_THREADS = torch.get_num_threads()


def stream_seed(seed: int, stream: int) -> int:
    """A seed for one purpose of a run, unrelated to those of other purposes and other runs."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])


def check_machine(config: RunConfig) -> None:
    """Refuse what this machine cannot do, before data or weights are touched.

    Raises:
        ConfigurationError: a paged optimizer without CUDA, a tracker that is not installed, quantised weights without
            bitsandbytes, or texts to be scored without what scores them.
    """
    check_paging(config.optimizer, config.trainer.device)
    check_tracker(config.tracker)
    if (spec := task_spec(config.task.name)).convention is not None:
        require_text_metrics(spec.metrics)
    if config.model.quantization is not None:
        require_bitsandbytes()


def make_accelerator(config: RunConfig) -> Accelerator:
    """Device, precision and threads of this run, whatever an earlier run of the same process had.

    Raises:
        ConfigurationError: the device is not there.
    """
    if config.trainer.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("trainer.device=cuda: torch sees no CUDA device; use trainer.device=cpu or auto")
    torch.set_num_threads(config.trainer.threads or max(1, _DEFAULT_THREADS // local_processes()))
    if processes() == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    mixed = "bf16" if config.trainer.precision == "bf16" else "no"
    # Of several processes accelerate makes one run on CPUs only where it is told that it is to use them.
    on_cpu = config.trainer.device == "cpu" or (processes() > 1 and not torch.cuda.is_available())
    accelerator = Accelerator(mixed_precision=mixed, cpu=on_cpu)
    if accelerator.num_processes != processes():
        raise ConfigurationError(
            f"WORLD_SIZE is {processes()}, but accelerate makes a run of {accelerator.num_processes}; start it with"
            " accelerate launch or torchrun, or unset WORLD_SIZE"
        )
    torch.use_deterministic_algorithms(accelerator.device.type == "cuda", warn_only=True)
    return accelerator


def attach(
    config: RunConfig, model: torch.nn.Module, backbone_id: str, total_steps: int, length: int, tokenizer: Any = None
) -> tuple[Attachment, list[ParameterGroup]]:
    """Freeze the model, attach the method, apply the head policy; the doors and every trained parameter's group.

    Args:
        config: the run's.
        model: with its head.
        backbone_id: what an export names as its base.
        total_steps: optimizer steps, of the first stage.
        length: positions that the longest input takes.
        tokenizer: the backbone's; None where only shapes are asked for.

    Raises:
        ConfigurationError: inputs too long for the backbone, or nothing would train.
    """
    check_length(model, length, config.method.positions_taken(model))
    model.requires_grad_(False)
    head = head_modules(model)
    generator = torch.Generator().manual_seed(stream_seed(config.seed, METHOD))
    spec = task_spec(config.task.name)
    context = Context(generator, total_steps, backbone_id, head, tokenizer, spec.prompt_words or spec.labels)
    attachment = config.method.attach(model, context)
    groups = attachment.parameter_groups()
    if config.trainer.head == "train":
        parameters = [p for name in head for p in model.get_submodule(name).parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]
        groups += [ParameterGroup("head", matrices), ParameterGroup("head_no_decay", vectors, decays=False)]
    check_groups(model, groups)
    if not any(group.parameters for group in groups):
        raise ConfigurationError(
            f"method {config.method_name} trains the task head alone, and task.form=text has none; use another method"
        )
    if config.trainer.gradient_checkpointing:
        checkpoint_activations(model)
    return attachment, groups


def checkpoint_activations(model: Any) -> None:
    """Let every block keep its input alone, and compute the rest again in the backward pass.

    Raises:
        ConfigurationError: the architecture cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigurationError(
            f"trainer.gradient_checkpointing=true: transformers has none for {model.config.model_type}; leave it false"
        )
    # The reentrant kind loses gradients of what its blocks do not take as input: prompts, hooks, frozen embeddings.
    # The second is its name in older releases of transformers.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def counts(attachment: Attachment, groups: list[ParameterGroup]) -> Counts:
    """The method's counts with the trained head's beside them."""
    head = sum(elements(list(g.parameters)) for g in groups if g.name.startswith("head"))
    return dataclasses.replace(attachment.count(), head=head)


def check_length(model: torch.nn.Module, max_length: int, virtual_tokens: int = 0) -> None:
    """Refuse inputs longer than the backbone has positions for, those of the method's virtual tokens counted.

    Raises:
        ConfigurationError: they are.
    """
    limit = max_positions(model)
    if limit is None or max_length + virtual_tokens <= limit:
        return
    if not virtual_tokens:
        raise ConfigurationError(
            f"task.max_length: inputs of up to {max_length} tokens exceed the backbone's {limit} positions (source and"
            " target share a decoder's: task.max_target_length, task.max_new_tokens)"
        )
    raise ConfigurationError(
        f"task.max_length: inputs of up to {max_length} tokens and the method's {virtual_tokens} virtual tokens exceed"
        f" the backbone's {limit} positions; use fewer of either"
    )


def check_examples(examples: int, rows: int, task: str, form: str) -> int:
    """The number of examples to train on.

    Raises:
        ConfigurationError: it is 0: none of the training rows gives one.
    """
    if not examples:
        raise ConfigurationError(
            f"task {task}, as {form}: none of the {rows} training rows gives an example to train on; use more of them"
            " (data.max_train_rows)"
        )
    return examples


class TokenisedSplits:
    """Every split and its tokenised rows, each tokenised when first asked for.

    Args:
        data: the splits.
        form: tokenises them.
        tokenizer: what names the tokenizer.
        kept: holds rows that were tokenised before.
    """

    def __init__(self, data: TaskData, form: Form, tokenizer: str = "", kept: Kept | None = None):
        self.splits = {
            "train": data.train,
            "memorization": data.memorization,
            **data.evaluations,
            **data.hidden,
        }
        self.form, self.kind = form, data.provenance["kind"]
        self._rows: dict[str, Rows] = {}
        self._tokenizer, self._kept = tokenizer, kept or Kept()

    def __getitem__(self, name: str) -> Rows:
        if name not in self._rows:
            split = self.splits[name]
            key = (self._tokenizer, self.form.name, repr(self.form.task), name, split.fingerprint)
            self._rows[name], told = self._kept.get("rows", key, lambda: self._tokenised(split))
            self.form.told |= told
        return self._rows[name]

    def _tokenised(self, split: Split) -> tuple[Rows, dict[str, str]]:
        """The rows, and what the form has to tell of them."""
        before, self.form.told = self.form.told, {}
        rows = self.form.tokenise(split)
        told, self.form.told = self.form.told, before
        return rows, told
