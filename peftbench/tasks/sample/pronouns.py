"""WNLI, WSC and AX-g: sentences with an ambiguous pronoun, and readings of it."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.tasks.sample.draw import Draw, capitalised, lines, words
from peftbench.tasks.sample.vocabulary import NEWS


@dataclass(frozen=True)
class _Schema:
    """A sentence whose pronoun means the first or the second person, depending on how it ends."""

    stem: str
    first_ending: str
    second_ending: str


_SCHEMAS = tuple(
    _Schema(*(part.strip() for part in line.split("|")))
    for line in lines(
        """
        {a} lent the {t} to {b} because | did not need it that week | had nothing of the kind at home
        {a} sold the {t} to {b} because | needed money to pay the rent | had always wanted to own one
        {a} shouted at {b} after | found the {t} in pieces | had dropped the {t} by accident
        {a} thanked {b} because | had been given the {t} as a present | had carried the {t} all the way home
        {a} apologised to {b} because | had ruined the {t} by mistake | was upset about the ruined {t}
        {a} hired {b} to repair the {t} because | did not know how to do it | had repaired many of them before
        {a} hid the {t} from {b} because | wanted to keep it as a surprise | would surely have taken it away
        {a} paid {b} for the {t} as soon as | had found enough money | had delivered it to the door
        {a} visited {b} in hospital after | heard about the accident with the {t} | had been hurt by the falling {t}
        {a} followed {b} to the {p} because | did not know the way there | was the only one who knew the way
        {a} waited for {b} at the {p} until | grew tired of standing there | finally got off the last bus
        {a} lost the race to {b} because | had slept badly before the start | had trained hard for many months
        {a} asked {b} for directions to the {p} because | had got lost in the fog | had lived in the area for years
        {a} could not see the {p} behind {b} because | was much too short | was much too tall
        {a} envied {b} because | had never owned such a fine {t} | had just won a very fine {t}
        {a} paid the fine for {b} because | was a rich and generous friend | had no money left at all
        """
    )
)
_OBJECTS = words("bicycle; guitar; lamp; mirror; clock; camera; ladder; painting; radio; vase; tent; toolbox")
_PLACES = words("station; museum; library; harbour; stadium; market; theatre; castle")


def wnli(draw: Draw, split: str) -> dict:
    """Return a sentence and its ending with a name for the pronoun: the right one, or the other."""
    firsts, pronoun = draw.pick(((NEWS.men, "he"), (NEWS.women, "she")))
    names = [
        f"{first} {last}" for first, last in zip(draw.distinct(firsts, 2), draw.distinct(NEWS.surnames, 2), strict=True)
    ]
    schema = draw.pick(_SCHEMAS)
    referent = draw.below(2)
    ending = (schema.first_ending, schema.second_ending)[referent]
    entailed = draw.chance(0.5)
    named = names[referent if entailed else 1 - referent]
    slots = {"a": names[0], "b": names[1], "t": draw.pick(_OBJECTS), "p": draw.pick(_PLACES)}
    return {
        "sentence1": f"{schema.stem} {pronoun} {ending}.".format(**slots),
        "sentence2": f"{named} {ending}.".format(**slots),
        "label": int(entailed),
    }


def _told(schema: _Schema, pronoun: str, referent: int, slots: dict[str, str]) -> str:
    ending = (schema.first_ending, schema.second_ending)[referent]
    return f"{schema.stem} {pronoun} {ending}.".format(**slots)


def wsc(draw: Draw, split: str) -> dict:
    """Return a sentence, one of its two people and its pronoun with the numbers of their first words."""
    firsts, pronoun = draw.pick(((NEWS.men, "he"), (NEWS.women, "she")))
    names = [
        f"{first} {last}" for first, last in zip(draw.distinct(firsts, 2), draw.distinct(NEWS.surnames, 2), strict=True)
    ]
    schema, referent, named = draw.pick(_SCHEMAS), draw.below(2), draw.below(2)
    slots = {"a": names[0], "b": names[1], "t": draw.pick(_OBJECTS), "p": draw.pick(_PLACES)}
    text = _told(schema, pronoun, referent, slots)
    return {
        "text": text,
        "span1_index": len(text[: text.index(names[named])].split()),
        "span2_index": len(schema.stem.format(**slots).split()),
        "span1_text": names[named],
        "span2_text": pronoun,
        "label": int(named == referent),
    }


def axg(draw: Draw, split: str) -> list[dict]:
    """Return a pair alike but for the pronoun: a sentence about two occupations, and a reading of it."""
    one, two = (job[0] for job in draw.distinct(NEWS.jobs, 2))
    schema, referent, named = draw.pick(_SCHEMAS), draw.below(2), draw.below(2)
    slots = {"a": f"the {one}", "b": f"the {two}", "t": draw.pick(_OBJECTS), "p": draw.pick(_PLACES)}
    reading = _told(schema, f"the {(one, two)[named]}", referent, slots)[len(schema.stem.format(**slots)) + 1 :]
    return [
        {
            "premise": capitalised(_told(schema, pronoun, referent, slots)),
            "hypothesis": capitalised(reading),
            "label": int(named != referent),
        }
        for pronoun in ("he", "she")
    ]
