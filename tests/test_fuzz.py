"""Files altered at random: each is refused by one line of the project, or read as what it says; none hangs or crashes.

Altered bundles are in index/test_fuzz.py and descriptions of models in model/test_description.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from index import bundles
from mutation import mutate_bytes, mutate_tree
from safetensors.torch import save
from training.test_trainer import make_trainer, same, train

import retrieval
from retrieval.config import load
from retrieval.config.reading import to_yaml
from retrieval.errors import RetrievalError
from retrieval.files.arrays import read_array
from retrieval.index import arrays
from retrieval.index.bundle import read_bundle
from retrieval.runs.images import require_same_images
from retrieval.runs.record import Record, check_results, check_rows
from retrieval.training import PARTS, RunFolder, checkpoint, load_checkpoint, load_newest, restoring, save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a hang; all of them together need two minutes


COUNT = 600  # inputs of a test


def outcome(read: Callable[[], Any]) -> Any:
    """What is read, or None where it is refused in short lines of the project's own errors."""
    try:
        return read()
    except RetrievalError as error:
        lines = getattr(error, "mistakes", [str(error)])
        assert lines
        assert all(line and "\n" not in line and len(line) < 1500 for line in lines), lines
        return None


YAML = """\
# a configuration
seed: 3
data: {name: folder, root: "photos/\\u00e4", workers: 0, options: {a: [1, 2.5e-3, null], 'b': true}}
image:
  size: 32
  mean: [0.5, 0.5, 0.5]
loss:
  terms:
    - name: recall
      ks: [1, 2]
    - {name: triplet, weight: .5}
training:
  callbacks: [tensorboard]  # one
"""
PIECES = [
    *("&a ", "*a", "<<: *a", "!!bool ", "!!set ", "!x ", "!!binary ", "? ", "- ", ": ", "\n", "\t", "[", "]", "{", "}"),
    *("'", '"', "|\n", ">\n", "%YAML 9\n---\n", "---\n", "...\n", "\0", "\x1b", "\x85", "\ufeff", "\u2028", "#"),
    *('"\\ud800"', '"\\0"', '"\\UFFFFFFFF"', "[" * 3000, "- " * 3000, "9" * 5000, ".inf", "-.NaN", "0x10", "1_0", "~"),
]


def test_of_many_altered_configurations_each_is_refused_or_read_as_it_is_written_again(tmp_path):
    rng, file, read = random.Random(0), tmp_path / "c.yaml", 0
    for _ in range(COUNT):
        file.write_bytes(mutate_bytes(YAML.encode(), rng, [piece.encode("utf-8", "surrogatepass") for piece in PIECES]))
        if (config := outcome(lambda: load(file))) is not None:
            (tmp_path / "again.yaml").write_text(to_yaml(config), encoding="utf-8")
            assert load(tmp_path / "again.yaml") == config
            read += 1
    assert 30 < read < 570


def test_of_many_altered_overrides_each_is_refused_or_a_configuration():
    rng, read = random.Random(1), 0
    pieces = [piece.encode("utf-8", "surrogatepass") for piece in PIECES]
    for _ in range(COUNT):
        override = rng.choice(["seed=3", "loss.terms=[{name: triplet}]", "data.options={a: [1]}", "image.size=64"])
        words = mutate_bytes(override.encode(), rng, pieces).decode("utf-8", "surrogateescape")
        read += outcome(lambda words=words: load("glyphs", [words])) is not None
    assert 5 < read < 570


def saved(array: np.ndarray, version: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=version)
    return content.getvalue()


def test_of_many_altered_arrays_each_is_refused_or_of_the_size_of_its_file(tmp_path):
    rng, file, read = random.Random(2), tmp_path / "a.npy", 0
    vectors = np.random.default_rng(0).standard_normal((6, 4))
    originals = [
        saved(array, version)
        for array in (
            vectors,
            vectors.astype("<f4"),
            np.asfortranarray(vectors),
            np.arange(6),
            np.array(list("abcdef")),
        )
        for version in ((1, 0), (2, 0))
    ]
    pieces = [
        b"(",
        b")",
        b"L",
        b"-",
        b"'",
        b"{",
        b"\n",
        b"999999999999",
        b"'|O'",
        b"'<U0'",
        b"'<U7'",
        b"(" * 300,
        b"0x",
        b"1_0",
    ]
    for _ in range(COUNT):
        content = mutate_bytes(rng.choice(originals), rng, pieces)
        file.write_bytes(content)
        with contextlib.suppress(ValueError):
            assert content.endswith(read_array(file).tobytes("A"))
        found = outcome(lambda: unit_vectors(file))
        assert found is None or np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
        labels = outcome(lambda: arrays.read_labels(file, 6, "v.npy"))
        assert labels is None or len(labels["labels"]) == 6
        read += (found is not None) + (labels is not None)
    assert 30 < read < 570


def unit_vectors(file: Path) -> np.ndarray:
    with arrays.read_vectors(file, None) as rows:
        return np.array(rows.all())


def test_of_many_altered_files_of_labels_each_is_refused_or_has_a_label_for_each_vector(tmp_path):
    rng, read = random.Random(3), 0
    texts = {
        ".txt": "".join(f"class {i % 3}\n" for i in range(6)),
        ".csv": "id,label,path\n" + "".join(f'{i},"class {i % 3}",{i}.png\n' for i in range(6)),
        ".json": json.dumps([f"class {i % 3}" for i in range(6)]),
    }
    pieces = [piece.encode("utf-8", "surrogatepass") for piece in PIECES] + [b'"', b",", b"\r", b"\r\n", b"-1", b"\xff"]
    for number in range(COUNT):
        suffix = rng.choice(list(texts))
        file = tmp_path / f"labels{suffix}"
        content = mutate_bytes(texts[suffix].encode(), rng, pieces)
        if suffix == ".json" and number % 2:
            content = json.dumps(mutate_tree(json.loads(texts[".json"]), rng)).encode()
        file.write_bytes(content)
        labels = outcome(lambda file=file: arrays.read_labels(file, 6, "v.npy"))
        if labels is not None:
            assert [len(labels[key]) for key in ("ids", "labels", "paths") if labels[key] is not None] in (
                [6, 6],
                [6, 6, 6],
            )
            read += 1
    assert 30 < read < 570


def run_state() -> dict[str, Any]:
    trainer = make_trainer(average=True)
    train(trainer, 2)
    rows = [{"epoch": 1, "step": 2, "loss": 0.5, "validation recall@1": 0.5, "validation map@r": 0.25}]
    return {**trainer.state_dict(), "rows": rows, "results": {"untrained": {"recall@1": 0.5}}}


def restore(file: Path) -> bool:
    """Restores a run as `--resume` does."""
    state = load_checkpoint(file, PARTS)
    trainer = make_trainer(average=True)
    with restoring(file):
        record = Record(check_rows(state["rows"]), check_results(state["results"]))
        trainer.load_state_dict(state)
    record.best("validation")
    return True


def test_of_many_altered_checkpoints_each_is_refused_or_the_one_that_was_saved(tmp_path):
    rng, file, read = random.Random(4), tmp_path / "last.safetensors", 0
    state = run_state()
    save_checkpoint(file, state)
    save_checkpoint(tmp_path / "previous.safetensors", {**state, "step": 1})
    content, weights = file.read_bytes(), make_trainer().model
    weights.load_state_dict(state["model"])
    for _ in range(COUNT):
        file.write_bytes(mutate_bytes(content, rng, [b"\0", b'"', b"{", b"}", b"[" * 500, b"F64", b"999999999999"]))
        found = load_newest(file, tmp_path / "previous.safetensors", needs=PARTS)
        trainer = make_trainer(average=True)
        trainer.load_state_dict(found)
        assert same(trainer.model, weights)
        assert found["rows"] == state["rows"]
        assert found["step"] in (1, 2)
        read += found["step"] == 2
    assert read < 120  # only where padding was altered


def test_of_many_forged_checkpoints_with_a_right_digest_each_is_refused_or_restored(tmp_path):
    rng, file, read = random.Random(5), tmp_path / "last.safetensors", 0
    tensors: dict[str, torch.Tensor] = {}
    skeleton = checkpoint._take_tensors(run_state(), "", tensors)
    pieces = [
        b'{"tensor": "model.1.weight"}',
        b'{"list": []}',
        b'{"dict": []}',
        b"[" * 2000,
        b'{"list": [' * 400,
        b"NaN",
        b"1e999",
    ]
    kinds = [torch.float16, torch.int64, torch.bool, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
    for number in range(COUNT):
        forged, text = dict(tensors), json.dumps(skeleton)
        if number % 3 == 0:
            text = json.dumps(mutate_tree(skeleton, rng))
        elif number % 3 == 1:
            text = mutate_bytes(text.encode(), rng, pieces).decode("utf-8", "replace")
        else:
            name = rng.choice(list(forged))
            tensor = forged.pop(name)
            way = rng.randrange(4)
            if way == 0:
                forged[name] = tensor.to(rng.choice(kinds))
            elif way == 1:
                forged[name] = torch.zeros(rng.choice([(), (0,), (0, 10**6), (3, 3), (12, 8)]))
            elif way == 2:
                forged[f"{name}.more"] = tensor
        header = {"format": checkpoint.FORMAT, "state": text, "sha256": checkpoint._digest(text, forged)}
        file.write_bytes(save(forged, metadata=header))
        read += bool(outcome(lambda: restore(file)))
    assert 30 < read < 570


def test_of_many_damaged_records_each_is_a_damaged_run_or_a_legal_one(tmp_path):
    rng, read = random.Random(6), 0
    rows = [{"epoch": i, "step": 3 * i, "validation recall@1": i / 4, "validation map@r": i / 5} for i in range(3)]
    files = {
        "config.yaml": YAML,
        "environment.json": json.dumps({"data": {"train": "0a1b"}, "gpus": []}),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "metrics.csv": "epoch,step\n1,3\n",
        "results.json": json.dumps({"last (validation)": {"recall@1": 0.5, "map@r": 0.25}}),
    }
    pieces = [piece.encode("utf-8", "surrogatepass") for piece in PIECES] + [b"null", b"1e999", b"true", b'"x"']
    for number in range(COUNT):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        name = rng.choice(list(files))
        content = mutate_bytes(files[name].encode(), rng, pieces)
        if number % 2 and name.endswith("json"):
            content = json.dumps(mutate_tree(json.loads(files[name]), rng)).encode()
        (tmp_path / name).write_bytes(content)
        (summary,) = retrieval.list_runs(tmp_path)
        json.dumps(summary.to_dict(), allow_nan=False)
        run = retrieval.Run.open(tmp_path)
        for part in ("config", "metrics", "results", "best_epoch"):
            found = outcome(lambda run=run, part=part: [getattr(run, part)])
            read += found is not None
        outcome(lambda: require_same_images({}, RunFolder(tmp_path), ""))
    assert 900 < read < 2400


NAME_PIECES = [
    "\0",
    "\n",
    "\r",
    "\t",
    "\x1b",
    "\x85",
    "\u2028",
    "\ud800",
    "\udcff",
    "..",
    "/",
    "\\",
    "C:",
    "'",
    '"',
    ",",
    "é",
    "e\u0301",
    "日",
    " ",
]


def random_name(rng: random.Random) -> str:
    return "".join(rng.choice([*NAME_PIECES, *"abc"]) for _ in range(rng.randrange(1, 6)))


def test_of_many_bundles_with_random_names_each_is_refused_or_read_as_it_was_written(tmp_path):
    rng, read = random.Random(7), 0
    for _ in range(COUNT):
        given: dict[str, Any] = {
            "class_names": ["a", "b"],
            "paths": ["0.png", "1.png"],
            "images_root": "/photos",
            "split": "test",
        }
        place = rng.choice(list(given))
        given[place] = [given[place][0], random_name(rng)] if isinstance(given[place], list) else random_name(rng)
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        identity = np.eye(2, dtype=np.float32)
        numbers = {"vectors": identity, "ids": np.arange(2), "labels": np.arange(2), "model": None, "source": {}}
        bundle = outcome(lambda given=given, numbers=numbers: bundles.write(tmp_path / "index", **numbers, **given))
        if bundle is None:
            continue
        again = read_bundle(tmp_path / "index")
        assert [list(again.class_names), list(again.paths)] == [given["class_names"], given["paths"]]
        assert (again.manifest["images_root"], again.manifest["split"]) == (given["images_root"], given["split"])
        again.root.is_dir()
        read += 1
    assert 120 < read < 570


def test_of_many_random_names_of_configurations_and_parts_each_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(8)
    for _ in range(COUNT):
        name = random_name(rng).replace("\n", "")
        assert outcome(lambda name=name: load(name)) is None
        assert outcome(lambda name=name: retrieval.Model.load(name)) is None
        assert outcome(lambda name=name: retrieval.Index.open(name)) is None
