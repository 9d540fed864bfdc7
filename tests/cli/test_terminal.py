"""Whatever a name holds, it is shown on one line and without an effect on the terminal."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from retrieval.cli import output
from small_run import call

from retrieval.files import write_json

HOSTILE = "a\x1b[2J\x07\x9b31m\u202egpj\u2066"
SHOWN = "a\\u001b[2J\\u0007\\u009b31m\\u202egpj\\u2066"


def check_shown(text: str, name: str = SHOWN) -> None:
    assert name in text
    assert all(character.isprintable() or character == "\n" for character in text), text


@pytest.fixture
def vectors(tmp_path, monkeypatch) -> list[str]:
    """Vectors and labels of hostile names, as arguments of a command."""
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", np.random.default_rng(0).standard_normal((12, 4)))
    labels = [f"\u202e{number % 3}=" for number in range(12)]
    Path("labels.json").write_text(json.dumps(labels))
    return ["vectors.npy", "--labels", "labels.json"]


def test_errors_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (HOSTILE, f"{HOSTILE}\nerror: forged\r"):
        for words in (("recall", name), ("runs", name), ("data", "verify", "folder", "--root", name), ("train", name)):
            code, out, err = call(capsys, *words)
            assert (code != 0, out, err.count("\n")) == (True, "", 1)
            check_shown(err, "\\u202egpj\\u2066")
    code, _, err = call(capsys, "recall", HOSTILE, "--debug")
    check_shown(err)


def test_tables_show_names_escaped(vectors, capsys):
    check_shown(call(capsys, "recall", *vectors, "--per-class")[1], "\\u202e0=")
    names = [f"{HOSTILE}\nsecond line", "b"]
    for table in (
        output.text_table([{"run": name, "loss": name} for name in names]),
        output.markdown_table([{"run": name, "loss": name} for name in names]),
        output.class_table([{"class": name, "recall@1": 0.5} for name in names]),
        output.neighbours_table(
            {
                "query": names[0],
                "neighbours": [{"class": name, "path": name, "score": 0.5, "rank": 1} for name in names],
            }
        ),
    ):
        check_shown(table, SHOWN[:20])
        assert "\nsecond line" not in table


def test_json_is_escaped_and_holds_the_names_as_they_are(vectors, capsys):
    out = call(capsys, "recall", *vectors, "--per-class", "--json")[1]
    check_shown(out, "\\u202e0=")
    assert sorted(row["class"] for row in json.loads(out)) == [f"\u202e{number}=" for number in range(3)]


def test_a_run_with_a_hostile_folder_is_listed_on_its_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / f"{HOSTILE}\nforged"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    write_json(folder / "environment.json", {})
    code, out, err = call(capsys, "runs")
    assert code == 0, err
    check_shown(out + err)
    assert "\nforged" not in out + err


def test_csv_guards_what_a_spreadsheet_takes_for_a_formula(capsys):
    output.print_csv([{"class": "=cmd()", "recall@1": -0.5}, {"class": "-1", "recall@1": 1}])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[1:] == [["'=cmd()", "-0.5"], ["-1", "1"]]


def test_names_without_control_characters_are_shown_as_they_are(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "äöü 日本" in call(capsys, "runs", "äöü 日本")[2]


def test_stdout_of_another_encoding_is_escaped_too(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {root: 日本}\n", encoding="utf-8")
    program = "import sys; from retrieval.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "config", "show", "config.yaml"]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert b"  root: \\u65e5\\u672c\n" in done.stdout


def test_escape_sequences_of_names_are_shown_and_not_removed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("rr") / "\x1b[31mred\a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    write_json(folder / "environment.json", {})
    for words in ((), ("--format", "csv")):
        assert "\\u001b[31mred\\u0007" in call(capsys, "runs", "rr", *words)[1]


def test_json_is_valid_in_every_encoding(monkeypatch, capsys):
    monkeypatch.setattr(output.sys, "__stdout__", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    output.print_json({"class": "é😀"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"class": "é😀"}
