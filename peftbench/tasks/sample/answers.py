"""QNLI-like pairs: a question about a person, and a sentence that may or may not answer it."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.tasks.sample.draw import Draw, capitalised, with_article, words
from peftbench.tasks.sample.vocabulary import NEWS


@dataclass(frozen=True)
class _Attribute:
    """Something to know about a person: ways to ask for it, ways to state it, and its values."""

    questions: tuple[str, ...]
    statements: tuple[str, ...]
    values: tuple[str, ...]


_CITIES = tuple(city.name for city in NEWS.cities)
_JOBS = tuple(with_article(job[0]) for job in NEWS.jobs)
_YEARS = tuple(str(year) for year in range(1931, 1996))

_ATTRIBUTES = (
    _Attribute(
        ("In which city was {who} born, as far as we know?", "What is the name of the birthplace of {who}?"),
        ("was born in {v}", "came into the world in {v}"),
        _CITIES,
    ),
    _Attribute(
        ("In which city does {who} live at the moment?", "Where has {who} made a home in recent years?"),
        ("now lives in {v}", "has settled in {v}"),
        _CITIES,
    ),
    _Attribute(
        ("What does {who} do for a living these days?", "What is the present occupation of {who}, if any?"),
        ("works as {v}", "earns a living as {v}"),
        _JOBS,
    ),
    _Attribute(
        ("In what year was the wedding of {who} celebrated?", "When exactly did {who} get married at last?"),
        ("got married in {v}", "celebrated a wedding in {v}"),
        _YEARS,
    ),
    _Attribute(
        ("In what year did {who} finish university studies?", "When exactly did {who} obtain a university degree?"),
        ("left university with a degree in {v}", "completed a course of studies in {v}"),
        _YEARS,
    ),
    _Attribute(
        ("Which musical instrument can {who} play at concerts?", "On what instrument does {who} perform in public?"),
        ("plays the {v}", "performs on the {v}"),
        words("violin; cello; flute; trumpet; harp; guitar; piano; clarinet; oboe; accordion"),
    ),
    _Attribute(
        ("What kind of animal does {who} keep at home?", "Which sort of pet shares the house of {who}?"),
        ("keeps {v} at home", "shares the house with {v}"),
        words("a parrot; a cat; two dogs; a rabbit; a tortoise; three goldfish; a lizard; a hamster; a snake"),
    ),
    _Attribute(
        ("Which sport does {who} practise in the free time?", "What game does {who} train for every weekend?"),
        ("trains for {v} every weekend", "is a keen player of {v}"),
        words("tennis; rugby; hockey; golf; badminton; volleyball; cricket; handball; table tennis"),
    ),
)
_ANSWERED, _UNANSWERED = 0, 1


def _state(draw: Draw, attribute: _Attribute) -> str:
    return draw.pick(attribute.statements).format(v=draw.pick(attribute.values))


def _about_one(draw: Draw, name: str, attributes: list[_Attribute]) -> str:
    first, second = (_state(draw, attribute) for attribute in attributes)
    frames = (
        f"{name} {first} and {second}",
        f"{name}, who {first}, {second}",
        f"friends say that {name} {first} and also {second}",
    )
    return draw.pick(frames)


def _about_two(draw: Draw, names: list[str], attributes: list[_Attribute]) -> str:
    first, second = (f"{who} {_state(draw, what)}" for who, what in zip(names, attributes, strict=True))
    return draw.pick((f"{first}, while {second}", f"{first}, but {second}", f"whereas {first}, {second}"))


def qnli(draw: Draw, split: str) -> dict:
    """Return a question and a sentence about the same person, the same attribute, or both.

    The sentence states two attributes, of one person or of two. A question it leaves open asks for a third
    attribute, for an attribute of the wrong person, or about somebody who is not mentioned.
    """
    names = [
        f"{first} {last}"
        for first, last in zip(draw.distinct(NEWS.men + NEWS.women, 3), draw.distinct(NEWS.surnames, 3), strict=True)
    ]
    stated = draw.distinct(_ATTRIBUTES, 3)
    unstated = stated.pop()
    two_people = draw.chance(0.5)
    about = _about_two(draw, names[:2], stated) if two_people else _about_one(draw, names[0], stated)
    place = draw.below(2)
    label = draw.pick((_ANSWERED, _UNANSWERED))
    if label == _ANSWERED:
        who, what = names[place if two_people else 0], stated[place]
    elif draw.chance(0.4):
        who, what = names[place if two_people else 0], unstated
    else:
        who, what = names[1 - place] if two_people else names[2], stated[place]
    return {
        "question": draw.pick(what.questions).format(who=who),
        "sentence": capitalised(about) + ".",
        "label": label,
    }
