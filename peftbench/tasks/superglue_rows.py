"""SuperGLUE's rows: from the hub's columns to texts, labels, candidates and spans."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from peftbench.tasks.base import Columns, Parsed
from peftbench.tasks.free_text import distinguished, normalised

PLACEHOLDER = "@placeholder"
_JOINERS = {"cause": "because", "effect": "so"}


def pair_rows(names: tuple[str, str], columns: Columns, training: bool) -> Parsed:
    """Two columns of text, in the order in which they are fed."""
    first, second = names
    return Parsed((columns[first], columns[second]), columns["label"], {"idx": _idx(columns)})


def minimal_pair_rows(columns: Columns, training: bool) -> Parsed:
    """AX-g: rows 2i and 2i + 1 are one pair, which the column `group` numbers i.

    Raises:
        ValueError: the last row is on its own.
    """
    rows = len(columns["label"])
    if rows % 2:
        raise ValueError(f"pairs are two consecutive rows each, but there are {rows} rows")
    texts = (columns["premise"], columns["hypothesis"])
    return Parsed(texts, columns["label"], {"idx": _idx(columns), "group": [row // 2 for row in range(rows)]})


def question_rows(columns: Columns, training: bool) -> Parsed:
    """MultiRC: the paragraph, then question and answer together, so that it is the paragraph that is cut.

    The column `group` names the question that a row's answer belongs to.
    """
    asked = [f"{question} {answer}" for question, answer in zip(columns["question"], columns["answer"], strict=True)]
    carried = {
        "question": columns["question"],
        "answer": columns["answer"],
        "group": [f"{idx['paragraph']}-{idx['question']}" for idx in columns["idx"]],
        "idx": columns["idx"],
    }
    return Parsed((columns["paragraph"], asked), columns["label"], carried)


def choice_rows(columns: Columns, training: bool) -> Parsed:
    """COPA: the premise with "because" or "so" behind it (as in the P-Tuning v2 code), and two alternatives.

    Raises:
        ValueError: a question is neither `cause` nor `effect`.
    """
    for row, question in enumerate(columns["question"]):
        if question not in _JOINERS:
            raise ValueError(f"question of row {row} is {question!r}, neither cause nor effect")
    contexts = [
        f"{premise} {_JOINERS[question]}"
        for premise, question in zip(columns["premise"], columns["question"], strict=True)
    ]
    choices = [list(pair) for pair in zip(columns["choice1"], columns["choice2"], strict=True)]
    carried = {name: columns[name] for name in ("premise", "question", "choice1", "choice2")}
    return Parsed((contexts,), columns["label"], {"choices": choices, **carried, "idx": _idx(columns)})


def cloze_rows(columns: Columns, training: bool) -> Parsed:
    """ReCoRD: the passage, and its query with the placeholder filled by each of the passage's entities.

    Entities that the official evaluation cannot tell apart are one candidate, in the form that comes first. The label
    is the first right candidate. A row to be trained on none of whose candidates is an answer teaches nothing and is
    dropped; a row to be scored keeps its answers, and the label 0, which scoring does not read. Where there are no
    answers, the label is -1.

    Columns:
        choices: the filled queries. entities: what each is filled with. correct: positions of all right candidates.
        answers, query, idx: the source's own. mentions: the source's entities.

    Raises:
        ValueError: a query without placeholder, or a row without entities.
    """
    names = ("choices", "entities", "correct", "answers", "query", "mentions", "idx")
    passages: list[str] = []
    labels: list[int] = []
    carried: Columns = {name: [] for name in names}
    for row, (passage, query) in enumerate(zip(columns["passage"], columns["query"], strict=True)):
        mentions, answers = columns["entities"][row], columns["answers"][row]
        if PLACEHOLDER not in query:
            raise ValueError(f"query of row {row} has no {PLACEHOLDER}")
        if not mentions:
            raise ValueError(f"row {row} has no entities")
        entities = _distinct(mentions)
        wanted = {normalised(answer) for answer in answers}
        correct = [place for place, entity in enumerate(entities) if normalised(entity) in wanted]
        if training and not correct:
            continue
        passages.append(_plain_passage(passage))
        labels.append(correct[0] if correct else 0 if answers else -1)
        choices = [query.replace(PLACEHOLDER, entity) for entity in entities]
        values = (choices, entities, correct, answers, query, mentions, columns["idx"][row])
        for name, value in zip(names, values, strict=True):
            carried[name].append(value)
    return Parsed((passages,), labels, carried)


def _distinct(mentions: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for mention in mentions:
        first.setdefault(distinguished(mention), mention)
    return list(first.values())


def _plain_passage(passage: str) -> str:
    """The passage with its summary's lines as sentences, as T5's preprocessing has it."""
    text = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage)
    return text.replace("\n@highlight\n", ". ")


def marked_word_rows(columns: Columns, training: bool) -> Parsed:
    """WiC: two sentences, and where in each of them the word stands.

    Raises:
        ValueError: a span is empty or outside its sentence.
    """
    spans = []
    for row in range(len(columns["label"])):
        found = []
        for place, number in enumerate("12"):
            text = columns[f"sentence{number}"][row]
            start, end = columns[f"start{number}"][row], columns[f"end{number}"][row]
            if not 0 <= start < end <= len(text):
                raise ValueError(f"row {row}: characters {start} to {end} are no span of its sentence{number}")
            found.append([place, start, end])
        spans.append(found)
    carried = {"spans": spans, "word": columns["word"], "idx": _idx(columns)}
    return Parsed((columns["sentence1"], columns["sentence2"]), columns["label"], carried)


def pronoun_rows(columns: Columns, training: bool) -> Parsed:
    """WSC: a text, and in it a noun phrase and a pronoun, as `locate` finds them.

    Raises:
        ValueError: a span is not in its text.
    """
    spans = []
    for row, text in enumerate(columns["text"]):
        found = []
        for number in "12":
            span, word = columns[f"span{number}_text"][row], columns[f"span{number}_index"][row]
            try:
                found.append([0, *locate(text, span, word)])
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
        spans.append(found)
    carried = {"spans": spans, "referent": columns["span1_text"], "idx": _idx(columns)}
    return Parsed((columns["text"],), columns["label"], carried)


def locate(text: str, span: str, word: int) -> tuple[int, int]:
    """The characters of `text` that are `span`, whose first word is said to be word number `word`.

    The release's spans and texts disagree in case, in punctuation ("Kamenev" against "Kamenev,"), in white space and
    once in the number of the word, so what counts is the span's text, where it stands nearest to that word. A span
    that names together what the text names apart is the stretch from that word on until all of its words have come.

    Raises:
        ValueError: there is no such stretch, or no such word.
    """
    words = list(re.finditer(r"\S+", text))
    if not 0 <= word < len(words):
        raise ValueError(f"there is no word {word} among {len(words)}")
    parts = [re.escape(part) for part in span.strip().rstrip(".,;:!?").split()]
    pattern = r"(?<!\w)" + r"\s+".join(parts) + r"(?!\w)"
    found = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)] if parts else []
    if found:
        return min(found, key=lambda place: abs(place[0] - words[word].start()))
    return _stretch(text, span, words[word].start())


def _stretch(text: str, span: str, start: int) -> tuple[int, int]:
    missing = Counter(re.findall(r"\w+", span.lower()))
    for token in re.finditer(r"\w+", text[start:]):
        missing[token.group().lower()] -= 1
        if not +missing:
            return start, start + token.end()
    raise ValueError(f"the span {span!r} is not in its text")


def _idx(columns: Columns) -> list:
    return columns.get("idx") or list(range(len(columns["label"])))
