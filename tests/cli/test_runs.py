"""`retrieval runs` shows what was trained, and with --group the means and intervals over the seeds."""

from __future__ import annotations

import csv
import io
import json
import shlex

import pytest
from retrieval.cli.output import text_table
from retrieval.cli.runs import LEFT, groups_rows, runs_note, runs_rows
from small_run import call

from retrieval.config import load, to_yaml
from retrieval.files import write_json
from retrieval.training import RunFolder

LONG = "a rather long name of a run that nobody would want to type twice"


def make_run(path, *overrides: str, recall: float | None = 0.5, frozen: float | None = None) -> None:
    run = RunFolder(path)
    run.create(to_yaml(load("glyphs", ["model.backbone=resnet50", *overrides])), {})
    if recall is not None:
        results = {"frozen features": frozen, "last": recall}
        write_json(run.results, {name: {"recall@1": it, "map@r": it / 2} for name, it in results.items() if it})


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three seeds of one configuration, a single run of another loss, and one that is not finished."""
    monkeypatch.chdir(tmp_path)
    for seed, recall in enumerate((0.5, 0.6, 0.7)):
        make_run(tmp_path / "runs" / f"seed-{seed}", f"seed={seed}", recall=recall, frozen=0.4)
    make_run(tmp_path / "runs" / "triplet", "loss.name=triplet", recall=0.65)
    make_run(tmp_path / "runs" / "unfinished", recall=None)
    return tmp_path / "runs"


def test_every_run_is_listed_with_data_set_backbone_loss_and_pixels(runs, capsys):
    code, out, err = call(capsys, "runs")
    assert (code, err) == (0, "")
    for words in (
        ["runs/triplet", "glyphs", "resnet50", "triplet", "32"],
        ["runs/seed-1", "glyphs", "resnet50", "recall"],
    ):
        assert any(line.split()[: len(words)] == words for line in out.splitlines()), out
    found = json.loads(call(capsys, "runs", "--json")[1])
    assert found[3].items() >= {"dataset": "glyphs", "backbone": "resnet50", "loss": "triplet", "pixels": 32}.items()


# The quantile of Student's t for three seeds is 4.3027, and the standard error of 50, 60, 70 is 10 / sqrt(3): 24.84.
def test_a_group_has_the_mean_and_half_the_95_percent_interval_over_the_seeds(runs, capsys, caplog):
    code, out, _ = call(capsys, "runs", "--group")
    assert code == 0
    assert caplog.messages == ["1 of 5 runs left out: not finished, or without figures"]
    rows = [line.split("  ") for line in out.splitlines()]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    assert ["1", "glyphs", "resnet50", "recall (softmax)", "32", "3", "test"] in [row[:7] for row in rows]
    assert "60.00 ± 24.84" in out
    assert "30.00 ± 12.42" in out
    assert "40.00 / 20.00" in out  # the frozen features


def test_one_run_has_no_interval(runs, capsys):
    _, out, _ = call(capsys, "runs", "--group")
    assert "65.00 ± -" in out
    found = json.loads(call(capsys, "runs", "--group", "--json")[1])
    assert [(group["loss"], group["seeds"]) for group in found] == [("recall (softmax)", [0, 1, 2]), ("triplet", [0])]
    assert found[1]["figures"] == {"recall@1": 0.65, "map@r": 0.325}
    assert found[0]["figures"]["recall@1 high"] == pytest.approx(0.6 + 0.24841, abs=1e-5)


def test_a_group_is_a_row_of_csv_with_fractions(runs, capsys):
    rows = list(csv.DictReader(io.StringIO(call(capsys, "runs", "--group", "--format", "csv")[1])))
    assert [(row["loss"], row["seeds"], row["split"]) for row in rows] == [
        ("recall (softmax)", "3", "test"),
        ("triplet", "1", "test"),
    ]
    assert float(rows[0]["recall@1"]) == pytest.approx(0.6)
    assert float(rows[0]["map@r low"]) == pytest.approx(0.3 - 0.124205, abs=1e-5)
    assert float(rows[0]["frozen features recall@1"]) == pytest.approx(0.4)
    assert (rows[1]["recall@1 low"], rows[1]["frozen features map@r"]) == ("", "")


def test_a_group_is_a_row_of_a_markdown_table_for_a_paper(runs, capsys):
    heading, rule, first, second, blank, note = call(capsys, "runs", "--group", "--format", "markdown")[1].splitlines()
    assert heading == "| data set | backbone | loss | pixels | seeds | split | recall@1 | map@r | frozen features |"
    assert rule == "| --- | --- | --- | ---: | ---: | --- | ---: | ---: | ---: |"
    assert first == (
        "| glyphs | resnet50 | recall (softmax) | 32 | 3 | test | 60.00 ± 24.84 | 30.00 ± 12.42 | 40.00 / 20.00 |"
    )
    assert second == "| glyphs | resnet50 | triplet | 32 | 1 | test | 65.00 ± - | 32.50 ± - | - |"
    assert (blank, note) == ("", "recall@1 and MAP@R in percent: the mean ± half its 95 % interval over the seeds")


def test_runs_without_groups_are_csv_and_markdown_too(runs, capsys):
    rows = list(csv.DictReader(io.StringIO(call(capsys, "runs", "--format", "csv")[1])))
    assert [row["last recall@1"] for row in rows] == ["0.5", "0.6", "0.7", "0.65", ""]
    assert (
        "| runs/triplet | glyphs | resnet50 | triplet | 32 | finished |"
        in call(capsys, "runs", "--format", "markdown")[1]
    )


def test_the_options_that_tell_two_groups_apart_are_shown(runs, capsys):
    make_run(runs / "slow", "training.learning_rate=1e-5")
    _, out, _ = call(capsys, "runs", "--group")
    assert "training.learning_rate=1e-05" in out
    assert f"training.learning_rate={load('glyphs').training.learning_rate}" in out
    assert "training.epochs" not in out
    *_, options = call(capsys, "runs", "--group", "--format", "markdown")[1].splitlines()[4].split(" | ")
    assert options == "- |"  # of the only group of its loss, which nothing needs to tell apart


def test_format_and_json_exclude_each_other_and_nothing_finished_is_said(runs, capsys):
    assert call(capsys, "runs", "--json", "--format", "csv")[0] == 2
    assert call(capsys, "runs", "--format", "pdf")[0] == 2
    (runs.parent / "empty").mkdir()
    assert call(capsys, "runs", "empty", "--group") == (0, "no finished run in empty\n", "")
    assert call(capsys, "runs", "empty", "--group", "--json") == (0, "[]\n", "")


def a_run(path: str, **more) -> dict:
    figures = {"recall@1": 1.0, "map@r": 1.0}
    results = dict.fromkeys(("untrained", "last", "best by validation", "best on test"), figures)
    description = {
        "dataset": "cub200",
        "backbone": "vit_small_patch16_224.dino",
        "loss": "recall (softmax)",
        "pixels": 224,
    }
    return {
        "path": path,
        "state": "finished",
        "epochs": 100,
        **description,
        "results": results,
        "validation": {},
        "measured_on": "test classes",
        **more,
    }


def test_tables_of_runs_fit_80_columns_and_their_paths_are_not_shortened():
    paths = ["runs/a", "runs/std", "runs/a folder", f"runs/{LONG}"]
    damaged = {
        "state": "damaged",
        "epochs": 0,
        "results": {},
        "measured_on": "",
        **dict.fromkeys(("dataset", "backbone", "loss", "pixels")),
    }
    text = text_table(runs_rows([*map(a_run, paths), a_run("runs/b", **damaged)]), LEFT)
    for path in paths[:-1]:
        assert any(line.startswith(f"{shlex.quote(path)} ") for line in text.splitlines())
    assert shlex.quote(paths[-1]) in text.splitlines()  # which has a line to itself
    rest = text.replace(shlex.quote(paths[-1]), "")
    assert max(map(len, rest.splitlines())) <= 80, rest
    assert len({line.index("finished") for line in text.splitlines() if "finished" in line}) == 1


def test_tables_of_groups_fit_80_columns():
    figures = {f"{name}{end}": 1.0 for name in ("recall@1", "map@r") for end in ("", " low", " high")}
    group = {**a_run("x"), "seeds": [1, 2], "split": "validation", "figures": figures, "options": {}}
    text = text_table(groups_rows([group | {"frozen features": figures}] * 12), LEFT)
    assert max(map(len, text.splitlines())) <= 80, text


def test_runs_that_tested_nothing_show_their_validation_figures():
    validation = {"recall@1": 0.75, "map@r": 0.25}
    untested = a_run("runs/b", results={}, validation=validation, measured_on="validation images")
    tested, other = runs_rows([a_run("runs/a"), untested])
    assert "measured on" not in tested
    assert (tested["validation"], other["validation"], other["last"]) == ("-", "75.00 / 25.00", "-")
    assert "validation" not in runs_rows([a_run("runs/a", validation=validation)])[0]


def test_code_in_a_file_is_shown_without_its_folder():
    (row,) = runs_rows([a_run("runs/a", backbone="/home/me/code/my_nets.py:build")])
    assert row["backbone"] == "my_nets.py:build"


def test_own_images_are_named_and_told_apart(tmp_path, capsys):
    make_run(tmp_path / "a", "data.name=folder", "data.root=/home/me/my_photos")
    make_run(tmp_path / "b", "data.name=csv", "data.root=/home/me", "data.options.file=shoes.csv")
    make_run(tmp_path / "c", "data.name=folder", "data.root=/home/me/birds")
    out = call(capsys, "runs", str(tmp_path))[1]
    for name in ("folder: my_photos", "csv: shoes.csv", "folder: birds"):
        assert name in out
    rows = list(csv.DictReader(io.StringIO(call(capsys, "runs", str(tmp_path), "--group", "--format", "csv")[1])))
    assert [row["dataset"] for row in rows] == ["csv: shoes.csv", "folder: birds", "folder: my_photos"]


def test_csv_keeps_the_validation_figures(tmp_path, capsys):
    make_run(tmp_path / "run", recall=None)
    run, before = RunFolder(tmp_path / "run"), {"recall@1": 0.25, "map@r": 0.125}
    run.write_rows([{"epoch": 1, "step": 5, "loss": 0.5, "validation recall@1": 0.75, "validation map@r": 0.5}])
    write_json(run.results, {"frozen features (validation)": before, "last (validation)": before})
    (row,) = csv.DictReader(io.StringIO(call(capsys, "runs", str(tmp_path), "--format", "csv")[1]))
    assert (row["validation recall@1"], row["validation map@r"]) == ("0.75", "0.5")
    assert (row["frozen features (validation) recall@1"], row["last (validation) map@r"]) == ("0.25", "0.125")
    assert (row["last recall@1"], row["measured_on"]) == ("", "validation images")


def test_the_line_below_the_table_says_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "queries", recall=None)
    figures = {"recall@1": 0.5, "map@r": 0.25, "queries": 9, "not_in_gallery": 0}
    write_json(RunFolder(tmp_path / "queries").results, {"last": figures})
    out = call(capsys, "runs", ".")[1]
    assert out.splitlines()[-1].startswith("recall@1 / MAP@R on the query images, in percent")
    make_run(tmp_path / "classes")
    out = call(capsys, "runs", ".")[1]
    assert out.splitlines()[-1].startswith("recall@1 / MAP@R on the test classes or query images, in percent")
    assert [line.split()[-2:] for line in out.splitlines() if line.startswith(("classes", "queries"))][-2:] == [
        ["test", "classes"],
        ["query", "images"],
    ]
    assert runs_note([a_run("runs/a", results={}, measured_on="")]).startswith("recall@1 / MAP@R, in percent")
