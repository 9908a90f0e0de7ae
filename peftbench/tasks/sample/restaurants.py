"""Invented restaurants: attributes as E2E writes them, and what people might say of them."""

from __future__ import annotations

from peftbench.tasks.sample.draw import Draw, with_article, words
from peftbench.tasks.sample.task import Row

_NAMES = words(
    "The Copper Kettle; Juniper House; The Blue Lantern; Marlow's; The Old Mill; Saffron Lane; The Tin Spoon; Rosetta;"
    " The Gilded Pear; Harbour Table; Fig and Thistle; The Quiet Goose; Lemon Court; The Seventh Step; Olive Yard"
)
_NEIGHBOURS = words("the Grand Theatre; Station Square; the Corn Exchange; the Botanic Garden; Castle Bridge")
_VALUES = {
    "eatType": words("restaurant; pub; coffee shop; bistro"),
    "food": words("Italian; Thai; French; English; Indian; Japanese"),
    "priceRange": words("cheap; moderate; high; less than £20; more than £30"),
    "customer rating": words("low; average; high; 1 out of 5; 3 out of 5; 5 out of 5"),
    "area": words("city centre; riverside; old town"),
    "familyFriendly": words("yes; no"),
    "near": _NEIGHBOURS,
}
_SPLITS = {0: "validation", 1: "test"}


def e2e(draw: Draw, split: str) -> list[Row]:
    """Two to four references of one meaning representation; a representation is in one split only."""
    slots = _slots(draw)
    while _split_of(slots) != split:
        slots = _slots(draw)
    line = ", ".join(f"{name}[{value}]" for name, value in slots.items())
    texts = {_told(draw, slots) for _ in range(2 + draw.below(3))}
    return [{"meaning_representation": line, "human_reference": text} for text in sorted(texts)]


def _slots(draw: Draw) -> dict[str, str]:
    others = draw.distinct([name for name in _VALUES if name != "eatType"], 1 + draw.below(5))
    chosen = {name: draw.pick(values) for name, values in _VALUES.items() if name == "eatType" or name in others}
    return {"name": draw.pick(_NAMES), **chosen}


def _split_of(slots: dict[str, str]) -> str:
    """By its letters, so that equal representations fall together."""
    return _SPLITS.get(sum(map(ord, "".join(slots.values()))) % 8, "train")


def _told(draw: Draw, slots: dict[str, str]) -> str:
    kind = with_article(f"{slots['food']} {slots['eatType']}" if "food" in slots else slots["eatType"])
    place = [f"{'by' if slots['area'] == 'riverside' else 'in'} the {slots['area']}"] if "area" in slots else []
    place += [f"{draw.pick(('near', 'close to', 'next to'))} {slots['near']}"] if "near" in slots else []
    where = " ".join(place)
    if where and draw.chance(0.4):
        first = f"{where[0].upper()}{where[1:]} you find {slots['name']}, {kind}."
    else:
        first = f"{slots['name']} is {kind}{' ' if where else ''}{where}."
    rest = _prices(draw, slots) + _rated(draw, slots) + _families(draw, slots)
    return " ".join([first, *rest])


def _prices(draw: Draw, slots: dict[str, str]) -> list[str]:
    if "priceRange" not in slots:
        return []
    price = slots["priceRange"]
    if "£" in price:
        return [draw.pick((f"A meal costs {price}.", f"Expect to pay {price}."))]
    return [draw.pick((f"Its prices are {price}.", f"It has {price} prices."))]


def _rated(draw: Draw, slots: dict[str, str]) -> list[str]:
    if "customer rating" not in slots:
        return []
    rating = slots["customer rating"]
    if "out of" in rating:
        return [draw.pick((f"Customers rate it {rating}.", f"It is rated {rating}."))]
    return [draw.pick((f"Its customer rating is {rating}.", f"Customers give it {with_article(rating)} rating."))]


def _families(draw: Draw, slots: dict[str, str]) -> list[str]:
    if "familyFriendly" not in slots:
        return []
    if slots["familyFriendly"] == "yes":
        return [draw.pick(("Children are welcome.", "It is family friendly."))]
    return [draw.pick(("It is not for children.", "It is not family friendly."))]
