"""WiC-like rows: one word in two sentences, in the same sense or in two senses."""

from __future__ import annotations

import re
from typing import Any

from peftbench.tasks.sample.draw import Draw, lines
from peftbench.tasks.sample.vocabulary import NEWS

# A word; then its senses, each with sentences in which the word stands in brackets. {p}: a person, {c}: a city.
_WORDS = tuple(
    tuple(tuple(sentence.strip() for sentence in sense.split("/")) for sense in line.split("|"))
    for line in lines(
        """
        {p} took money out of the [bank] in {c} / The [bank] lent {p} enough for a house / {p} opened an account at a [bank] | {p} fished from the muddy [bank] of the river / The boat was tied to the [bank] near {c} / Grass grew on the steep [bank] where {p} sat
        {p} struck a [match] and lit the candle / The last [match] in the box of {p} was wet / A burning [match] fell on the carpet of {p} | {p} won the tennis [match] in {c} / The [match] ended without a goal, said {p} / Thousands came to {c} for the football [match]
        A [bat] flew out of the cave near {c} / {p} saw a [bat] hang from the roof at night / The [bat] hunts insects in the dark, {p} read | {p} swung the [bat] and hit the ball / The wooden [bat] of {p} broke in the game / {p} bought a new cricket [bat] in {c}
        {p} wore a [ring] of gold on one finger / The jeweller in {c} sold {p} a [ring] / A diamond [ring] was the present of {p} | {p} heard the [ring] of the telephone / The loud [ring] of the bell in {c} woke {p} / With the first [ring] of the alarm {p} got up
        {p} planted roses and watered the [plant] / This [plant] needs little light, {p} explained / The [plant] on the window of {p} has green leaves | The [plant] in {c} makes cars and lorries / {p} works at a chemical [plant] / The workers of the [plant] told {p} about the strike
        {p} wrote a [letter] to a friend in {c} / The postman brought {p} a [letter] / {p} put a stamp on the [letter] | The first [letter] of the word is a capital, said {p} / {p} cannot read the smallest [letter] on the chart / The alphabet of {p} lacks one [letter]
        {p} sat on a [bench] in the park of {c} / An old wooden [bench] stood before the house of {p} / {p} fell asleep on the [bench] at the station | The [bench] sentenced {p} to three years / A lawyer from {c} was raised to the [bench] / {p} begged the [bench] for a mild judgement
        The [crane] lifted steel beams over {c} / {p} operates the tallest [crane] on the building site / A [crane] unloaded the ship of {p} | {p} watched a [crane] wade through the marsh / The [crane] spread its wings and flew to {c} / A grey [crane] caught a frog before {p}
        {p} heard the dog [bark] at the postman / Every night the hounds of {c} [bark] at the moon / Strangers make the puppy of {p} [bark] | The [bark] of the oak was rough, {p} noticed / {p} carved a heart into the [bark] / Beetles live under the [bark] of trees near {c}
        {p} paid a [fine] for parking in {c} / The judge set a [fine] of fifty pounds for {p} / A heavy [fine] awaits those like {p} | The weather in {c} was [fine] all week / {p} felt [fine] again after the illness / That is a [fine] piece of work, said {p}
        {p} will [book] two rooms in {c} / You must [book] the tickets early, {p} advised / It was hard for {p} to [book] a table | {p} read a thick [book] about {c} / The [book] of {p} has four hundred pages / {p} borrowed a [book] from the library
        The [spring] came early and the trees of {c} turned green / {p} gets married in [spring] / After a cold winter {p} longed for [spring] | A [spring] in the mattress of {p} was broken / {p} repaired the clock with a new [spring] / The steel [spring] jumped out of the toy of {p}
        {p} broke a [nail] while typing a letter / The [nail] of her thumb was painted red, {p} saw / {p} bit on one [nail] nervously | {p} drove a [nail] into the wall / The picture hung on a rusty [nail] in {c} / A [nail] went through the tyre of {p}
        The [trunk] of the elephant in {c} reached for {p} / An elephant drinks with its [trunk], {p} explained / With its grey [trunk] the animal threw sand at {p} | {p} packed the clothes into a [trunk] / An old [trunk] stood in the attic of {p} / {p} sent a heavy [trunk] to {c}
        {p} put the [key] into the lock / The [key] to the flat in {c} was lost / {p} turned the [key] twice | The song is in a minor [key], {p} remarked / {p} sang in the wrong [key] / The choir of {c} changed to another [key]
        The [court] found {p} not guilty / {p} went to [court] over the unpaid rent / A [court] in {c} heard the witness | {p} ran across the tennis [court] / The new basketball [court] in {c} has a wooden floor / {p} served from the back of the [court]
        {p} saw a [seal] swim off the coast of {c} / The [seal] lay on the ice with its young, {p} wrote / {p} threw a fish to the [seal] | {p} broke the [seal] of the envelope / The document bore the [seal] of {c} / A wax [seal] closed the letter of {p}
        The [pitch] was too wet for football in {c} / {p} ran onto the [pitch] after the goal / Both teams left the [pitch], {p} reported | The singer from {c} has perfect [pitch] / {p} tuned the piano to the right [pitch] / The [pitch] of the whistle was too high for {p}
        {p} washed the hands at the [sink] / Dirty plates filled the [sink] of {p} / The [sink] in the kitchen in {c} was blocked | The ship began to [sink] off {c} / {p} watched the stone [sink] to the bottom / Without help the boat of {p} will [sink]
        A [mole] dug up the lawn of {p} / The [mole] is nearly blind, {p} explained / {p} caught a [mole] in the garden in {c} | {p} has a [mole] on the left cheek / A doctor in {c} removed the dark [mole] / The [mole] under the eye of {p} is small
        """  # noqa: E501
    )
)


def wic(draw: Draw, split: str) -> dict[str, Any]:
    """Return two sentences with one word, where it stands in each, and whether its sense is the same."""
    senses = draw.pick(_WORDS)
    same = draw.chance(0.5)
    one, two = draw.distinct(senses, 2)
    pair = draw.distinct(one, 2) if same else [draw.pick(one), draw.pick(two)]
    (first, start1, end1), (second, start2, end2) = (_sentence(draw, template) for template in pair)
    return {
        "word": first[start1:end1],
        "sentence1": first,
        "sentence2": second,
        "start1": start1,
        "start2": start2,
        "end1": end1,
        "end2": end2,
        "label": int(same),
    }


def _sentence(draw: Draw, template: str) -> tuple[str, int, int]:
    who = f"{draw.pick(NEWS.men + NEWS.women)} {draw.pick(NEWS.surnames)}"
    marked = template.format(p=who, c=draw.pick(NEWS.cities).name)
    found = re.search(r"\[(.+?)\]", marked)
    assert found is not None
    start = found.start()
    return f"{marked[:start]}{found[1]}{marked[found.end() :]}.", start, start + len(found[1])
