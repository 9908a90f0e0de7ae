"""The page put together: template, style, script, data, and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from peftbench.durable import write_text
from peftbench.report.page.header import banner, facts, unreadable
from peftbench.report.page.pictures import pictures
from peftbench.report.page.rows import page_data
from peftbench.report.records import Found

_SCRIPTS = ("dom.js", "table.js", "scales.js", "panels.js", "main.js")
"""In the order in which they are read: each uses those before it."""


def write_page(found: Found, file: Path, title: str, tables: Sequence[str] = (), figures: Sequence[Path] = ()) -> None:
    """Write the report's page: one file that needs no other and no network.

    Args:
        found: the runs it shows.
        file: the page; links to records are relative to its folder.
        title: its heading.
        tables: `figure` elements of HTML, escaped by whoever made them, without `style` attributes (the page's
            policy ignores those).
        figures: SVG files to put in.

    Raises:
        ConfigurationError: a figure cannot be read.
    """
    style, script = _asset("page.css"), "\n".join(map(_asset, _SCRIPTS))
    parts = {"Tables": "\n".join(tables), "Figures": pictures(figures)}
    page = Template(_asset("page.html")).substitute(
        policy=_policy(style, script),
        title=escape(title),
        style=style,
        script=script,
        banner=banner(found.runs),
        facts=facts(found.runs),
        unreadable=unreadable(found, file.parent),
        nav="".join(f'<a href="#page-{name.lower()}">{name}</a> ' for name, body in parts.items() if body),
        **{name.lower(): _section(name, body) for name, body in parts.items()},
        data=script_data(page_data(found.runs, file.parent)),
    )
    # A record may hold half a surrogate pair, which no encoding has.
    write_text(file, page.encode("utf-8", "xmlcharrefreplace").decode("utf-8"))


def script_data(data: Any) -> str:
    """JSON that can stand in a `script` element: ASCII alone, and nothing in it that HTML could read as markup."""
    told = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return told.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("peftbench.report.page").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style and this script, images that lie in the page, nothing else."""
    return (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _section(heading: str, body: str) -> str:
    if not body:
        return ""
    return f'<section id="page-{heading.lower()}"><h2>{heading}</h2>\n{body}\n</section>'
