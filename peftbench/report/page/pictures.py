"""Figures as images that lie in the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from peftbench.errors import ConfigurationError

_POINTS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4}
"""CSS pixels of a unit."""


def pictures(files: Sequence[Path]) -> str:
    """`figure` elements with the files inside.

    An SVG goes in as an image, not as elements: a browser runs nothing in an image and fetches nothing for it, and
    the ids that matplotlib gives in every figure do not meet.

    Raises:
        ConfigurationError: a file cannot be read or is no SVG.
    """
    return "\n".join(_picture(file) for file in files)


def _picture(file: Path) -> str:
    try:
        drawing = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"figure {file}: cannot be read ({error.strerror})") from error
    opening = re.search(rb"<svg\b[^>]*>", drawing)
    if opening is None:
        raise ConfigurationError(f"figure {file}: not an SVG file; the page takes SVG alone")
    name = escape(file.stem.replace("_", " "))
    size = "".join(f' {side}="{pixels}"' for side in ("width", "height") if (pixels := _pixels(opening[0], side)))
    data = base64.b64encode(drawing).decode("ascii")
    return (
        f'<figure class="picture"><img alt="{name}"{size} src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _pixels(opening: bytes, side: str) -> int | None:
    """A side's length in CSS pixels, so that the page keeps its place while the image is decoded."""
    found = re.search(rf'\s{side}="([\d.]+)([a-z]*)"', opening.decode("utf-8", "replace"))
    return round(float(found[1]) * _POINTS[found[2]]) if found and found[2] in _POINTS else None
