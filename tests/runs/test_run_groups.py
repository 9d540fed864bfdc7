"""Finished runs that differ in the seed only are one group, with the mean and its interval over the seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from interval import half_width

from retrieval.runs import RunSummary, group_runs


def run(
    seed: int, recall: float = 0.5, *, frozen: float | None = None, state: str = "finished", **sections
) -> RunSummary:
    figures = {"last": recall, "frozen features": frozen}
    results = {name: {"recall@1": it, "map@r": it / 2} for name, it in figures.items() if it is not None}
    config = {"seed": seed, "data": {"name": "glyphs"}, "loss": {"name": "recall", "projection": "std"}, **sections}
    return RunSummary(Path(f"run {seed}"), state, 1, {}, results, {}, config)


def test_the_mean_and_the_interval_are_those_of_students_t_over_the_seeds():
    recalls = [0.5, 0.625, 0.8125, 0.25]
    (group,) = group_runs(run(seed, recall) for seed, recall in enumerate(recalls))
    mean = sum(recalls) / 4
    assert group.seeds == [0, 1, 2, 3]
    assert group.figures == pytest.approx(
        {
            "recall@1": mean,
            "recall@1 low": mean - half_width(recalls),
            "recall@1 high": mean + half_width(recalls),
            "map@r": mean / 2,
            "map@r low": (mean - half_width(recalls)) / 2,
            "map@r high": (mean + half_width(recalls)) / 2,
        }
    )


def test_one_seed_has_no_interval_however_many_runs_it_has():
    (group,) = group_runs([run(3, 0.5), run(3, 0.75)])
    assert group.figures == {"recall@1": 0.625, "map@r": 0.3125}
    assert group.seeds == [3]


def test_seeds_that_agree_have_an_interval_of_width_zero():
    (group,) = group_runs([run(0), run(1), run(2)])
    assert group.figures["recall@1 low"] == group.figures["recall@1"] == group.figures["recall@1 high"] == 0.5


def test_runs_that_differ_in_more_than_the_seed_are_groups_with_the_options_that_differ():
    training = [{"epochs": 2, "learning_rate": rate} for rate in (0.1, 0.2)]
    runs = [run(seed, training=options) for seed in (0, 1) for options in training]
    groups = group_runs([*runs, run(0, loss={"name": "triplet"})])
    assert [group.options for group in groups] == [{"training.learning_rate": 0.1}, {"training.learning_rate": 0.2}, {}]
    assert [group.seeds for group in groups] == [[0, 1], [0, 1], [0]]
    assert [group.runs[0].loss for group in groups] == ["recall (std)", "recall (std)", "triplet"]


def test_only_finished_runs_are_grouped_and_the_others_are_counted(caplog):
    (group,) = group_runs([run(0), run(1, state="running"), run(2, state="damaged"), run(4, state="stopped")])
    assert group.seeds == [0]
    assert caplog.messages == ["3 of 4 runs left out: not finished, or without figures"]


def test_where_nothing_was_tested_the_figures_are_those_of_the_validation_and_labelled():
    validation = {"recall@1": 0.75, "map@r": 0.25}
    results = {"frozen features (validation)": {"recall@1": 0.5, "map@r": 0.125}, "last (validation)": validation}
    untested = [RunSummary(Path("x"), "finished", 1, {}, results, validation, run(seed).config) for seed in (0, 1)]
    tested, group = group_runs([run(0), *untested])
    assert (tested.split, group.split) == ("test", "validation")
    assert (group.seeds, group.figures["recall@1"]) == ([0, 1], 0.75)
    assert group.frozen == {"recall@1": 0.5, "map@r": 0.125}


def test_the_frozen_features_are_there_where_all_runs_have_them():
    (group,) = group_runs([run(0, frozen=0.25), run(1, frozen=0.25)])
    assert group.frozen == {"recall@1": 0.25, "map@r": 0.125}
    (group,) = group_runs([run(0, frozen=0.25), run(1)])
    assert group.frozen == {}
