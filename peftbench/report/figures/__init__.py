"""Figures of runs: each as SVG, PDF and PNG, and its data as CSV beside it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.errors import ConfigurationError
from peftbench.report.figures.base import Kind, write_rows
from peftbench.report.figures.curves import CURVES
from peftbench.report.figures.epoch_time import EPOCH_TIME
from peftbench.report.figures.heat import BITFIT_CHANGES, RANKS, UNIPELT_GATES
from peftbench.report.figures.pareto import PARETO
from peftbench.report.figures.prompts import PROMPT_INITIALISATION, PROMPT_LENGTH
from peftbench.report.figures.stages import STAGES
from peftbench.report.records import Run
from peftbench.strict import did_you_mean

FIGURES: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        PARETO,
        STAGES,
        RANKS,
        CURVES,
        EPOCH_TIME,
        BITFIT_CHANGES,
        PROMPT_LENGTH,
        PROMPT_INITIALISATION,
        UNIPELT_GATES,
    )
}
"""Every figure by name."""


@dataclass(frozen=True)
class Drawn:
    """What `draw` did.

    Attributes:
        files: written, figure by figure: the CSVs, then the pictures.
        skipped: figures that the runs have no data for, each with what it needs.
        left_out: runs that a figure cannot show, and why, each in words.
    """

    files: list[Path]
    skipped: Mapping[str, str]
    left_out: Sequence[str]


def draw(runs: Sequence[Run], names: Sequence[str], folder: Path) -> Drawn:
    """Write figures, and the data of each, into a folder.

    A figure of more panels than a page holds goes on in `<name>-2.svg` and so on.

    Args:
        runs: the runs.
        names: keys of `FIGURES`.
        folder: made where it is not there.

    Raises:
        ConfigurationError: an unknown name, or no matplotlib.
    """
    from peftbench.report.figures import canvas, style

    kinds = [_kind(name) for name in names]
    files: list[Path] = []
    skipped: dict[str, str] = {}
    left_out: list[str] = []
    with style.applied():
        for kind in kinds:
            rows = kind.rows(runs)
            left_out += [f"{kind.name}: {told}" for told in (kind.left_out(runs) if kind.left_out else ())]
            if not rows:
                skipped[kind.name] = f"needs {kind.needs}"
                continue
            folder.mkdir(parents=True, exist_ok=True)
            files.append(write_rows(folder / f"{kind.name}.csv", rows))
            if kind.summary:
                files.append(write_rows(folder / f"{kind.name}-summary.csv", kind.summary(rows)))
            pages = kind.pages(rows)
            for number, page in enumerate(pages, start=1):
                stem = kind.name if number == 1 else f"{kind.name}-{number}"
                files += canvas.save(kind.paint(page), folder, stem)
            _remove_pages_after(len(pages), kind.name, folder)
    return Drawn(files, skipped, left_out)


def _remove_pages_after(last: int, name: str, folder: Path) -> None:
    """Further pages of a figure that an earlier report, of more panels, left in the folder."""
    from peftbench.report.figures import canvas

    for number in itertools.count(last + 1):
        left = [file for kind in canvas.FORMATS if (file := folder / f"{name}-{number}.{kind}").is_file()]
        for file in left:
            file.unlink()
        if not left:
            return


def available(runs: Sequence[Run]) -> list[str]:
    """Names of the figures that these runs have data for."""
    return [name for name, kind in FIGURES.items() if kind.rows(runs)]


def _kind(name: str) -> Kind:
    if name not in FIGURES:
        near = did_you_mean(name, FIGURES)
        raise ConfigurationError(f"no figure is called {name}{near} (known: {', '.join(FIGURES)})")
    return FIGURES[name]
