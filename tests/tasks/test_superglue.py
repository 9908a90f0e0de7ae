"""SuperGLUE's tasks: on the real files, on small files in the hub's schema, and on files that are wrong."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError
from peftbench.task_config import TaskConfig
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS
from peftbench.tasks.scores import score
from peftbench.tasks.sources import HUB, load_split, open_source
from peftbench.tasks.superglue import AXB, AXG, SUPERGLUE
from peftbench.tasks.superglue_rows import locate

REAL = SHARED / "data" / "super_glue"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="real SuperGLUE data is not beside this checkout")

# Rows of train, validation and test, and labels 0, 1 (, 2) of train and validation, as the benchmark has them.
ROWS = {
    "boolq": ((9427, 3270, 3245), (3553, 5874), (1237, 2033)),
    "cb": ((250, 56, 250), (115, 119, 16), (23, 28, 5)),
    "copa": ((400, 100, 500), (195, 205), (55, 45)),
    "multirc": ((27243, 4848, 9693), (15218, 12025), (2773, 2075)),
    "superglue_rte": ((2490, 277, 3000), (1249, 1241), (146, 131)),
    "wsc": ((554, 104, 146), (295, 259), (66, 38)),
}

RECORD = {
    "passage": [
        "Ann Lee met the U.S. envoy\n@highlight\nLee is in Rome.\n@highlight\nThe envoy left",
        "Bo went to Oslo.",
        "Cy saw Dee.",
    ],
    "query": ["@placeholder said the envoy and @placeholder met", "It snowed on @placeholder", "@placeholder was seen"],
    "entities": [["Ann Lee", "the U.S.", "US", "Lee", "Rome"], ["Bo", "Oslo"], ["Cy", "Dee"]],
    "entity_spans": [{"text": ["Bo"], "start": [0], "end": [2]}] * 3,
    "answers": [["Lee", "Ann Lee"], ["Bergen"], ["Dee"]],
    "idx": [{"passage": 0, "query": 0}, {"passage": 1, "query": 1}, {"passage": 1, "query": 2}],
}
WIC = {
    "word": ["place", "run"],
    "sentence1": ["Do you want to come over to my place later?", "He runs fast."],
    "sentence2": ["A political system with no place for the less prominent groups.", "She ran a firm."],
    "start1": [31, 3],
    "start2": [27, 4],
    "end1": [36, 7],
    "end2": [32, 7],
    "idx": [0, 1],
    "label": [0, 1],
}
PAIR = {"premise": ["The taxpayer met him.", "The taxpayer met her."] * 2, "hypothesis": ["He is a man."] * 4}
AXG_ROWS = {**PAIR, "idx": [0, 1, 2, 3], "label": [0, 0, 1, 0]}
AXB_ROWS = {"sentence1": ["a cat"] * 3, "sentence2": ["an animal"] * 3, "idx": [0, 1, 2], "label": [0, 1, 0]}
RTE = {**PAIR, "idx": [0, 1, 2, 3], "label": [0, 1, 0, 1]}


def put(root, task, split, columns):
    file = root / "super_glue" / task / f"{split}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def put_all(root, task, columns, hidden):
    for split in ("train", "validation"):
        put(root, task, split, columns)
    put(root, task, "test", columns | hidden)


def load(root, task, protocol="glue_dev", submission=True, **data):
    config = DataConfig(source="folder", root=str(root), **data)
    return load_task(TASKS[task], TaskConfig(task, protocol=protocol), config, submission)


def refusal(root, task):
    with pytest.raises(ConfigurationError) as caught:
        load(root, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def letters(text):
    return re.sub(r"\W", "", text.lower())


def test_the_benchmark_has_eight_tasks_and_two_diagnostic_sets():
    assert [spec.name for spec in SUPERGLUE] == [
        "boolq", "cb", "copa", "multirc", "record", "superglue_rte", "wic", "wsc",
    ]  # fmt: skip
    assert TASKS["superglue_rte"].extras == (AXB, AXG)
    assert TASKS["record"].official_rows == {"train": 100730, "validation": 10000, "test": 10000}
    assert TASKS["wic"].official_rows == {"train": 5428, "validation": 638, "test": 1400}
    assert (AXB.official_rows, AXG.official_rows) == ({"test": 1104}, {"test": 356})
    assert all(spec.text is not None and spec.parse is not None for spec in (*SUPERGLUE, AXB, AXG))
    assert re.fullmatch("[0-9a-f]{40}", HUB["super_glue"].revision)


@real_data
@pytest.mark.parametrize("task", ROWS)
def test_the_real_data_is_the_benchmark(task):
    data = load(SHARED / "data", task)
    rows, train, validation = ROWS[task]
    assert data.provenance["kind"] == "benchmark"
    (hidden,) = data.hidden.values()
    assert (len(data.train), len(data.evaluations["validation"]), len(hidden)) == rows
    assert hidden.labels is None
    assert tuple(np.bincount(data.train.labels)) == train
    assert tuple(np.bincount(data.evaluations["validation"].labels)) == validation
    assert len(hidden.columns["idx"]) == rows[2]


@real_data
def test_every_span_of_the_real_wsc_is_its_text_up_to_case_and_punctuation():
    apart, elsewhere = [], []
    for split in ("train", "validation", "test"):
        source = pq.read_table(REAL / "wsc" / f"{split}.parquet").to_pylist()
        parsed = load_split(open_source(TASKS["wsc"], DataConfig("folder", root=str(REAL.parent))), TASKS["wsc"], split)
        for row, text, spans in zip(source, parsed.texts[0], parsed.columns["spans"], strict=True):
            words = [match.span() for match in re.finditer(r"\S+", text)]
            for number, (place, start, end) in zip("12", spans, strict=True):
                span, (first, last) = row[f"span{number}_text"], words[row[f"span{number}_index"]]
                assert place == 0
                if letters(text[start:end]) != letters(span):
                    apart.append((split, row["idx"], text[start:end], span))
                elif not first <= start < last:
                    elsewhere.append((split, row["idx"], text[start:end]))
    stretch = "Kamenev, Stalin's old Pravda co-editor, and Grigory Zinoviev"
    # Two rows name together what the text names apart; two give the number of another word than their text.
    assert apart == [
        ("test", 80, f"Lev {stretch}", "Kamenev and Zinoviev"),
        ("test", 82, stretch, "Kamenev, Zinoviev, and Stalin"),
    ]
    assert elsewhere == [("validation", 42, "it"), ("test", 81, "Stalin and Kamenev")]


@real_data
def test_real_multirc_is_grouped_by_question():
    data = load(SHARED / "data", "multirc", submission=False)
    assert len(set(data.train.columns["group"])) == 5131
    assert len(set(data.evaluations["validation"].columns["group"])) == 953
    question, answer = (data.train.columns[name][5] for name in ("question", "answer"))
    assert data.train.texts[1][5] == f"{question} {answer}"


@real_data
def test_real_copa_is_the_premise_and_two_continuations():
    train = load(SHARED / "data", "copa", submission=False).train
    assert (train.texts[0][0], train.columns["choices"][0], train.labels[0]) == (
        "My body cast a shadow over the grass. because", ["The sun was rising.", "The grass was cut."], 0,
    )  # fmt: skip
    assert Counter(text.rsplit(" ", 1)[1] for text in train.texts[0]) == Counter(
        "because" if question == "cause" else "so" for question in train.columns["question"]
    )


@pytest.mark.parametrize(
    ("text", "span", "word", "expected"),
    [
        ("Mark told Pete lies, which Pete read.", "Pete", 5, (27, 31)),
        ("Mark told Pete lies, which Pete read.", "Pete", 2, (10, 14)),
        ('"Good for him," he said.', "him", 2, (10, 13)),
        ("They saw the\ntrain.", "The train.", 2, (9, 18)),
        ("the\u00a0car-service app's growth", "app", 2, (16, 19)),
        ("it is in it", "It", 3, (9, 11)),
        ("Ann, my friend, and Bob left", "Ann and Bob", 0, (0, 23)),
    ],
)
def test_a_span_is_found_where_it_stands_nearest_to_its_word(text, span, word, expected):
    start, end = locate(text, span, word)
    assert (start, end) == expected


@pytest.mark.parametrize(
    ("span", "word", "message"),
    [
        ("Tom", 0, "the span 'Tom' is not in its text"),
        ("an", 0, "the span 'an' is not in its text"),
        ("Ann", 3, "there is no word 3 among 3"),
        ("Ann", -1, "there is no word -1 among 3"),
    ],
)
def test_a_span_that_is_not_there_is_refused(span, word, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        locate("Ann was late", span, word)


def test_record_end_to_end(tmp_path):
    put_all(tmp_path, "record", RECORD, {"answers": pa.array([[], [], []], pa.list_(pa.string()))})
    data = load(tmp_path, "record")
    train, validation, hidden = data.train, data.evaluations["validation"], data.hidden["record"]
    # The second row's answer is none of its entities: not trained on, but scored.
    assert (len(train), train.source_rows, len(validation), len(hidden)) == (2, 3, 3, 3)
    assert data.provenance["notes"][0] == "train has 3 rows, the official release 100730"
    assert train.texts[0][0] == "Ann Lee met the U.S. envoy. Lee is in Rome. The envoy left"
    assert train.columns["entities"][0] == ["Ann Lee", "the U.S.", "Lee", "Rome"]
    assert train.columns["choices"][0][2] == "Lee said the envoy and Lee met"
    assert train.columns["correct"] == [[0, 2], [1]]
    assert train.labels.tolist() == [0, 1]
    assert validation.labels.tolist() == [0, 0, 1]
    assert hidden.labels is None
    assert hidden.columns["idx"] == RECORD["idx"]
    scores = score(TASKS["record"], validation, ["lee", "city of Bergen", "Cy"])["validation"]
    assert scores == {"record_f1": pytest.approx((1 + 0.5 + 0) / 3), "record_em": pytest.approx(1 / 3)}


def test_wic_end_to_end(tmp_path):
    put_all(tmp_path, "wic", WIC, {"label": [-1, -1]})
    data = load(tmp_path, "wic")
    found = [
        [data.train.texts[place][row][start:end] for place, start, end in spans]
        for row, spans in enumerate(data.train.columns["spans"])
    ]
    assert found == [["place", "place"], ["runs", "ran"]]
    assert data.train.labels.tolist() == [0, 1]
    assert data.hidden["wic"].labels is None


def test_the_diagnostic_sets_are_run_with_rte_and_scored_by_their_own_metrics(tmp_path):
    put_all(tmp_path, "rte", RTE, {"label": [-1] * 4})
    put(tmp_path, "axb", "test", AXB_ROWS)
    put(tmp_path, "axg", "test", AXG_ROWS)
    data = load(tmp_path, "superglue_rte")
    assert set(data.hidden) == {"superglue_rte", "axb", "axg"}
    assert list(data.evaluations) == ["validation", "axb", "axg"]
    spec = TASKS["superglue_rte"]
    assert score(spec, data.evaluations["axg"], np.array([0, 0, 1, 0])) == {
        "axg": {"accuracy": 1.0, "gender_parity": 0.5}
    }
    assert score(spec, data.evaluations["axb"], np.array([0, 1, 0])) == {"axb": {"matthews_correlation": 1.0}}


def test_hidden_diagnostic_sets_are_predicted_and_not_scored(tmp_path):
    put_all(tmp_path, "rte", RTE, {"label": [-1] * 4})
    put(tmp_path, "axg", "test", AXG_ROWS | {"label": [-1] * 4})
    data = load(tmp_path, "superglue_rte")
    assert list(data.evaluations) == ["validation"]
    assert set(data.hidden) == {"superglue_rte", "axg"}
    assert "axb: not in this source, so not evaluated" in data.provenance["notes"]


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("wic", WIC | {"end1": [99, 7]}, r"row 0: characters 31 to 99 are no span of its sentence1"),
        ("wic", WIC | {"start2": [32, 4]}, r"row 0: characters 32 to 32 are no span of its sentence2"),
        ("wic", {k: v for k, v in WIC.items() if k != "end2"}, r"no column 'end2'"),
        ("record", RECORD | {"query": ["@placeholder", "no gap", "@placeholder"]}, r"query of row 1 has no @placeh"),
        ("record", RECORD | {"entities": [["a"], [], ["b"]]}, r"row 1 has no entities"),
        ("record", {k: v for k, v in RECORD.items() if k != "answers"}, r"no column 'answers'"),
    ],
)
def test_rows_that_are_not_the_tasks_are_refused(tmp_path, task, columns, message):
    put_all(tmp_path, task, columns, {})
    assert re.search(
        rf"^super_glue/{task} train \(folder\): not rows of {task}'s schema \({message}", refusal(tmp_path, task)
    )


def test_a_pair_without_its_other_half_is_refused(tmp_path):
    put_all(tmp_path, "rte", RTE, {"label": [-1] * 4})
    put(tmp_path, "axg", "test", {name: values[:3] for name, values in AXG_ROWS.items()})
    assert "pairs are two consecutive rows each, but there are 3 rows" in refusal(tmp_path, "superglue_rte")


def multirc(root, questions=40):
    rows = [(p, p * 4 + q, a) for p in range(questions // 4) for q in range(4) for a in range(1 + (p + q) % 4)]
    columns = {
        "paragraph": [f"paragraph {p}" for p, _, _ in rows],
        "question": [f"question {q}?" for _, q, _ in rows],
        "answer": [f"answer {a}" for _, _, a in rows],
        "idx": [{"paragraph": p, "question": q, "answer": i} for i, (p, q, _) in enumerate(rows)],
        "label": [a % 2 for _, _, a in rows],
    }
    put_all(root, "multirc", columns, {"label": [-1] * len(rows)})
    return Counter(f"{p}-{q}" for p, q, _ in rows)


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_a_limited_split_keeps_a_questions_answers_together(tmp_path, limit):
    sizes = multirc(tmp_path)
    found = Counter(load(tmp_path, "multirc", max_eval_rows=limit).evaluations["validation"].columns["group"])
    assert all(count == sizes[name] for name, count in found.items())
    assert max(sizes.values()) >= limit or 0 < found.total() <= limit


def test_halves_of_the_development_set_share_no_question(tmp_path):
    sizes = multirc(tmp_path)
    evaluations = load(tmp_path, "multirc", protocol="sora").evaluations
    halves = [set(evaluations[name].columns["group"]) for name in ("validation", "test")]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(sizes)
    assert sum(len(split) for split in evaluations.values()) == sizes.total()
