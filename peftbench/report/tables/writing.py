"""Tables written: on the terminal, in Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from peftbench.report.tables.model import Shown, Table

_WIDE = 400
"""Columns of what is not a terminal, so that files and pipes get whole lines."""

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "→": r"$\to$", "λ": r"$\lambda$",
    "ξ": r"$\xi$", "²": r"$^2$", "³": r"$^3$", "ⁿ": r"$^n$", "–": "--", "†": r"$^\dagger$", "‡": r"$^\ddagger$",
    "…": r"\ldots{}", "“": "``", "”": "''", "≥": r"$\geq$", "≤": r"$\leq$", "α": r"$\alpha$", "γ": r"$\gamma$",
}  # fmt: skip


def show_tables(tables: Sequence[Table]) -> None:
    """Print tables to standard output, aligned; of a caption what the table before has not said."""
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out = Console(highlight=False, soft_wrap=True, width=_WIDE)
    said: tuple[str, ...] = ()
    for table in tables:
        grid = Grid(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD)
        for i, header in enumerate(table.headers):
            grid.add_column(Text(header), justify="left" if i < table.words else "right")
        for row in table.rows:
            grid.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row))
        out.print(grid)
        # Another experiment's caption is told in full, even where it says the same of most things.
        both = min(len(said), len(table.caption))
        known = both if table.caption[:both] == said[:both] else 0
        for sentence in (*table.caption[known:], *table.notes):
            out.print(Text(f"  {sentence}"))
        said = table.caption
        out.print()


def markdown(tables: Sequence[Table]) -> str:
    """Tables of GitHub's Markdown, each under a heading, its caption beneath."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    lines = [
        f"## {_escape_markdown(table.title)}",
        "",
        _piped(map(_escape_markdown, table.headers)),
        _piped(":--" if i < table.words else "--:" for i in range(len(table.headers))),
        *(_piped(_marked(cell, _escape_markdown, "**{}**") for cell in row) for row in table.rows),
        "",
        " ".join(map(_escape_markdown, table.caption)),
        "",
        *(f"- {_escape_markdown(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """`table` environments in booktabs' style; the preamble needs the package `booktabs` and nothing else."""
    return "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    columns = "".join("l" if i < table.words else "r" for i in range(len(table.headers)))
    title = _escape_latex(table.title)
    sentences = " ".join([f"{title}.", *map(_escape_latex, table.caption)])
    notes = " ".join(map(_escape_latex, table.notes))
    lines = [
        r"\begin{table}", r"\centering", r"\small", rf"\caption[{{{title}}}]{{{sentences}}}",
        rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}", rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", _ampersands(map(_escape_latex, table.headers)), r"\midrule",
        *(_ampersands(_marked(cell, _escape_latex, r"\textbf{{{}}}") for cell in row) for row in table.rows),
        r"\bottomrule", r"\end{tabular}",
        *([rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}"] if notes else []), r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def fragment(tables: Sequence[Table]) -> str:
    """`figure` elements of HTML, to be put in a page."""
    return "\n".join(_fragment(table) for table in tables)


def _fragment(table: Table) -> str:
    def row(cells: Sequence[Shown], tag: str) -> str:
        marked = (f"<{tag}>{_marked(cell, html.escape, '<b>{}</b>')}</{tag}>" for cell in cells)
        return f"<tr>{''.join(marked)}</tr>"

    title, caption = html.escape(table.title), html.escape(" ".join(table.caption))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return "\n".join(
        [
            f'<figure class="table" id="{html.escape(table.name)}">',
            f"<figcaption><strong>{title}</strong> {caption}</figcaption>",
            "<table>",
            f"<thead>{row([Shown(header) for header in table.headers], 'th')}</thead>",
            "<tbody>",
            *(row(cells, "td") for cells in table.rows),
            "</tbody>",
            "</table>",
            f"<ul>{notes}</ul>" if notes else "",
            "</figure>\n",
        ]
    )


def _marked(cell: Shown, escape: Callable[[str], str], bold: str) -> str:
    return bold.format(escape(cell.text)) if cell.bold else escape(cell.text)


def _piped(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells) -> str:
    return rf"{' & '.join(cells)} \\"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text.replace("\n", " "))


def _escape_latex(text: str, known: Mapping[str, str] = _LATEX) -> str:
    return "".join(known.get(character, character) for character in text.replace("\n", " "))


WRITERS: Mapping[str, tuple[str, Callable[[Sequence[Table]], str]]] = {
    "markdown": ("md", markdown), "latex": ("tex", latex), "html": ("html", fragment),
}  # fmt: skip
"""Formats of text: the file's ending and what writes it."""
