"""Tables fit 80 columns, and paths are quoted for a shell."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader
from retrieval.cli import output
from small_run import call

from retrieval.errors import RetrievalError, plural
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


def test_one_of_a_thing_is_singular_on_the_screen_and_on_pages(tmp_path, capsys, caplog):
    for name, vectors in {"one": [[1.0, 0.0]], "two": [[1.0, 0.0], [0.0, 1.0]]}.items():
        np.save(tmp_path / f"{name}.npy", np.array(vectors))
        (tmp_path / f"{name}.txt").write_text("a\n" * len(vectors))
        words = ("--from-npy", str(tmp_path / f"{name}.npy"), "--labels", str(tmp_path / f"{name}.txt"))
        code, out, err = call(capsys, "index", *words, "--out", str(tmp_path / name))
        assert code == 0, err
        assert f"holds     {'1 vector' if name == 'one' else '2 vectors'} of 2 numbers, 1 class\n" in out
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert call(capsys, "recall", two, "--queries", one)[1].endswith("in percent, over 1 query\n")
    out = call(capsys, "recall", two, "--queries", one, "--per-class")[1]
    assert out.endswith("in percent, over the queries of the class\n")
    assert call(capsys, "report", two, "--queries", one, "--out", str(tmp_path / "page.html"))[0] == 0
    assert "ranking 2 images for 1 query" in caplog.messages
    page = (tmp_path / "page.html").read_text()
    assert "Of 1 query among 1 image of 1 class, against 2 images of the gallery." in page
    assert "1 class by recall@1" in page
    wrong = ("1 images", "1 queries", "1 classes", "1 vectors", "1 pairs", "1 neighbours", "1 cases")
    assert not [words for words in wrong if re.search(rf"\b{words}", page)]
    assert call(capsys, "index", "remove", two, "1")[1].startswith("removed   1 image\n")


def test_what_is_folded_away_is_counted():
    template = (
        '{% import "tiles.html" as tiles %}{% call(some) tiles.fold(items, 2, "query", "queries") %}{% endcall %}'
    )
    environment = Environment(loader=PackageLoader("retrieval.report", "templates"))
    environment.filters |= {"plural": plural, "breakable": str}
    for items, words in (([1, 2, 3], "1 more query"), ([1, 2, 3, 4], "2 more queries")):
        assert f"<summary>{words}</summary>" in environment.from_string(template).render(items=items)
