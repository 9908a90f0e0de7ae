"""CoLA-like sentences: well-formed ones, and ones with a single grammatical error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from peftbench.tasks.sample.draw import Draw, capitalised, lines, words


class _Token(NamedTuple):
    """A word, its role, and the wrong forms it can be replaced by (empty if there is none)."""

    text: str
    role: str = "other"
    wrong_number: str = ""
    wrong_form: str = ""
    droppable: bool = False


@dataclass(frozen=True)
class _Verb:
    """A transitive verb; every past participle differs from the base and from the past tense."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


@dataclass(frozen=True)
class _Noun:
    singular: str
    plural: str


_VERBS = [
    _Verb(*line.split())
    for line in lines(
        """
        shake shakes shook shaken shaking
        choose chooses chose chosen choosing
        draw draws drew drawn drawing
        steal steals stole stolen stealing
        hide hides hid hidden hiding
        break breaks broke broken breaking
        forget forgets forgot forgotten forgetting
        take takes took taken taking
        give-up gives-up gave-up given-up giving-up
        throw-away throws-away threw-away thrown-away throwing-away
        tear-up tears-up tore-up torn-up tearing-up
        show shows showed shown showing
        """
    )
]
_PEOPLE = [
    _Noun(*entry.split("/"))
    for entry in words(
        "teacher/teachers; woman/women; child/children; farmer/farmers; lawyer/lawyers; sailor/sailors; "
        "student/students; doctor/doctors; singer/singers; neighbour/neighbours; soldier/soldiers; man/men; "
        "painter/painters; driver/drivers; queen/queens; judge/judges; baker/bakers; policeman/policemen"
    )
]
_THINGS = [
    _Noun(*entry.split("/"))
    for entry in words(
        "letter/letters; key/keys; picture/pictures; story/stories; lamp/lamps; box/boxes; song/songs; "
        "ticket/tickets; knife/knives; recipe/recipes; book/books; map/maps; poem/poems; basket/baskets; "
        "report/reports; coat/coats; mirror/mirrors; plan/plans"
    )
]
_THING_ADJECTIVES = words("old; strange; heavy; expensive; small; beautiful; useless; famous; red; lost")
_PEOPLE_ADJECTIVES = words("young; tall; clever; tired; honest; rich; lonely; polite; angry; careful")
_STATES = words(
    "very tired; quite happy; rather nervous; extremely proud; too shy to sing; ready to leave; almost asleep"
)
_PREPOSITIONS = words("near; behind; beside; opposite; below; above")
_PLACES = [
    _Noun(*entry.split("/"))
    for entry in words("window/windows; bridge/bridges; garden/gardens; tower/towers; shop/shops; fence/fences")
]
_OPENINGS = words(
    "; ; ; although the weather is bad,; as soon as the bell rings,; everybody thinks that; "
    "it is obvious that; the newspaper reports that; after a long discussion,; my sister believes that; "
    "in this old town,"
)
_ACTION_ENDINGS = words(
    "for no good reason; in front of everyone; without saying a word; with great care; for the third time; "
    "because nobody else will; in spite of all the noise; just as we expected; as everybody knows"
)
_STATE_ENDINGS = words(
    "after such a long day; for no good reason; in spite of all the noise; as everybody knows; "
    "at this time of the year; just as we expected; because of the news"
)
_SINGULAR_DETERMINERS = (("the", ""), ("this", "these"), ("every", "all"))
_PLURAL_DETERMINERS = (("the", ""), ("these", "this"), ("many", "every"))

_FIXED_ORDERS = (
    ("determiner", "noun"),
    ("determiner", "adjective"),
    ("adjective", "noun"),
    ("preposition", "determiner"),
    ("auxiliary", "nonfinite"),
)


def _plain(text: str) -> list[_Token]:
    return [_Token(word) for word in text.split()]


def _noun_phrase(draw: Draw, nouns: list[_Noun], adjectives: tuple[str, ...], plural: bool) -> list[_Token]:
    determiner, wrong = draw.pick(_PLURAL_DETERMINERS if plural else _SINGULAR_DETERMINERS)
    noun = draw.pick(nouns)
    tokens = [_Token(determiner, "determiner", wrong_number=wrong, droppable=not plural)]
    if draw.chance(0.4):
        tokens.append(_Token(draw.pick(adjectives), "adjective"))
    return [*tokens, _Token(noun.plural if plural else noun.singular, "noun")]


def _finite(verb: _Verb, plural: bool) -> _Token:
    right, wrong = (verb.base, verb.third) if plural else (verb.third, verb.base)
    return _Token(right, "verb", wrong_number=wrong, wrong_form=verb.gerund, droppable=True)


def _auxiliary(text: str, wrong: str) -> _Token:
    return _Token(text, "auxiliary", wrong_number=wrong, droppable=bool(wrong))


def _verb_group(draw: Draw, plural: bool) -> list[_Token]:
    """Return a finite transitive verb: simple present, perfect, progressive or modal."""
    verb = draw.pick(_VERBS)
    shape = draw.below(4)
    if shape == 0:
        return [_finite(verb, plural)]
    if shape == 1:
        have = _auxiliary("have", "has") if plural else _auxiliary("has", "have")
        return [
            have,
            _Token(verb.participle, "nonfinite", wrong_form=draw.pick((verb.base, verb.gerund, verb.past))),
        ]
    if shape == 2:
        be = _auxiliary("are", "is") if plural else _auxiliary("is", "are")
        return [be, _Token(verb.gerund, "nonfinite", wrong_form=draw.pick((verb.base, verb.third)))]
    modal = _auxiliary(draw.pick(("will", "can", "should", "must")), "")
    return [modal, _Token(verb.base, "nonfinite", wrong_form=draw.pick((verb.past, verb.gerund, verb.third)))]


def _distractor(draw: Draw, plural: bool) -> list[_Token]:
    """Return a modifier of a noun with another noun in it, usually of the opposite number."""
    other = (not plural) if draw.chance(0.7) else plural
    if draw.chance(0.5):
        preposition = _Token(draw.pick(_PREPOSITIONS), "preposition", droppable=True)
        return [preposition, *_noun_phrase(draw, _PLACES, _THING_ADJECTIVES, other)]
    clause = [
        *_noun_phrase(draw, _PEOPLE, _PEOPLE_ADJECTIVES, other),
        *_plain(draw.pick(("often", "never", "always"))),
    ]
    verb = draw.pick(("like", "visit", "admire", "avoid"))
    third = f"{verb}s"
    right, wrong = (verb, third) if other else (third, verb)
    return [
        *_plain("that"),
        *clause,
        _Token(right, "verb", wrong_number=wrong, wrong_form=f"{verb.rstrip('e')}ing"),
    ]


def _well_formed(draw: Draw) -> list[_Token]:
    plural = draw.chance(0.5)
    tokens = [*_plain(draw.pick(_OPENINGS)), *_noun_phrase(draw, _PEOPLE, _PEOPLE_ADJECTIVES, plural)]
    if draw.chance(0.7):
        tokens += _distractor(draw, plural)
    if draw.chance(0.25):
        be, wrong = ("are", "is") if plural else ("is", "are")
        tokens += [_auxiliary(be, wrong), *_plain(draw.pick(_STATES)), *_plain(draw.pick(_STATE_ENDINGS))]
    else:
        things = draw.chance(0.5)
        tokens += [*_verb_group(draw, plural), *_noun_phrase(draw, _THINGS, _THING_ADJECTIVES, things)]
        tokens += _plain(draw.pick(_ACTION_ENDINGS))
    return tokens


def _replace_at(tokens: list[_Token], place: int, *new: _Token) -> list[_Token]:
    return [*tokens[:place], *new, *tokens[place + 1 :]]


def _wrong_numbers(tokens: list[_Token]) -> list[list[_Token]]:
    return [
        _replace_at(tokens, place, _Token(token.wrong_number))
        for place, token in enumerate(tokens)
        if token.wrong_number
    ]


def _wrong_forms(tokens: list[_Token]) -> list[list[_Token]]:
    return [
        _replace_at(tokens, place, _Token(token.wrong_form)) for place, token in enumerate(tokens) if token.wrong_form
    ]


def _missing_words(tokens: list[_Token]) -> list[list[_Token]]:
    """Drop a word; never one behind "that", which would then read as a determiner itself."""
    return [
        _replace_at(tokens, place)
        for place, token in enumerate(tokens)
        if token.droppable and not (place and tokens[place - 1].text == "that")
    ]


def _wrong_orders(tokens: list[_Token]) -> list[list[_Token]]:
    return [
        [*tokens[:place], tokens[place + 1], tokens[place], *tokens[place + 2 :]]
        for place in range(len(tokens) - 1)
        if (tokens[place].role, tokens[place + 1].role) in _FIXED_ORDERS
    ]


def _ill_formed(draw: Draw, tokens: list[_Token]) -> list[_Token]:
    """Return the sentence with one error, all kinds of error being equally likely."""
    kinds = [find(tokens) for find in (_wrong_numbers, _wrong_forms, _missing_words, _wrong_orders)]
    return draw.pick(draw.pick([variants for variants in kinds if variants]))


def cola(draw: Draw, split: str) -> dict:
    """Return a sentence that is acceptable seven times in ten and has one error otherwise."""
    tokens = _well_formed(draw)
    acceptable = draw.chance(0.7)
    if not acceptable:
        tokens = _ill_formed(draw, tokens)
    sentence = " ".join(token.text for token in tokens).replace("-", " ")
    return {"sentence": f"{capitalised(sentence)}.", "label": int(acceptable)}
