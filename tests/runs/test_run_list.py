from __future__ import annotations

import pytest

from retrieval.config import load, to_yaml
from retrieval.errors import RetrievalError
from retrieval.files import write_json
from retrieval.runs import list_runs
from retrieval.training import RunFolder

ROWS = [
    {"epoch": 1, "step": 5, "loss": 0.5, "validation recall@1": 0.75, "validation map@r": 0.5},
    {"epoch": 2, "step": 10, "loss": 0.25},
    {"epoch": 3, "step": 15, "loss": 0.375, "validation recall@1": 0.5, "validation map@r": 0.25},
]


def make_run(path, rows=(), results=None, config="seed: 1\n") -> RunFolder:
    run = RunFolder(path)
    run.create(config, {})
    if rows:
        run.write_rows(rows)
    if results:
        write_json(run.results, results)
    return run


def test_runs_are_listed_by_name_with_their_best_figures(tmp_path):
    make_run(tmp_path / "b" / "second", ROWS, {"last": {"recall@1": 0.5}})
    make_run(tmp_path / "a", ROWS[:1])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("of another program")
    first, second = list_runs(tmp_path)
    assert (first.path, first.state, first.epochs) == (tmp_path / "a", "stopped", 1)
    assert (second.path, second.state, second.epochs) == (tmp_path / "b" / "second", "finished", 3)
    assert second.best == {"loss": 0.25, "validation recall@1": 0.75, "validation map@r": 0.5}
    assert (first.results, second.results) == ({}, {"last": {"recall@1": 0.5}})


def test_an_epoch_that_was_measured_twice_is_one_epoch(tmp_path):
    make_run(tmp_path / "run", [*ROWS, ROWS[-1] | {"step": ROWS[-1]["step"] + 1}])
    assert [run.epochs for run in list_runs(tmp_path)] == [3]


def test_the_measurement_before_training_is_no_epoch(tmp_path):
    make_run(tmp_path / "run", [ROWS[0] | {"epoch": 0, "step": 0}, *ROWS])
    assert [run.epochs for run in list_runs(tmp_path)] == [3]


def test_a_running_run_and_a_stopped_one_have_different_states(tmp_path):
    run = make_run(tmp_path / "run")
    with run.hold():
        assert [found.state for found in list_runs(tmp_path)] == ["running"]
    assert [found.state for found in list_runs(tmp_path)] == ["stopped"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"3\n", b"[1]\n", b'{"loss": "low"}\n{"loss": 1}\n', b"null\n"])
def test_a_run_with_damaged_files_is_listed_as_such(tmp_path, content):
    make_run(tmp_path / "good", ROWS)
    make_run(tmp_path / "bad").metrics_lines.write_bytes(content)
    assert [(run.path.name, run.state) for run in list_runs(tmp_path)] == [("bad", "damaged"), ("good", "stopped")]


def test_results_of_another_shape_are_damaged(tmp_path):
    for name, content in (("list", "[1]"), ("flat", '{"last": 1}')):
        make_run(tmp_path / name, ROWS).results.write_text(content)
    assert [run.state for run in list_runs(tmp_path)] == ["damaged", "damaged"]


def test_a_folder_without_runs_is_an_empty_list_and_a_missing_one_an_error(tmp_path):
    assert list_runs(tmp_path) == []
    with pytest.raises(RetrievalError, match="nowhere: no such folder"):
        list_runs(tmp_path / "nowhere")


def test_a_run_has_the_data_set_backbone_loss_and_pixels_of_its_configuration(tmp_path):
    for name, overrides in (
        ("a", ["model.backbone=resnet50", "image.size=24", "loss.projection=std"]),
        ("b", ["loss.terms=[{name: recall, projection: softmax}, {name: triplet}]"]),
    ):
        make_run(tmp_path / name, config=to_yaml(load("glyphs", overrides)))
    make_run(tmp_path / "c")
    a, b, c = list_runs(tmp_path)
    assert a.description == {"dataset": "glyphs", "backbone": "resnet50", "loss": "recall (std)", "pixels": 24}
    assert b.loss == "recall (softmax) + triplet"
    assert set(c.description.values()) == {None}
    assert (a.seed, c.seed) == (0, 1)


@pytest.mark.parametrize("config", ["loss: 3", "loss: {terms: 4}", "data: [1]", "seed: [1", "- 1"])
def test_a_configuration_of_another_shape_is_damaged(tmp_path, config):
    make_run(tmp_path / "run", config=config)
    assert [run.state for run in list_runs(tmp_path)] == ["damaged"]


def test_the_headline_is_the_best_epoch_by_validation_then_the_last_then_the_validation(tmp_path):
    last, best = {"recall@1": 0.5, "map@r": 0.25}, {"recall@1": 0.75, "map@r": 0.125}
    make_run(tmp_path / "a", ROWS, {"untrained": last, "last": last, "best by validation": best})
    make_run(tmp_path / "b", ROWS, {"untrained": best, "last": last})
    make_run(tmp_path / "c", ROWS)
    make_run(tmp_path / "d", ROWS[1:2])
    found = [(run.split, run.headline) for run in list_runs(tmp_path)]
    assert found[:2] == [("test", best), ("test", last)]
    assert found[2:] == [("validation", {"recall@1": 0.75, "map@r": 0.5}), ("validation", {})]


def test_a_run_that_tested_nothing_is_finished(tmp_path):
    write_json(make_run(tmp_path / "run", ROWS).results, {})
    assert [run.state for run in list_runs(tmp_path)] == ["finished"]
