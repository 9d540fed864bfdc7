from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieval.errors import CheckpointError
from retrieval.training import load_checkpoint, save_checkpoint


def state() -> dict:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator)
    return {
        "model": {"a.weight": weight, "tied": weight, "steps": torch.tensor(7), "half": weight.half()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
            "groups": [{"lr": 1e-3, "betas": [0.9, 0.99], "name": None}],
        },
        "rows": [{"epoch": 1, "loss": 0.25}],
        "done": False,
        "random": torch.get_rng_state(),
    }


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right) and left.dtype == right.dtype
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right and type(left) is type(right)


def test_a_state_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", state())
    assert same(load_checkpoint(tmp_path / "last.safetensors"), state())


def test_any_safetensors_reader_finds_the_weights(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", state())
    assert torch.equal(load_file(tmp_path / "last.safetensors")["model.a.weight"], state()["model"]["a.weight"])


def test_an_optimizer_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path):
    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (model(torch.ones(1, 3)) ** 2).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path / "c", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    steps(model, optimizer, 3)

    other = torch.nn.Linear(3, 2)
    resumed = torch.optim.AdamW(other.parameters())
    stored = load_checkpoint(tmp_path / "c")
    other.load_state_dict(stored["model"])
    resumed.load_state_dict(stored["optimizer"])
    steps(other, resumed, 3)
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_every_altered_byte_and_every_cut_is_noticed(tmp_path):
    file = tmp_path / "last.safetensors"
    save_checkpoint(file, state())
    good, rng = file.read_bytes(), random.Random(0)
    for _ in range(150):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        try:
            loaded = load_checkpoint(file)
        except CheckpointError:
            continue
        assert same(loaded, state())  # a space of the header's padding
    for length in (0, 7, 8, 100, len(good) - 1):
        file.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"last\.safetensors"):
            load_checkpoint(file)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not a checkpoint of a training run"):
        load_checkpoint(tmp_path / "foreign")
    torch.save({"x": torch.zeros(2)}, tmp_path / "pickle")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path / "pickle")


def test_what_is_neither_tensor_nor_plain_value_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"a\.b: a set cannot be stored"):
        save_checkpoint(tmp_path / "c", {"a": {"b": {1}}})
    assert not any(tmp_path.iterdir())
