"""COPA-like rows: an event, and which of two others is its cause or its effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.tasks.sample.draw import Draw, lines
from peftbench.tasks.sample.vocabulary import NEWS


@dataclass(frozen=True)
class _Chain:
    """What happened first, what came of it, and what came of that; ways to say each."""

    steps: tuple[tuple[str, ...], ...]


_CHAINS = tuple(
    _Chain(tuple(tuple(form.strip() for form in step.split("/")) for step in line.split("|")))
    for line in lines(
        """
        {a} forgot the umbrella at home / {a} went out without a raincoat | {a} got soaked in the rain / The rain drenched {a} to the skin | {a} caught a bad cold / {a} lay in bed with a fever
        {a} did not set the alarm clock / The alarm clock of {a} was broken | {a} woke up very late / {a} overslept that morning | {a} missed the train to work / The train left without {a}
        {a} left the pan on the stove / {a} did not watch the frying pan | The dinner of {a} was burnt to coal / Smoke filled the kitchen of {a} | {a} ordered a pizza instead / {a} opened all the windows
        {a} studied every night for weeks / {a} read all the books on the list | {a} passed the difficult exam / The examiners gave {a} the best mark | {a} was admitted to the university / The parents of {a} held a party
        {a} drove through a red light / {a} was driving far too fast | A policeman stopped the car of {a} / {a} was pulled over by the police | {a} had to pay a fine / {a} lost the driving licence
        {a} dropped the vase on the floor / {a} knocked against the shelf | The vase of {a} broke into pieces / {a} stood among bits of china | {a} fetched a broom and swept / {a} looked for the glue
        {a} stayed in the sun all day / {a} fell asleep on the beach | The skin of {a} turned red / {a} got a painful sunburn | {a} put cream on both shoulders / {a} wore long sleeves for a week
        {a} won the lottery / A rich aunt left {a} a fortune | {a} suddenly had a lot of money / The bank account of {a} was full | {a} bought a house by the sea / {a} gave up the old job
        The phone of {a} fell into the lake / {a} forgot to charge the phone | The phone of {a} did not work / Nobody could call {a} on the phone | {a} asked a stranger for the time / {a} wrote a letter instead
        {a} ate too many sweets / {a} never brushed the teeth | {a} had a terrible toothache / One tooth of {a} hurt badly | {a} went to see a dentist / {a} took a pill against the pain
        {a} planted seeds in spring / {a} watered the garden every evening | Flowers grew in the garden of {a} / The garden of {a} was full of tomatoes | {a} put a bunch of roses on the table / {a} sold vegetables at the market
        {a} left the front door open / {a} forgot to lock the house | Thieves broke into the house of {a} / A burglar stole the silver of {a} | {a} called the police / {a} bought a stronger lock
        {a} drank three cups of strong coffee / The neighbours of {a} played loud music | {a} could not fall asleep / {a} lay awake until dawn | {a} yawned all through the meeting / {a} took a nap at noon
        {a} lifted a heavy piano / {a} slipped on the ice | {a} hurt the back / {a} could hardly stand upright | {a} lay on the sofa for days / A doctor told {a} to rest
        {a} told a very funny joke / {a} fell off the chair during the speech | The whole room laughed at {a} / Everyone around {a} burst out laughing | {a} blushed with embarrassment / {a} took a bow
        {a} practised the violin every day / {a} took lessons from a famous violinist | {a} played at a great concert / {a} performed without a single mistake | The audience gave {a} a long applause / A newspaper praised {a} as a musician
        The boss was unhappy with {a} / {a} came to the office late every day | {a} was dismissed from the company / {a} lost a well-paid job | {a} read the job advertisements / {a} applied for unemployment money
        {a} rode over broken glass / {a} hit a nail on the road | The bicycle of {a} had a flat tyre / The front tyre of {a} burst | {a} had to push the bicycle home / {a} took out the repair kit
        A storm brought down the power lines / {a} had not paid the electricity bill | The lights in the flat of {a} went out / {a} sat in complete darkness | {a} lit some candles / {a} looked for a torch
        {a} saw a puppy in the shelter / {a} felt lonely in the big house | {a} adopted a dog / A dog came to live with {a} | {a} went for a walk twice a day / {a} bought a leash and a bowl
        """  # noqa: E501
    )
)


def copa(draw: Draw, split: str) -> dict[str, Any]:
    """Return an event, its cause or effect, and what is neither: the other end of its chain, or of another one."""
    first, second = draw.distinct(_CHAINS, 2)
    who = f"{draw.pick(NEWS.men + NEWS.women)} {draw.pick(NEWS.surnames)}"
    effect = draw.chance(0.5)
    right, opposite = (2, 0) if effect else (0, 2)
    wrong = first.steps[opposite] if draw.chance(0.4) else draw.pick(second.steps)
    choices = [draw.pick(forms).format(a=who) + "." for forms in (first.steps[right], wrong)]
    label = draw.below(2)
    return {
        "premise": draw.pick(first.steps[1]).format(a=who) + ".",
        "choice1": choices[label],
        "choice2": choices[1 - label],
        "question": "effect" if effect else "cause",
        "label": label,
    }
