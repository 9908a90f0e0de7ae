"""GLUE and SuperGLUE as text: T5's published examples without the task's name, and what texts are read as."""

import numpy as np
import pytest
from conftest import SHARED, tiny_generator
from transformers import AutoTokenizer

from peftbench.config import DataConfig
from peftbench.forms.text_rows import Wording
from peftbench.task_config import TaskConfig
from peftbench.tasks.base import Parsed, Split
from peftbench.tasks.glue import AX, GLUE
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS
from peftbench.tasks.superglue import AXB, AXG, SUPERGLUE

SPECS = {spec.name: spec for spec in (*GLUE, *SUPERGLUE, AX, AXB, AXG)}
real_data = pytest.mark.skipif(not (SHARED / "data" / "glue").is_dir(), reason="real GLUE data is not beside it")

CB = "Valence the void-brain, Valence the virtuous valet. Why couldn't the figger choose his own portion?"
STABLE = (
    "The stable was very roomy, with four good stalls; a large swinging window opened into the yard , which made it"
    " pleasant and airy."
)

# Rows in the hub's columns, T5's input without the task's name, and its target: after Raffel et al., 2020, appendix D
# (CB's premise shortened; COPA's target as the code has it, where the appendix prints another; MultiRC's own row).
EXAMPLES = {
    "cola": (
        {"sentence": "John made Bill master of himself.", "label": 1},
        "sentence: John made Bill master of himself.", "acceptable",
    ),
    "sst2": (
        {"sentence": "it confirms fincher 's status as a film maker .", "label": 1},
        "sentence: it confirms fincher 's status as a film maker .", "positive",
    ),
    "mrpc": (
        {"sentence1": "We acted .", "sentence2": "Rather , the US acted .", "label": 1},
        "sentence1: We acted . sentence2: Rather , the US acted .", "equivalent",
    ),
    "stsb": (
        {
            "sentence1": "Representatives for Puretunes could not immediately be reached for comment Wednesday.",
            "sentence2": "Puretunes representatives could not be located Thursday to comment on the suit.",
            "label": 3.25,
        },
        "sentence1: Representatives for Puretunes could not immediately be reached for comment Wednesday."
        " sentence2: Puretunes representatives could not be located Thursday to comment on the suit.", "3.2",
    ),
    "qqp": (
        {
            "question1": "What attributes would have made you highly desirable in ancient Rome?",
            "question2": "How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?",
            "label": 0,
        },
        "question1: What attributes would have made you highly desirable in ancient Rome?"
        " question2: How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?", "not_duplicate",
    ),
    "mnli": (
        {"premise": "a mostly losing team but", "hypothesis": "The St. Louis Cardinals have always won.", "label": 2},
        "hypothesis: The St. Louis Cardinals have always won. premise: a mostly losing team but", "contradiction",
    ),
    "qnli": (
        {"question": "Where did Jebe die?", "sentence": "Jebe died on the road back to Samarkand.", "label": 0},
        "question: Where did Jebe die? sentence: Jebe died on the road back to Samarkand.", "entailment",
    ),
    "rte": (
        {"sentence1": "A smaller proportion.", "sentence2": "Slovenia has 3,000 inhabitants.", "label": 1},
        "sentence1: A smaller proportion. sentence2: Slovenia has 3,000 inhabitants.", "not_entailment",
    ),
    "wnli": (
        {"sentence1": "It fits.", "sentence2": "The box fits.", "label": 1},
        "sentence1: It fits. sentence2: The box fits.", "entailment",
    ),
    "ax": (
        {"premise": "The cat sat.", "hypothesis": "A cat did not sit.", "label": 1},
        "hypothesis: A cat did not sit. premise: The cat sat.", "neutral",
    ),
    "boolq": (
        {"question": "is it legal", "passage": "Law -- It is.", "label": 1},
        "passage: Law -- It is. question: is it legal", "True",
    ),
    "cb": (
        {"premise": CB, "hypothesis": "Valence was helping", "label": 1},
        f"hypothesis: Valence was helping premise: {CB}", "contradiction",
    ),
    "copa": (
        {
            "premise": "Political violence broke out in the nation.",
            "choice1": "Many citizens relocated to the capitol.",
            "choice2": "Many citizens took refuge in other territories.",
            "question": "effect",
            "label": 1,
        },
        "choice1: Many citizens relocated to the capitol. choice2: Many citizens took refuge in other territories."
        " premise: Political violence broke out in the nation. question: effect", "choice2",
    ),
    "multirc": (
        {
            "paragraph": "Sue went out. She ran.",
            "question": "Who ran?",
            "answer": "Sue",
            "idx": {"paragraph": 0, "question": 0, "answer": 0},
            "label": 1,
        },
        "question: Who ran? answer: Sue paragraph: Sue went out. She ran.", "True",
    ),
    "superglue_rte": (
        {"premise": "It rained.", "hypothesis": "It was dry.", "label": 1},
        "hypothesis: It was dry. premise: It rained.", "not_entailment",
    ),
    "axb": (
        {"sentence1": "It rained.", "sentence2": "It was dry.", "label": 1},
        "hypothesis: It was dry. premise: It rained.", "not_entailment",
    ),
    "wic": (
        {
            "word": "deliberation",
            "sentence1": "It was the deliberation of his act that was insulting .",
            "sentence2": "The deliberations of the jury .",
            "start1": 11, "end1": 23, "start2": 4, "end2": 17, "label": 0,
        },
        "sentence1: It was the deliberation of his act that was insulting ."
        " sentence2: The deliberations of the jury . word: deliberation", "False",
    ),
    "wsc": (
        {
            "text": STABLE,
            "span1_text": "stable", "span1_index": 1, "span2_text": "it", "span2_index": 19, "label": 1,
        },
        STABLE.replace(" it ", " *it* "), "stable",
    ),
}  # fmt: skip


def split_of(task, rows):
    spec = SPECS[task]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    parsed = (
        spec.parse(columns, False)
        if spec.parse
        else Parsed(tuple(columns[name] for name in spec.text_columns), columns["label"])
    )
    labels = np.asarray(parsed.labels, np.float32 if spec.is_regression else np.int64)
    return Split("validation", parsed.texts, labels, "", parsed.columns)


def test_every_task_has_its_example():
    assert {spec.name for spec in (*GLUE, *SUPERGLUE)} - set(EXAMPLES) == {"record"}
    assert all(SPECS[name].text for name in SPECS)


@pytest.mark.parametrize("task", EXAMPLES)
def test_rows_are_written_as_t5_writes_them_but_for_the_tasks_name(task):
    row, source, target = EXAMPLES[task]
    split = split_of(task, [row, row])
    text = SPECS[task].text
    assert text.sources(split) == [source, source]
    rows, targets = text.pairs(split)
    assert (rows.tolist(), targets) == ([0, 1], [target, target])
    assert not text.targets or target in text.targets


@pytest.mark.parametrize("task", [name for name in EXAMPLES if name not in ("stsb", "wsc")])
def test_a_class_is_read_by_its_name_and_nothing_else(task):
    split = split_of(task, [EXAMPLES[task][0]] * 6)
    text, names = SPECS[task].text, SPECS[task].labels
    assert text.targets == names
    first = names[0]
    generated = [f" {names[-1]}\n", first, first.upper() + "x", "", f"{first} {names[1]}", "<unk>"]
    assert text.read(generated, split).tolist() == [len(names) - 1, 0, -1, -1, -1, -1]
    assert text.legal(generated, split) == [True, True, False, False, False, False]
    assert text.read([first.swapcase()], split).tolist() == [-1]


def test_similarities_go_to_the_nearest_fifth_and_numbers_come_back():
    labels = [0.0, 0.1, 0.3, 1.25, 2.5, 3.7, 3.8, 4.9, 5.0]
    text = SPECS["stsb"].text
    split = split_of("stsb", [{"sentence1": "a", "sentence2": "b", "label": label} for label in labels])
    # 0.1, 0.3, 2.5, 3.7 and 4.9 lie half-way and go to the even step.
    assert text.pairs(split)[1] == ["0.0", "0.0", "0.4", "1.2", "2.4", "3.6", "3.8", "4.8", "5.0"]
    assert len(text.targets) == 26
    assert (text.targets[0], text.targets[19], text.targets[-1]) == ("0.0", "3.8", "5.0")
    generated = [
        "3.8",
        " 4 ",
        "0.50",
        "5.0",
        "5e-1",
        "7",
        "5.2",
        "-1.0",
        "",
        "nan",
        "inf",
        "three",
        "3.8.",
        "3_8",
        "1e9",
    ]
    assert text.read(generated, split).tolist() == [3.8, 4.0, 0.5, 5.0] + [-1] * 11
    assert text.legal(generated, split) == [True] * 4 + [False] * 11


def pronouns(*rows):
    text = "Bob's dog bit Tom when he ran."
    base = {"text": text, "span1_index": 0, "span2_text": "he", "span2_index": 5}
    return split_of("wsc", [base | {"span1_text": phrase, "label": label} for phrase, label in rows])


def test_only_right_referents_of_wsc_are_trained_on():
    rows, targets = SPECS["wsc"].text.pairs(pronouns(("Tom", 1), ("dog", 0), ("Bob's dog", 1)))
    assert (rows.tolist(), targets) == ([0, 2], ["Tom", "Bob's dog"])


# The first six are what T5's own rule says, worked out by hand from `postprocessors.wsc_simple`.
@pytest.mark.parametrize(
    ("generated", "phrase", "same"),
    [
        ("tom", "Tom", 1),
        ("The dog", "Bob's dog", 0),
        ("the dog", "dog", 1),
        ("big brown dog", "dog", 1),
        ("Bob", "Bob's dog", 0),
        ("Bob's dog", "Bob's", 1),
        ("cat", "dog", 0),
        ("", "dog", -1),
        ("the", "dog", -1),
    ],
)
def test_a_generated_referent_is_compared_leniently(generated, phrase, same):
    text = SPECS["wsc"].text
    assert text.read([generated], pronouns((phrase, 0))).tolist() == [same]


def test_a_blank_referent_and_a_copied_source_are_no_answer():
    text, split = SPECS["wsc"].text, pronouns(*[("Tom", 1)] * 4)
    assert text.legal(["Tom", " \n", "", "Bob's dog bit Tom when *he* ran."], split) == [True, False, False, False]


def test_the_pronoun_is_marked_where_it_stands():
    row = {
        "text": 'John laughed. "Good for him," he said. ',
        "span1_text": "John", "span1_index": 0, "span2_text": "him", "span2_index": 4, "label": 0,
    }  # fmt: skip
    assert SPECS["wsc"].text.sources(split_of("wsc", [row])) == ['John laughed. "Good for *him*," he said. ']


def test_record_is_one_example_per_answer_and_scored_as_generated():
    # The example in T5's `preprocessors.record`, its passage with a summary.
    row = {
        "passage": "This is\n@highlight\nthe passage.\n@highlight\nThe end",
        "query": "A @placeholder is a bird.",
        "entities": ["penguin", "potato", "pigeon", "Penguin"],
        "answers": ["penguin", "pigeon"],
        "idx": {"passage": 0, "query": 0},
    }
    split, text = split_of("record", [row]), SPECS["record"].text
    assert text.sources(split) == [
        "query: A @placeholder is a bird. entities: penguin, potato, pigeon, Penguin"
        " passage: This is. the passage. The end"
    ]
    rows, targets = text.pairs(split)
    assert (rows.tolist(), targets) == ([0, 0], ["penguin", "pigeon"])
    assert text.read([" a Pigeon "], split) == ["a Pigeon"]
    assert text.targets == ()
    written = [" The Pigeon!", "", "the", "A penguin is a bird.", "query: A @placeholder is a bird."]
    assert text.legal(written, split_of("record", [row] * 5)) == [True, False, False, False, False]


@pytest.mark.parametrize("task", ["sst2", "stsb", "copa", "wsc"])
def test_hidden_rows_have_inputs_and_no_examples(task):
    split = split_of(task, [EXAMPLES[task][0]])
    hidden = Split("test", split.texts, None, "", split.columns)
    rows, targets = SPECS[task].text.pairs(hidden)
    assert (rows.tolist(), targets) == ([], [])
    assert SPECS[task].text.sources(hidden) == [EXAMPLES[task][1]]


# Of rows in the hub's columns, the part that is long; what is asked about it must outlive a cut.
LONG = {
    "boolq": "passage", "rte": "sentence1", "wnli": "sentence1", "wic": "sentence2", "qnli": "sentence",
    "mnli": "premise", "ax": "premise", "cb": "premise", "superglue_rte": "premise", "multirc": "paragraph",
}  # fmt: skip


@pytest.mark.parametrize("task", LONG)
def test_a_source_is_cut_where_its_longest_part_stands(task):
    row, _, _ = EXAMPLES[task]
    format = SPECS[task].text
    (short,), (long,) = (
        format.sources(split_of(task, [row | {LONG[task]: text}])) for text in (row[LONG[task]], row[LONG[task]] * 90)
    )
    kept = long[-len(short) :] if format.cut == "left" else long[: len(short)]
    others = [str(row[name]) for name in SPECS[task].text_columns if name not in (LONG[task], "sentence1")]
    assert others or task in ("rte", "wnli")
    for other in others or [row["sentence2"]]:
        assert other in kept


@real_data
@pytest.mark.parametrize(("task", "end"), [("boolq", "question"), ("superglue_rte", "hypothesis")])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_every_real_source_that_is_cut_keeps_its_question(task, end, family, tiny_folder_of):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder_of(family))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    split = load_task(TASKS[task], TaskConfig(task), DataConfig("folder", str(SHARED / "data"))).evaluations[
        "validation"
    ]
    split = split.take(np.arange(60), "validation")
    text, wording = TASKS[task].text, Wording(tiny_generator(family), tokenizer)
    rows, cut = wording.prompts(text.sources(split), 256, text.cut)
    assert cut > 10
    for row, asked in zip(rows, split.texts[0] if task == "boolq" else split.texts[1], strict=True):
        ids = tokenizer(f"{end}: {asked}", add_special_tokens=False)["input_ids"]
        written = tokenizer.decode(row, skip_special_tokens=True)
        assert tokenizer.decode(ids, skip_special_tokens=True) in written


@real_data
@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "stsb", "boolq", "cb", "copa", "multirc", "superglue_rte"])
def test_real_targets_are_legal_and_read_back(task):
    spec, config = TASKS[task], DataConfig("folder", str(SHARED / "data"))
    split = load_task(spec, TaskConfig(task), config).evaluations["validation"]
    rows, targets = spec.text.pairs(split)
    assert rows.tolist() == list(range(len(split)))
    assert all(spec.text.legal(targets, split))
    np.testing.assert_allclose(spec.text.read(targets, split), split.labels, atol=0.1001 if task == "stsb" else 0)


@real_data
def test_the_real_wsc_trains_on_its_259_right_referents():
    train = load_task(TASKS["wsc"], TaskConfig("wsc"), DataConfig("folder", str(SHARED / "data"))).train
    rows, targets = TASKS["wsc"].text.pairs(train)
    assert len(rows) == len(targets) == 259
    assert all(TASKS["wsc"].text.legal(targets, train.take(rows, "train")))
    assert all("*" in source for source in TASKS["wsc"].text.sources(train))
