"""Questions: QQP's duplicates, which ask for the same thing in other words, or nearly the same thing."""

from __future__ import annotations

import string
from dataclasses import dataclass

from peftbench.tasks.sample.draw import Concept, Draw, capitalised, concepts, lines, number_forms, with_article
from peftbench.tasks.sample.vocabulary import NEWS

_SKILLS = concepts(
    "public speaking/speaking in public; photography/taking photos; programming/computer coding; "
    "swimming; cooking/preparing food; chess/the game of chess; dancing; gardening/growing plants; "
    "mathematics/maths; playing the piano/piano playing; drawing; sewing; skiing; fishing; juggling; "
    "French/the French language; Arabic/the Arabic language; sailing; carpentry/woodwork; singing"
)
_UNITS = concepts("days; weeks; months")


@dataclass(frozen=True)
class _Intent:
    """Templates that ask the same thing, and templates that ask something else about the same slots.

    Slots: ``a`` and ``b`` are cities, ``x`` and ``y`` skills, ``j`` and ``k`` occupations, ``n`` a number,
    ``u`` a unit of time, ``t`` things. Where a template has two of a kind, their order matters.
    """

    same: tuple[str, ...]
    rivals: tuple[str, ...]


def _intents(text: str) -> tuple[_Intent, ...]:
    """Parse blocks of lines: ``=`` starts a template of the intent, ``!`` a rival."""
    found = []
    for block in text.split("\n\n"):
        templates = lines(block)
        same = tuple(line[2:] for line in templates if line.startswith("="))
        found.append(_Intent(same, tuple(line[2:] for line in templates if line.startswith("!"))))
    return tuple(found)


_INTENTS = _intents(
    """
    = What is the best way for {j} to learn {x} in {n} {u}?
    = How can {j} best master {x} within {n} {u}?
    = If I am {j}, how do I learn {x} in {n} {u}?
    ! Why should {j} spend {n} {u} on learning {x}?
    ! How can {j} best teach {x} within {n} {u}?

    = How much does it cost to move from {a} to {b} with {n} {t}?
    = What is the price of relocating from {a} to {b} with {n} {t}?
    = How expensive is it to take {n} {t} along when I move from {a} to {b}?
    ! How long does it take to move from {a} to {b} with {n} {t}?
    ! Is it allowed to move from {a} to {b} with {n} {t}?

    = Why is {x} so much more popular than {y} in {a}?
    = What makes people in {a} prefer {x} to {y}?
    = For what reason do people in {a} like {x} better than {y}?
    ! When did {x} become more popular than {y} in {a}?
    ! Is {x} really more popular than {y} in {a}?

    = Does {j} in {a} earn more money than {k}?
    = Is {j} paid better than {k} in {a}?
    = Is the salary of {j} higher than that of {k} in {a}?
    ! Does {j} in {a} work longer hours than {k}?
    ! Is {j} in {a} happier than {k}?

    = Is it too late to start {x} at the age of {n} in {a}?
    = Can I still take up {x} in {a} when I am {n} years old?
    = Am I too old for {x} classes in {a} if I am {n}?
    ! Is it dangerous to start {x} at the age of {n} in {a}?
    ! Am I too young for {x} classes in {a} if I am {n}?

    = Where can I buy {n} cheap {t} near the centre of {a}?
    = Which place in central {a} sells {n} {t} at a low price?
    = What shop near the centre of {a} should I go to for {n} affordable {t}?
    ! Where can I sell {n} old {t} near the centre of {a}?
    ! Where can I repair {n} broken {t} near the centre of {a}?

    = What should {j} bring when travelling from {a} to {b} for {n} {u}?
    = Which things does {j} need on a trip of {n} {u} from {a} to {b}?
    = If {j} goes from {a} to {b} for {n} {u}, what is it useful to pack?
    ! What should {j} not bring when travelling from {a} to {b} for {n} {u}?
    ! Which train should {j} take when travelling from {a} to {b} for {n} {u}?

    = How can I change my career from being {j} to being {k} after {n} {u}?
    = What does it take to become {k} after working as {j} for {n} {u}?
    = I have been {j} for {n} {u}, so how do I turn into {k}?
    ! Why would anyone change their career from being {j} to being {k} after {n} {u}?
    ! Should I change my career from being {j} to being {k} after {n} {u}?

    = Does practising {x} for {n} {u} make someone better at {y}?
    = Will my {y} improve if I spend {n} {u} on {x}?
    = Can {n} {u} of {x} help me with {y}?
    ! Does practising {x} for {n} {u} make someone worse at {y}?
    ! Do I have to pay for {n} {u} of {x} and of {y}?

    = What is the easiest way to transport {n} {t} from {a} to {b}?
    = How do I get {n} {t} from {a} to {b} with the least trouble?
    = If I have {n} {t} in {a}, how can I bring them to {b} most easily?
    ! What is the worst way to transport {n} {t} from {a} to {b}?
    ! What tax do I pay when I transport {n} {t} from {a} to {b}?
    """
)
_CHANGE_SLOT, _SWAP_SLOTS = 0.45, 0.15
_RIVAL_DUPLICATES = 0.3
_KINDS = {"a": "city", "b": "city", "x": "skill", "y": "skill", "j": "job", "k": "job"}
_PAIRS = (("a", "b"), ("x", "y"), ("j", "k"))
_PLAIN_WORDING = 0.6

Slots = dict[str, Concept]


def _values(slot: str) -> list[Concept]:
    return {
        "city": [(city.name,) for city in NEWS.cities],
        "skill": list(_SKILLS),
        "job": [tuple(with_article(form) for form in job) for job in NEWS.jobs],
        "n": [number_forms(number) for number in range(12, 60)],
        "u": list(_UNITS),
        "t": [thing.forms for thing in NEWS.things],
    }[_KINDS.get(slot, slot)]


def _slots_of(template: str) -> list[str]:
    return sorted({name for _, name, _, _ in string.Formatter().parse(template) if name})


def _fill(draw: Draw, slots: list[str]) -> Slots:
    filled: Slots = {}
    for slot in slots:
        filled[slot] = draw.pick_other(_values(slot), *filled.values())
    return filled


def _ask(draw: Draw, template: str, slots: Slots) -> str:
    wording = {slot: forms[0] if draw.chance(_PLAIN_WORDING) else draw.pick(forms) for slot, forms in slots.items()}
    return capitalised(template.format(**wording))


def _other_question(draw: Draw, intent: _Intent, slots: Slots) -> tuple[str, Slots]:
    """Return a template and slots that ask for something else: a near miss of the first question."""
    pairs = [pair for pair in _PAIRS if set(pair) <= set(slots)]
    if pairs and draw.chance(_SWAP_SLOTS):
        one, two = draw.pick(pairs)
        return draw.pick(intent.same), {**slots, one: slots[two], two: slots[one]}
    if draw.chance(_CHANGE_SLOT):
        changed = draw.distinct(sorted(slots), 1 + draw.below(2))
        fresh = {slot: draw.pick_other(_values(slot), *slots.values()) for slot in changed}
        return draw.pick(intent.same), {**slots, **fresh}
    return draw.pick(intent.rivals), slots


def _pair(draw: Draw, duplicate: bool) -> list[str]:
    intent = draw.pick(_INTENTS)
    # Duplicates of the rivals too, or a rival's words would give the label away.
    first = draw.pick(intent.rivals if duplicate and draw.chance(_RIVAL_DUPLICATES) else intent.same)
    slots = _fill(draw, _slots_of(first))
    if duplicate:
        second, others = (draw.pick(intent.same) if first in intent.same else first), slots
    else:
        second, others = _other_question(draw, intent, slots)
    return draw.distinct([_ask(draw, first, slots), _ask(draw, second, others)], 2)


def qqp(draw: Draw, split: str) -> dict:
    """Return two questions and whether an answer to one answers the other."""
    duplicate = draw.chance(0.5)
    one = two = ""
    while one == two:
        one, two = _pair(draw, duplicate)
    return {"question1": one, "question2": two, "label": int(duplicate)}
