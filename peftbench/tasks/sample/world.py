"""What a vocabulary of the sample data consists of: people, places, things, actions and times."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.tasks.sample.draw import Concept, concepts, lines, words


@dataclass(frozen=True)
class Verb:
    """The forms of a verb that a past-tense report needs."""

    base: str
    past: str
    participle: str


@dataclass(frozen=True)
class Action:
    """Something one person does to another, perhaps with things changing hands.

    Attributes:
        verbs: Verbs that say it from the doer's side.
        preposition: What stands before the other person; empty if that person is the direct object.
        converse: Verbs that say the same event from the other person's side; may be empty.
        converse_preposition: What stands before the doer when a converse verb is used.
    """

    verbs: tuple[Verb, ...]
    preposition: str = ""
    converse: tuple[Verb, ...] = ()
    converse_preposition: str = ""


@dataclass(frozen=True)
class Thing:
    """A countable thing in the plural, and the wider class it belongs to."""

    forms: Concept
    kind: str


@dataclass(frozen=True)
class City:
    """A place and the country around it."""

    name: str
    country: str


@dataclass(frozen=True)
class Time:
    """A time phrase; times of one calendar (days, months) exclude each other.

    Attributes:
        forms: Ways to say it.
        general: A vaguer phrase that it implies.
        calendar: The kind of unit, ``day`` or ``month``.
    """

    forms: Concept
    general: str
    calendar: str


@dataclass(frozen=True)
class World:
    """The vocabulary of one genre."""

    men: tuple[str, ...]
    women: tuple[str, ...]
    surnames: tuple[str, ...]
    jobs: tuple[Concept, ...]
    cities: tuple[City, ...]
    venues: tuple[Concept, ...]
    things: tuple[Thing, ...]
    transfers: tuple[Action, ...]
    encounters: tuple[Action, ...]
    times: tuple[Time, ...]
    reasons: tuple[Concept, ...]
    manners: tuple[Concept, ...]
    sources: tuple[Concept, ...]


def parse_verbs(text: str) -> tuple[Verb, ...]:
    """Parse ``"buy,bought,bought; take,took,taken"``; an empty text has no verbs."""
    return tuple(Verb(*entry.split(",")) for entry in words(text) if entry)


def parse_transfers(text: str) -> tuple[Action, ...]:
    """Parse lines of ``verbs | preposition | converse verbs | converse preposition``."""
    actions = []
    for line in lines(text):
        verbs, preposition, converse, converse_preposition = (part.strip() for part in line.split("|"))
        actions.append(Action(parse_verbs(verbs), preposition, parse_verbs(converse), converse_preposition))
    return tuple(actions)


def parse_encounters(text: str) -> tuple[Action, ...]:
    """Parse lines of verbs that mean the same and take a person as their object."""
    return tuple(Action(parse_verbs(line)) for line in lines(text))


def parse_things(text: str) -> tuple[Thing, ...]:
    """Parse lines of ``kind: things``."""
    found = []
    for line in lines(text):
        kind, _, members = line.partition(":")
        found.extend(Thing(forms, kind) for forms in concepts(members))
    return tuple(found)


def parse_cities(text: str) -> tuple[City, ...]:
    """Parse lines of ``country: cities``."""
    found = []
    for line in lines(text):
        country, _, names = line.partition(":")
        found.extend(City(name, country) for name in words(names))
    return tuple(found)


def parse_times(days: str, months: str) -> tuple[Time, ...]:
    """Return the mornings and evenings of the days, and the starts and ends of the months."""
    found = []
    for day in words(days):
        general = f"on {day}"
        found.append(Time((f"on {day} morning", f"on the morning of {day}"), general, "day"))
        found.append(Time((f"on {day} evening", f"on the evening of {day}"), general, "day"))
    for month in words(months):
        general = f"in {month}"
        found.append(Time((f"in early {month}", f"at the start of {month}"), general, "month"))
        found.append(Time((f"in late {month}", f"towards the end of {month}"), general, "month"))
    return tuple(found)
