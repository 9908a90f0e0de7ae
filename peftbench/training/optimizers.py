"""Parameter groups into optimizers: the configured one, and the gates' own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from peftbench.config import SGD, Adafactor, AdamW, Optimizer, PagedAdamW
from peftbench.doors import ParameterGroup
from peftbench.errors import ConfigurationError
from peftbench.layers.proximal import GateAdam
from peftbench.training.schedule import lr_factor


class Optimizers:
    """The optimizers of a run, stepped together: the configured one first, then the gates'.

    Args:
        groups: every trainable parameter, each in exactly one group.
        config: the configured optimizer. lr: its peak learning rate.

    Attributes:
        parameters: all trained parameters. lrs: the learning rates of the current step, by group name.
    """

    def __init__(self, groups: Sequence[ParameterGroup], config: Optimizer, lr: float):
        self.config = config
        self.parameters = [p for group in groups for p in group.parameters]
        self._peaks = {group.name: group.lr or lr for group in groups}
        self.lrs = dict(self._peaks)
        main = [self._torch_group(g) for g in groups if g.rule == "main"]
        gates = [self._torch_group(g) for g in groups if g.rule == "gate_adam"]
        self._optimizers: list[torch.optim.Optimizer] = []
        if main:
            self._optimizers.append(_make(config, main))
        if gates:
            self._optimizers.append(GateAdam(gates))

    def _torch_group(self, group: ParameterGroup) -> dict[str, Any]:
        decay = self.config.weight_decay if group.decays else 0.0
        return {
            "params": list(group.parameters),
            "name": group.name,
            "lr": self.lrs[group.name],
            "weight_decay": decay,
        }

    def set_lr(self, step: int, total_steps: int) -> None:
        """Learning rates for optimizer step `step` (from 0)."""
        factor = lr_factor(self.config, step, total_steps)
        for name, peak in self._peaks.items():
            self.lrs[name] = peak * factor
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lrs[group["name"]]

    def step(self) -> None:
        """One step of each."""
        for optimizer in self._optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Each optimizer's state."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take `state_dict`'s answer back."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(dict(state))


def _make(config: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if isinstance(config, AdamW):
        return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)  # type: ignore[arg-type]
    if isinstance(config, PagedAdamW):
        from bitsandbytes.optim import PagedAdamW32bit

        return PagedAdamW32bit(groups, betas=config.betas, eps=config.eps)  # type: ignore[arg-type]
    if isinstance(config, Adafactor):
        from transformers.optimization import Adafactor as ByGivenRate

        # torch's own takes at most a rate of 1/sqrt(step), times the parameter's size, whatever is configured.
        return ByGivenRate(
            groups,
            decay_rate=config.beta2_decay,
            scale_parameter=config.scale_parameter,
            relative_step=False,
            warmup_init=False,
        )
    assert isinstance(config, SGD)
    return torch.optim.SGD(groups, momentum=config.momentum)


def check_paging(config: Optimizer, device: str) -> None:
    """Refuse a paged optimizer where there is no CUDA memory to page out of.

    Args:
        config: the configured optimizer.
        device: the trainer's, `auto`, `cpu` or `cuda`.

    Raises:
        ConfigurationError: it is one, and there is none.
    """
    if isinstance(config, PagedAdamW) and (device == "cpu" or not torch.cuda.is_available()):
        raise ConfigurationError(
            "optimizer=paged_adamw pages out of a CUDA device's memory, and this run has none; use optimizer=adamw"
        )


def check_groups(model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Every trainable parameter stands in exactly one group, and every grouped one is trainable.

    Raises:
        RuntimeError: a method's `parameter_groups` is wrong; names the parameters.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    grouped = [id(p) for group in groups for p in group.parameters]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    doubled = (
        {names.get(i, "?") for i in grouped if grouped.count(i) > 1} if len(set(grouped)) < len(grouped) else set()
    )
    missing = {names[i] for i in trainable - set(grouped)}
    frozen = {names.get(i, "?") for i in set(grouped) - trainable}
    if doubled or missing or frozen:
        raise RuntimeError(f"parameter groups: doubled {doubled}, in no group {missing}, not trainable {frozen}")
