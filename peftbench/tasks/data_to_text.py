"""Meaning representations and triples as lines of text, and their references."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from peftbench.tasks.base import Columns, Parsed, Split, TextFormat

_SLOT = re.compile(r"\s*([^,\[\]]+?)\[([^\[\]]*)\]")
_LIST = re.compile(rf"{_SLOT.pattern}(?:,{_SLOT.pattern})*\s*")
_E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
"""Attributes as Prefix-Tuning's and LoRA's E2E files name them; the others keep their names."""


def e2e_source(representation: str) -> str:
    """`name : Blue Spice | Type : coffee shop | area : city centre`, as Prefix-Tuning's and LoRA's files have it.

    Values stay as the release has them; those files also put spaces around punctuation inside them.

    Raises:
        ValueError: it is not a list of `attribute[value]`.
    """
    slots = _SLOT.findall(representation)
    if not _LIST.fullmatch(representation):
        raise ValueError(f"{representation!r} is not a meaning representation such as 'name[Cotto], food[Thai]'")
    return " | ".join(f"{_E2E_NAMES.get(name, name)} : {value}" for name, value in slots)


def e2e_rows(columns: Columns, training: bool) -> Parsed:
    """E2E's rows: to train on, every pair; to be scored, every distinct representation with all its references."""
    sources = [e2e_source(text) for text in columns["meaning_representation"]]
    return grouped(sources, [[text] for text in columns["human_reference"]], training)


_SEEN_2017 = frozenset((
    "Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument", "SportsTeam", "University",
    "WrittenWork",
))  # fmt: skip
_SEEN_2018 = _SEEN_2017 | {"Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician"}
WEBNLG_SEEN = {
    "challenge_2017": _SEEN_2017,
    "release_v2": _SEEN_2018,
    "release_v2.1": _SEEN_2018,
    "release_v3.0_en": _SEEN_2018 | {"Company"},
}
"""WebNLG's categories with training rows, by release."""

_SCORED = frozenset({"", "seen", "unseen", "testdata_with_lex", "rdf-to-text-generation-test-data-with-refs-en"})
"""Values of `test_category` whose rows are to be written and have references.

The hub names each row's file there: its test sets also hold the same rows without references, the unseen ones a second
time, and, of release 3, rows for semantic parsing.
"""


def webnlg_rows(columns: Columns, training: bool, opening: str = "", seen: frozenset[str] = _SEEN_2017) -> Parsed:
    """WebNLG's entries, with `subset` seen or unseen where both are to be scored.

    Texts that annotators marked `toFix` are left out, as Prefix-Tuning's and LoRA's code does, and entries without
    another text with them.

    Args:
        columns: of the release's entries.
        training: see `grouped`.
        opening: what a source begins with.
        seen: the categories that the release trains on.

    Raises:
        ValueError: no entry has a text, or a triple has not three parts.
    """
    sources, references, subset = [], [], []
    places = [(name or "").removesuffix(".xml") for name in columns.get("test_category", [""] * len(columns["lex"]))]
    rows = zip(columns["modified_triple_sets"], columns["lex"], columns["category"], places, strict=True)
    for triples, lex, category, place in rows:
        marks = lex.get("comment") or ["good"] * len(lex["text"])
        texts = [text for text, mark in zip(lex["text"], marks, strict=True) if mark in ("good", "")]
        if texts and place in _SCORED:
            split = [tuple(part.strip() for part in triple.split(" | ")) for triple in triples["mtriple_set"][0]]
            sources.append(opening + triples_source(split))
            references.append(texts)
            subset.append(place if place in ("seen", "unseen") else "seen" if category in seen else "unseen")
    if not sources:
        raise ValueError("no entry has a text that its annotators called good")
    both = not training and len(set(subset)) > 1
    found = grouped(sources, references, training, **({"subset": subset} if both else {}))
    return dataclasses.replace(found, source_rows=sum(place in _SCORED for place in places))


def dart_rows(columns: Columns, training: bool) -> Parsed:
    """DART's entries with all their annotations; relations in lower case, as in Prefix-Tuning's and LoRA's code."""
    sources = [
        triples_source([(subject, relation.lower(), thing) for subject, relation, thing in triples])
        for triples in columns["tripleset"]
    ]
    return grouped(sources, [list(found["text"]) for found in columns["annotations"]], training)


def triples_source(triples: Iterable[tuple[str, ...]]) -> str:
    """`subject : relation : object | subject : relation : object`, as Prefix-Tuning's and LoRA's code writes them.

    Raises:
        ValueError: one has not three parts.
    """
    lines = []
    for triple in triples:
        if len(triple) != 3:
            raise ValueError(f"{' | '.join(triple)!r} is not 'subject | relation | object'")
        lines.append(" : ".join(triple))
    return " | ".join(lines)


def text_rows(columns: Columns, training: bool) -> Parsed:
    """A corpus: the texts that hold more than spaces.

    Raises:
        ValueError: none does.
    """
    texts = [text for text in columns["text"] if text.strip()]
    if not texts:
        raise ValueError("every row is blank")
    return Parsed((texts,), None)


def grouped(sources: list[str], references: list[list[str]], training: bool, **columns: list) -> Parsed:
    """Rows as they are for training, one per reference; otherwise one per distinct source, in order.

    Args:
        sources: linearised inputs, N.
        references: of each its texts.
        training: which of the two.
        columns: other values of the N inputs; of equal sources the first one's count.

    Raises:
        ValueError: an input to be scored has no text to score against.
    """
    if training:
        rows = [(i, text) for i, texts in enumerate(references) for text in texts]
        kept = {key: [values[i] for i, _ in rows] for key, values in columns.items()}
        return Parsed(([sources[i] for i, _ in rows],), None, {"references": [[text] for _, text in rows], **kept})
    first: dict[str, int] = {}
    found: dict[str, list[str]] = {}
    for i, (source, texts) in enumerate(zip(sources, references, strict=True)):
        if not texts:
            raise ValueError(f"entry {i} has no text to score against: {source!r}")
        first.setdefault(source, i)
        found.setdefault(source, []).extend(texts)
    kept = {key: [values[i] for i in first.values()] for key, values in columns.items()}
    return Parsed((list(found),), None, {"references": list(found.values()), **kept})


def _sources(split: Split) -> list[str]:
    return split.texts[0]


def _pairs(split: Split) -> tuple[np.ndarray, list[str]]:
    references = split.columns["references"]
    row_of = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    return row_of, [text for texts in references for text in texts]


def _read(texts: list[str], split: Split) -> list[str]:
    """A text ends at a blank line, as LoRA's decoding ends at the token of two line breaks."""
    return [re.split(r"\n\s*\n", text.strip())[0].strip() for text in texts]


DATA_TO_TEXT = TextFormat(_sources, _pairs, _read)
"""The source's line in, one sentence or several out."""
