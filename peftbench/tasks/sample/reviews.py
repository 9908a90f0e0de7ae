"""SST-2-like opinions about films, in which negation and contrast decide the sentiment."""

from __future__ import annotations

from peftbench.tasks.sample.draw import Draw, capitalised, with_article, words

_ADJECTIVES = (
    words(
        "dull; clumsy; lifeless; tedious; shallow; predictable; grating; muddled; bland; sloppy; contrived; "
        "forgettable; hollow; stale; laughable; dreary; awkward; unconvincing; pretentious; lazy; flat; tiresome; "
        "incoherent; cheap; soulless; messy; painful; mediocre; leaden; overwrought"
    ),
    words(
        "brilliant; moving; witty; elegant; gripping; charming; inventive; heartfelt; dazzling; subtle; honest; "
        "delightful; masterful; superb; touching; fresh; graceful; compelling; hilarious; luminous; clever; tender; "
        "thrilling; stunning; memorable; absorbing; poignant; convincing; exquisite; warm"
    ),
)
_VERB_PHRASES = (
    words(
        "falls apart long before the end; put me to sleep; goes nowhere; wears out its welcome; "
        "left me checking my watch; collapses under its own weight; wastes a good idea; rings false; "
        "never gets off the ground; insults the audience; gave me a headache; drags on and on"
    ),
    words(
        "kept me glued to my seat; stays with you for days; works like a charm; won me over; rings true; "
        "earns every tear; took my breath away; lights up the screen; rewards a second viewing; "
        "never loses its nerve; lifts the whole film; hits every note"
    ),
)
_ASPECTS = words(
    "plot; story; acting; script; dialogue; music; pacing; camera work; ending; humour; lead performance; editing; "
    "romance; final act; direction; opening scene; voice-over; villain; love story; supporting cast"
)
_WORKS = words("film; movie; drama; comedy; thriller; western; sequel; documentary; remake; musical; picture; debut")
_AUDIENCES = words(
    "for the whole family; for patient viewers; from a first-time director; from a famous studio; set in a small town; "
    "about two brothers; about a stolen painting; shot in black and white; with a large cast; based on a novel"
)
_DENIALS = words("is not; is never; is hardly; is anything but; is far from; is by no means")
_WRAPPED_DENIALS = words(
    "nobody could claim that; it is simply not true that; I would not say that; only a fool would think that; "
    "I fail to see how anyone can write that; it would be wrong to say that"
)
_WRAPPED_ASSERTIONS = words(
    "nobody could deny that; it is simply true that; I have to say that; only a fool would doubt that; "
    "I understand why everyone writes that; it would be wrong to deny that"
)
_AGREEMENTS = words("I could not agree more; I see it the same way; they are quite right")
_DISAGREEMENTS = words("I could not agree less; I see it the other way round; they are quite wrong")
_POSITIVE, _NEGATIVE = 1, 0


def _claim(draw: Draw, aspect: str, tone: int) -> str:
    """Return a clause about one aspect; a third of them deny the opposite of what they mean."""
    aspect = f"the {aspect}"
    form = draw.below(6)
    if form < 2:
        return f"{aspect} {draw.pick(_DENIALS)} {draw.pick(_ADJECTIVES[1 - tone])}"
    if form < 4:
        return f"{aspect} {draw.pick(_VERB_PHRASES[tone])}"
    intensity = draw.pick(("", "truly "))
    return f"{aspect} is {intensity}{draw.pick(_ADJECTIVES[tone])}"


def _two_claims(draw: Draw, first_tone: int, second_tone: int) -> tuple[str, str]:
    first, second = draw.distinct(_ASPECTS, 2)
    return _claim(draw, first, first_tone), _claim(draw, second, second_tone)


def _work(draw: Draw) -> str:
    return f"{draw.pick(_WORKS)} {draw.pick(_AUDIENCES)}"


def _contrast(draw: Draw, tone: int) -> str:
    """Return a concession and a main clause of opposite tones, of which the main clause counts."""
    conceded, main = _two_claims(draw, 1 - tone, tone)
    frames = (
        f"although {conceded}, {main}",
        f"even if {conceded}, {main}",
        f"{main}, although {conceded}",
        f"{main}, even if {conceded}",
        f"{conceded}, but in the end {main}",
        f"it hardly matters that {conceded}, because {main}",
    )
    return draw.pick(frames)


def _unreal(draw: Draw, tone: int) -> str:
    """Return a clause after an expectation that was not met."""
    hoped = draw.pick(_ADJECTIVES[1 - tone])
    main = _claim(draw, draw.pick(_ASPECTS), tone)
    frames = (
        f"I expected {with_article(hoped)} {_work(draw)}, yet {main}",
        f"the trailer promised something {hoped}, whereas {main}",
        f"my friends had called this {draw.pick(_WORKS)} {hoped}, but {main}",
    )
    return draw.pick(frames)


def _agreement(draw: Draw, tone: int) -> str:
    first, second = _two_claims(draw, tone, tone)
    return draw.pick((f"{first} and {second}", f"{first}, while {second}", f"{first}; what is more, {second}"))


def _plain(draw: Draw, tone: int) -> str:
    return f"in this {_work(draw)}, {_claim(draw, draw.pick(_ASPECTS), tone)}"


def _wrapped(draw: Draw, tone: int) -> str:
    """Return a claim inside an assertion or a denial of it; the claim may be a denial itself."""
    denied = draw.chance(0.5)
    wrapper = draw.pick(_WRAPPED_DENIALS if denied else _WRAPPED_ASSERTIONS)
    return f"{wrapper} {_claim(draw, draw.pick(_ASPECTS), 1 - tone if denied else tone)}"


def _compared(draw: Draw, tone: int) -> str:
    own, other = draw.pick(_ADJECTIVES[tone]), draw.pick(_ADJECTIVES[1 - tone])
    comparison = draw.pick((f"much more {own} than {other}", f"much less {other} than {own}"))
    return f"in this {_work(draw)}, the {draw.pick(_ASPECTS)} is {comparison}"


def _reported(draw: Draw, tone: int) -> str:
    """Return other people's judgement, and whether the reviewer shares it."""
    shared = draw.chance(0.5)
    verdict = draw.pick(_AGREEMENTS if shared else _DISAGREEMENTS)
    return f"some say that {_claim(draw, draw.pick(_ASPECTS), tone if shared else 1 - tone)}, and {verdict}"


_SHAPES = (_plain, _agreement, _contrast, _contrast, _unreal, _compared, _wrapped, _wrapped, _reported)


def sst2(draw: Draw, split: str) -> dict:
    """Return one sentence of a review and whether its main point is positive."""
    tone = _POSITIVE if draw.chance(0.5) else _NEGATIVE
    shape = draw.pick(_SHAPES)
    return {"sentence": capitalised(shape(draw, tone)) + ".", "label": tone}
