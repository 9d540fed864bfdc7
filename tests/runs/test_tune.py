"""Promises of `retrieval.tune`. Most tests replace the training by a formula of the learning rate."""

from __future__ import annotations

import csv
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval
from retrieval.config import Config, load, to_yaml
from retrieval.config.space import read_space
from retrieval.errors import CheckpointError, ConfigError, DivergedError, RetrievalError
from retrieval.files import write_json
from retrieval.runs import Trial, Tuning, process, tune
from retrieval.runs.run import Run
from retrieval.runs.sampling import Sampling
from retrieval.training import RunFolder, Stopped, Trainer

pytestmark = pytest.mark.usefixtures("quick_pictures")

pytest.importorskip("optuna")
# Not `from retrieval.runs import tune`: that is the function.
tune_module = sys.modules["retrieval.runs.tune"]

RATES = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
SMALL: dict[str, Any] = {"training.learning_rate": 1e-3, "training.epochs": 4, "data.workers": 0, "batch.size": 8}


def images(classes: int = 12) -> retrieval.ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (4 * classes, 40, 40, 3), dtype=np.uint8)
    return retrieval.ImageSet.from_dataset(pixels, labels=[i // 4 for i in range(4 * classes)])


def quality(config: Config, fold: int) -> float:
    """recall@1 at the end: best for a learning rate of 3e-3; a fold is 0.2 easier than the next."""
    return 0.6 - 0.2 * fold - 0.1 * abs(np.log10(config.training.learning_rate / 3e-3))


class Training:
    """In place of `run_process`: rises to the quality in the epochs, and records every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.epochs = 0
        self.stop_after: int | None = None

    def __call__(self, config: Config, path: Path, *, resume: bool, objects: Any) -> None:
        self.calls.append((Path(path).name, resume))
        assert list(objects.data) == ["train", "validation"]
        folder, fold = RunFolder(path), int(Path(path).name[-1]) - 1
        rows = [{"epoch": 0, "step": 0, "validation recall@1": 0.0, "validation map@r": 0.0}]
        if resume:
            rows = list(Run(path).metrics)
        else:
            folder.create(to_yaml(config), {})
        (watch,), run = objects.callbacks, Run(path)
        vars(run)["config"] = config  # which takes long to read
        for epoch in range(len(rows), config.training.num_epochs + 1):
            value = quality(config, fold) * epoch / config.training.num_epochs
            rows.append({"epoch": epoch, "step": epoch, "validation recall@1": value, "validation map@r": value / 2})
            folder.write_rows(rows)
            folder.last.touch()
            self.epochs += 1
            if self.epochs == self.stop_after:
                raise Stopped(signal.SIGTERM)
            watch.epoch(run, epoch, rows[-1])
        write_json(folder.results, {})


@pytest.fixture
def training(monkeypatch) -> Training:
    replaced = Training()
    monkeypatch.setattr(tune_module, "run_process", replaced)
    return replaced


def search(out: Path, trials: int = 3, **options: Any) -> Tuning:
    return tune("glyphs", images(), out, **{"trials": trials, "folds": 2, "space": RATES, **SMALL, **options})


def contents(tuning: Tuning) -> list[dict[str, Any]]:
    return [{**trial.model_dump(), "seconds": 0} for trial in tuning.trials]


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "trials.csv").read_text().splitlines()))


def test_trial_0_is_the_configuration_and_the_best_is_not_below_it(tmp_path, training):
    tuning = search(tmp_path / "out", 6)
    assert tuning.start.values == {"training.learning_rate": 1e-3}
    assert tuning.start.figures["recall@1"] == pytest.approx(0.5 - 0.1 * np.log10(3))
    assert tuning.start.figures["sum"] == pytest.approx(1.5 * tuning.start.figures["recall@1"])
    complete = [trial for trial in tuning.trials if trial.state == "complete"]
    assert tuning.best.figures["sum"] == max(trial.figures["sum"] for trial in complete)
    assert len({trial.values["training.learning_rate"] for trial in tuning.trials}) == 6
    assert all(1e-4 <= trial.values["training.learning_rate"] <= 1e-2 for trial in tuning.trials)


def test_the_best_configuration_is_complete_and_differs_in_the_searched_options_only(tmp_path, training):
    tuning = search(tmp_path / "out")
    found = load(tmp_path / "out" / "best.yaml")
    assert found == tuning.best_config
    start = load("glyphs", SMALL)
    assert found.training.learning_rate == tuning.best.values["training.learning_rate"]
    assert found.training.model_copy(update={"learning_rate": 1e-3}) == start.training
    assert (found.data.validation_share, found.data.folds) == (start.data.validation_share, None)


def test_the_table_has_every_trial_with_the_figures_of_each_fold(tmp_path, training):
    search(tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert list(rows[0]) == [
        *("trial", "state", "training.learning_rate", "recall@1", "map@r", "sum"),
        *("fold 1 recall@1", "fold 1 map@r", "fold 1 epoch", "fold 2 recall@1", "fold 2 map@r", "fold 2 epoch"),
        *("seconds", "error"),
    ]
    assert float(rows[0]["fold 1 recall@1"]) - float(rows[0]["fold 2 recall@1"]) == pytest.approx(0.2)
    assert not list((tmp_path / "out").glob("trial-*"))


@pytest.mark.parametrize("stop_after", [1, 4, 6, 9, 15])
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, training, stop_after):
    whole = search(tmp_path / "whole", 4)
    calls = len(training.calls)
    training.epochs, training.stop_after = 0, stop_after
    with pytest.raises(Stopped) as stopped:
        search(tmp_path / "out", 4)
    assert stopped.value.code == 143
    assert Tuning.open(tmp_path / "out").trials[-1].state == "running"
    training.stop_after = None
    again = search(tmp_path / "out", 4)
    assert contents(again) == contents(whole)
    assert (tmp_path / "out" / "best.yaml").read_text() == (tmp_path / "whole" / "best.yaml").read_text()
    repeated = training.calls[calls:]
    assert len(repeated) == calls + 1
    assert sum(resume for _, resume in repeated) == 1


def test_a_fold_that_was_killed_before_its_first_checkpoint_is_trained_anew(tmp_path, training):
    training.stop_after = 2
    with pytest.raises(Stopped):
        search(tmp_path / "out")
    folder = RunFolder(tmp_path / "out" / "trial-0-fold-1")
    folder.last.unlink()
    (folder.path / ".environment.json.00000000.tmp").touch()
    training.stop_after = None
    search(tmp_path / "out")
    assert training.calls[1] == ("trial-0-fold-1", False)


def test_a_fold_that_was_killed_after_its_end_is_not_trained_again(tmp_path, training):
    training.stop_after = 5  # the first epoch of the second fold
    with pytest.raises(Stopped):
        search(tmp_path / "out")
    write_json(RunFolder(tmp_path / "out" / "trial-0-fold-2").results, {})
    training.stop_after = None
    tuning = search(tmp_path / "out", 1)
    assert [name for name, _ in training.calls] == ["trial-0-fold-1", "trial-0-fold-2"]
    assert tuning.start.state == "complete"


def test_more_trials_go_on_and_the_first_are_not_repeated(tmp_path, training):
    first = contents(search(tmp_path / "out", 2))
    calls = len(training.calls)
    tuning = search(tmp_path / "out", 4)
    assert contents(tuning)[:2] == first
    assert len(tuning.trials) == 4
    assert all(name.startswith(("trial-2", "trial-3")) for name, _ in training.calls[calls:])
    calls = len(training.calls)
    assert len(search(tmp_path / "out", 2).trials) == 4
    assert len(training.calls) == calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.epochs": 5}, r"training\.epochs: 4, now 5"),
        ({"space": {"training.learning_rate": [1e-3, 1e-2]}}, r"space: .*, now \{'training\.learning_rate': \[0\.001, 0\.01\]\}"),
        ({"metric": "recall@1"}, "metric: sum, now recall@1"),
        ({"folds": 3}, "folds: 2, now 3"),
        ({"data.split_seed": 1}, r"data\.split_seed: 0, now 1"),
    ],
)  # fmt: skip
def test_another_search_in_the_same_folder_is_refused(tmp_path, training, change, message):
    search(tmp_path / "out", 1)
    before = (tmp_path / "out" / "tuning.json").read_text()
    with pytest.raises(CheckpointError, match=f"holds a tuning of another kind .*{message}.*overwrite=True"):
        search(tmp_path / "out", 1, **change)
    assert (tmp_path / "out" / "tuning.json").read_text() == before
    assert len(search(tmp_path / "out", 1, overwrite=True, **change).trials) == 1


def test_other_images_are_refused_and_another_device_is_not(tmp_path, training):
    search(tmp_path / "out", 1)
    with pytest.raises(CheckpointError, match="other images or classes"):
        tune("glyphs", images(14), tmp_path / "out", trials=1, folds=2, space=RATES, **SMALL)
    search(tmp_path / "out", 1, device="cpu", **{"data.workers": 1})
    assert Tuning.open(tmp_path / "out").config.data.workers == 1


def test_a_folder_with_other_files_is_left_alone(tmp_path, training):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="holds other files than those of a tuning; choose another folder"):
            search(tmp_path, 1, overwrite=overwrite)
    with pytest.raises(CheckpointError, match="is a file"):
        search(tmp_path / "notes.txt", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_record_is_one_line_and_can_be_overwritten(tmp_path, training):
    search(tmp_path / "out", 1)
    file = tmp_path / "out" / "tuning.json"
    for text in (
        file.read_text()[:-50],
        file.read_text().replace('"complete"', '"done"'),
        file.read_text().replace("1.0", "NaN"),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"tuning\.json: cannot be read \(it is damaged\)") as caught:
            search(tmp_path / "out", 1)
        assert len(caught.value.lines) == 1
    assert len(search(tmp_path / "out", 1, overwrite=True).trials) == 1
    with pytest.raises(CheckpointError, match="not the folder of a tuning"):
        Tuning.open(tmp_path)


def rows(*recalls: float) -> list[dict[str, float]]:
    """The rows of a fold; epoch 0 is the first."""
    return [{"epoch": epoch, "recall@1": recall, "map@r": 0.0} for epoch, recall in enumerate(recalls)]


def trial(number: int, *folds: list[dict[str, float]]) -> Trial:
    return Trial(number=number, values={"training.learning_rate": 1e-3}, state="complete", rows=list(folds))


def test_a_trial_is_behind_if_it_is_below_the_median_at_its_epoch():
    sampling = Sampling(read_space(RATES, load("glyphs", SMALL)), "sum", 0)
    others = [
        trial(number, rows(0.0, level / 2, level), rows(0.0, level / 4, level / 2))
        for number, level in enumerate((0.5, 0.2, 0.4, 0.6, 0.8))
    ]
    assert sampling.is_behind(others, 5, [rows(0.0, 0.24)])
    assert not sampling.is_behind(others, 5, [rows(0.0, 0.26)])
    assert not sampling.is_behind(others, 5, [rows(0.0, 0.24, 0.55)])
    assert sampling.is_behind(others, 5, [rows(0.0, 0.3, 0.45), rows(0.0, 0.01, 0.1)])
    assert not sampling.is_behind(others, 5, [rows(0.0, 0.3, 0.55), rows(0.0, 0.01, 0.1)])
    assert not sampling.is_behind(others[:4], 5, [rows(0.0, 0.0)])  # of too few others


def test_the_best_epoch_so_far_counts_and_not_the_last_one():
    sampling = Sampling(read_space(RATES, load("glyphs", SMALL)), "sum", 0)
    others = [trial(number, rows(0.0, 0.5, 0.5, 0.5)) for number in range(5)]
    assert not sampling.is_behind(others, 5, [rows(0.0, 0.6, 0.1, 0.1)])


@pytest.mark.slow
def test_trials_that_fall_behind_are_pruned_and_trial_0_and_the_best_never_are(tmp_path, training):
    tuning = search(tmp_path / "out", 24)
    states = [trial.state for trial in tuning.trials]
    assert set(states) == {"complete", "pruned"}
    assert set(states[:5]) == {"complete"}
    epochs = sum(len(rows) - 1 for trial in tuning.trials for rows in trial.rows)
    assert epochs == training.epochs < 24 * 2 * 4
    pruned = [trial for trial in tuning.trials if trial.state == "pruned"]
    assert all(trial.figures == {} for trial in pruned)
    assert all(
        len(trial.rows) > 1 or len(trial.rows[0]) - 1 > 2 for trial in pruned
    )  # not in the first half of the first fold
    distance = {trial.number: abs(np.log(trial.values["training.learning_rate"] / 3e-3)) for trial in tuning.trials}
    assert np.median([distance[trial.number] for trial in pruned]) > np.median(list(distance.values()))
    assert distance[tuning.best.number] < 0.2
    assert table(tmp_path / "out")[pruned[0].number]["sum"] == ""


def test_a_trial_that_diverges_fails_and_the_search_goes_on(tmp_path, training, monkeypatch):
    def diverge_above(config, path, **options):
        if config.training.learning_rate > 1e-3:
            raise DivergedError("epoch 1, step 2: training has diverged", "more")
        training(config, path, **options)

    monkeypatch.setattr(tune_module, "run_process", diverge_above)
    tuning = search(tmp_path / "out", 8)
    failed = [trial for trial in tuning.trials if trial.state == "failed"]
    assert failed
    assert {trial.error for trial in failed} == {"epoch 1, step 2: training has diverged"}
    assert table(tmp_path / "out")[failed[0].number]["error"] == failed[0].error
    assert not list((tmp_path / "out").glob("trial-*"))


def test_a_search_whose_trials_all_diverge_says_so(tmp_path, monkeypatch):
    def diverge(config, path, **options):
        raise DivergedError("epoch 1, step 2: training has diverged")

    monkeypatch.setattr(tune_module, "run_process", diverge)
    tuning = search(tmp_path / "out", 2)
    with pytest.raises(RetrievalError, match="no trial is complete: epoch 1, step 2: training has diverged"):
        tuning.best  # noqa: B018 - the access is the test


def test_values_that_do_not_go_together_fail_their_trial_only(tmp_path, training):
    space = {"batch.size": [8, 16], "loss.memory": [0, 8]}
    tuning = search(tmp_path / "out", 9, space=space)
    assert [trial.state for trial in tuning.trials].count("failed") == 1
    assert len(tuning.trials) == 4


def test_a_space_of_few_combinations_ends_when_all_were_tried(tmp_path, training, caplog):
    caplog.set_level(logging.INFO)
    tuning = search(tmp_path / "out", 20, space={"training.learning_rate": [1e-3, 3e-3, 1e-2]})
    assert sorted(trial.values["training.learning_rate"] for trial in tuning.trials) == [1e-3, 3e-3, 1e-2]
    assert "every combination of values has been tried: there are only 3 trials" in caplog.text


def test_whole_numbers_lists_and_null_are_values(tmp_path, training):
    space = {
        "loss.ks": [None, [1], [1, 2]],
        "batch.samples_per_class": {"low": 2, "high": 4},
        "model.pooling": [None, "gem"],
    }
    tuning = search(tmp_path / "out", 8, space=space, **{"batch.samples_per_class": 2})
    assert len(tuning.trials) == 8
    assert all(type(trial.values["batch.samples_per_class"]) is int for trial in tuning.trials)
    assert contents(Tuning.open(tmp_path / "out")) == contents(tuning)


def test_the_seed_of_the_configuration_decides_what_is_sampled(tmp_path, training):
    rates = [
        [trial.values["training.learning_rate"] for trial in search(tmp_path / name, 3, seed=seed).trials]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert rates[0] == rates[1] != rates[2]


def made(values: list[list[float]], rates: list[float], **options: Any) -> Tuning:
    """A search with a row of recall@1 by fold for each trial."""
    content = {"metric": "sum", "space": RATES, "data": [{}] * len(values[0]), "config": load("glyphs"), **options}
    trials = [
        Trial(
            number=number,
            state="complete",
            values={"training.learning_rate": rate},
            rows=[[{"epoch": 1, "recall@1": value, "map@r": 0.25}] for value in row],
        )
        for number, (row, rate) in enumerate(zip(values, rates, strict=True))
    ]
    return Tuning("tune/x", sys.modules["retrieval.runs.tuning"]._File(trials=trials, **content))


def test_the_difference_is_paired_over_the_folds_with_its_interval():
    tuning = made([[0.5, 0.25, 0.5], [0.75, 0.5, 0.75]], [1e-3, 2e-3])
    assert tuning.best.number == 1
    assert tuning.difference["recall@1"] == tuning.difference["recall@1 low"] == tuning.difference["sum high"] == 0.25
    assert tuning.cautions == []
    difference = made([[0.5, 0.5, 0.5], [0.25, 0.5, 1.0]], [1e-3, 2e-3]).difference
    assert difference["sum"] == pytest.approx(0.25 / 3)
    half = 4.302652729911275 * np.std([-0.25, 0, 0.5], ddof=1) / np.sqrt(3)
    assert difference["sum high"] - difference["sum"] == pytest.approx(half)


def test_a_caution_says_where_the_interval_includes_zero():
    (caution,) = made([[0.5, 0.5, 0.5], [0.25, 0.5, 1.0]], [1e-3, 2e-3]).cautions
    assert "the interval of the difference includes zero" in caution
    assert made([[0.5, 0.5], [0.25, 0.5]], [1e-3, 2e-3]).cautions == [
        "no trial is better than the configuration as it is"
    ]


def test_a_caution_names_a_range_whose_edge_the_best_value_is_at():
    (caution,) = made([[0.5, 0.5], [0.75, 0.75]], [1e-3, 9e-3]).cautions
    assert (
        caution
        == "training.learning_rate: the best value, 0.009, is at the edge of its range 0.0001 .. 0.01; widen the range"
    )


def test_equal_trials_leave_the_configuration_as_it_is():
    assert made([[0.5, 0.5], [0.5, 0.5]], [1e-3, 2e-3]).best.number == 0


def test_wrong_arguments_are_named_before_anything_is_read(tmp_path):
    for options, message in (
        ({"trials": 0}, "trials is 0; give 1 or more"),
        ({"folds": 1}, "folds is 1; give 2 or more"),
        ({"metric": "loss"}, "metric is 'loss'; give one of sum, recall@1, map@r"),
    ):
        with pytest.raises(ValueError, match=message):
            search(tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=r"unknown key 'training\.epoch'"):
        search(tmp_path / "out", **{"training.epoch": 3})
    assert not list(tmp_path.iterdir())


def test_without_optuna_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        RetrievalError, match=r"tuning needs Optuna, .*`python -m pip install 'image-retrieval-toolkit\[tune\]'`"
    ):
        search(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RetrievalError, match="tuning trains in one process; start it without torchrun"):
        search(tmp_path / "out")


def test_a_wrong_configuration_leaves_no_search_behind_that_the_right_one_would_have_to_overwrite(
    tmp_path, monkeypatch
):
    def refuse(config, path, **options):
        raise ConfigError("model: cannot be built")

    monkeypatch.setattr(tune_module, "run_process", refuse)
    with pytest.raises(ConfigError, match="model: cannot be built"):
        search(tmp_path / "out")
    monkeypatch.setattr(tune_module, "run_process", Training())
    assert search(tmp_path / "out", 1, **{"training.epochs": 5}).start.state == "complete"


def test_a_full_disk_is_one_line_and_the_search_goes_on_later(tmp_path, training, monkeypatch):
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:

        def write(self, *words: Any, **options: Any) -> None:
            raise RetrievalError(f"tuning.json: cannot be written ({full.strerror}); any previous content is unchanged")

        training.stop_after = None
        search(tmp_path / "out", 1)
        patch.setattr("retrieval.runs.tuning.write_json", write)
        with pytest.raises(RetrievalError, match="No space left on device") as caught:
            search(tmp_path / "out", 2)
        assert len(caught.value.lines) == 1
    assert len(search(tmp_path / "out", 2).trials) == 2


@pytest.mark.slow
def test_real_trainings_are_stopped_by_a_signal_and_go_on_bit_for_bit(tmp_path, monkeypatch, caplog):
    options = {"training.epochs": 3}
    whole = search(tmp_path / "whole", 2, **options)
    assert [trial.state for trial in whole.trials] == ["complete"] * 2
    assert all(len(trial.rows[0]) == 4 for trial in whole.trials)  # the start and three epochs of one step
    step, taken = Trainer._take_step, []

    def and_a_signal(trainer: Trainer, *batch: Any) -> float:
        taken.append(trainer.step)
        if len(taken) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *batch)

    monkeypatch.setattr(Trainer, "_take_step", and_a_signal)
    with pytest.raises(Stopped) as stopped:
        search(tmp_path / "out", 2, **options)
    assert stopped.value.code == 143
    assert "stopped in trial 0; the same command goes on from there" in caplog.text
    assert contents(search(tmp_path / "out", 2, **options)) == contents(whole)
    assert len(taken) == 12  # no step was taken twice
    assert process.log.filters == []
