"""Checkpoints: what goes in comes out, and whatever happens to the newest the one before it is there."""

import errno
import json
import random

import numpy as np
import pytest
import torch

from peftbench.errors import RunError
from peftbench.training import checkpoint
from peftbench.training.checkpoint import (
    delete_checkpoint,
    load_checkpoint,
    random_states,
    save_checkpoint,
    seed_everything,
    set_random_states,
)

CPU = torch.device("cpu")
STATE = {"a": torch.arange(4.0), "b": [{"c": torch.ones(2, dtype=torch.bool)}, None, 3], 5: {"x": 1.5, "y": "z"}}


def test_nested_state_survives(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", STATE)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(loaded["a"], STATE["a"])
    assert torch.equal(loaded["b"][0]["c"], STATE["b"][0]["c"])
    assert loaded["b"][1:] == [None, 3]
    assert loaded[5] == STATE[5]


def saved(tmp_path, *values):
    folder = tmp_path / "checkpoint"
    for value in values:
        save_checkpoint(folder, {"value": value, "tensor": torch.full((64,), float(value))})
    return folder


def value_of(folder, warn=lambda _: None):
    state = load_checkpoint(folder, warn)
    assert torch.equal(state["tensor"], torch.full((64,), float(state["value"])))
    return state["value"]


def test_the_newer_replaces_the_older_which_stays_beside_it(tmp_path):
    folder = saved(tmp_path, 1, 2, 3)
    assert value_of(folder) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "checkpoint.old"]
    assert value_of(tmp_path / "checkpoint.old") == 2
    delete_checkpoint(folder)
    assert load_checkpoint(folder) is None
    assert not list(tmp_path.iterdir())


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "state.safetensors", -3),
        lambda folder: flip(folder / "state.json", -4),
        lambda folder: (folder / "state.safetensors").write_bytes(b""),
        lambda folder: (folder / "state.json").write_text(""),
        lambda folder: (folder / "state.json").write_bytes((folder / "state.json").read_bytes()[:-20]),
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.json").write_text(json.dumps({"version": 1, "state": {}})),
        lambda folder: (folder / "state.json").write_text('{"version": 99, "sha256": {}}\n{}\n'),
    ],
)
def test_a_broken_one_is_told_and_the_one_before_it_is_used(tmp_path, damage):
    folder = saved(tmp_path, 1, 2)
    damage(folder)
    told = []
    assert value_of(folder, told.append) == 1
    (line,) = told
    assert line.startswith("checkpoint checkpoint is not used (")
    assert "\n" not in line
    damage(folder.with_suffix(".old"))
    assert load_checkpoint(folder) is None
    save_checkpoint(folder, {"value": 3, "tensor": torch.full((64,), 3.0)})
    assert value_of(folder) == 3


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_one_that_cannot_be_read_now_is_left_as_it_is(tmp_path, error, monkeypatch):
    folder = saved(tmp_path, 1, 2)

    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load_file", fails)
        with pytest.raises(RunError, match=r"cannot be read \(.*\); it was left as it is"):
            load_checkpoint(folder)
    assert value_of(folder) == 2
    assert value_of(folder.with_suffix(".old")) == 1


def test_one_of_another_version_is_set_aside_and_goes_with_the_others(tmp_path):
    folder = saved(tmp_path, 1, 2)
    (folder / "state.json").write_text('{"version": 99, "sha256": {}}\n{}\n')
    assert value_of(folder) == 1
    assert (tmp_path / "checkpoint.unused" / "state.safetensors").is_file()
    delete_checkpoint(folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("renames", [0, 1])
def test_a_write_that_is_cut_leaves_a_whole_one(tmp_path, renames, monkeypatch):
    folder = saved(tmp_path, 1, 2)
    done = []

    def rename(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(1)
        source.rename(target)

    monkeypatch.setattr("peftbench.training.checkpoint.os.rename", rename)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 3)
    monkeypatch.undo()
    told = []
    assert value_of(folder, told.append) == 2
    assert not told
    assert value_of(saved(tmp_path, 4)) == 4


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)], random.gauss(0, 1)


def test_random_states_survive_the_file(tmp_path):
    seed_everything(7)
    first = draws()
    save_checkpoint(tmp_path / "checkpoint", random_states(CPU))
    after = draws()
    set_random_states(load_checkpoint(tmp_path / "checkpoint"), CPU)
    assert draws() == after != first
    seed_everything(7)
    assert draws() == first
