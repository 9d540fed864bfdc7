"""Completion in a shell, by click, with the names that this program knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import call

from retrieval import cli

SCRIPT = Path(sys.executable).parent / "retrieval"


def complete(capsys, monkeypatch, line: str) -> list[tuple[str, str]]:
    """The kind and the text of every completion of a line in bash."""
    words = line.split(" ")
    monkeypatch.setenv("_RETRIEVAL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    code, out, err = call(capsys)
    assert (code, err) == (0, "")
    return [tuple(item.split(",", 1)) for item in out.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("retrieval rec", {("plain", "recall")}),
        ("retrieval data des", {("plain", "describe")}),
        ("retrieval recall x --per", {("plain", "--per-class")}),
        ("retrieval train --config gly", {("file", "gly"), ("plain", "glyphs")}),
        ("retrieval config show cub200_p", {("file", "cub200_p")}),
        ("retrieval config check omni", {("file", "omni"), ("plain", "omniglot")}),
        ("retrieval data verify c", {("plain", "cars196"), ("plain", "csv"), ("plain", "cub200")}),
        ("retrieval data describe sop", {("plain", "sop")}),
        ("retrieval data prepare in", {("plain", "inshop")}),
        ("retrieval search x --device cu", {("plain", "cuda")}),
        ("retrieval index runs/x --type h", {("plain", "hnsw")}),
        ("retrieval export onnx runs/x --checkpoint b", {("plain", "best")}),
        ("retrieval recall ru", {("file", "ru")}),
        ("retrieval search x ph", {("file", "ph")}),
        ("retrieval report x --out re", {("file", "re")}),
        ("retrieval index rem", {("plain", "remove"), ("dir", "rem")}),
        ("retrieval index runs/x --imag", {("plain", "--images")}),
        ("retrieval index ru", {("dir", "ru")}),
        ("retrieval completion z", {("plain", "zsh")}),
    ],
)
def test_commands_options_names_and_paths_are_completed(capsys, monkeypatch, line, expected):
    assert set(complete(capsys, monkeypatch, line)) == expected


def test_the_completed_data_sets_are_all_data_sets():
    from retrieval.cli.parameters import DATASET

    from retrieval.data import DATASETS

    assert list(DATASET.words()) == sorted(DATASETS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(capsys, shell):
    code, out, err = call(capsys, "completion", shell)
    assert (code, err) == (0, "")
    assert f"_RETRIEVAL_COMPLETE={shell}_complete" in out
    found = shutil.which(shell)
    if found:
        subprocess.run([found, "-n"], input=out, text=True, check=True)


def test_another_shell_is_refused(capsys):
    code, out, err = call(capsys, "completion", "tcsh")
    assert (code, out) == (2, "")
    assert "'bash', 'zsh', 'fish'" in err


def test_bash_completes_with_the_script(tmp_path):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    # compopt, which click's script calls, complains outside of a completion.
    program = f"""
PATH={SCRIPT.parent}:$PATH
eval "$(retrieval completion bash)"
COMP_WORDS=(retrieval train --config glyp)
COMP_CWORD=3
$(complete -p retrieval | sed 's/.*-F \\([^ ]*\\).*/\\1/') retrieval glyp --config 2>/dev/null
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ
    )
    assert done.stdout == "glyphs\n"


def test_completion_imports_nothing_heavy():
    program = (
        "import os, sys; from retrieval import cli\n"
        "os.environ |= {'_RETRIEVAL_COMPLETE': 'bash_complete', 'COMP_WORDS': sys.argv[1], 'COMP_CWORD': '3'}\n"
        "cli.run([])\n"
        "sys.exit(','.join(sorted({'torch', 'timm', 'numpy', 'faiss', 'matplotlib'} & set(sys.modules))) or 0)"
    )
    for line in ("retrieval data verify c", "retrieval train --config g", "retrieval recall x --device "):
        done = subprocess.run([sys.executable, "-c", program, line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_run_answers_the_completion_requests_of_a_shell(capsys, monkeypatch):
    monkeypatch.setenv("_RETRIEVAL_COMPLETE", "bash_source")
    assert cli.run([]) == 0
    assert "complete" in capsys.readouterr().out
