"""The verb's words: which models, which tasks' data, or a list of both. No torch until something is converted."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from peftbench.cache import FETCHABLE, damaged, fetched, models_folder
from peftbench.errors import ConfigurationError, RunError
from peftbench.strict import did_you_mean


def fetch(words: Sequence[str]) -> int:
    """Carry out `peftbench fetch ...`; prints what came and what was here.

    Raises:
        ConfigurationError: an unknown name, or what cannot be had or written. RunError: interrupted.
    """
    os.environ["TQDM_DISABLE"] = "1"  # Read when tqdm is first imported: the libraries' own bars stay off the screen.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not words:
            print(listing())
        elif words[0] == "data":
            from peftbench.fetch.data import fetch_data

            fetch_data(words[1:])
        else:
            _fetch_models(words)
    except KeyboardInterrupt:
        raise RunError(f"fetch {' '.join(words)}: interrupted; nothing half-done was kept") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _fetch_models(names: Sequence[str]) -> None:
    known = [*FETCHABLE, "data"]
    for name in names:
        if name not in FETCHABLE:
            raise ConfigurationError(
                f"fetch {name}: nothing of that name can be fetched{did_you_mean(name, known)}"
                f" (models: {', '.join(FETCHABLE)}; or data <task> ...)"
            )
    for name in names:
        copy = fetched(name)
        if copy and damaged(*copy) is None:
            print(f"{name}: already here, nothing was fetched ({copy[1]['described']}; {copy[0]})")
            continue
        from peftbench.fetch.model import fetch_model

        folder, marker = fetch_model(FETCHABLE[name])
        print(f"{name}: {marker['described']}, in {folder}")


def listing() -> str:
    """What can be fetched, and what of it is here."""
    from peftbench.fetch.data import data_lines

    lines = [f"models, kept in {models_folder()}"]
    for name, model in FETCHABLE.items():
        state = "here" if fetched(name) else f"not here: {model.download_mb} MB to fetch, {model.disk_mb} MB on disk"
        lines.append(f"  peftbench fetch {name:<12} {model.described} ({state})")
    return "\n".join([*lines, "", *data_lines()])
