"""Questions about a short report: BoolQ's yes or no, MultiRC's several answers, ReCoRD's gap in a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peftbench.tasks.sample.draw import Draw, capitalised, number_forms
from peftbench.tasks.sample.events import Event, Person, Teller, change_fact, draw_event, draw_people
from peftbench.tasks.sample.vocabulary import NEWS
from peftbench.tasks.sample.world import City

Row = dict[str, Any]

_VARIETIES = (0.1, 0.3)
_PLACEHOLDER = "@placeholder"
# Denials are learned first; with fewer of them BoolQ stays near chance on this little data.
_DENIALS = 3


def _tell(draw: Draw, event: Event) -> str:
    return Teller(draw, NEWS, draw.pick(_VARIETIES)).tell(event)


def _report(draw: Draw, people: list[Person], count: int) -> list[Event]:
    """Draw events between neighbours in a circle of people, each in a city of its own, no action told twice."""
    events: list[Event] = []
    while len(events) < count:
        agent = len(events) % len(people)
        pair = [people[agent], people[(agent + 1) % len(people)]]
        event = draw_event(draw, NEWS, pair if draw.chance(0.5) else pair[::-1], ("city", "time"))
        if all(event.action != other.action and event.city != other.city for other in events):
            events.append(event)
    return events


def _goods(event: Event, form: int = 0) -> str:
    if event.thing is None or event.number is None:
        return ""
    numbers = number_forms(event.number)
    return f"{numbers[form % len(numbers)]} {event.thing.forms[form % len(event.thing.forms)]} "


def _clause(event: Event, verb: str) -> str:
    """The event without its doer: verb, goods and partner."""
    return f"{verb} {_goods(event)}{event.action.preposition} {event.partner.name}".replace("  ", " ")


def _polar_question(draw: Draw, event: Event) -> str:
    place = f"in {event.city.name}" if event.city else ""
    time = draw.pick(event.time.forms) if event.time else ""
    clause = _clause(event, draw.pick(event.action.verbs).base)
    return " ".join(f"did {event.agent.name} {clause} {draw.pick((place, time))}".split())


def boolq(draw: Draw, split: str) -> Row:
    """Return a report of three events, and whether one of them happened as a question has it."""
    people = draw_people(draw, NEWS, 3)
    events = _report(draw, people, 3)
    asked = draw.below(3)
    yes = draw.chance(0.5)
    told = dict(enumerate(events))
    question = events[asked]
    if not yes:
        facts = ["roles", *_DENIALS * ["negated"], "action", *(["number"] if question.thing else [])]
        fact = draw.pick(facts)
        if fact == "negated":
            told[asked] = replace(question, negated=True)
        else:
            question = change_fact(draw, NEWS, question, fact)
    # Another event is denied as often, or a denial would answer by itself.
    if draw.chance(0.3):
        other = (asked + 1 + draw.below(2)) % 3
        told[other] = replace(told[other], negated=True)
    return {
        "question": _polar_question(draw, question).lower(),
        "passage": " ".join(_tell(draw, told[place]) for place in range(3)),
        "label": int(yes),
    }


def _doer(draw: Draw, event: Event, events: list[Event]) -> tuple[str, list[str], list[str]]:
    people = list(dict.fromkeys(person for other in events for person in (other.agent, other.partner)))
    forms = [event.agent.name, f"the {event.agent.job[0]} {event.agent.name}"]
    wrong = [person.name for person in people if person != event.agent]
    return f"Who {_clause(event, event.action.verbs[0].past)} in {_city(event).name}?", forms, wrong


def _place(draw: Draw, event: Event, events: list[Event]) -> tuple[str, list[str], list[str]]:
    city = _city(event)
    wrong = [f"in {_city(other).name}" for other in events if _city(other).country != city.country]
    strange = draw.pick([other for other in NEWS.cities if other.country != city.country])
    question = f"Where did {event.agent.name} {_clause(event, event.action.verbs[0].base)}?"
    return question, [f"in {city.name}", f"in {city.country}"], list(dict.fromkeys([*wrong, f"in {strange.name}"]))


def _object(draw: Draw, event: Event, events: list[Event]) -> tuple[str, list[str], list[str]]:
    wrong = [_goods(other).strip() for other in events if other.thing and other != event]
    wrong += [_goods(change_fact(draw, NEWS, event, fact)).strip() for fact in ("thing", "number")]
    partner = f"{event.action.preposition} {event.partner.name}".strip()
    question = f"What did {event.agent.name} {event.action.verbs[0].base} {partner} in {_city(event).name}?"
    return question, list(dict.fromkeys(_goods(event, form).strip() for form in range(2))), list(dict.fromkeys(wrong))


def _city(event: Event) -> City:
    assert event.city is not None
    return event.city


def multirc(draw: Draw, split: str) -> list[Row]:
    """Return a report of three events with two questions of four answers each, one or two of them right."""
    events = _report(draw, draw_people(draw, NEWS, 4), 3)
    paragraph = " ".join(_tell(draw, event) for event in events)
    rows = []
    for event in draw.distinct(events, 2):
        kinds = [_doer, _place, *([_object] if event.thing else [])]
        question, right, wrong = draw.pick(kinds)(draw, event, events)
        kept = right[: 1 + draw.below(len(right))]
        answers = [(text, 1) for text in kept] + [(text, 0) for text in draw.distinct(wrong, min(len(wrong), 3))]
        answers = answers[: max(4, len(kept) + 2)][:4]
        for text, label in draw.distinct(answers, len(answers)):
            rows.append({"paragraph": paragraph, "question": question, "answer": text, "label": label})
    return rows


def number_answers(rows: list[Row]) -> list[dict[str, int]]:
    """MultiRC's `idx`: numbers of the paragraph, the question and the answer, each counted through the split."""
    paragraphs = {text: place for place, text in enumerate(dict.fromkeys(row["paragraph"] for row in rows))}
    asked = [(row["paragraph"], row["question"]) for row in rows]
    questions = {pair: place for place, pair in enumerate(dict.fromkeys(asked))}
    return [
        {"paragraph": paragraphs[pair[0]], "question": questions[pair], "answer": place}
        for place, pair in enumerate(asked)
    ]


def number_queries(rows: list[Row]) -> list[dict[str, int]]:
    """ReCoRD's `idx`: every passage has one query."""
    return [{"passage": place, "query": place} for place in range(len(rows))]


def record(draw: Draw, split: str) -> Row:
    """Return a report with a summary, and another telling of one of its events with a person left out."""
    people = draw_people(draw, NEWS, 4)
    events = _report(draw, people, 3)
    told = [_tell(draw, event) for event in events]
    summarised = draw.pick(people)
    summary = draw.pick(("{} answers questions", "reporters talk to {}", "{} is pleased with the outcome"))
    highlights = [capitalised(summary.format(summarised.last)), told[draw.below(3)].rstrip(".")]
    passage = "\n@highlight\n".join([" ".join(told), *highlights])
    event = draw.pick(events)
    missing = draw.pick((event.agent, event.partner))
    query = _tell(draw, replace(event, time=None)).replace(missing.name, _PLACEHOLDER)
    # As in the hub's rows, what is named twice is listed once, and a surname is an entity of its own.
    named = [person.name for person in people if person.name in passage] + [summarised.last]
    answers = [missing.name, *([missing.last] if missing == summarised else [])]
    return {
        "passage": passage,
        "query": query,
        "entities": draw.distinct(named, len(named)),
        "entity_spans": _spans(passage, named),
        "answers": answers,
    }


def _spans(passage: str, named: list[str]) -> dict[str, list]:
    starts = [passage.index(name) for name in named]
    ends = [start + len(name) for start, name in zip(starts, named, strict=True)]
    return {"text": list(named), "start": starts, "end": ends}
