"""The runs of a paper's experiment are those that its published rows ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench.compose import compose_run
from peftbench.report.layouts import load
from peftbench.report.records import Run


def as_recorded(words: list[str]) -> Run:
    """A run as its record will tell it, before it has begun."""
    config = compose_run(words)
    told = json.loads(json.dumps(config.resolved()))
    about = {"task": config.task.name, "method": config.method_name, "model": {"name": config.model.name}}
    return Run(Path("record.json"), {"status": "completed", "config": told, **about})


@pytest.mark.parametrize(
    ("experiment", "words", "label"),
    [
        ("adalora_table1", "method=adalora method.rank=12 method.target_rank=8 task=cola", "AdaLoRA b=8"),
        ("adalora_table1", "method=adalora method.rank=4 method.target_rank=2 task=mnli", "AdaLoRA b=2"),
        ("adalora_table1", "method=lora method.rank=2 task=rte", "LoRA r=2"),
        ("sora_table1", "method=adalora task=qnli", "AdaLoRA"),
        ("sora_table1", "method=sora method.rank=8 task=rte", "SoRA"),
        ("sora_table1", "method=lora task=stsb", "LoRA r=8"),
        ("sora_table2", "method=sora method.rank=4 task=rte", "SoRA r=4"),
        ("sora_table2", "method=sora method.rank=16 task=cola", "SoRA r=16"),
        ("prompt_size", "method=prompt_tuning method.length=100 task=wsc model=t5_lm_adapt_xxl",
         "T5-XXL: prompt tuning"),
        ("lora_glue", "method=lora task=rte model=roberta_large", "RoBERTa-large: LoRA ‡ r=8"),
        ("bitfit_glue", "method=bitfit task=qnli model=bert_large_cased", "BitFit"),
        ("mam", "method=lora method.sites=[query,value] method.rank=16 task=sst2", "LoRA"),
    ],
)  # fmt: skip
def test_an_experiments_run_is_in_its_papers_row(experiment, words, label):
    run = as_recorded([f"+experiment={experiment}", *words.split()])
    row = next(row for row in load(experiment).rows if row.takes(run))
    assert (row.label, row.published is not None) == (label, label != "SoRA r=16")
