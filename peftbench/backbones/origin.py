"""Where a backbone's files are, and what a record says of its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from peftbench.cache import fetched, sha256
from peftbench.config import ModelConfig
from peftbench.errors import ConfigurationError


@dataclass(frozen=True)
class Located:
    """Where a backbone's files are: a local folder, or else the hub; of a fetched copy also what it is."""

    source: str
    folder: Path | None
    marker: dict[str, Any] | None = None


def locate(config: ModelConfig) -> Located:
    """The folder if one is given, else the fetched copy, else the wheel if it is installed, else the hub.

    A model that is to be fetched never comes from the hub: its weights are not the hub's. Reads no weights.

    Raises:
        ConfigurationError: the folder is not there or lacks a `config.json`; the model is not fetched yet.
    """
    if config.path is not None:
        folder = Path(config.path).expanduser()
        if not (folder / "config.json").is_file():
            raise ConfigurationError(f"model.path: {folder} has no config.json; give a folder in the hub's layout")
        return Located("folder", folder)
    if config.fetched is not None:
        copy = fetched(config.fetched)
        if copy is None:
            raise ConfigurationError(f"model {config.name}: not fetched yet; run peftbench fetch {config.fetched}")
        return Located("fetched", *copy)
    if config.wheel is not None and config.wheel_folder is not None:
        try:
            root = metadata.distribution(config.wheel).locate_file(config.wheel_folder)
        except metadata.PackageNotFoundError:
            return Located("hub", None)
        return Located("wheel", Path(str(root)))
    return Located("hub", None)


def origin(config: ModelConfig) -> dict[str, Any]:
    """What the record and the run's identity say of the weights.

    Raises:
        ConfigurationError: the weights' digest is not the expected one, or there are none.
    """
    if config.weights == "random":
        shape = {"files_sha256": sha256(_small_files(Path(config.path)))} if config.path else {}
        return {"source": "random", "repo": config.repo, **shape}
    located = locate(config)
    if located.folder is None:
        return {"source": "hub", "repo": config.repo, "revision": config.revision}
    digest = _weights_digest(located.folder)
    if config.path is None and config.weights_sha256 not in (None, digest):
        raise ConfigurationError(
            f"model {config.name}: model.safetensors of {config.wheel} has SHA-256 {digest[:12]}…, expected"
            f" {str(config.weights_sha256)[:12]}…; install {config.wheel} again"
        )
    described = {"weights_sha256": digest, "files_sha256": sha256(_small_files(located.folder))}
    if located.marker is not None:
        return {"source": "fetched", **_fetched_origin(config, located.marker, digest), **described}
    # A folder of one's own need not hold what the YAML's name and hub id say.
    named = _named_folder(located.folder) if config.path is not None else {"repo": config.repo}
    return {"source": located.source, **named, **described}


MERGED_BY = "peftbench.json"
"""Beside a merged model's weights: which run made them."""


def _named_folder(folder: Path) -> dict[str, str]:
    """A folder's own name, and what it says of itself where a run wrote it."""
    try:
        described = json.loads((folder / MERGED_BY).read_text(encoding="utf-8"))["described"]
    except (OSError, ValueError, KeyError, TypeError):
        return {"folder": folder.name}
    return {"folder": folder.name, "described": str(described)}


def _fetched_origin(config: ModelConfig, marker: dict[str, Any], digest: str) -> dict[str, Any]:
    """What a fetched copy is and is made of."""
    if marker["files"]["model.safetensors"]["sha256"] != digest:
        raise ConfigurationError(
            f"model {config.name}: model.safetensors in the cache is not as it was fetched; run peftbench fetch"
            f" {config.fetched} again"
        )
    return {key: marker[key] for key in ("described", "wheel", "gguf_sha256")}


_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model")


def _small_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer, which change results as weights do.

    Raises:
        ConfigurationError: no tokenizer, for which transformers would make up an empty one.
    """
    vocabularies = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not vocabularies:
        raise ConfigurationError(f"model: {folder} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)})")
    others = [folder / name for name in ("config.json", "tokenizer_config.json", "merges.txt")]
    return vocabularies + [file for file in others if file.is_file()]


def _weights_digest(folder: Path) -> str:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise ConfigurationError(f"model: {folder} has no *.safetensors (nor pytorch_model.bin)")
    return sha256(files)
