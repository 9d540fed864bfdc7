"""Own code by import path: a run is trained with it, indexed, measured and searched."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from small_run import call

pytestmark = pytest.mark.usefixtures("quick_pictures")

CODE = {
    "my_losses.py": """
import torch
from torch import nn

class MyLoss(nn.Module):
    def __init__(self, num_classes, embedding_size, margin=0.5):
        super().__init__()
        self.margin = margin
        self.centres = nn.Parameter(torch.eye(num_classes, embedding_size))

    def forward(self, embeddings, labels):
        return torch.nn.functional.cross_entropy(embeddings @ self.centres.T / self.margin, labels)
""",
    "my_nets.py": """
from my_layers import pooled
from torch import nn

def build(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU(), *pooled())
""",
    "my_layers.py": """
from torch import nn

def pooled():
    return nn.AdaptiveAvgPool2d(2), nn.Flatten()
""",
    "my_data.py": """
from retrieval.data import images_in

def read(root, keep=7):
    return {
        split: images_in(root / split).select([i for i in range(len(images_in(root / split))) if i % 7 < keep])
        for split in ("train", "test")
    }
""",
    "my_hooks.py": """
class Log:
    def __init__(self, file="log.txt"):
        self.file = file

    def epoch(self, run, epoch, figures):
        with open(self.file, "a") as file:
            print(epoch, figures["loss"], sorted(name for name in figures if name.endswith("recall@1")), file=file)
""",
    "my_optimizers.py": """
import torch

def sgd(groups, lr, momentum=0.9):
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)
""",
}

SMALL = [
    *("image.size=32", "image.resize=32", "image.augmentation=character", "model.pretrained=false"),
    *("model.embedding_dim=16", "data.workers=0", "batch.size=8", "batch.samples_per_class=2", "training.epochs=2"),
    *("device=cpu", "data.validation_share=0.25", "training.learning_rate=0.01"),
]
OWN = [
    *("data.name=my_data.py:read", "model.backbone=my_nets.py:build", "model.backbone_options={width: 4}"),
    *("loss.name=my_losses.py:MyLoss", "loss.options={margin: 0.25}", "training.optimizer=my_optimizers.py:sgd"),
    "training.callbacks=[my_hooks.py:Log, {name: 'my_hooks.py:Log', options: {file: second.txt}}]",
]


def own_code(folder: Path) -> None:
    for name, text in CODE.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def code_folder(tmp_path_factory) -> Path:
    """A folder with own code, in which the tests of this module share a run."""
    folder = tmp_path_factory.mktemp("own")
    own_code(folder)
    return folder


@pytest.fixture
def here(code_folder, monkeypatch) -> Path:
    """The folder with own code as the current folder."""
    monkeypatch.chdir(code_folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return code_folder


def train(capsys, images: Path, *more: str) -> tuple[int, str, str]:
    return call(capsys, "train", "--config", "glyphs", f"data.root={images}", *SMALL, *OWN, *more)


@pytest.fixture
def run(here, images, capsys) -> str:
    """The folder of a trained run; trained by the first test that asks for it."""
    if not Path("run").exists():
        code, _, err = train(capsys, images, "--out", "run")
        assert code == 0, err
    return "run"


def test_a_run_with_own_code_everywhere_trains_and_calls_it(run, here):
    results = json.loads(Path("run/results.json").read_text())
    assert results["last"]["queries"] == 28
    assert "frozen features" not in results
    log = Path("log.txt").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["1", "2"]
    assert log == Path("second.txt").read_text().splitlines()
    assert "['validation recall@1']" in log[0]
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line.split()[1] for line in log] == [str(row["loss"]) for row in rows[1:]]  # after that of the start
    config = Path("run/config.yaml").read_text()
    for name in (
        "my_data.py:read",
        "my_nets.py:build",
        "my_losses.py:MyLoss",
        "my_optimizers.py:sgd",
        "my_hooks.py:Log",
    ):
        assert name in config


def test_options_reach_own_code(run):
    from retrieval.training import load_checkpoint

    state = load_checkpoint("run/last.safetensors")
    assert state["model"]["backbone.0.weight"].shape == (4, 3, 3, 3)
    assert state["loss"]["centres"].shape == (6, 16)
    assert "momentum_buffer" in next(iter(state["optimizer"]["state"].values()))


def test_the_run_is_indexed_measured_and_searched_from_the_same_folder(run, images, capsys, tmp_path):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    code, _, err = call(capsys, "index", run, "--split", "test", "--out", str(tmp_path / "index"))
    assert code == 0, err
    assert {"model.onnx", "model.json"} < {path.name for path in (tmp_path / "index").iterdir()}
    assert not (tmp_path / "index" / "model.safetensors").exists()
    code, out, err = call(capsys, "recall", str(tmp_path / "index"), "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads(Path("run/results.json").read_text())["best by validation"]
    query = images / "test" / "class 09" / "3.png"
    code, out, err = call(capsys, "search", str(tmp_path / "index"), str(query), "--k", "3", "--json")
    assert code == 0, err
    first = json.loads(out)[0]["neighbours"][0]
    assert first["path"] == "class 09/3.png"
    assert first["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_its_index_needs_no_code_of_the_run_and_embeds_as_the_run_does(run, images, capsys, tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    assert call(capsys, "index", run, "--split", "test", "--out", str(tmp_path / "index"))[0] == 0
    photos = str(images / "test" / "class 08")
    assert call(capsys, "embed", run, photos, "--out", str(tmp_path / "by run"))[0] == 0
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "embed", "index", photos, "--out", "by index")
    assert code == 0, err
    by_run, by_index = (np.load(tmp_path / name / "vectors.npy") for name in ("by run", "by index"))
    np.testing.assert_allclose(by_index, by_run, atol=1e-4)
    shutil.copytree(images / "test", "moved")
    shutil.copy("moved/class 08/0.png", "moved/new.png")
    code, _, err = call(capsys, "index", "add", "index", "moved/new.png", "--class", "x", "--root", "moved")
    assert code == 0, err


@pytest.mark.slow
def test_the_report_of_a_run_with_own_code_is_written(run, capsys):
    code, out, err = call(capsys, "report", run)
    assert code == 0, err
    assert out.startswith("report    run/report.html\n")


def test_the_run_is_resumed_with_its_own_code(run, images, capsys, tmp_path):
    shutil.copytree(run, "stopped")
    code, _, err = call(capsys, "train", "--out", "stopped", "--resume", "training.max_steps=20")
    assert code == 0, err
    assert json.loads(Path("stopped/results.json").read_text()) == json.loads(Path("run/results.json").read_text())


def test_a_run_with_code_in_a_file_is_used_from_another_folder(run, here, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "index", str(here / "run"), "--out", "index")
    assert code == 0, err


def test_code_that_has_moved_is_missed_in_one_line(run, here, capsys, tmp_path):
    (here / "my_nets.py").rename(tmp_path / "my_nets.py")
    code, out, err = call(capsys, "index", str(here / "run"), "--out", "index")
    (tmp_path / "my_nets.py").rename(here / "my_nets.py")  # the tests share the folder
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "my_nets.py: no such file" in err


def test_a_run_that_names_code_of_a_library_or_of_its_own_folder_is_refused(run, here, capsys, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "received")
    monkeypatch.chdir(tmp_path)
    own_code(tmp_path)
    text = Path("received/config.yaml").read_text()
    (tmp_path / "received" / "evil.py").write_text("raise AssertionError('it ran')")
    for own in (
        "my_nets.py:build",
        "my_data.py:read",
        "my_losses.py:MyLoss",
        "my_optimizers.py:sgd",
        "my_hooks.py:Log",
    ):
        for evil in ("shutil:rmtree", "os:system", "received/evil.py:run"):
            Path("received/config.yaml").write_text(re.sub(rf"\S*{re.escape(own)}", evil, text))
            commands = [["train", "--out", "received", "--resume"]]
            commands += [["index", "received", "--out", "index"]] * (own.startswith(("my_nets", "my_data")))
            for command in commands:
                code, out, err = call(capsys, *command)
                assert (code, out, err.count("\n")) == (1, "", 1), err
                assert re.search(rf"names code that is not in a file of yours \(\S*{re.escape(evil)}\)", err)
                assert "RETRIEVAL_TRUST_CODE=1" in err
    assert Path("received/last.safetensors").is_file()


def test_an_error_of_own_code_is_told_from_a_fault_of_the_program(here, images, capsys):
    Path("my_faults.py").write_text(
        "from torch import nn\n"
        "class Flat(nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images.mean()\n"
        "def flat():\n"
        "    return Flat()\n"
        "def number():\n"
        "    return 3\n"
    )
    for backbone, message in (
        ("my_faults.py:flat", "model: Flat returns () for one image, expected features (1, width)"),
        (
            "my_faults.py:number",
            f"model: {here}/my_faults.py:number returned a value of type int, expected a torch.nn.Module",
        ),
    ):
        words = ("model.backbone_options={}", f"model.backbone={backbone}", "--out", "fails")
        code, out, err = call(
            capsys, "train", "--config", "glyphs", f"data.root={images}", *SMALL, "data.name=folder", *words
        )
        assert (code, out) == (2, ""), err
        assert err == f"error: {message}\n"
    assert not Path("fails").exists()
