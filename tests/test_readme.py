"""The README's commands exist, and its transcript is what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import command_words
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
