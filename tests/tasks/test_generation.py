"""Data-to-text tasks and corpora: on real files, on small ones in the hub's schema, and on files that are wrong."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError
from peftbench.task_config import GenerationTask, LanguageModellingTask, WebNLGTask
from peftbench.tasks.data_to_text import e2e_source
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS, configured
from peftbench.tasks.sources import HUB, open_source

REAL = SHARED / "data"
real_data = pytest.mark.skipif(
    not (REAL / "e2e_nlg").is_dir(), reason="real data-to-text data is not beside this checkout"
)

E2E = {
    "meaning_representation": [
        "name[Cotto], eatType[coffee shop], near[The Portland Arms]",
        "name[Alimentum], familyFriendly[yes]",
        "name[Cotto], eatType[coffee shop], near[The Portland Arms]",
    ],
    "human_reference": ["Cotto is near The Portland Arms.", "Alimentum welcomes families.", "A coffee shop, Cotto."],
}
DART = {
    "tripleset": [[["Mars Hill", "JOINED", "1973"], ["Mars Hill", "LOCATION", "North Carolina"]], [["A", "B", "C"]]],
    "subtree_was_extended": [False, True],
    "annotations": [
        {"source": ["WikiSQL_lily", "WikiSQL_lily"], "text": ["One text.", "Another text."]},
        {"source": ["WikiTableQuestions_mturk"], "text": ["A third."]},
    ],
}


def entry(category, triples, texts, comments=None, place=""):
    """A row as WebNLG's Parquet files have it."""
    return {
        "category": category,
        "modified_triple_sets": {"mtriple_set": [triples]},
        "lex": {"comment": comments or ["good"] * len(texts), "lid": ["Id1"] * len(texts), "text": texts},
        "test_category": place,
    }


def put(root, folder, split, columns):
    file = root / folder / f"{split}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(columns) if isinstance(columns, list) else pa.table(columns)
    pq.write_table(table, file)


def put_all(root, folder, columns):
    for split in ("train", "validation", "test"):
        put(root, folder, split, columns)


def load(root, task, **data):
    return load_task(configured(task), task, DataConfig(source="folder", root=str(root), **data))


def e2e(**settings):
    return GenerationTask("e2e", protocol="official", **settings)


def webnlg(**settings):
    return WebNLGTask("webnlg", protocol="official", **settings)


def lm(**settings):
    return LanguageModellingTask("lm", protocol="official", **settings)


def refusal(root, task):
    with pytest.raises(ConfigurationError) as caught:
        load(root, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(split):
    return list(zip(split.texts[0], split.columns["references"], strict=True))


@real_data
def test_e2e_is_scored_once_for_each_distinct_representation():
    data = load(REAL, e2e())
    assert data.provenance["kind"] == "benchmark"
    assert len(data.train) == 42061
    assert len(set(data.train.texts[0])) == 4862
    assert {name: len(split) for name, split in data.evaluations.items()} == {"validation": 547, "test": 630}
    for name, rows in (("validation", 4672), ("test", 4693)):
        split = data.evaluations[name]
        assert len(set(split.texts[0])) == len(split)
        assert sum(map(len, split.columns["references"])) == rows
    assert data.train.texts[0][0] == (
        "name : The Vaults | Type : pub | price : more than £30 | customer rating : 5 out of 5 | near : Café Adriatic"
    )
    assert data.train.columns["references"][0] == [
        "The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30."
    ]


@real_data
def test_webnlg_leaves_out_what_is_to_fix_and_knows_seen_from_unseen():
    data = load(REAL, webnlg())
    assert data.provenance["kind"] == "benchmark"
    assert len(data.train) == 18025
    validation, test = data.evaluations["validation"], data.evaluations["test"]
    assert (len(validation), sum(map(len, validation.columns["references"]))) == (870, 2258)
    assert (len(test), sum(map(len, test.columns["references"]))) == (1862, 4928)
    assert (test.columns["subset"].count("seen"), test.columns["subset"].count("unseen")) == (971, 891)
    assert "subset" not in validation.columns
    assert data.train.texts[0][0] == 'Aarhus_Airport : cityServed : "Aarhus, Denmark"'
    assert load(REAL, webnlg(linearisation="prefix")).train.texts[0][0].startswith(" | Aarhus_Airport : cityServed")


@real_data
def test_a_limit_keeps_every_reference_of_the_inputs_that_stay():
    whole = load(REAL, e2e())
    data = load(REAL, e2e(test=False), max_eval_rows=100)
    assert list(data.evaluations) == ["validation"]
    assert data.provenance["kind"] == "partial"
    kept = lines(data.evaluations["validation"])
    assert len(kept) == 100
    assert all(line in lines(whole.evaluations["validation"]) for line in kept)


@real_data
def test_a_corpus_without_a_validation_split_gives_its_last_rows():
    data = load(REAL, lm(corpus="tiny_shakespeare"))
    rows, held = len(data.train), len(data.evaluations["validation"])
    assert (rows + held, held) == (7222, 361)
    assert data.provenance["kind"] == "unchecked"
    assert "validation is the last 361 rows of train" in data.provenance["notes"]
    assert "no train split at" in refusal(REAL, lm())


def test_a_corpus_is_the_benchmark_only_with_every_split_of_its_release(tmp_path):
    rows = {"train": 36718, "validation": 3760, "test": 4358}

    def kind_with(*splits):
        for split in splits:
            put(tmp_path / splits[-1], "text/wikitext2", split, {"text": ["a line", ""] * (rows[split] // 2)})
        provenance = load(tmp_path / splits[-1], lm(corpus="wikitext2")).provenance
        return provenance["kind"], provenance["notes"]

    assert kind_with("train", "validation", "test") == ("benchmark", [])
    assert kind_with("train", "validation") == ("partial", ["test is not in this source"])
    kind, notes = kind_with("train")
    assert kind == "partial"
    assert notes[:2] == ["validation is not in this source", "test is not in this source"]
    assert notes[2].startswith("validation is the last ")


def test_an_entry_without_text_trains_nothing_and_is_not_scored(tmp_path):
    bare = DART | {"annotations": [*DART["annotations"][:1], {"source": [], "text": []}]}
    dart = GenerationTask("dart", protocol="official")
    for split, columns in {"train": bare, "validation": DART, "test": DART}.items():
        put(tmp_path, "dart", split, columns)
    assert [texts for _, texts in lines(load(tmp_path, dart).train)] == [["One text."], ["Another text."]]
    put(tmp_path, "dart", "test", bare)
    assert "(entry 1 has no text to score against: 'A : b : C')" in refusal(tmp_path, dart)


def test_dart_is_the_benchmark_by_its_entries_not_by_its_texts(tmp_path):
    for split, entries in {"train": 30526, "validation": 2768, "test": 5097}.items():
        triples = [[[f"subject {i}", "IS", "object"]] for i in range(entries)]
        put(tmp_path, "dart", split, {"tripleset": triples, "annotations": DART["annotations"][:1] * entries})
    data = load(tmp_path, GenerationTask("dart", protocol="official"))
    assert (data.provenance["kind"], data.provenance["notes"]) == ("benchmark", [])
    assert len(data.train) == 2 * 30526


def test_e2es_lines_are_those_of_prefix_tunings_and_loras_files():
    found = e2e_source(
        "name[Blue Spice], eatType[coffee shop], priceRange[£20-25], familyFriendly[no], area[city centre]"
    )
    assert (
        found == "name : Blue Spice | Type : coffee shop | price : £20-25 | family friendly : no | area : city centre"
    )
    for half_readable in ("Blue Spice", "name[Cotto], foo", "name[a [b]], x[y]", "name[Cotto] eatType[pub]", ""):
        with pytest.raises(ValueError, match="is not a meaning representation"):
            e2e_source(half_readable)


def test_pairs_train_and_distinct_representations_are_scored(tmp_path):
    put_all(tmp_path, "e2e_nlg", E2E)
    data = load(tmp_path, e2e())
    cotto, alimentum = (
        "name : Cotto | Type : coffee shop | near : The Portland Arms",
        "name : Alimentum | family friendly : yes",
    )
    assert [(source, *texts) for source, texts in lines(data.train)] == [
        (cotto, "Cotto is near The Portland Arms."),
        (alimentum, "Alimentum welcomes families."),
        (cotto, "A coffee shop, Cotto."),
    ]
    assert lines(data.evaluations["test"]) == [
        (cotto, ["Cotto is near The Portland Arms.", "A coffee shop, Cotto."]),
        (alimentum, ["Alimentum welcomes families."]),
    ]
    assert data.provenance["notes"][0] == "train has 3 rows, the official release 42061"


def test_dart_uses_every_annotation_and_lower_case_relations(tmp_path):
    put_all(tmp_path, "dart", DART)
    data = load(tmp_path, GenerationTask("dart", protocol="official"))
    hill = "Mars Hill : joined : 1973 | Mars Hill : location : North Carolina"
    assert [text for _, (text,) in lines(data.train)] == ["One text.", "Another text.", "A third."]
    assert lines(data.evaluations["test"]) == [(hill, ["One text.", "Another text."]), ("A : b : C", ["A third."])]


def test_release_3_writes_what_the_hub_has_for_writing(tmp_path):
    train = [
        entry("Company", ["a | b | c"], ["Good.", "Bad."], ["good", "toFix"]),
        entry("City", ["d | e | f"], ["x"], ["toFix"]),
    ]
    written = "rdf-to-text-generation-test-data-with-refs-en"
    test = [
        entry("Company", ["a | b | c", "g | h | i"], ["Of a seen category."], [""], written),
        entry("Film", ["d | e | f"], ["Of an unseen one."], [""], written),
        entry("Film", ["d | e | f"], [], [], "rdf-to-text-generation-test-data-without-refs-en"),
        entry("Film", ["j | k | l"], ["To be parsed."], [""], "semantic-parsing-test-data-with-refs-en"),
    ]
    for split, rows in (("train", train), ("validation", train), ("test", test)):
        put(tmp_path, "webnlg/release_v3.0_en", split, rows)
    data = load(tmp_path, webnlg(release="release_v3.0_en"))
    assert lines(data.train) == [("a : b : c", ["Good."])]
    found = data.evaluations["test"]
    assert lines(found) == [("a : b : c | g : h : i", ["Of a seen category."]), ("d : e : f", ["Of an unseen one."])]
    assert found.columns["subset"] == ["seen", "unseen"]
    assert "test has 2 rows, the official release 1779" in data.provenance["notes"]


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"mr": ["x"], "human_reference": ["y"]}, e2e(), "no column meaning_representation; it has mr"),
        (E2E | {"meaning_representation": ["x", "y", "z"]}, e2e(), "'x' is not a meaning representation such as"),
        ([entry("City", ["a | b"], ["x"])], webnlg(), "'a | b' is not 'subject | relation | object'"),
        ([entry("City", ["a | b | c"], ["x"], ["toFix"])], webnlg(), "no entry has a text that its annotators"),
        ([{"category": "City"}], webnlg(), "not rows of webnlg's schema (no column 'lex')"),
        ({"tripleset": [[["a", "b", "c"]]]}, GenerationTask("dart", protocol="official"), "(no column 'annotations')"),
        ({"text": ["one row"]}, lm(), "text/wikitext2_raw: one row of text cannot be split in two"),
    ],
)  # fmt: skip
def test_wrong_rows_are_one_line(columns, task, message, tmp_path):
    spec = configured(task)
    put(tmp_path, f"{spec.suite}/{spec.folder}", "train", columns)
    assert message in refusal(tmp_path, task)


@pytest.mark.parametrize(
    ("task", "repo", "config", "names"),
    [
        (e2e(), "tuetschek/e2e_nlg", "default", ("train", "validation", "test")),
        (webnlg(), "webnlg-challenge/web_nlg", "webnlg_challenge_2017", ("train", "dev", "test")),
        (webnlg(release="release_v2.1"), "webnlg-challenge/web_nlg", "release_v2.1", ("train", "dev", "test")),
        (GenerationTask("dart", protocol="official"), "Yale-LILY/dart", "default", ("train", "validation", "test")),
    ],
)
def test_the_hubs_own_parquet_files_are_asked_for(task, repo, config, names, monkeypatch):
    asked = []

    def load_dataset(kind, data_files, split):
        asked.append((kind, data_files[split]))
        return SimpleNamespace(to_dict=lambda: {"text": ["x"]})

    stand_in = SimpleNamespace(load_dataset=load_dataset, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    spec = configured(task)
    source = open_source(spec, DataConfig("hub"))
    for split in ("train", "validation", "test"):
        source.read(spec.folder or "", split)
    assert asked == [
        ("parquet", f"hf://datasets/{repo}@refs%2Fconvert%2Fparquet/{config}/{n}/*.parquet") for n in names
    ]
    assert HUB[spec.suite].repo == repo


def test_a_corpus_that_the_hub_has_not_is_said():
    with pytest.raises(ConfigurationError, match=r"^text/books: not on the hub, which has wikitext2, .*data=folder"):
        open_source(configured(lm(corpus="books")), DataConfig("hub"))


@pytest.mark.parametrize("name", ["e2e", "webnlg", "dart"])
def test_samples_have_the_schema_and_several_references(name):
    task = {"webnlg": webnlg()}.get(name) or GenerationTask(name, protocol="official")
    data = load_task(TASKS[name], task, DataConfig("sample"))
    assert data.provenance["kind"] == "sample"
    for source, texts in lines(data.evaluations["validation"]):
        assert re.search(r"\w : \w", source)
        assert texts
        assert all(text.endswith(".") for text in texts)
    if name == "webnlg":
        assert set(data.evaluations["test"].columns["subset"]) == {"seen", "unseen"}


def test_training_pairs_and_the_scored_rows_name_the_same_references(tmp_path):
    put_all(tmp_path, "e2e_nlg", E2E)
    data, form = load(tmp_path, e2e()), TASKS["e2e"].text
    assert form is not None
    row_of, texts = form.pairs(data.evaluations["validation"])
    np.testing.assert_array_equal(row_of, [0, 0, 1])
    assert texts == ["Cotto is near The Portland Arms.", "A coffee shop, Cotto.", "Alimentum welcomes families."]
    assert form.read(["One.\n\nTwo.", "  Three. "], data.train) == ["One.", "Three."]
