"""Backbones from the hub, a folder, an installed wheel, or the cache of `peftbench fetch`, with a head."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftbench.backbones.heads import Head, auto_class
from peftbench.backbones.held import Checkpoint
from peftbench.backbones.noise import cheapen_dropout
from peftbench.backbones.origin import Located, locate, origin
from peftbench.backbones.projections import split_fused
from peftbench.backbones.quantisation import halve, quantise
from peftbench.config import ModelConfig
from peftbench.errors import ConfigurationError, first_line, is_out_of_memory
from peftbench.kept import Kept


@dataclass(frozen=True)
class Backbone:
    """A loaded model.

    Attributes:
        model: with its task head, on the CPU, in float32 but for what is quantised or halved.
        tokenizer: transformers' fast tokenizer.
        identity: what an export names as its base: the hub id, or the local folder where the weights are not the hub's.
        shared_mb: of weights that this process holds besides, for other models.
        origin: what the record says of it: source, repo, revision, digest of the weights; no local path.
    """

    model: nn.Module
    tokenizer: Any
    identity: str
    origin: dict[str, Any]
    shared_mb: float = 0.0


NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Said, since transformers asks at the terminal where it is left unsaid."""


def load_backbone(
    config: ModelConfig, num_outputs: int, seed: int, head: Head = "classifier", kept: Kept | None = None
) -> Backbone:
    """Tokenizer and model with a head: a fresh one of `num_outputs` (1: regression), or the language model's own.

    A fresh head is drawn from `seed` before any method attaches, so every method starts from the same one.

    Args:
        config: which, and where from.
        num_outputs: of a fresh head.
        seed: of a fresh head.
        head: which.
        kept: holds checkpoints that were read before; a model gets a copy of its own.

    Raises:
        ConfigurationError: the files are missing, broken or not reachable, or the backbone cannot have the head.
    """
    from transformers import AutoConfig, AutoTokenizer

    quiet_transformers()
    kept = kept or Kept()
    checkpoint: Checkpoint | None = None
    described = kept.get("origin", repr(config), lambda: origin(config))
    located = locate(config)
    where = str(located.folder) if located.folder else config.repo
    hub: dict[str, Any] = NO_CODE | ({} if located.folder else {"revision": config.revision})
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **hub)
        torch.manual_seed(seed)
        if config.weights == "random":
            model = random_model(config, num_outputs, head)
        else:
            shape = AutoConfig.from_pretrained(
                where, **({} if head == "language" else {"num_labels": num_outputs}), **hub
            )
            checkpoint = _checkpoint(kept, config, head)
            model, missing = _pretrained(auto_class(head, shape), shape, where, hub, checkpoint)
            _check_head(config, head, model, missing)
    except ConfigurationError:
        raise
    except Exception as error:  # Broken files surface as whatever the library that met them first raises.
        if is_out_of_memory(error):
            raise
        raise ConfigurationError(_cannot_load(config, located, error)) from error
    _check_shape(config, model)
    split_fused(model)
    cheapen_dropout(model)
    _agree_on_padding(config, tokenizer, model)
    if config.quantization is not None:
        quantise(model, config.double_quant)
    if config.dtype == "bfloat16":
        halve(model)
    identity = where if located.source in ("folder", "fetched") else config.repo
    return Backbone(model, tokenizer, identity, described, checkpoint.megabytes if checkpoint else 0.0)


def _checkpoint(kept: Kept, config: ModelConfig, head: Head) -> Checkpoint | None:
    """Empty until a model was loaded; None where nothing is held for the next."""
    return kept.get("weights", (repr(config), head), Checkpoint) if kept.holds("weights") else None


def _pretrained(
    auto: Any, shape: Any, where: str, hub: dict[str, Any], checkpoint: Checkpoint | None
) -> tuple[nn.Module, list[str]]:
    """The model, and the names of what the checkpoint lacked and the seed drew."""
    options = {"config": shape, "dtype": torch.float32, "output_loading_info": True}
    if checkpoint and checkpoint.weights:
        model_class = auto._model_mapping[type(shape)] if hasattr(auto, "_model_mapping") else auto
        copies = {name: weight.clone() for name, weight in checkpoint.weights.items()}
        model, info = model_class.from_pretrained(None, state_dict=copies, **options)
        if checkpoint.generation is not None:
            model.generation_config = copy.deepcopy(checkpoint.generation)
        return model, info["missing_keys"]
    model, info = auto.from_pretrained(where, **options, **hub)
    if checkpoint is not None:
        drawn = set(info["missing_keys"])
        whole = model.state_dict()
        checkpoint.weights = {name: weight.clone() for name, weight in whole.items() if name not in drawn}
        checkpoint.generation = copy.deepcopy(getattr(model, "generation_config", None))
    return model, info["missing_keys"]


def _agree_on_padding(config: ModelConfig, tokenizer: Any, model: nn.Module) -> None:
    """Decoders come without a padding token: the end of text pads, and the model pools the last token before it."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ConfigurationError(f"model {config.name}: its tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id  # type: ignore[union-attr]


def _check_head(config: ModelConfig, head: Head, model: nn.Module, drawn: Sequence[str]) -> None:
    """A task head is drawn from the seed, the same for every method; a language model's projection is pretrained."""
    if head == "language":
        if drawn:
            raise ConfigurationError(
                f"model {config.name}: the checkpoint lacks {min(drawn)}, which a language model needs;"
                " give one that was saved with its output projection"
            )
        return
    base = f"{model.base_model_prefix}."
    brought = {name for name, _ in model.named_parameters() if not name.startswith(base)} - set(drawn)
    if brought:
        raise ConfigurationError(
            f"model {config.name}: the checkpoint brings a task head of its own ({min(brought)});"
            " give the backbone alone"
        )


def _check_shape(config: ModelConfig, model: nn.Module) -> None:
    """The weights that came are those the YAML describes; a folder of one's own may hold others."""
    for key, expected in (config.architecture or {}).items():
        found = getattr(model.config, key, None)
        if config.path is None and found != expected:
            raise ConfigurationError(
                f"model {config.name}: {key} of {config.repo} is {found}, conf/model/{config.name}.yaml says {expected}"
            )


def random_model(config: ModelConfig, num_outputs: int, head: Head = "classifier") -> nn.Module:
    """The model's architecture with random weights, e.g. for counts under `torch.device("meta")`.

    The shape is that of the local folder's `config.json` where there is one, else the YAML's.

    Raises:
        ConfigurationError: no architecture is known, or it is not one.
    """
    from transformers import AutoConfig

    folder = locate(config).folder if config.path is not None else None
    if folder is None and not config.architecture:
        raise ConfigurationError(f"model {config.name}: no model.architecture to draw random weights for")
    labels: dict[str, Any] = {} if head == "language" else {"num_labels": num_outputs}
    try:
        if folder is not None:
            shape = AutoConfig.from_pretrained(folder, **labels, **NO_CODE)
        else:
            shape = AutoConfig.for_model(**(config.architecture or {}), **labels)
        made = auto_class(head, shape)
        # A class of ours is built as it is: transformers' automatic ones alone choose it by the configuration.
        model = made(shape).float() if head == "spans" else made.from_config(shape, dtype=torch.float32, **NO_CODE)
        split_fused(model)
        return model
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"model.architecture: {first_line(error)}") from error


def model_type(config: ModelConfig) -> str | None:
    """The architecture's name in transformers, without weights: of the folder's `config.json`, else of the YAML."""
    # A fetched copy's architecture is the YAML's, whether it is here yet or not.
    folder = locate(config).folder if config.path or not config.fetched else None
    if folder is not None:
        try:
            return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"model {config.name}: cannot read {folder}/config.json") from error
    return (config.architecture or {}).get("model_type")


def quiet_transformers() -> None:
    """Keep transformers' own bars and advice off the screen; its errors reach `run.log`."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _cannot_load(config: ModelConfig, located: Located, error: Exception) -> str:
    first = first_line(error)
    if "trust_remote_code" in str(error):
        first = "it is defined by code of its own, which is never run; use an architecture that transformers has"
        return f"model {config.name}: cannot load {located.folder or config.repo}: {first}"
    if located.folder is not None:
        return f"model {config.name}: cannot load {located.folder}: {first}"
    wheel = f", or install the wheel {config.wheel}" if config.wheel else ""
    return (
        f"model {config.name}: cannot load {config.repo} from the hub ({type(error).__name__}). Connect to the network"
        f" and run again, or give a local copy (model.path=...){wheel}"
    )
