"""Events in an invented world: drawing one, changing one fact of it, and telling it in many ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from peftbench.tasks.sample.draw import Concept, Draw, capitalised, number_forms
from peftbench.tasks.sample.world import Action, City, Thing, Time, Verb, World


@dataclass(frozen=True)
class Person:
    """Someone with a name and an occupation."""

    first: str
    last: str
    job: Concept

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class Event:
    """Something one person did, or did not do, to another; optional facts may be None."""

    agent: Person
    partner: Person
    action: Action
    thing: Thing | None = None
    number: int | None = None
    venue: Concept | None = None
    city: City | None = None
    time: Time | None = None
    reason: Concept | None = None
    manner: Concept | None = None
    negated: bool = False


def draw_people(draw: Draw, world: World, count: int) -> list[Person]:
    """Draw people who share neither first name, last name nor occupation."""
    firsts = draw.distinct(world.men + world.women, count)
    lasts = draw.distinct(world.surnames, count)
    return [Person(*facts) for facts in zip(firsts, lasts, draw.distinct(world.jobs, count), strict=True)]


def draw_event(draw: Draw, world: World, people: list[Person], facts: tuple[str, ...]) -> Event:
    """Draw an event between two people.

    Args:
        draw: Source of the choices.
        world: Vocabulary to use.
        people: Who does it and whom it is done to.
        facts: Which of ``venue``, ``city``, ``time``, ``reason`` and ``manner`` it has.

    Returns:
        The event, which is never negated.
    """
    agent, partner = people
    if draw.chance(0.6):
        event = Event(agent, partner, draw.pick(world.transfers), draw.pick(world.things), 2 + draw.below(58))
    else:
        event = Event(agent, partner, draw.pick(world.encounters))
    return replace(event, **{fact: draw.pick(_choices(world, fact)) for fact in facts})


def _choices(world: World, fact: str) -> tuple:
    return {
        "venue": world.venues,
        "city": world.cities,
        "time": world.times,
        "reason": world.reasons,
        "manner": world.manners,
        "thing": world.things,
    }[fact]


def add_fact(draw: Draw, world: World, event: Event, fact: str) -> Event:
    """Return the event with a value for a fact it does not have."""
    return replace(event, **{fact: draw.pick(_choices(world, fact))})


def _change_agent(draw: Draw, world: World, event: Event) -> Event:
    (stranger,) = draw_people(draw, world, 1)
    while stranger.last in (event.agent.last, event.partner.last):
        (stranger,) = draw_people(draw, world, 1)
    return replace(event, agent=stranger)


def _rivals(world: World, fact: str, present: Any) -> list:
    """Return the values that cannot hold together with the present one."""
    if fact == "number":
        near = [present + step for step in (-20, -10, -5, -2, -1, 1, 2, 5, 10, 20)]
        return [number for number in near if 2 <= number <= 60]
    if fact == "time":
        same = [time for time in world.times if time.calendar == present.calendar]
        return [time for time in same if time.general != present.general]
    if fact == "city":
        return [city for city in world.cities if city.country != present.country]
    if fact == "action":
        actions = world.transfers if present in world.transfers else world.encounters
        return [action for action in actions if action != present]
    return [value for value in _choices(world, fact) if value != present]


def changeable(event: Event) -> list[str]:
    """Return the facts of the event that :func:`change_fact` can change."""
    optional = ("number", "time", "city", "thing", "venue", "reason", "manner")
    stated = [fact for fact in optional if getattr(event, fact) is not None]
    return ["roles", "negated", "action", "agent", *stated]


def change_fact(draw: Draw, world: World, event: Event, fact: str) -> Event:
    """Return the event with one fact replaced by another that excludes it."""
    if fact == "roles":
        return replace(event, agent=event.partner, partner=event.agent)
    if fact == "negated":
        return replace(event, negated=not event.negated)
    if fact == "agent":
        return _change_agent(draw, world, event)
    return replace(event, **{fact: draw.pick(_rivals(world, fact, getattr(event, fact)))})


class Teller:
    """Tells events as sentences.

    Args:
        draw: Source of the choices.
        world: Vocabulary to use.
        variety: Probability of leaving the plain wording, for every word and for the clause order.
        source: Probability of naming who reported the event.
    """

    def __init__(self, draw: Draw, world: World, variety: float, source: float = 0.0) -> None:
        self._draw = draw
        self._world = world
        self._variety = variety
        self._source = source

    def tell(self, event: Event) -> str:
        """Return one sentence that states every fact of the event, and nothing else about it."""
        first, *rest = self._ordered(event)
        text = " ".join([first, *rest])
        if self._draw.chance(self._source):
            source = self._word(self._draw.pick(self._world.sources))
            text = f"according to {source}, {text}" if self._varies() else f"{text}, {source} said"
        return capitalised(text) + "."

    def _varies(self) -> bool:
        return self._draw.chance(self._variety)

    def _word(self, concept: Concept) -> str:
        plain, *others = concept
        return self._draw.pick(others) if others and self._varies() else plain

    def _verb(self, verbs: tuple[Verb, ...]) -> Verb:
        plain, *others = verbs
        return self._draw.pick(others) if others and self._varies() else plain

    def _ordered(self, event: Event) -> list[str]:
        """Return the clause and its adjuncts, one adjunct in front of the clause at times."""
        adjuncts = [part for part in (self._place(event), self._time(event)) if part]
        if self._varies():
            adjuncts.reverse()
        adjuncts += [self._word(extra) for extra in (event.manner, event.reason) if extra]
        clause = self._clause(event)
        if adjuncts and self._varies():
            front = adjuncts.pop(self._draw.below(len(adjuncts)))
            return [f"{front},", clause, *adjuncts]
        return [clause, *adjuncts]

    def _place(self, event: Event) -> str:
        venue = f"at the {self._word(event.venue)}" if event.venue else ""
        city = f"in {event.city.name}" if event.city else ""
        return f"{venue} {city}".strip()

    def _time(self, event: Event) -> str:
        return self._word(event.time.forms) if event.time else ""

    def _person(self, person: Person) -> str:
        return f"the {self._word(person.job)} {person.name}" if self._varies() else person.name

    def _clause(self, event: Event) -> str:
        agent, partner = self._person(event.agent), self._person(event.partner)
        goods = ""
        if event.thing and event.number:
            goods = f"{self._word(number_forms(event.number))} {self._word(event.thing.forms)}"
        voice = self._voice(event)
        if voice == "converse":
            verb = self._verb(event.action.converse)
            tail = f"{goods} {event.action.converse_preposition} {agent}"
            return f"{partner} {self._finite(verb, event)} {tail}"
        verb = self._verb(event.action.verbs)
        target = f"{event.action.preposition} {partner}".strip()
        if voice == "active":
            return " ".join(f"{agent} {self._finite(verb, event)} {goods} {target}".split())
        be = ("were" if goods else "was") + (" not" if event.negated else "")
        if goods:
            return f"{goods} {be} {verb.participle} {target} by {agent}"
        return f"{partner} {be} {verb.participle} by {agent}"

    def _voice(self, event: Event) -> str:
        if not self._varies():
            return "active"
        return self._draw.pick(["passive", "converse"] if event.action.converse else ["passive"])

    def _finite(self, verb: Verb, event: Event) -> str:
        if not event.negated:
            return verb.past
        return f"never {verb.past}" if self._varies() else f"did not {verb.base}"
