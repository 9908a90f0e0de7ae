"""Premise and hypothesis pairs: MNLI, its diagnostic companion AX, and RTE."""

from __future__ import annotations

from dataclasses import replace

from peftbench.tasks.sample.draw import Draw
from peftbench.tasks.sample.events import (
    Event,
    Person,
    Teller,
    add_fact,
    change_fact,
    draw_event,
    draw_people,
)
from peftbench.tasks.sample.vocabulary import NEWS, SEA
from peftbench.tasks.sample.world import City, Thing, Time, World

_ENTAILMENT, _NEUTRAL, _CONTRADICTION = 0, 1, 2
_VARIETIES = (0.1, 0.3, 0.5)
_OPTIONAL = ("city", "time", "manner", "reason")
# A denial is the difference a model sees first; with fewer of them RTE stays near chance on this little data.
_DENIALS = 5


def _tell(draw: Draw, world: World, event: Event) -> str:
    return Teller(draw, world, draw.pick(_VARIETIES)).tell(event)


def _stated(event: Event, facts: tuple[str, ...]) -> list[str]:
    return [fact for fact in facts if getattr(event, fact) is not None]


def _vaguer(value: Thing | Time | City) -> Thing | Time | City:
    """Return something that follows from the value: the wider class, the day or month, the country."""
    if isinstance(value, Thing):
        return Thing((value.kind,), value.kind)
    if isinstance(value, Time):
        return Time((value.general,), value.general, value.calendar)
    return City(value.country, value.country)


def _weaken(draw: Draw, event: Event, keep: str = "") -> Event:
    """Make at most one fact vaguer and drop at most one, never the one to keep."""
    vague = [fact for fact in _stated(event, ("thing", "time", "city")) if fact != keep]
    if vague and draw.chance(0.25):
        fact = draw.pick(vague)
        event = replace(event, **{fact: _vaguer(getattr(event, fact))})
    loose = [fact for fact in _stated(event, _OPTIONAL) if fact != keep]
    # Without things changing hands, a sentence needs its circumstances to be long enough.
    if event.thing and len(loose) > 1 and draw.chance(0.7):
        event = replace(event, **{draw.pick(loose): None})
    return event


def _entailed(draw: Draw, world: World, event: Event) -> Event:
    # Denying an event says nothing about vaguer ones, so a denial is only ever paraphrased.
    return event if event.negated else _weaken(draw, event)


def _contradicting(draw: Draw, world: World, event: Event) -> Event:
    """Change a fact that cannot have two values at once."""
    if event.negated:
        return replace(event, negated=False)
    exclusive = ["negated", "negated", *_stated(event, ("number", "city", "time"))]
    if event.thing:
        exclusive.append("roles")
    fact = draw.pick(exclusive)
    changed = change_fact(draw, world, event, fact)
    # "Did not, on Monday" would still leave other days open, so a denial keeps every fact.
    return changed if fact == "negated" else _weaken(draw, changed, keep=fact)


def _undecided(draw: Draw, world: World, event: Event) -> Event:
    """Add a fact the premise leaves open, or swap in one that does not exclude the premise's."""
    if event.negated:
        return change_fact(draw, world, event, draw.pick(_stated(event, ("number", "city", "time"))))
    missing = [fact for fact in _OPTIONAL if getattr(event, fact) is None]
    fact = draw.pick(missing)
    return _weaken(draw, add_fact(draw, world, event, fact), keep=fact)


def _inference(draw: Draw, world: World) -> dict:
    facts = draw.distinct(_OPTIONAL, 2)
    if not {"city", "time"} & set(facts):
        facts[0] = draw.pick(("city", "time"))
    premise = draw_event(draw, world, draw_people(draw, world, 2), tuple(facts))
    if draw.chance(0.2):
        premise = replace(premise, negated=True)
    label = draw.pick((_ENTAILMENT, _NEUTRAL, _CONTRADICTION))
    hypothesis = (_entailed, _undecided, _contradicting)[label](draw, world, premise)
    return {
        "premise": _tell(draw, world, premise),
        "hypothesis": _tell(draw, world, hypothesis),
        "label": label,
    }


def mnli(draw: Draw, split: str) -> dict:
    """Return news sentences, or seafaring ones for the mismatched splits."""
    return _inference(draw, SEA if split.endswith("mismatched") else NEWS)


def ax(draw: Draw, split: str) -> dict:
    """Return a pair like MNLI's, from either genre."""
    return _inference(draw, draw.pick((NEWS, SEA)))


def _unreported(draw: Draw, told: Event, bystander: Person) -> Event:
    """Return an event that differs from the told one in one to three facts, mixing up people at times."""
    facts = ["roles", "agent", *_DENIALS * ["negated"], *2 * _stated(told, ("number", "city", "time", "thing"))]
    for fact in dict.fromkeys(draw.distinct(facts, 1 + draw.below(3))):
        told = replace(told, agent=bystander) if fact == "agent" else change_fact(draw, NEWS, told, fact)
    return told


def rte(draw: Draw, split: str) -> dict:
    """Return a text that reports two events among three people, and a claim about one of them."""
    first, shared, last = draw_people(draw, NEWS, 3)
    facts = ("city", "time")
    one = draw_event(draw, NEWS, [first, shared], (draw.pick(facts),))
    two = one
    while two.action == one.action:
        two = draw_event(draw, NEWS, [shared, last], (draw.pick(facts),))
    if draw.chance(0.2):
        one = replace(one, negated=True)
    told, bystander = draw.pick(((one, last), (two, first)))
    entailed = draw.chance(0.5)
    claim = _entailed(draw, NEWS, told) if entailed else _unreported(draw, told, bystander)
    return {
        "sentence1": f"{_tell(draw, NEWS, one)} {_tell(draw, NEWS, two)}",
        "sentence2": _tell(draw, NEWS, claim),
        "label": int(not entailed),
    }


def superglue_rte(draw: Draw, split: str) -> dict:
    """Return a pair like RTE's, in SuperGLUE's columns."""
    row = rte(draw, split)
    return {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": row["label"]}


def axb(draw: Draw, split: str) -> dict:
    """Return a pair like AX's, with two classes."""
    row = ax(draw, split)
    return {
        "sentence1": row["premise"],
        "sentence2": row["hypothesis"],
        "label": int(row["label"] != _ENTAILMENT),
    }
