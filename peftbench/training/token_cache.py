"""Tokens of large splits on disk, so that the next process that wants them does not tokenise again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers

from peftbench.cache import cache_folder
from peftbench.durable import replaced

FEWEST = 10_000
"""Rows below which a split is tokenised in less than a second, and not kept."""
MOST = 32
"""Splits that are kept; the one used longest ago goes first."""
REVISION = 1
"""Of what is done to texts before they are tokenised; a new one leaves what was kept before unused."""

Arrays = Mapping[str, np.ndarray]


def remembered(texts: Sequence[list[str]], tokenizer: Any, max_length: int, make: Callable[[], Arrays]) -> Arrays:
    """What `make` gives, int64 arrays by name: from the disk where the same was made before.

    The same is: every text, all that defines the tokenizer, the length, and the releases of what tokenises. A file
    that cannot be read is made again; where none can be written, none is.

    Args:
        texts: one list of N strings per text column.
        tokenizer: a transformers tokenizer; a slow one, which does not tell all that defines it, keeps nothing.
        max_length: tokens per row.
        make: tokenises.
    """
    if len(texts[0]) < FEWEST or getattr(tokenizer, "backend_tokenizer", None) is None:
        return make()
    file = cache_folder() / "tokens" / f"{_digest(texts, tokenizer, max_length)}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        found = _read(file)
        with contextlib.suppress(OSError):  # Another user's file can be read and not marked.
            os.utime(file)
        return found
    made = make()
    with contextlib.suppress(OSError):
        with replaced(file) as partial, partial.open("wb") as stream:
            np.savez(stream, **{name: array.astype(np.int32) for name, array in made.items()})  # type: ignore[arg-type]
        _forget_oldest(file.parent)
    return made


def _read(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as kept:
        return {name: kept[name].astype(np.int64) for name in kept.files}


def _digest(texts: Sequence[list[str]], tokenizer: Any, max_length: int) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are what the last call had, and this call's are in `max_length`.
    backend = {key: value for key, value in backend.items() if key not in ("truncation", "padding")}
    about = [type(tokenizer).__name__, repr(tokenizer.special_tokens_map), tokenizer.model_input_names]
    about += [tokenizer.split_special_tokens, tokenizer.truncation_side, max_length, REVISION]
    told = json.dumps([backend, *about, transformers.__version__, tokenizers.__version__])
    digest = hashlib.sha256(told.encode())
    for column in texts:
        digest.update(json.dumps(column).encode())
    return digest.hexdigest()


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MOST:]:
        file.unlink(missing_ok=True)
