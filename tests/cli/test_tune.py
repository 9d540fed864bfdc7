"""Promises of `retrieval tune`."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL, arguments, call

from retrieval.config import Config, load
from retrieval.runs import Trial, Tuning
from retrieval.runs.tuning import new_tuning

pytestmark = pytest.mark.usefixtures("quick_pictures")

SPACE = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "model.head_init": ["random", "pca"]}


def tuning(path: str = "tune/x", recalls: tuple[tuple[float, ...], ...] = ((0.5, 0.25), (0.75, 0.625))) -> Tuning:
    """A search with recall@1 of each fold for each trial."""
    found = new_tuning(Path(path), load("glyphs"), {}, "sum", [{}] * 2)
    found.space.update(SPACE)
    for number, row in enumerate(recalls):
        values = {"training.learning_rate": (1e-3, 9e-3)[number], "model.head_init": "random"}
        rows = [[{"epoch": 1, "recall@1": recall, "map@r": 0.25}] for recall in row]
        found.trials.append(Trial(number=number, state="complete", values=values, rows=rows))
    return found


@pytest.fixture
def calls(monkeypatch) -> list[tuple[Config, dict[str, Any]]]:
    """The calls of `retrieval.runs.tune`, which is replaced."""
    recorded = []

    def tune(config: Config, **options: Any) -> Tuning:
        recorded.append((config, options))
        return tuning()

    monkeypatch.setattr("retrieval.runs.tune", tune)
    return recorded


def test_the_table_has_the_best_the_start_and_their_difference_with_its_interval(calls, capsys):
    code, out, err = call(capsys, "tune")
    assert (code, err) == (0, "")
    assert out == (
        "                      recall@1         MAP@R             sum\n"
        "best, trial 1            68.75         25.00           93.75\n"
        "start, trial 0           37.50         25.00           62.50\n"
        "difference      +31.25 ± 79.41  +0.00 ± 0.00  +31.25 ± 79.41\n"
        "in percent, means over 2 folds of the training images; ± half the 95 % interval over the folds\n"
        "\n"
        "                          best   start\n"
        "training.learning_rate   0.009   0.001\n"
        "model.head_init         random  random\n"
        "\n"
        "trials    tune/x/trials.csv (2 complete)\n"
        "config    tune/x/best.yaml\n"
        "caution   the interval of the difference includes zero: the best may be no\n"
        "          better than the start on other classes; more folds make the interval\n"
        "          narrower\n"
        "caution   training.learning_rate: the best value, 0.009, is at the edge of its\n"
        "          range 0.0001 .. 0.01; widen the range\n"
        "next      retrieval train --config tune/x/best.yaml --out runs/x\n"
    )


def test_where_the_start_is_the_best_there_is_no_difference(monkeypatch, capsys):
    monkeypatch.setattr("retrieval.runs.tune", lambda config, **options: tuning(recalls=((0.5, 0.5), (0.5, 0.25))))
    _, out, _ = call(capsys, "tune")
    assert "best, trial 0" in out
    assert "no trial is better than the configuration as it is" in out
    assert "±" not in out


def test_json_has_all_trials_as_fractions(calls, capsys):
    code, out, _ = call(capsys, "tune", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["best"]["number"] == 1
    assert found["start"]["figures"]["recall@1"] == 0.375
    assert found["difference"]["recall@1"] == 0.3125
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 2
    assert len(found["cautions"]) == 2


def test_images_configuration_and_options_are_those_of_train(images, calls, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert (
        call(capsys, "tune", str(images), "--seed", "3", "--device", "cpu", "training.epochs=4", "--trials", "5")[0]
        == 0
    )
    config, options = calls[0]
    assert (config.data.name, config.data.root) == ("folder", str(images))
    assert (config.model.backbone, config.seed, config.device, config.training.epochs) == (
        "mobilenetv2_100",
        3,
        "cpu",
        4,
    )
    expected = {"trials": 5, "folds": 3, "space": None, "metric": "sum", "overwrite": False}
    assert {name: options[name] for name in expected} == expected
    assert Path(options["out"]) == Path("tune") / images.name
    call(capsys, "tune")
    assert Path(calls[1][1]["out"]) == Path("tune/glyphs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere': expected a folder of images, a .csv list, or KEY=VALUE"),
        (["glyphs"], "or do you mean --config glyphs?"),
        (["--trials", "0"], "Invalid value for '--trials'"),
        (["--folds", "1"], "Invalid value for '--folds'"),
        (["--metric", "loss"], "Invalid value for '--metric'"),
        (["lr=1"], "unknown key 'lr'; did you mean training.learning_rate?"),
    ],
)
def test_wrong_words_are_one_line_and_exit_with_2(words, message, capsys):
    code, out, err = call(capsys, "tune", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_mistakes_of_a_space_file_are_a_line_each(tmp_path, capsys):
    pytest.importorskip("optuna")
    file = tmp_path / "space.yaml"
    file.write_text("optimizer.learning_rate: [1, 2]\nloss.temperature: {low: 2, high: 1}\n")
    code, _, err = call(capsys, "tune", "--space", str(file), "--out", str(tmp_path / "out"))
    assert code == 2
    assert err.splitlines() == [
        f"error: {file}: unknown key 'optimizer.learning_rate'; did you mean training.learning_rate?",
        f"error: {file}: loss.temperature: low is 2, expected a number below high, which is 1",
    ]
    assert not (tmp_path / "out").exists()


def test_a_search_without_optuna_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    code, _, err = call(capsys, "tune", "--out", str(tmp_path / "out"))
    assert (code, len(err.splitlines())) == (1, 1)
    assert "`python -m pip install 'image-retrieval-toolkit[tune]'`" in err


@pytest.mark.slow
def test_a_search_of_own_images_ends_in_a_configuration_to_train_with(images, tmp_path, capsys):
    pytest.importorskip("optuna")
    out = tmp_path / "tuned"
    words = ["tune", *arguments(images, out)[1:], "--trials", "2", "--folds", "2", "training.epochs=1"]
    seen: list[str] = []
    watch = logging.Handler()
    watch.emit = lambda record: seen.append(record.getMessage())
    logging.getLogger("retrieval").addHandler(watch)
    try:
        code, printed, _ = call(capsys, *words, "--quiet", "--json")
        assert (code, seen) == (0, [])
        code, again, _ = call(capsys, *words, "--json")
        assert (code, json.loads(again)) == (0, json.loads(printed))
    finally:
        logging.getLogger("retrieval").removeHandler(watch)
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "best.yaml",
        "trials.csv",
        "tuning.json",
    ]
    rows = list(csv.DictReader((out / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert call(capsys, *words, "training.epochs=2")[0] == 1
    best = [str(images), "--config", str(out / "best.yaml"), "--out", str(tmp_path / "run")]
    assert call(capsys, "train", *best)[0] == 0
    assert SMALL[0] == "data.name=folder"
    config = load(tmp_path / "run" / "config.yaml")
    assert config.training.learning_rate == json.loads(printed)["best"]["values"]["training.learning_rate"]
