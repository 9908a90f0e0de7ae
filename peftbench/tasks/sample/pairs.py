"""Sentence pairs compared for meaning: MRPC's paraphrases and STS-B's graded similarity."""

from __future__ import annotations

from peftbench.tasks.sample.draw import Draw
from peftbench.tasks.sample.events import Event, Teller, change_fact, changeable, draw_event, draw_people
from peftbench.tasks.sample.vocabulary import NEWS

_VARIETIES = (0.1, 0.3, 0.5)
# How often a fact is the changed one, 2 unless listed. Denials are learned first and swapped roles last; this
# mix puts MRPC within reach of three epochs and leaves room to improve.
_FREQUENCIES = {"negated": 6, "roles": 1}
# How far apart a changed fact puts two reports in STS-B: who did what weighs more than when and where.
_DISTANCES = {"agent": 1.5, "action": 1.5, "thing": 1.0, "number": 0.5, "city": 0.5, "time": 0.5}


def _report(draw: Draw) -> Event:
    """Draw an event with one or two circumstances; one event in eight is denied."""
    circumstances = ["city", "venue", "time", "reason"]
    facts = draw.distinct(circumstances, 1 + draw.below(2))
    event = draw_event(draw, NEWS, draw_people(draw, NEWS, 2), tuple(facts))
    return change_fact(draw, NEWS, event, "negated") if draw.chance(0.12) else event


def _near_miss(draw: Draw, event: Event) -> Event:
    """Change one to three facts of the event, the ones that are hard to spot less often."""
    facts = [fact for fact in changeable(event) for _ in range(_FREQUENCIES.get(fact, 2))]
    for fact in dict.fromkeys(draw.distinct(facts, 1 + draw.below(3))):
        event = change_fact(draw, NEWS, event, fact)
    return event


def _tell(draw: Draw, event: Event) -> str:
    return Teller(draw, NEWS, draw.pick(_VARIETIES), source=0.2).tell(event)


def mrpc(draw: Draw, split: str) -> dict:
    """Return two reports of one event, or of two that differ in one to three facts."""
    event = _report(draw)
    equivalent = draw.chance(0.67)
    other = event if equivalent else _near_miss(draw, event)
    return {"sentence1": _tell(draw, event), "sentence2": _tell(draw, other), "label": int(equivalent)}


def _score(changed: list[str], possible: list[str], draw: Draw) -> float:
    """Return a similarity from 0 to 5 in steps of 0.2, a little off as annotators' means are."""
    distance = sum(_DISTANCES[fact] for fact in changed) / sum(_DISTANCES[fact] for fact in possible)
    noisy = 5.0 * (1.0 - distance) + 0.6 * (draw.fraction() - 0.5)
    return round(min(max(noisy, 0.0), 5.0) * 5) / 5


def stsb(draw: Draw, split: str) -> dict:
    """Return two reports and how alike they are: 5 if no fact differs, 0 if they share none but a name."""
    event = draw_event(draw, NEWS, draw_people(draw, NEWS, 2), ("city", "time"))
    possible = [fact for fact in changeable(event) if fact in _DISTANCES]
    changed = draw.distinct(possible, draw.below(len(possible) + 1))
    other = event
    for fact in changed:
        other = change_fact(draw, NEWS, other, fact)
    return {
        "sentence1": _tell(draw, event),
        "sentence2": _tell(draw, other),
        "label": _score(changed, possible, draw),
    }
