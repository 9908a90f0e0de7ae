"""The page as its reader has it: in a browser, from disk."""

from __future__ import annotations

import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from peftbench.report.page import write_page
from peftbench.report.records import find

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'peftbench[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")

EFFECTIVE = {"bitfit": 25728, "sora": 250000, "lora": 331776, "full": 22000000, "linear_probe": 0}
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><svg onload=\"document.title='taken'\">"
STAGES = [
    {
        "name": f"lambda={i}",
        "steps": 100,
        "metrics": {"validation": {"accuracy": 0.8}},
        "generalization": 100 - i,
        "memorization": 100 - 4 * i,
        "parameters": {"effective": 300000 - 40000 * i},
        "ranks": {"a": 8 - i},
    }
    for i in range(4)
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser):
    """Open a page and hear what it says and asks for; at the end nothing but the page itself was asked for."""
    contexts, heard = [], []

    def opened(file: Path, **settings):
        contexts.append(browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        # A `data:` address lies in the page.
        page.on("request", lambda request: request.url.startswith("data:") or heard.append(request.url))
        page.goto(file.as_uri())
        assert heard.pop(0) == file.as_uri()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture
def report(write_run, outputs):
    """A page of eleven runs on sample data: five methods, two seeds, one of them diverged, one with stages."""
    for method, effective in EFFECTIVE.items():
        for seed in (9, 10):
            write_run(
                method=method,
                seed=seed,
                kind="sample",
                scores=0.5 + effective**0.2 / 100 + seed / 1000,
                parameters={"effective": effective},
                epoch_s=[effective / 1e5 + seed],
                stages=STAGES if (method, seed) == ("sora", 9) else (),
            )
    write_run(method="lora", task="rte", seed=1, kind="sample", status="diverged")
    write_page(find([outputs]), outputs / "report.html", "Methods on MRPC")
    return outputs / "report.html"


def column(page, title: str) -> list[str]:
    """A column's cells from top to bottom."""
    titles = page.locator("#page-run-table thead th").all_inner_texts()
    place = [" ".join(told.split()) for told in titles].index(title)
    return page.locator(f"#page-run-table tbody tr:not(.detail) td:nth-child({place + 1})").all_inner_texts()


def sort(page, title: str):
    page.get_by_role("columnheader", name=title, exact=True).get_by_role("button").click()


def links(page) -> list[str]:
    """The addresses that a reader is sent to."""
    return page.locator("#page-run-table a").evaluate_all("nodes => nodes.map(node => node.href)")


def read(address: str) -> dict:
    """The record at an address."""
    return json.loads(Path(unquote(urlparse(address).path)).read_text(encoding="utf-8"))


def pointed_at(page, label: str):
    """Put the pointer on the point whose description begins so."""
    point = page.locator(f'.point[aria-label^="{label}"]').first
    point.evaluate("node => (node.scrollIntoView({block: 'center'}), new Promise(requestAnimationFrame))")
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return point


def test_it_opens_with_everything_on_it(look, report, tmp_path):
    page = look(report)
    assert page.title() == "Methods on MRPC"
    assert page.locator(".banner").inner_text().startswith("SAMPLE data in 11 of 11 runs: sentences made by peftbench")
    assert page.locator("#page-count").inner_text() == "11 runs"
    assert len(column(page, "Task")) == 11
    assert page.locator("#page-scores .point").count() == 10
    assert "SAMPLE data" in page.locator("#page-scores figcaption").inner_text()
    assert page.locator("#page-scores .remark").inner_text() == "1 run without a score or a count not drawn."
    assert page.locator("#page-stages .point").count() == 8
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_numbers_sort_by_size_both_ways_and_missing_ones_stay_last(look, report):
    page = look(report)
    sort(page, "Score")
    scores = column(page, "Score")
    assert scores[-1] == ""
    assert list(map(float, scores[:-1])) == sorted(map(float, scores[:-1]))
    heading = page.get_by_role("columnheader", name="Score", exact=True)
    assert heading.get_attribute("aria-sort") == "ascending"
    sort(page, "Score")
    assert column(page, "Score") == [*reversed(scores[:-1]), ""]
    assert heading.get_attribute("aria-sort") == "descending"
    sort(page, "Seed")
    assert column(page, "Seed") == ["1", *["9"] * 5, *["10"] * 5]
    assert heading.get_attribute("aria-sort") == "none"
    sort(page, "Effective parameters")
    assert column(page, "Effective parameters")[:3] == ["0", "0", "25,728"]


def test_words_sort_both_ways(look, report):
    page = look(report)
    sort(page, "Method")
    methods = column(page, "Method")
    assert methods == sorted(methods, key=str.casefold)
    assert methods[0] == "BitFit"
    sort(page, "Method")
    assert column(page, "Method") == methods[::-1]


def test_sorting_works_by_keyboard(look, report):
    page = look(report)
    page.get_by_role("columnheader", name="Seed", exact=True).get_by_role("button").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert column(page, "Seed") == [*["10"] * 5, *["9"] * 5, "1"]


def test_every_word_must_be_there(look, report):
    page = look(report)
    page.locator("#page-words").fill("SORA seed=10")
    assert (column(page, "Method"), column(page, "Seed")) == (["SoRA"], ["10"])
    assert page.locator("#page-count").inner_text() == "1 of 11 runs"
    assert page.locator("#page-scores .point").count() == 1
    assert not page.locator("#page-stages").is_visible()
    page.locator("#page-words").fill("sora lora")
    assert page.locator("#page-count").inner_text() == "0 of 11 runs"
    assert page.locator("#page-run-table tbody").inner_text().strip() == "No run fits the filters."


def test_choices_filter_table_and_plots(look, report):
    page = look(report)
    page.get_by_label("Method").select_option("LoRA")
    assert column(page, "Method") == ["LoRA"] * 3
    assert page.locator("#page-scores .point").count() == 2
    page.get_by_label("Status").select_option(label="diverged (1)")
    assert column(page, "Task") == ["rte"]
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#page-count").inner_text() == "11 runs"


def test_weights_of_one_name_are_plots_of_their_own(look, write_run, outputs):
    for seed in range(2):
        write_run(seed=seed, scores=0.7)
        file = write_run(seed=seed, scores=0.9, commit="other")
        file.write_text(file.read_text().replace("0" * 64, "1" * 64))
    write_page(find([outputs]), outputs / "report.html", "Two kinds of weights")
    told = look(outputs / "report.html").locator("#page-scores").inner_text()
    assert told.count("2 runs") == 2
    assert all(f"weights {digest * 8}" in told for digest in "01")


def test_the_pointer_shows_a_run(look, report):
    page = look(report)
    tip = page.get_by_role("tooltip")
    assert not tip.is_visible()
    pointed_at(page, "BitFit · mrpc · minilm · seed 10")
    told = tip.inner_text()
    for words in ("BitFit · mrpc · minilm · seed 10", "on validation", "25,728", "332,064", "10.3", "SAMPLE data"):
        assert words in told
    page.mouse.move(0, 0)
    assert not tip.is_visible()


def test_the_pointer_shows_a_stage(look, report):
    page = look(report)
    pointed_at(page, "SoRA · mrpc · minilm · seed 9 · stage lambda=2")
    for words in ("98.00 %", "92.00 %", "220,000", "live ranks"):
        assert words in page.get_by_role("tooltip").inner_text()


def test_points_are_reached_by_keyboard(look, report):
    page = look(report)
    page.locator("#page-scores .point[tabindex='0']").focus()
    assert "Linear probe" in page.get_by_role("tooltip").inner_text()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert "BitFit" in page.get_by_role("tooltip").inner_text()
    page.keyboard.press("Escape")
    assert not page.get_by_role("tooltip").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#page-run-table tr.detail").count() == 1


def test_more_parameters_stand_further_right_and_better_scores_higher(look, report):
    page = look(report)
    points = []
    for point in page.locator("#page-scores .point").all():
        told, box = point.get_attribute("aria-label"), point.bounding_box()
        score = float(re.search(r"× 100 ([\d.]+)", told)[1])
        count = int(re.search(r"effective parameters ([\d,]+)", told)[1].replace(",", ""))
        points.append((score, count, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
    by_place = sorted(points, key=lambda point: (round(point[2], 1), point[1]))
    assert [count for _, count, *_ in by_place] == sorted(count for _, count, *_ in points)
    by_height = sorted(points, key=lambda point: -point[3])
    assert [score for score, *_ in by_height] == sorted(score for score, *_ in points)
    places = {count: x for _, count, x, _ in points}
    # One more decade is one more step to the right.
    one = (places[331776] - places[25728]) / math.log10(331776 / 25728)
    assert (places[22000000] - places[331776]) / math.log10(22000000 / 331776) == pytest.approx(one, rel=0.05)


@pytest.mark.parametrize("counts", [(7, 7), (331008, 331776), (0, 10**6)])
def test_the_ticks_of_any_counts_are_told_apart(look, write_run, outputs, counts):
    for seed, effective in enumerate(counts):
        write_run(seed=seed, parameters={"effective": effective})
    write_page(find([outputs]), outputs / "report.html", "Ticks")
    page = look(outputs / "report.html")
    ticks = page.locator("#page-scores .axis text[text-anchor=middle]:not(.name)")
    told = ticks.all_text_contents()
    assert 1 <= len(told) == len(set(told)) <= 14
    boxes = [
        text.bounding_box() for text in page.locator("#page-scores .axis text[text-anchor=middle]:not(.name)").all()
    ]
    assert all(left["x"] + left["width"] < right["x"] for left, right in pairwise(boxes))


def test_a_row_opens_and_closes(look, report):
    page = look(report)
    page.locator("#page-words").fill("diverged")
    line = page.locator("#page-run-table tbody tr").first
    line.click()
    detail = page.locator("#page-run-table tr.detail")
    assert "RunError: diverged at step 7" in detail.inner_text()
    for words in ("optimizer.lr", "0.001", "backbone", "22,565,376", "versions.torch", "2.13.0+cpu"):
        assert words in detail.inner_text()
    assert line.get_by_role("button").get_attribute("aria-expanded") == "true"
    line.get_by_role("button").press("Enter")
    assert detail.count() == 0
    assert line.get_by_role("button").get_attribute("aria-expanded") == "false"


def test_an_open_row_goes_where_its_run_goes(look, report):
    page = look(report)
    page.locator("#page-run-table tbody tr").first.click()
    for title in ("Score", "Score", "Method"):
        sort(page, title)
        before = page.locator("#page-run-table tr.detail").evaluate(
            "node => node.previousElementSibling.querySelector('.open').ariaExpanded"
        )
        assert before == "true"
    assert len(column(page, "Score")) == 11


def test_a_click_on_a_point_opens_its_run(look, report):
    page = look(report)
    pointed_at(page, "Full FT · mrpc · minilm · seed 9")
    page.mouse.down()
    page.mouse.up()
    opened = page.locator("#page-run-table tr:has(+ tr.detail)")
    assert opened.inner_text().split("\t")[:4] == ["mrpc", "Full FT", "minilm", "9"]


def test_every_link_leads_to_a_record(look, report):
    page = look(report)
    assert sorted(read(address)["seed"] for address in links(page)) == [1, *[9] * 5, *[10] * 5]
    assert len(set(links(page))) == 11


def test_records_cannot_act(look, write_run, outputs):
    record = json.loads(write_run(method="lora").read_text(encoding="utf-8"))
    record |= {"method": HOSTILE, "task": HOSTILE, "run_id": HOSTILE, "flags": [HOSTILE]}
    for section, key in (("model", "name"), ("data", "protocol"), ("data", "kind"), ("selection", "rule")):
        record[section][key] = HOSTILE
    record["config"]["method"][HOSTILE] = HOSTILE
    record["environment"]["hardware"]["cpu"] = HOSTILE
    folder = outputs / "x" / HOSTILE.replace("/", "") / "javascript:document.title='taken'"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    record |= {"status": HOSTILE, "error": {"type": HOSTILE, "message": HOSTILE, "step": HOSTILE}}
    (folder.parent / "failed").mkdir()
    (folder.parent / "failed" / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / "record.json").write_text("{", encoding="utf-8")
    write_page(find([outputs]), outputs / "report.html", "Quiet")
    page = look(outputs / "report.html")
    for button in page.locator(".open").all():
        button.click()
    pointed_at(page, HOSTILE.replace('"', '\\"'))
    assert HOSTILE in page.get_by_role("tooltip").inner_text()
    assert page.locator("#page-run-table tr.detail").count() == 3
    assert page.locator("img").count() == 0
    assert page.title() == "Quiet"
    for address in links(page):
        assert read(address)["run_id"]


def test_the_policy_stops_what_is_not_the_pages_own(browser, report):
    """Were a text ever to become markup, it would still do nothing."""
    whole = report.read_text(encoding="utf-8")
    report.write_text(whole.replace("</h1>", "</h1><script>document.title='taken'</script>"), encoding="utf-8")
    page = browser.new_page()
    page.goto(report.as_uri())
    assert page.title() == "Methods on MRPC"
    assert page.locator("#page-run-table tbody tr").count() == 11
    page.close()


def test_tables_and_figures_are_seen(look, write_run, outputs, tmp_path):
    write_run()
    figure = tmp_path / "pareto.svg"
    figure.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="72pt" viewBox="0 0 72 72">'
        '<style>rect{fill:#f00}</style><rect width="72" height="72" style="opacity:1"/></svg>',
        encoding="utf-8",
    )
    # A table is called as its experiment is, and that as its user likes.
    tables = [f'<figure class="table" id="{name}"><table></table></figure>' for name in ("data", "runs", "words")]
    write_page(find([outputs]), outputs / "report.html", "With a figure", tables, [figure])
    picture = look(outputs / "report.html").locator("img")
    assert picture.evaluate("image => [image.naturalWidth, image.complete]") == [96, True]


@pytest.mark.parametrize("settings", [{"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 800}}])
def test_it_fits_small_and_dark_screens(look, report, settings):
    page = look(report, **settings)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == ("color_scheme" in settings)


def test_nothing_moves_while_it_opens(look, report):
    page = look(report)
    shift = page.evaluate("""new Promise(done => {
        let sum = 0;
        const watch = new PerformanceObserver(list => list.getEntries().forEach(entry => sum += entry.value));
        watch.observe({type: 'layout-shift', buffered: true});
        setTimeout(() => done(sum), 300);
    })""")
    assert shift < 0.05


@pytest.mark.long
def test_a_thousand_runs_open_and_filter_fast(look, write_run, outputs):
    record = json.loads(write_run().read_text(encoding="utf-8"))
    for seed in range(999):
        folder = outputs / "many" / str(seed)
        folder.mkdir(parents=True)
        record |= {"seed": seed, "run_id": f"run{seed}", "config": record["config"] | {"seed": seed}}
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    write_page(find([outputs]), outputs / "report.html", "Many")
    page = look(outputs / "report.html")
    assert page.locator("#page-count").inner_text() == "1,000 runs"
    taken = page.evaluate("""(() => {
        const began = performance.now();
        const words = document.getElementById('page-words');
        words.value = 'seed=7';
        words.dispatchEvent(new Event('input', {bubbles: true}));
        document.body.offsetHeight;
        return performance.now() - began;
    })()""")
    assert page.locator("#page-count").inner_text() == "111 of 1,000 runs"
    assert taken < 2000
