"""The page as a file: what a reader with no script sees, and that records stay text."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from peftbench.errors import ConfigurationError
from peftbench.report.page import write_page
from peftbench.report.page.rows import link, text
from peftbench.report.page.writing import script_data
from peftbench.report.records import Found, Run, find

HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028\ud800"


class Elements(HTMLParser):
    """Python's own parser reading the page back: elements, attributes, texts."""

    def __init__(self, file: Path):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found:
            self.texts.append((self.found[-1][0], data))

    def data(self) -> dict:
        """The block that the script reads."""
        return next(json.loads(told) for tag, told in self.texts if tag == "script" and told.startswith("{"))


@pytest.fixture
def page(tmp_path):
    return tmp_path / "report.html"


@pytest.fixture
def record(write_run):
    """A record as a run leaves it, to be changed at will."""
    return lambda **about: json.loads(write_run(**about).read_text(encoding="utf-8"))


def written(runs: list[dict], page: Path, **more) -> Elements:
    found = [Run(page.parent / f"run{i}" / "record.json", record) for i, record in enumerate(runs)]
    write_page(Found(found, [], []), page, "A title", **more)
    return Elements(page)


def shown(page: Path) -> str:
    """What stands on the page outside of script and style."""
    return " ".join(told for tag, told in Elements(page).texts if tag not in ("script", "style"))


def test_a_row_says_what_the_record_says(write_run, page):
    write_run(
        method="sora",
        seed=3,
        scores=0.8529,
        parameters={"effective": 250000, "trained": 332064},
        ranks={"initial": {"a": 8, "b": 8}, "final": {"a": 5, "b": 0}},
        epoch_s=[10, 40, 13],
    )
    write_page(find([page.parent]), page, "One")
    data = Elements(page).data()
    (row,) = data["rows"]
    assert (row["task"], row["method"], row["model"], row["seed"]) == ("mrpc", "SoRA", "minilm", 3)
    assert (row["metric"], row["split"], row["status"]) == ("accuracy × 100", "validation", "completed")
    assert row["score"] == pytest.approx(85.29)
    assert (row["effective"], row["trained"], row["before"], row["after"]) == (250000, 332064, 16, 5)
    assert (row["epoch_s"], row["rss"], row["cuda"]) == (13, 1507, None)
    details = {title: dict(pairs) for title, pairs in row["details"]}
    assert details["Metrics, as recorded"] == {"validation.accuracy": "0.8529"}
    assert details["Parameters"]["effective"] == "250,000"
    assert details["Ranks"]["sites without rank"] == "1"
    assert dict(row["settings"])["method.rank"] == "8"
    assert dict(data["environments"][row["environment"]])["git.commit"].startswith("f8a0d7110c")


def test_perplexity_is_not_times_a_hundred(record, page):
    rows = written([record(task="e2e", metric="perplexity", scores=5.02)], page).data()["rows"]
    assert (rows[0]["metric"], rows[0]["score"]) == ("perplexity", 5.02)


def test_a_row_shows_what_the_table_shows_and_keeps_what_selected(record, page):
    scores = {"validation": {"f1": 0.9, "accuracy": 0.8}, "test": {"f1": 0.7, "accuracy": 0.6}}
    write_page(Found([Run(page, record(scores=scores, metric="f1"), ("accuracy", "test"))], [], []), page, "One")
    (row,) = Elements(page).data()["rows"]
    assert (row["metric"], row["split"], row["score"]) == ("accuracy × 100", "test", 60)
    selection = dict(dict(row["details"])["Selection"])
    assert (selection["metric"], selection["split"], selection["value"]) == ("f1", "validation", "0.9")


def test_a_failed_run_has_its_error_and_no_score(record, page):
    (row,) = written([record(status="out_of_memory")], page).data()["rows"]
    assert (row["status"], row["score"], row["metric"], row["after"]) == ("out_of_memory", None, "", None)
    assert row["error"] == "RunError: out_of_memory at step 7 (step 7)"


def test_what_runs_share_is_told_once(record, page):
    runs = [record(method="lora", settings={"rank": rank}) for rank in (4, 8, 8)]
    data = written(runs, page).data()
    assert [row["settings"] for row in data["rows"]] == [[["method.rank", r]] for r in ("4", "8", "8")]
    assert ["optimizer.lr", "0.001"] in data["shared"]
    assert [row["label"] for row in data["rows"]] == ["LoRA r=4", "LoRA r=8", "LoRA r=8"]
    assert len(data["environments"]) == 1


def test_the_header_counts(record, page):
    runs = [
        *(record(seed=seed, started=f"2026-11-{20 + seed}T08:00:00+00:00") for seed in (2, 10, 1)),
        record(task="rte", protocol="sora", model="roberta", status="diverged", dirty=True),
    ]
    written(runs, page)
    told = shown(page)
    assert "4 (3 completed, 1 diverged)" in told
    assert "0, 1, 2, 10" in told
    assert "minilm, roberta" in told
    assert "glue_dev, sora" in told
    assert "best by accuracy on validation" in told
    assert "2026-11-21 to 2026-11-30" in told
    assert "2 cores of Intel(R) Xeon(R) Processor, no GPU" in told
    assert "f8a0d7110c, f8a0d7110c with changes" in told


def test_data_that_are_no_benchmark_are_announced(record, page):
    runs = [record(kind=kind) for kind in ("sample", "partial", "unchecked", "benchmark", "sample")]
    written([*runs, record(weights="random")], page)
    told = " ".join(shown(page).split())
    for words in ("SAMPLE data in 2 of 6 runs", "PARTIAL data in 1 of 6 runs", "UNCHECKED data in 1 of 6"):
        assert words in told
    assert "RANDOM weights in 1 of 6" in told


def test_a_benchmark_gets_no_banner(record, page):
    assert not any(attributes.get("class") == "banner" for _, attributes in written([record()], page).found)


def test_unreadable_files_are_named(write_run, page):
    write_run()
    broken = page.parent / "outputs" / "broken <b>" / "record.json"
    broken.parent.mkdir()
    broken.write_text("{", encoding="utf-8")
    write_page(find([page.parent]), page, "Some")
    assert "1 unreadable file left out" in shown(page)
    assert "outputs/broken <b>/record.json" in shown(page)


def test_hostile_texts_stay_texts(record, page):
    changed = record(kind="sample") | dict.fromkeys(("method", "task", "run_id", "started"), HOSTILE)
    tags = [tag for tag, _ in written([record(kind="sample")], page).found]
    changed["error"] = {"type": HOSTILE, "message": HOSTILE, "step": HOSTILE}
    changed["environment"]["hardware"]["cpu"] = changed["model"]["name"] = changed["data"]["protocol"] = HOSTILE
    changed["data"]["kind"] = changed["config"]["method"][HOSTILE] = changed["selection"]["rule"] = HOSTILE
    hostile = written([changed], page)
    assert [tag for tag, _ in hostile.found] == tags
    (row,) = hostile.data()["rows"]
    assert row["task"] == HOSTILE
    assert "\u2028" not in page.read_text(encoding="utf-8").partition('id="page-data">')[2]


def test_the_title_is_escaped(record, page):
    write_page(Found([Run(page, record())], [], []), page, "<i>a & b</i>")
    assert next(told for tag, told in Elements(page).texts if tag == "h1") == "<i>a & b</i>"


def test_numbers_that_json_has_not_got_are_missing(record, page):
    changed = record(scores=float("nan"), parameters={"effective": float("inf"), "trained": "many"})
    (row,) = written([changed], page).data()["rows"]
    assert (row["score"], row["effective"], row["trained"]) == (None, None, None)


def test_parts_of_another_shape_are_left_out(record, page):
    changed = record() | {
        "flags": "none", "stages": 3, "timing": [], "memory": None, "ranks": [8], "environment": None, "started": 5,
    }  # fmt: skip
    (row,) = written([changed], page).data()["rows"]
    assert (row["flags"], row["stages"], row["epoch_s"], row["after"]) == ([], [], None, None)


def test_script_data_is_json_without_markup():
    data = {"a": HOSTILE, "b": [1, None]}
    told = script_data(data)
    assert json.loads(told) == data
    assert told.isascii()
    assert not set("<>&") & set(told)


def test_a_link_leads_to_the_file_whatever_its_name(tmp_path):
    file = tmp_path / "out" / "javascript:a%20b #?ü" / "record.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}", encoding="utf-8")
    (tmp_path / "pages").mkdir()
    address = link(file, tmp_path / "pages")
    assert address.isascii()
    assert not set(":#?") & set(address)
    assert (tmp_path / "pages" / unquote(address)).resolve() == file


def test_a_link_through_a_linked_folder_leads_to_the_file(tmp_path):
    file = tmp_path / "far" / "away" / "record.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}", encoding="utf-8")
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    assert (tmp_path / "near" / unquote(link(file, tmp_path / "near"))).samefile(file)


def test_the_policy_names_the_very_style_and_script(record, page):
    elements = written([record()], page)
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    whole = page.read_text(encoding="utf-8")
    for name, opening, end in (("style-src", "<style>", "</style>"), ("script-src", '<script type="module">', "</scr")):
        body = whole.partition(opening)[2].partition(end)[0].encode()
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'"


def test_nothing_on_the_page_is_fetched(record, page):
    for tag, attributes in written([record()], page).found:
        if tag != "a":
            addresses = [attributes.get(name) or "data:" for name in ("src", "href", "action", "data")]
            assert all(address.startswith("data:") for address in addresses), (tag, attributes)


def test_tables_and_figures_are_inside(record, page, tmp_path):
    figure = tmp_path / "pareto_mrpc.svg"
    figure.write_text('<?xml version="1.0"?>\n<svg width="72pt" height="36pt" xmlns="x"><g/></svg>', encoding="utf-8")
    elements = written([record()], page, tables=['<figure class="table">T&amp;1</figure>'], figures=[figure])
    picture = next(attributes for tag, attributes in elements.found if tag == "img")
    assert (picture["width"], picture["height"], picture["alt"]) == ("96", "48", "pareto mrpc")
    assert base64.b64decode(picture["src"].partition(",")[2]) == figure.read_bytes()
    assert "T&1" in shown(page)
    identities = {attributes.get("id") for _, attributes in elements.found}
    inner = [attributes["href"] for tag, attributes in elements.found if tag == "a"]
    assert inner == ["#page-tables", "#page-figures", "#page-runs", "#page-table-heading"]
    assert all(address[1:] in identities for address in inner)


@pytest.mark.parametrize("content", [None, b"\x89PNG"])
def test_a_figure_that_is_none_is_told(record, page, tmp_path, content):
    figure = tmp_path / "figure.svg"
    if content:
        figure.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"figure .*figure\.svg: "):
        written([record()], page, figures=[figure])


def test_long_texts_are_cut():
    assert len(text("x" * 10**6)) < 2100
    assert text("x" * 10**6).endswith("(1,000,000 characters)")


def test_a_thousand_runs_are_written_in_a_moment(record, page):
    one = record()
    runs = [one | {"seed": seed, "config": one["config"] | {"seed": seed}} for seed in range(1000)]
    began = time.process_time()
    rows = written(runs, page).data()["rows"]
    assert len(rows) == 1000
    assert time.process_time() - began < 2
    assert page.stat().st_size < 4e6
