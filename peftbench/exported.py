"""An exported adapter back onto a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from peftbench.backbones.anatomy import head_modules
from peftbench.backbones.projections import split_fused
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.methods.registry import method_class
from peftbench.strict import build


def load_exported(folder: str | Path, model: nn.Module, tokenizer: Any = None) -> nn.Module:
    """Put a run's `adapter/`, head included, onto a stock model of the same architecture and head.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        model: a transformers model, changed in place; GPT-2's fused maps are split where the result is.
        tokenizer: the backbone's, needed for the anchor words of a prompt.

    Returns:
        The model, frozen, in evaluation mode.

    Raises:
        ConfigurationError: it is in PEFT's format, or does not fit the model.
    """
    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if "method" not in config:
        raise ConfigurationError(f"{folder} is in PEFT's own format: PeftModel.from_pretrained(model, folder) loads it")
    tensors = load_file(Path(folder) / "adapter_model.safetensors")
    model.requires_grad_(False)
    if _missing(tensors, model):
        split_fused(model)
    if _missing(tensors, model):
        _attach(config, model, tokenizer)
    if missing := _missing(tensors, model):
        raise ConfigurationError(f"{folder}: {min(missing)} has no place in this model; is it the same architecture?")
    _put(tensors, model, str(folder))
    return model.requires_grad_(False).eval()


def _attach(config: dict[str, Any], model: nn.Module, tokenizer: Any) -> None:
    """The method's modules, as they are once training is over."""
    method = build(method_class(config["method"]), config["hyper_parameters"], "method", "adapter_config.json")
    base = config["base_model_name_or_path"]
    context = Context(torch.Generator().manual_seed(0), 1, base, head_modules(model), tokenizer)
    method.attach(model, context).finalize()


def _missing(tensors: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {_owner(name) for name in tensors} - {name for name, _ in model.named_parameters(remove_duplicate=False)}


def _owner(name: str) -> str:
    """The parameter that a tensor belongs to: a sparse difference has two tensors of one parameter."""
    return name.removesuffix(".indices").removesuffix(".values")


@torch.no_grad()
def _put(tensors: dict[str, Tensor], model: nn.Module, folder: str) -> None:
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        parameter = own[_owner(name)]
        if name.endswith(".indices"):
            values = tensors[f"{_owner(name)}.values"]
            parameter.view(-1).index_add_(0, tensor.long().to(parameter.device), values.to(parameter))
        elif not name.endswith(".values"):
            if parameter.shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} there, {tuple(parameter.shape)} here"
                raise ConfigurationError(f"{folder}: {name} is {shapes}; build the model with the same classes")
            parameter.copy_(tensor)
