"""Checkpoints: what goes in comes out, and an interrupted write leaves the old one."""

import torch

from peftbench.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
STATE = {"a": torch.arange(4.0), "b": [{"c": torch.ones(2, dtype=torch.bool)}, None, 3], 5: {"x": 1.5, "y": "z"}}


def test_nested_state_survives(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", STATE)
    loaded = load_checkpoint(tmp_path / "checkpoint", CPU)
    assert torch.equal(loaded["a"], STATE["a"])
    assert torch.equal(loaded["b"][0]["c"], STATE["b"][0]["c"])
    assert loaded["b"][1:] == [None, 3]
    assert loaded[5] == STATE[5]


def test_the_newer_replaces_the_older_and_leaves_nothing_beside_it(tmp_path):
    for value in (1, 2):
        save_checkpoint(tmp_path / "checkpoint", {"value": value})
    assert load_checkpoint(tmp_path / "checkpoint", CPU) == {"value": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    delete_checkpoint(tmp_path / "checkpoint")
    assert load_checkpoint(tmp_path / "checkpoint", CPU) is None


def test_a_write_cut_between_its_two_renames_leaves_the_old_one(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", {"value": 1})
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert load_checkpoint(tmp_path / "checkpoint", CPU) == {"value": 1}
