"""Properties of every command."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import command_words
import pytest
from small_run import SMALL, call

from retrieval import cli

pytestmark = pytest.mark.usefixtures("quick_pictures")


def all_commands(command: click.Command = cli.retrieval, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The names of every command and group, with those of its groups before it."""
    inner = command.commands.items() if isinstance(command, click.Group) else ()
    return [words, *(found for name, part in inner for found in all_commands(part, (*words, name)))]


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = cli.retrieval
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


EVERY = [pytest.param(words, id=" ".join(("retrieval", *words))) for words in all_commands()]
WORKING = [it for it in EVERY if not isinstance(command_of(it.values[0]), click.Group)]


@pytest.mark.parametrize("words", EVERY)
def test_help_has_examples_and_fits_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capsys, *words, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    _, _, examples = out.partition("\n  Examples:\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    assert "..." not in out.partition("\nCommands:")[2].partition("\n\n")[0]  # what a group says of a command is whole


@pytest.mark.parametrize("words", EVERY)
def test_the_examples_are_commands_that_exist_with_their_options(words):
    epilog = (command_of(words).epilog or "").replace("\\\n", "")
    lines = [line.strip() for line in epilog.splitlines() if " retrieval " in f" {line.strip()}"]
    for line in lines:
        words = re.split(r" retrieval |^retrieval |retrieval\.cli ", line)[-1].split(" > ")[0].split(" >> ")[0]
        command_words.check(shlex.split(words))


@pytest.mark.parametrize("words", WORKING)
def test_quiet_and_debug_are_options_of_every_command(words):
    names = {name for parameter in command_of(words).params for name in parameter.opts}
    assert names >= {"--quiet", "--verbose", "--debug"}


@pytest.mark.parametrize("words", WORKING)
def test_every_command_has_the_option_json(words):
    names = {name for parameter in command_of(words).params for name in parameter.opts}
    assert "--json" in names or words == ("completion",)


@pytest.mark.slow
def test_help_is_the_same_without_docstrings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    program = "from retrieval import cli; cli.run(['--help']); cli.run(['train', '--help'])"
    command = [sys.executable, "-OOB", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == call(capsys, "--help")[1] + call(capsys, "train", "--help")[1]


@pytest.mark.slow
def test_json_is_alone_on_stdout_and_quiet_leaves_nothing_on_stderr(run, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index, query = run / "index-test", images / "test" / "class 09" / "3.png"
    shutil.copytree(images / "test", "photos")
    with tarfile.open("photos.tar", "w") as archive:
        archive.add("photos", arcname=".")
    for command in (
        ["config", "list"],
        ["config", "show", "glyphs"],
        ["config", "check", "glyphs"],
        ["data", "list"],
        ["data", "describe", "cub200"],
        ["data", "verify", "folder", "--root", images],
        ["data", "prepare", "folder", "photos.tar", "--root", "unpacked"],
        ["runs", run.parent],
        ["recall", index],
        ["recall", index, "--per-class"],
        ["recall", index, "--qe", "2"],
        ["compare", index, index],
        ["search", index, query, "--picture", "found.png"],
        ["embed", run, query, "--out", "embedded"],
        ["export", "npy", index, "--out", "exported"],
        ["index", run, "--images", "photos", "--out", "index", "--thumbnails"],
        ["index", "remove", "index", "class 09/3.png"],
        ["index", "add", "index", "photos/class 09/3.png"],
        ["index", "merge", "index", "--out", "merged"],
        ["report", "merged"],
    ):
        code, out, err = call(capsys, *map(str, command), "--json", "--quiet")
        assert (code, err) == (0, "")
        assert json.loads(out)
    code, out, _ = call(capsys, "config", "check", "glyphs", "sede=1", "--json")
    assert code == 2
    assert json.loads(out) == {
        "source": "glyphs",
        "mistakes": ["command line: unknown key 'sede'; did you mean seed?"],
    }


def test_quiet_leaves_nothing_on_stderr_and_json_alone_on_stdout(images, tmp_path, capsys, monkeypatch):
    log = logging.getLogger("retrieval")
    seen: list[str] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    watch = Watch()
    log.addHandler(watch)
    try:
        words = ["train", f"data.root={images}", *SMALL, "training.max_steps=1", "--json"]
        for quiet in (["--quiet"], []):
            seen.clear()
            code, out, _ = call(capsys, *words, "--out", str(tmp_path / f"run{len(quiet)}"), *quiet)
            assert code == 0
            json.loads(out)
            assert bool(seen) == (not quiet)
        seen.clear()
        assert call(capsys, "--quiet", *words, "--out", str(tmp_path / "run"))[0] == 0
        assert seen == []
    finally:
        log.removeHandler(watch)


def test_a_group_without_a_command_prints_its_commands(capsys):
    for words in ((), ("data",), ("index",), ("export",), ("config",)):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, "")
        assert "Commands:" in err


def test_debug_before_or_after_the_command_shows_the_traceback(capsys):
    for words in (("--debug", "recall", "none"), ("recall", "none", "--debug")):
        code, _, err = call(capsys, *words)
        assert code == 1
        assert "Traceback" in err
        assert "error: none: " in err


def test_ctrl_c_prints_one_word_and_exits_with_130(capsys, monkeypatch):
    from retrieval.index import Index

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "open", interrupted)
    code, out, err = call(capsys, "recall", "x")
    assert (code, out, err.split()) == (130, "", ["interrupted"])


def test_index_commands_show_their_progress_on_a_terminal(run, images, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shutil.copytree(images / "test", tmp_path / "images")
    built = ["index", run, "--images", tmp_path / "images", "--out", tmp_path / "index", "--thumbnails"]
    new = tmp_path / "images" / "new.png"
    for command in (built, ["index", "add", tmp_path / "index", new, "--class", "a"]):
        monkeypatch.setattr(sys, "stderr", screen := Terminal())
        assert cli.run(list(map(str, command))) == 0
        for what in ("embedding", "thumbnails"):
            assert f"{what}:   0%" in screen.getvalue()
        shutil.copy(images / "test" / "class 08" / "0.png", new)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_stdout_on_a_full_disk_is_one_line(tmp_path):
    for words in (["config", "list"], ["--help"]):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run(
                [sys.executable, "-m", "retrieval.cli", *words],
                check=False,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert (done.returncode, done.stderr) == (1, "error: stdout: cannot be written (No space left on device)\n")


def test_a_closed_pipe_is_not_a_fault(run, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return spare.fileno()

    with open("/dev/null", "w") as spare:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", Closed())
        assert cli.run(["recall", str(run / "index-test")]) == 1


@pytest.mark.parametrize("words", [["--quiet", "--verbose"], ["--verbose", "--quiet"]])
def test_quiet_and_verbose_exclude_each_other(capsys, words):
    code, out, err = call(capsys, "runs", "list", ".", *words)
    assert (code, out) == (2, "")
    assert "error: --quiet and --verbose exclude each other" in err
