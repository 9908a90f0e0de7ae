"""A report's contents on the screen and in files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from peftbench.durable import replaced, write_text
from peftbench.errors import ConfigurationError
from peftbench.report.contents import Contents
from peftbench.report.records import Found
from peftbench.report.tables.writing import WRITERS, fragment, show_tables
from peftbench.report.tidy import tidy, to_csv, write_parquet

FORMATS = ("terminal", *WRITERS, "csv", "parquet", "page")
"""All but the first are of files; the last two of files alone."""


def show(contents: Contents, format_name: str) -> None:
    """Print to standard output; on the terminal without every cell's statistics.

    Raises:
        ConfigurationError: a format that is not text for a screen.
    """
    if format_name == "terminal":
        show_tables([table for table in contents.every_table if not table.name.endswith("_statistics")])
    elif format_name in WRITERS:
        sys.stdout.write(WRITERS[format_name][1](contents.every_table))
    elif format_name == "csv":
        sys.stdout.write(to_csv(tidy(contents.runs, contents.budgets)))
    else:
        raise ConfigurationError(f"format={format_name} is a file; write it with to=<folder>")


def write(
    contents: Contents, found: Found, folder: Path, formats: Sequence[str], figures: Sequence[str] | None
) -> None:
    """Write files, and say where each is.

    Args:
        contents: the report's.
        found: the runs it is of.
        folder: made where it is not there.
        formats: of `FORMATS`.
        figures: names; empty: each layout's own; None: none.

    Raises:
        ConfigurationError: the folder cannot be written, or a figure that was asked for cannot be drawn.
    """
    if figures:
        _check_figures(contents, figures)
    try:
        _write(contents, found, folder, formats, figures)
    except OSError as error:
        raise ConfigurationError(f"to: cannot write to {folder} ({error})") from error


def _write(
    contents: Contents, found: Found, folder: Path, formats: Sequence[str], figures: Sequence[str] | None
) -> None:
    for name in formats:
        if name in WRITERS:
            ending, text_of = WRITERS[name]
            for stem, tables in (("table", contents.tables), ("comparisons", contents.comparisons)):
                write_text(folder / f"{stem}.{ending}", text_of(tables))
                print(folder / f"{stem}.{ending}")
    _write_rows(contents, folder, formats)
    drawn = _draw(contents, figures, folder / "figures") if figures is not None else []
    if "page" in formats:
        from peftbench.report.page import write_page

        title = f"peftbench: {', '.join(grid.layout.name for grid in contents.grids)}"
        tables = [fragment([table]) for table in contents.every_table]
        write_page(found, folder / "report.html", title, tables, [file for file in drawn if file.suffix == ".svg"])
        print(folder / "report.html")


def _check_figures(contents: Contents, names: Sequence[str]) -> None:
    """Raises ConfigurationError where no experiment has data for a figure that was asked for."""
    from peftbench.report.figures import FIGURES

    shown = [grid.shown() for grid in contents.grids]
    for name in names:
        if not any(FIGURES[name].rows(runs) for runs in shown):
            raise ConfigurationError(f"figures={name}: none of these runs has what it needs: {FIGURES[name].needs}")


def _write_rows(contents: Contents, folder: Path, formats: Sequence[str]) -> None:
    rows = tidy(contents.runs, contents.budgets)
    if "csv" in formats:
        write_text(folder / "tidy.csv", to_csv(rows))
        print(folder / "tidy.csv")
    if "parquet" in formats:
        with replaced(folder / "tidy.parquet") as file:
            write_parquet(rows, file)
        print(folder / "tidy.parquet")


def _draw(contents: Contents, names: Sequence[str], folder: Path) -> list[Path]:
    """Each experiment's figures in a folder of its own; of no paper's experiment all that it has data for."""
    from peftbench.report.figures import available, draw

    files: list[Path] = []
    for grid in contents.grids:
        runs = grid.shown()
        try:
            drawn = draw(runs, names or grid.layout.figures or available(runs), folder / grid.layout.name)
        except ConfigurationError as error:
            if names:
                raise
            print(f"peftbench: note: no figures: {error}", file=sys.stderr)
            break
        for name, need in drawn.skipped.items():
            print(f"peftbench: note: {grid.layout.name}: no figure {name}: {need}", file=sys.stderr)
        for told in drawn.left_out:
            print(f"peftbench: note: {grid.layout.name}: figure {told}", file=sys.stderr)
        files += drawn.files
    for file in files:
        print(file)
    return files
