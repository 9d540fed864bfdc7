"""The README's commands exist, and its transcript is what they print."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import command_words
import numpy as np
import pytest
from retrieval.cli import run

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
TRANSCRIPT = next(block for language, block in BLOCKS if language == "console")


def commands() -> list[list[str]]:
    """The words of every `retrieval ...` line in the README's blocks for a shell."""
    lines = [
        line.removeprefix("$ ")
        for language, block in BLOCKS
        if language in ("bash", "console")
        for line in block.splitlines()
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("retrieval ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_readme_exists_with_its_options(words):
    command_words.check(words)


def masked(text: str) -> list[str]:
    """The lines with every number made alike."""
    text = text.replace(" -\n", " #\n")  # no figure
    text = re.sub(r", [0-9]+ decided by a tie", "", text)
    text = text.replace("the start, the best by validation", "epoch #, the best by validation")  # after two steps
    return [" ".join(re.sub(r"[0-9]+", "#", line).split()) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_transcript_is_what_the_commands_print(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = re.split(r"^\$ ", TRANSCRIPT, flags=re.MULTILINE)[1:]
    for step in shown:
        line, _, expected = step.partition("\n")
        words = shlex.split(line)[1:]
        if words[0] == "train":  # as long as the README's takes minutes
            words += ["training.epochs=1", "training.max_steps=2", "data.workers=0"]
        assert run(words) == 0
        assert masked(capsys.readouterr().out) == masked(expected), line


FROM_PYTHON = README.partition("## From Python")[2].partition("\n## ")[0]
SCRIPTS = re.findall(r"```python\n(.*?)```", FROM_PYTHON, flags=re.DOTALL)

MY_CODE = """
import numpy as np
import torch
from PIL import Image


class MyDataset(torch.utils.data.Dataset):
    def __len__(self):
        return 480

    def __getitem__(self, index):
        shade = np.random.default_rng(index // 6).integers(0, 256, (40, 40, 3))
        noise = np.random.default_rng(index).integers(-20, 21, (40, 40, 3))
        return Image.fromarray((shade + noise).clip(0, 255).astype(np.uint8)), f"class {index // 6}"


class MyNetwork(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(192, 16))


class MyLoss(torch.nn.Module):
    def forward(self, embeddings, labels):
        same = (labels[:, None] == labels).float()
        return ((torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(embeddings).T - same) ** 2).mean()
"""


def test_the_scripts_from_python_have_at_most_five_lines():
    assert len(SCRIPTS) == 7
    for script in SCRIPTS:
        lines = [line for line in script.splitlines() if line.strip()]
        assert len(lines) <= 5, script


@pytest.mark.slow
def test_the_scripts_from_python_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_code", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_code.py").write_text(MY_CODE)
    names: dict[str, object] = {}
    exec(f"{MY_CODE}\nimport retrieval", names)
    for index in range(480):
        image, label = names["MyDataset"]()[index]
        file = Path("photos", "cat" if index < 6 else label, f"{index % 6}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    shutil.copy("photos/cat/1.jpg", "query.jpg")
    options = ["training.epochs=1", "data.workers=0", "device=cpu"]
    assert (
        run(["train", "--config", "glyphs", "--out", "runs/mine", "data.name=folder", "data.root=photos", *options])
        == 0
    )
    assert run(["index", "runs/mine", "--images", "photos", "--out", "photos-index"]) == 0
    names |= {"vectors": np.random.default_rng(0).normal(size=(40, 8)), "labels": [f"{i // 2}" for i in range(40)]}
    names["transform"] = np.array
    for script in SCRIPTS:
        exec(script, names)
        if "model.encode" in script:
            assert names["vectors"].shape == (2, 128)
            names["vectors"] = np.random.default_rng(0).normal(size=(40, 8))
    assert names["hits"][0].path == "cat/1.jpg"
    assert names["run"].path == Path("runs/own-network")
    assert len(next(iter(names["loader"]))[1].unique()) == 8
    capsys.readouterr()
