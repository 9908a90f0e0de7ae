"""CB-like rows: a text that embeds a clause, and the clause; what the embedding says of its truth is the label."""

from __future__ import annotations

from typing import Any

from peftbench.tasks.sample.draw import Draw, capitalised, words
from peftbench.tasks.sample.events import Event, Teller, draw_event, draw_people
from peftbench.tasks.sample.vocabulary import NEWS

_TRUE, _FALSE, _OPEN = 0, 1, 2
_EMBEDDINGS = {
    _TRUE: words(
        "{w} knew that {c}; {w} did not know that {c}; {w} was glad that {c}; {w} never found out that {c}; "
        "{w} forgot that {c}; does {w} regret that {c}; {w} had to admit that {c}; only {w} noticed that {c}; "
        "{w} could not hide the fact that {c}"
    ),
    _FALSE: words(
        "{w} only pretended that {c}; {w} was wrong to think that {c}; {w} lied that {c}; "
        "{w} wished in vain that {c}; only in a dream of {w} was it so that {c}; "
        "it was a false rumour of {w} that {c}; {w} imagined, against all the facts, that {c}; "
        "it is quite impossible, as {w} showed, that {c}"
    ),
    _OPEN: words(
        "{w} believed that {c}; {w} doubts that {c}; {w} asked whether it was so that {c}; {w} said that {c}; "
        "does {w} think that {c}; {w} could not say whether {c}; perhaps, {w} suspected, {c}; {w} has heard that {c}"
    ),
}
_BEFORE = words(
    "It was late in the evening and nobody felt like going home.; The letter came as a surprise to all of us.; "
    "We talked about it for hours over cold tea.; There was a long silence at the other end of the line.; "
    "The meeting had gone on for most of the afternoon."
)
_AFTER = words(
    "That was the end of the matter.; What would the neighbours say about it?; "
    "Then the conversation turned to the weather.; It made no difference to the rest of us."
)


def cb(draw: Draw, split: str) -> dict[str, Any]:
    """Return a text of two or three sentences with a clause in it, the clause or its denial, and the relation."""
    agent, partner, witness = draw_people(draw, NEWS, 3)
    event = draw_event(draw, NEWS, [agent, partner], (draw.pick(("city", "time")),))
    embedded = draw.pick((_TRUE, _FALSE, _OPEN))
    denied = draw.chance(0.3)
    clause = draw.pick(_EMBEDDINGS[embedded]).format(w=witness.name, c=_clause(draw, event))
    end = "?" if clause.startswith("does ") else "."
    hypothesis = capitalised(_clause(draw, event, denied)) + "."
    label = 1 - embedded if denied and embedded != _OPEN else embedded
    return {
        "premise": f"{draw.pick(_BEFORE)} {capitalised(clause)}{end} {draw.pick(_AFTER)}",
        "hypothesis": hypothesis,
        "label": label,
    }


def _clause(draw: Draw, event: Event, denied: bool = False) -> str:
    clause = Teller(draw, NEWS, 0.0).tell(event).rstrip(".")
    return f"it is not true that {clause}" if denied else clause
