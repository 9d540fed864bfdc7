"""Tables fit 80 columns, and paths are quoted for a shell."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from small_run import call

from retrieval.cli import output
from retrieval.errors import RetrievalError
from retrieval.runs import report

LONG = "a rather long name of a class of things that nobody would want to type twice"
FEW = [f"recall@{k}" for k in (1, 2, 4, 8)]
MANY = [f"{name}@{k}" for name in ("recall", "precision") for k in (1, 2, 5, 10, 100, 1000, 1000000)]


def row(columns, **more):
    return dict.fromkeys([*columns, "map@r", "r_precision"], 0.9951) | {"queries": 5760, "left_out": 3} | more


def fits(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 80, text


@pytest.mark.parametrize("columns", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("name", ["a", LONG], ids=["short", "long"])
def test_tables_of_figures_fit_and_show_every_figure(columns, name):
    tables = [
        output.figures_table({name: row(columns), "last": row(columns)}, "test classes"),
        output.class_table([{"class": name, **row(columns)}, {"class": "b", **row(columns)}]),
        output.rankings_table([{"ranking": name, **row(columns)}]),
        output.one_table(row(columns) | {f"{it}{end}": 0.5 for it in row(columns) for end in (" low", " high")}),
    ]
    for table in tables:
        fits(table)
        assert all(column in table.split() for column in columns)
        assert name[:20] in table or table is tables[-1]


def test_a_table_that_fits_is_in_one_part():
    assert "\n\n" not in output.figures_table({"best by validation": row(FEW)}, "test classes")
    assert output.figures_table({LONG: row(FEW)}, "test classes").splitlines()[1].startswith(f"{LONG[:24]}… ")


def test_paths_that_commands_print_can_be_pasted(run, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my config.yaml").write_text("seed: 1\n")
    assert call(capsys, "config", "check", "my config.yaml")[1] == "'my config.yaml': no mistakes\n"
    index = str(run / "index-test")
    assert ": 'my vectors/vectors.npy', " in call(capsys, "export", "npy", index, "--out", "my vectors/")[1]
    assert (
        ": 'of 1/vectors.npy', " in call(capsys, "embed", index, f"{images}/test/class 08/0.png", "--out", "of 1/")[1]
    )
    shutil.copytree(images, "broken")
    Path("broken/train/class 01/0.png").write_bytes(b"")
    words = ("data", "verify", "folder", "--root", "broken", "--faults", "my faults")
    assert call(capsys, *words)[2].endswith(", listed in 'my faults'\n")
    Path("my pages").mkdir()
    with pytest.raises(RetrievalError, match=r"give --out 'my pages/report\.html'"):
        report(index, "my pages")


@pytest.mark.parametrize("columns", [FEW, MANY], ids=["few", "many"])
def test_comparisons_fit_and_their_paths_are_not_shortened(columns):
    found = {"value": 0.5, "difference": -0.0123, "low": -0.2, "high": 1.0, "p": 0.0002}
    place = "runs/a run/index-test"
    others = [{"index": place, **dict.fromkeys(columns, found)}] * 3
    text = output.comparison_table(
        {"queries": 60502, "first": {"index": "a", **dict.fromkeys(columns, 1)}, "others": others}
    )
    fits(text)
    assert f"B  {shlex.quote(place)}" in text.splitlines()


def test_neighbours_fit_and_their_paths_are_not_shortened():
    neighbours = [
        {"rank": rank, "score": score, "class": name, "path": path}
        for rank, score, name, path in (
            (1, 1.0, "a", "x.png"),
            (2, -0.9999, LONG, "test/class 09/3.png"),
            (1000, 0, "b", "z"),
        )
    ]
    text = output.neighbours_table({"query": "my images/1.png", "neighbours": neighbours})
    fits(text)
    query, heading, *lines = text.splitlines()
    assert shlex.split(query) == ["my images/1.png"]
    for line, neighbour in zip(lines, neighbours, strict=True):
        assert shlex.split(line[heading.index("path") :]) == [neighbour["path"]]
