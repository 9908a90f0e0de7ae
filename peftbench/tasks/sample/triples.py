"""Invented entities: triples as WebNLG and DART hold them, and sentences that say the same."""

from __future__ import annotations

from peftbench.tasks.sample.draw import Draw, words
from peftbench.tasks.sample.task import Row

_FIRST = words("Alder; Brina; Corvo; Delmar; Estin; Farrow; Galen; Hallam; Irsk; Jorva; Kestle; Lomond; Merrow; Norrin")
_LAST = {
    "University": words("University; College; Institute"),
    "Building": words("Tower; Hall; House"),
    "Airport": words("Airport; Airfield"),
    "Athlete": words("Santos; Okoro; Lindqvist; Moreau"),
    "Artist": words("Vance; Petrov; Ito; Marsh"),
}
_PLACES = words("Port_Vellin; North_Ashby; Carrow; Old_Temsa; Lake_Durn; Brindle; San_Torre; Westmere")
_NUMBERS = words("1912; 1948; 1967; 1983; 2004; 2011")
_RELATIONS = {
    "University": (("city", _PLACES, "is in"), ("established", _NUMBERS, "was founded in")),
    "Building": (("location", _PLACES, "stands in"), ("completionDate", _NUMBERS, "was completed in")),
    "Airport": (("cityServed", _PLACES, "serves"), ("openingYear", _NUMBERS, "was opened in")),
    "Athlete": (("birthPlace", _PLACES, "was born in"), ("birthYear", _NUMBERS, "has the birth year")),
    "Artist": (("birthPlace", _PLACES, "was born in"), ("activeYearsStartYear", _NUMBERS, "has been active since")),
}
_UNSEEN = ("Athlete", "Artist")
_SPLITS = {0: "validation", 1: "test"}


def webnlg(draw: Draw, split: str) -> Row:
    """One entry with two references; half of the test set is of categories that are in no other split."""
    category, triples, texts = _entry(draw, split)
    lines = [" | ".join(triple) for triple in triples]
    seen = ("unseen" if category in _UNSEEN else "seen") if split == "test" else ""
    ids = [f"Id{i}" for i, _ in enumerate(texts, start=1)]
    return {
        "category": category,
        "size": len(lines),
        "eid": " / ".join(lines),
        "original_triple_sets": {"otriple_set": [lines]},
        "modified_triple_sets": {"mtriple_set": [lines]},
        "lex": {"comment": ["good"] * len(texts), "lid": ids, "text": texts},
        "test_category": seen,
    }


def dart(draw: Draw, split: str) -> Row:
    """One entry with two annotations; relations are in capitals, as tables give them."""
    _, triples, texts = _entry(draw, split)
    return {
        "tripleset": [[subject, relation.upper(), thing] for subject, relation, thing in triples],
        "subtree_was_extended": False,
        "annotations": {"source": ["invented"] * len(texts), "text": texts},
    }


def _entry(draw: Draw, split: str) -> tuple[str, list[tuple[str, str, str]], list[str]]:
    while True:
        known = [name for name in _LAST if name not in _UNSEEN]
        category = draw.pick(_UNSEEN if split == "test" and draw.chance(0.5) else known)
        subject = f"{draw.pick(_FIRST)}_{draw.pick(_LAST[category])}"
        relations = draw.distinct(_RELATIONS[category], 1 + draw.below(2))
        facts = [(name, draw.pick(values), verb) for name, values, verb in relations]
        letters = sum(map(ord, subject + "".join(value for _, value, _ in facts)))
        if _SPLITS.get(letters % 6, "train") == split:
            triples = [(subject, name, value) for name, value, _ in facts]
            return category, triples, _texts(subject, [f"{verb} {value}" for _, value, verb in facts])


def _texts(subject: str, clauses: list[str]) -> list[str]:
    told = [f"{subject} {clauses[0]}.", f"It is known that {subject} {clauses[0]}."]
    if len(clauses) > 1:
        told = [f"{subject} {' and '.join(clauses)}.", f"{subject} {clauses[0]}. It {clauses[1]}."]
    return [text.replace("_", " ") for text in told]
