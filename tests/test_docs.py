"""The commands of the README and the documentation exist, their snippets run, and the transcript is what the commands print."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import command_words
import numpy as np
import pytest
import torch
from retrieval.cli import run

from retrieval.data import DATASETS, read_dataset

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))
}


def blocks(text: str, *languages: str) -> list[str]:
    """The blocks of code of a page in some languages."""
    return [
        block for language, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL) if language in languages
    ]


TRANSCRIPT = blocks(PAGES[Path("docs/quickstart.md")], "console")[0]


def commands() -> list[list[str]]:
    """The words of every `retrieval ...` line in the pages' blocks for a shell."""
    lines = [
        line.removeprefix("$ ")
        .replace("torchrun --nproc_per_node 4 -m retrieval.cli", "retrieval")
        .replace("$SLURM_ARRAY_TASK_ID", "1")
        for page in PAGES.values()
        for block in blocks(page, "bash", "console")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("retrieval ")]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_pages_exists_with_its_options(words):
    command_words.check(words)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_file_leads_to_one(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (ROOT / page.parent / target.partition("#")[0]).exists(), target


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_script_that_the_pages_name_exists():
    named = {name for page in PAGES.values() for name in re.findall(r"(?<!tests/)\bscripts/\w+\.(?:py|sh)", page)}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def masked(text: str) -> list[str]:
    """The lines with every number made alike."""
    text = text.replace(" -\n", " #\n")  # no figure
    text = re.sub(r", [0-9]+ decided by a tie", "", text)
    text = text.replace("the start, the best by validation", "epoch #, the best by validation")  # after two steps
    return [" ".join(re.sub(r"[0-9]+", "#", line).split()) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_transcript_is_what_the_commands_print(tmp_path, monkeypatch, capsys):
    few = {split: images.select(range(1_200)) for split, images in read_dataset("glyphs").items()}
    monkeypatch.setitem(DATASETS, "glyphs", lambda root=None: few)
    monkeypatch.chdir(tmp_path)
    shown = re.split(r"^\$ ", TRANSCRIPT, flags=re.MULTILINE)[1:]
    for step in shown:
        line, _, expected = step.partition("\n")
        words = shlex.split(line)[1:]
        if words[0] == "train":  # as long as the README's takes minutes
            words += ["training.epochs=1", "training.max_steps=2", "data.workers=0"]
        assert run(words) == 0
        assert masked(capsys.readouterr().out) == masked(expected), line


SCRIPTS = blocks(PAGES[Path("docs/python.md")], "python")

MY_CODE = """
import numpy as np
import torch
from PIL import Image


class MyDataset(torch.utils.data.Dataset):
    def __len__(self):
        return 480

    def __getitem__(self, index):
        shades = np.random.default_rng(index // 6).integers(0, 256, (5, 5, 3))
        shades = shades + np.random.default_rng(index).integers(-20, 21, (5, 5, 3))
        return Image.fromarray(shades.clip(0, 255).astype(np.uint8)).resize((40, 40), 0), f"class {index // 6}"


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
    for script in blocks(README, "python")[:1]:
        Path("runs/mine/index-all").symlink_to(Path("photos-index").absolute())
        shutil.copy("query.jpg", "photo.jpg")
        exec(script, names)
    assert names["hits"][0].path == "cat/1.jpg"
    assert names["run"].path == Path("runs/own-network")
    assert len(next(iter(names["loader"]))[1].unique()) == 8
    capsys.readouterr()


@pytest.mark.parametrize("page", [Path("README.md"), Path("docs/loss.md")], ids=str)
def test_the_loop_with_the_loss_runs(page):
    model = torch.nn.Linear(8, 4)
    names = {
        "model": model,
        "loader": [(torch.randn(16, 8), torch.arange(16) // 4)],
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }
    before = model.weight.detach().clone()
    exec(next(script for script in blocks(PAGES[page], "python") if "loss.backward()" in script), names)
    assert not torch.equal(before, model.weight)


def test_the_snippets_of_the_other_pages_run(capsys):
    names: dict[str, object] = {}
    for page in ("docs/solvers.md", "docs/extending.md"):
        for script in blocks(PAGES[Path(page)], "python"):
            exec(script, names)
    assert names["ranks"].tolist() == [3, 1, 2]
    assert names["scores"].grad[0] == names["scores"].grad.min()  # descent raises the first score
    assert names["MyLoss"]()(torch.eye(4), torch.arange(4) // 2) > 0
    assert capsys.readouterr().out.startswith("[3.0, 1.0, 2.0] tensor(")


def test_the_extras_that_the_readme_names_exist():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = set(settings["options.extras_require"])
    text = README.partition("Extras: ")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", text)) <= extras


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; it comes with the extra docs")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        asked = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", page.read_text(encoding="utf-8")
        )
        assert asked == [], page
    options = (tmp_path / "site" / "reference" / "configuration.html").read_text(encoding="utf-8")
    assert "training.learning_rate" in options
    assert "<math" in (tmp_path / "site" / "closed_form.html").read_text(encoding="utf-8")
