from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from forked import SERVER
from safetensors.torch import load_file, save, save_file

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.training import PARTS, RunFolder, checkpoint, load_checkpoint, load_newest, restoring, save_checkpoint
from retrieval.training.checkpoint import not_finite


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


def test_a_loaded_state_equals_the_saved_one(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", state())
    assert same(load_checkpoint(tmp_path / "last.safetensors"), state())


def test_any_safetensors_reader_reads_the_weights(tmp_path):
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


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_checkpoint_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "last")
    with pytest.raises(CheckpointError, match=r"last: cannot be read \(it is a pipe\)"):
        load_checkpoint(tmp_path / "last")


def forge(path: Path, text: str, tensors: dict[str, torch.Tensor] | None = None) -> None:
    """Writes a checkpoint of any state, with the digest that fits it."""
    tensors = tensors or {"a": torch.zeros(1)}
    digest = checkpoint._digest(text, tensors)
    path.write_bytes(save(tensors, metadata={"format": checkpoint.FORMAT, "state": text, "sha256": digest}))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "{}",
            "7",
            '{"a": 1, "b": 2}',
            '{"tensor": "none"}',
            '{"tensor": ["a"]}',
            '{"code": "os.system"}',
        ),
        *(
            '{"dict": [1]}',
            '{"dict": [[[], 1]]}',
            '{"dict": [["a", NaN]]}',
            '{"dict": [["a", 1e999]]}',
            '{"dict": [["a", []]]}',
        ),
        *('{"dict": {"a": 1}}', '{"list": 7}', "[" * 100_000, '{"list": [' * 400 + "]}" * 400, "1" * 5000),
    ],
)
def test_a_state_that_is_none_is_refused_although_its_digest_fits(tmp_path, text):
    forge(tmp_path / "last", text)
    with pytest.raises(CheckpointError, match=r"last: (not a readable|its state is)") as caught:
        load_checkpoint(tmp_path / "last")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("key", PARTS)
def test_a_state_without_a_part_falls_back_to_the_one_before(tmp_path, caplog, key):
    whole = {name: type_() for name, type_ in PARTS.items()}
    save_checkpoint(tmp_path / "previous", whole)
    for given in ("7", -1, None, [1] if PARTS[key] is dict else {"a": 1}):
        save_checkpoint(tmp_path / "last", {**whole, key: given})
        with pytest.raises(CheckpointError, match=f"last: its {key} is .*, expected a value of type"):
            load_checkpoint(tmp_path / "last", PARTS)
        assert load_newest(tmp_path / "last", tmp_path / "previous", needs=PARTS) == whole
        assert "continuing from the previous checkpoint" in caplog.text


def test_a_state_of_other_parts_is_one_line():
    message = r"^last: its state is not that of this run \(RuntimeError: Error.* use another"
    with pytest.raises(CheckpointError, match=message), restoring(Path("last")):
        torch.nn.Linear(2, 2).load_state_dict({"weight": 7})
    with pytest.raises(CheckpointError, match=r"KeyError: 'none'"), restoring(Path("last")):
        _ = {}["none"]


@pytest.mark.parametrize("keys", [("a.b", "a"), (0, "0")])
def test_two_tensors_of_one_name_are_refused_before_one_is_lost(tmp_path, keys):
    one, other = keys
    twice = {one: torch.zeros(1), other: {"b": torch.ones(1)} if other == "a" else torch.ones(1)}
    with pytest.raises(ValueError, match="two tensors of the state"):
        save_checkpoint(tmp_path / "last.safetensors", twice)
    assert list(tmp_path.iterdir()) == []


def test_other_values_than_tensors_and_plain_ones_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"a\.b: a set cannot be stored"):
        save_checkpoint(tmp_path / "c", {"a": {"b": {1}}})
    assert not any(tmp_path.iterdir())


def number(path) -> int:
    return load_checkpoint(path)["number"]


def test_the_replaced_checkpoint_is_kept_under_another_name(tmp_path):
    last, previous = tmp_path / "last", tmp_path / "previous"
    for count in range(4):
        save_checkpoint(last, {"number": count}, keep=previous)
    assert (number(last), number(previous)) == (3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]


def test_a_damaged_or_missing_checkpoint_falls_back_to_the_one_before_with_a_warning(tmp_path, caplog):
    last, previous = tmp_path / "last", tmp_path / "previous"
    for count in range(2):
        save_checkpoint(last, {"number": count}, keep=previous)
    assert load_newest(last, previous)["number"] == 1
    assert not caplog.records

    last.write_bytes(last.read_bytes()[:-1])
    assert load_newest(last, previous)["number"] == 0
    assert "last: not a readable safetensors file" in caplog.text
    assert "continuing from the previous checkpoint previous" in caplog.text
    last.unlink()
    assert load_newest(last, previous)["number"] == 0

    previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match="last: no such checkpoint"):
        load_newest(last, previous)


def test_a_checkpoint_that_is_refused_falls_back_too(tmp_path, caplog):
    def check(state):
        return "too new" if state["number"] > 0 else None

    last, previous = tmp_path / "last", tmp_path / "previous"
    for count in range(2):
        save_checkpoint(last, {"number": count}, keep=previous)
    assert load_newest(last, previous, check=check)["number"] == 0
    assert f"{last}: too new; continuing from the previous checkpoint previous" in caplog.text
    with pytest.raises(CheckpointError, match="last: too new; no other checkpoint can be used: start a new run"):
        load_newest(last, check=check)


def test_tensors_that_are_not_finite_are_named_by_their_place():
    state = {
        "a": torch.ones(2),
        "b": [1, torch.tensor([math.nan]), {3: torch.tensor(-math.inf)}],
        "c": torch.ones(1).int(),
    }
    assert not_finite(state) == ["b.1", "b.2.3"]


def test_a_foreign_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    pickled, archive = tmp_path / "pickled", tmp_path / "archive"
    pickled.write_bytes(pickle.dumps({"model": Trap()}))
    torch.save({"model": Trap()}, archive)
    for file in (pickled, archive):
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load_checkpoint(file)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickled.read_bytes())  # the trap works
    assert (tmp_path / "sprung").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_only_the_old_checkpoints_and_is_one_line(small_disk):
    last, previous = small_disk / "last", small_disk / "previous"
    weights = {"weights": torch.zeros(100_000)}  # 400 kB: five do not fit
    for count in range(2):
        save_checkpoint(last, {"number": count} | weights, keep=previous)
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(
        RetrievalError, match=r"last: cannot be written \(.*No space left.*\); any previous content is unchanged"
    ) as caught:
        save_checkpoint(last, {"number": 2} | weights, keep=previous)
    assert "\n" not in str(caught.value)
    assert (number(last), number(previous)) == (1, 0)
    assert sorted(path.name for path in small_disk.iterdir()) == ["last", "other", "previous"]


def test_a_write_that_fails_leaves_both_checkpoints_and_one_name_is_enough_for_a_file(tmp_path, monkeypatch):
    def no_space(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    last, previous = tmp_path / "last", tmp_path / "previous"
    for count in range(2):
        save_checkpoint(last, {"number": count}, keep=previous)
    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", no_space)
        with pytest.raises(RetrievalError, match="No space left"):
            save_checkpoint(last, {"number": 2}, keep=previous)
    assert (number(last), number(previous)) == (1, 0)
    with monkeypatch.context() as failing:  # a file system that knows no second name for a file
        failing.setattr(Path, "hardlink_to", no_space)
        save_checkpoint(last, {"number": 2}, keep=previous)
    assert (number(last), number(previous)) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]


def save_for_ever(folder, saved):
    run = RunFolder(folder)
    with run.hold():
        first = run.load_last()["number"] + 1 if run.last.exists() else 0
        for number in itertools.count(first):
            run.save_last({"number": number, "weights": torch.full((200_000,), float(number))})
            saved.send(number)


def until_the_end(receiver):
    with contextlib.suppress(EOFError):
        while True:
            yield receiver.recv()


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_usable_checkpoint(tmp_path):
    rng, last = random.Random(0), -1
    for _ in range(20):
        receiver, sender = SERVER.Pipe(duplex=False)
        process = SERVER.Process(target=save_for_ever, args=(tmp_path, sender))
        process.start()
        sender.close()
        assert receiver.poll(60)
        saved = [receiver.recv()]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        saved += until_the_end(receiver)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert saved[0] == last + 1  # it went on from there
        for path in (tmp_path / "last.safetensors", tmp_path / "previous.safetensors"):
            if path.exists():  # each of them is whole, not only one
                state = load_checkpoint(path)
                assert state["weights"].eq(state["number"]).all()
        last = RunFolder(tmp_path).load_last()["number"]
        assert last in (saved[-1], saved[-1] + 1)
    assert len(list(tmp_path.glob(".*.tmp"))) <= 1  # the next run clears it away
