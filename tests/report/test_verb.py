from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from peftbench.cli import exit_status
from peftbench.report.verb import _OPTIONS

METHODS = ("lora", "sora", "adalora", "bitfit")
TASKS = ("mrpc", "rte", "cola", "stsb")


@pytest.fixture
def runs(write_run, outputs):
    for method, score in (("lora", 0.8), ("sora", 0.9)):
        for seed in range(3):
            write_run(method=method, seed=seed, scores=score + seed / 100)
    return str(outputs)


def test_the_terminal_shows_scores_and_comparisons(runs, capsys):
    assert exit_status(["report", runs]) == 0
    shown = capsys.readouterr().out
    assert "91.00 ± 1.00" in shown
    assert "p (Holm)" in shown
    assert shown.count("Split protocol") == 1


def test_a_folder_gets_every_format(runs, tmp_path, capsys):
    folder = tmp_path / "report"
    assert exit_status(["report", runs, f"to={folder}", "figures=none"]) == 0
    files = {
        f"{stem}.{ending}" for stem in ("table", "comparisons") for ending in ("md", "tex", "html")
    } | {"tidy.csv", "tidy.parquet"}  # fmt: skip
    assert files <= {file.name for file in folder.iterdir()}
    assert "91.00 ± 1.00" in (folder / "report.html").read_text(encoding="utf-8")
    told = capsys.readouterr().out.split()
    assert {str(folder / name) for name in files} <= set(told)


def test_the_page_shows_the_scores_of_the_tables(write_run, outputs, tmp_path):
    scores = {"validation": {"f1": 0.9, "accuracy": 0.8}, "test": {"f1": 0.7, "accuracy": 0.6}}
    for task, metric in (("mrpc", "f1"), ("boolq", "accuracy")):
        write_run(task=task, metric=metric, scores=scores)
    assert exit_status(["report", str(outputs), f"to={tmp_path}", "layout=sora_table1", "format=page"]) == 0
    data = re.search(r'id="page-data">(.*?)</script>', (tmp_path / "report.html").read_text(encoding="utf-8"))
    shown = {row["task"]: (row["metric"], row["split"], row["score"]) for row in json.loads(data[1])["rows"]}
    # BoolQ is in no column of that table.
    assert shown == {"mrpc": ("accuracy × 100", "test", 60), "boolq": ("accuracy × 100", "validation", 80)}


def test_only_the_formats_asked_for(runs, tmp_path):
    assert exit_status(["report", runs, f"to={tmp_path / 'r'}", "format=latex,csv"]) == 0
    assert {file.name for file in (tmp_path / "r").iterdir()} == {"table.tex", "comparisons.tex", "tidy.csv"}


def test_figures_are_drawn_by_experiment(runs, tmp_path):
    assert exit_status(["report", runs, f"to={tmp_path / 'r'}", "format=csv", "figures=pareto"]) == 0
    assert (tmp_path / "r" / "figures" / "default" / "pareto.svg").is_file()


def test_filters_narrow(runs, capsys):
    assert exit_status(["report", runs, "method=sora", "seed=0,1", "format=csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(",sora," in line for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one folder"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["{runs}", "fromat=csv"], "fromat=csv: unknown option; did you mean format?"),
        (["{runs}", "--to=x"], "--to=x: unknown option; did you mean to?"),
        (["{runs}", "layout=sora_tabel1"], "did you mean sora_table1?"),
        (["{runs}", "method=lorra"], "method=lorra: unknown; did you mean lora?"),
        (["{runs}", "metric=bleu"], "metric=bleu: "),
        (["{runs}", "format=parquet"], "format=parquet is a file; write it with to=<folder>"),
        (["{runs}", "test=t"], "test=t: unknown"),
        (["{runs}", "method=LoRA"], "method=LoRA: unknown; did you mean lora?"),
        (["{runs}", "against=Sora"], "against=Sora: no such row; did you mean sora?"),
        (["{runs}", "format=markdown,csv"], "several are files; write them with to=<folder>"),
        (["{runs}", "format=terminal", "to=x"], "terminal is the screen's"),
        (["{runs}", "method=lora", "method=sora"], "method=sora: method is there twice"),
        (["{runs}", "to="], "to=: a value is expected"),
        (["{runs}", "layout=prefix_dart"], "no column for the runs' tasks (mrpc)"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(runs, capsys, words, message):
    assert exit_status(["report", *(word.format(runs=runs) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_folder_that_takes_no_file_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "to" / "table.md").mkdir(parents=True)
    assert exit_status(["report", runs, f"to={tmp_path / 'to'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"to: cannot write to {tmp_path / 'to'}" in line
    assert [file.name for file in (tmp_path / "to").iterdir()] == ["table.md"]


def test_an_empty_folder_holds_no_records(tmp_path, capsys):
    assert exit_status(["report", str(tmp_path)]) == 2
    assert "no record.json under" in capsys.readouterr().err


def test_what_is_no_record_is_told_and_left_out(runs, outputs, capsys):
    (outputs / "default" / "broken").mkdir()
    (outputs / "default" / "broken" / "record.json").write_text("{")
    assert exit_status(["report", runs]) == 0
    assert "not a JSON record; left out" in capsys.readouterr().err


def test_a_thousand_records_without_torch(write_run, outputs, tmp_path):
    """As a whole process; the time is printed, not asserted."""
    for number in range(1000):
        method, task = (
            ("lora", "sora", "adalora", "bitfit")[number % 4],
            ("mrpc", "rte", "cola", "stsb")[number // 4 % 4],
        )
        write_run(method=method, task=task, seed=number // 16, scores=0.8 + number % 7 / 100)
    program = (
        "import re, sys, pathlib\n"
        "from peftbench.cli import exit_status\n"
        "status = exit_status(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra', 'omegaconf', 'matplotlib'} & set(sys.modules)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())\n"
        "print('heavy', sorted(heavy), 'MB', int(peak[1]) // 1024 if peak else 'unknown')\n"
        "sys.exit(status)\n"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, "report", str(outputs)], capture_output=True, text=True)
    print(f"1,000 records: {time.perf_counter() - began:.2f} s, {done.stdout.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("heavy [] MB")
    assert "(63)" in done.stdout


def test_figures_are_files_and_have_names(runs, tmp_path, capsys):
    assert exit_status(["report", runs, "figures=pareto"]) == 2
    assert "figures=pareto: figures are files; write them with to=<folder>" in capsys.readouterr().err
    assert exit_status(["report", runs, f"to={tmp_path / 'r'}", "figures=paretto"]) == 2
    assert "did you mean pareto?" in capsys.readouterr().err
    assert exit_status(["report", runs, f"to={tmp_path / 'r'}", "figures=pareto,stages"]) == 2
    assert "figures=stages: none of these runs has what it needs: completed runs of Al" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_all_and_another_format_are_all(runs, tmp_path):
    assert exit_status(["report", runs, f"to={tmp_path / 'r'}", "format=all,markdown", "figures=none"]) == 0
    assert (tmp_path / "r" / "report.html").is_file()
    assert (tmp_path / "r" / "table.tex").is_file()


def test_a_metric_of_some_experiments_leaves_the_others_out(write_run, outputs, capsys):
    write_run(task="cola", experiment="a", scores=0.5)
    write_run(task="rte", experiment="b", scores=0.6)
    assert exit_status(["report", str(outputs), "metric=accuracy"]) == 0
    captured = capsys.readouterr()
    assert "60.00" in captured.out
    assert captured.err == ("peftbench: note: metric=accuracy: no such column in a (measured: matthews_correlation)\n")
    assert exit_status(["report", str(outputs), "metric=accuracy", "against=sora"]) == 2
    assert "no such column in a" in capsys.readouterr().err
    assert exit_status(["report", str(outputs), "metric=bleu"]) == 2
    assert "in a (measured: matthews_correlation); metric=bleu: no such column in b" in capsys.readouterr().err


def test_the_reports_help_names_every_option(capsys):
    assert exit_status(["report", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f" {option}=" in told for option in _OPTIONS)


def test_pages_of_an_earlier_larger_figure_go(write_run, outputs, tmp_path):
    words = ["report", str(outputs), f"to={tmp_path}", "figures=pareto", "format=csv"]
    folder = tmp_path / "figures" / "default"
    for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "boolq", "cb", "copa", "wic", "wsc"):
        write_run(task=task, scores=0.5)
    assert exit_status(words) == 0
    assert (folder / "pareto-2.svg").is_file()
    for mine in ("pareto-mine.svg", "pareto-2024.csv"):
        (folder / mine).write_text("the user's")
    assert exit_status([*words, "task=rte"]) == 0
    assert sorted(file.name for file in folder.iterdir()) == [
        "pareto-2024.csv", "pareto-mine.svg", "pareto.csv", "pareto.pdf", "pareto.png", "pareto.svg",
    ]  # fmt: skip
