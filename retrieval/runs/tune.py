"""Searching the options of a configuration on folds of the training images."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from retrieval.config import Config, load
from retrieval.config.check import check
from retrieval.config.folders import default_folder
from retrieval.config.folds import read_folds
from retrieval.config.space import own_values, read_space, with_values
from retrieval.config.splits import with_absolute_paths
from retrieval.data import ImageSet
from retrieval.errors import CheckpointError, ConfigError, DivergedError, RetrievalError, plural
from retrieval.files import locked
from retrieval.runs.measuring import describe
from retrieval.runs.objects import Objects
from retrieval.runs.process import run_process
from retrieval.runs.record import Figures, unlabelled
from retrieval.runs.resume import changed_options
from retrieval.runs.run import Run
from retrieval.runs.sampling import Sampling
from retrieval.runs.train import is_options
from retrieval.runs.tuning import (
    METRICS,
    Trial,
    Tuning,
    best_figures,
    check_place,
    clear_place,
    fold_folder,
    new_tuning,
)
from retrieval.training import RunFolder, Stopped, StopSignals

log = logging.getLogger("retrieval")

# Options that change no figure.
FREE_TO_CHANGE = ("device", "data.root", "data.workers", "data.timeout", "training.callbacks")

Folds = Sequence[Mapping[str, ImageSet]]


def tune(
    config: str | Path | Config | None = None,
    data: Any = None,
    out: str | Path | None = None,
    *,
    trials: int = 20,
    folds: int = 3,
    space: str | Path | Mapping[str, Any] | None = None,
    metric: str = "sum",
    overwrite: bool = False,
    **overrides: Any,
) -> Tuning:
    """Searches options of a configuration on folds of the training images. The tested images are not used.

    Each trial trains a run for each fold: on the training images without the fold, measured on the fold. The folds are of
    classes, or of images where every class trains. Trial 0 is the configuration as it is. The others are sampled by Optuna, and are
    pruned when they fall behind the median of the earlier ones. The same call continues a search that was stopped or killed,
    also with more trials.

    Args:
        config: See `retrieval.train`.
        data: See `retrieval.train`.
        out: The folder of the search; by default `tune/<name of the folder or list>`, or `tune/<config>`.
        trials: The number of trials, with those of earlier calls.
        folds: The number of folds, at least 2.
        space: The options to search: a YAML file, or a mapping from options to a list of values or to `{"low": 1e-5, "high": 1e-3,
            "log": True}`. By default the learning rate, the temperature of the loss if it has one, and the start of the head of a
            pretrained backbone; see `retrieval.config.space.default_space`.
        metric: What is maximised: "sum" of recall@1 and MAP@R, "recall@1" or "map@r".
        overwrite: Replace the search in the folder.
        overrides: Options of the configuration.

    Returns:
        The search, with `best`, `trials` and `best_config`. Its folder has the trials in trials.csv and the configuration of the
        best trial in best.yaml.

    Raises:
        ConfigError: An option or the space cannot be used; one line for each mistake.
        ValueError: An argument is wrong.
        CheckpointError: The folder has the search of another configuration, space or data set.
        RetrievalError: Optuna is not installed, the images cannot be read, or the folder cannot be written.
        SystemExit: By SIGTERM or Ctrl-C, after everything was saved.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import retrieval
        >>> pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 40, 3), dtype=np.uint8)
        >>> images = retrieval.ImageSet.from_dataset(pixels, labels=[i // 4 for i in range(48)])
        >>> options = {"data.workers": 0, "batch.size": 8, "training.max_steps": 1}
        >>> space = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
        >>> folder = tempfile.mkdtemp() + "/tuned"
        >>> tuning = retrieval.tune("glyphs", images, folder, trials=2, folds=2, space=space, **options)
        >>> len(tuning.trials), tuning.best.figures["sum"] >= tuning.start.figures["sum"]
        (2, True)
    """
    for name, value, least in (("trials", trials, 1), ("folds", folds, 2)):
        if type(value) is not int or value < least:
            raise ValueError(f"{name} is {value!r}; give {least} or more")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; give one of {', '.join(METRICS)}")
    if is_options(data):
        overrides["data"], data = data, None
    root, data = (data, None) if isinstance(data, (str, Path)) else (None, data)
    if config is None:
        config = "glyphs" if root is None else "photos"
    settings = load(config, overrides, root)
    source = config.data.name if isinstance(config, Config) else config
    path = Path(out or default_folder(source, root, parent="tune"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RetrievalError("tuning trains in one process; start it without torchrun")
    searched = read_space(space, settings)
    sampling = Sampling(searched, metric, settings.seed)
    objects = Objects(data)
    settings = with_absolute_paths(objects.describe(settings))
    check(settings, objects.missing_parts())
    check_place(path, overwrite=overwrite)
    with locked(path, user="tuning"), StopSignals() as signals:
        check_place(path, overwrite=overwrite)
        if overwrite:
            clear_place(path)
        parts = read_folds(settings, folds, data)
        fingerprints = [{name: images.fingerprint() for name, images in fold.items()} for fold in parts]
        tuning = _open(new_tuning(path, settings, searched, metric, fingerprints))
        for key, values in searched.items():
            log.info("searched   %s in %s", key, values)
        _Search(tuning, parts, sampling, trials, signals).run(own_values(searched, settings))
    return tuning


class _Search:
    """Runs the trials that are missing.

    Args:
        tuning: The search and its trials so far.
        parts: "train" and "validation" of each fold.
        sampling: What is tried next.
        trials: The number of trials to reach.
        signals: They stop the search after a step.
    """

    def __init__(self, tuning: Tuning, parts: Folds, sampling: Sampling, trials: int, signals: StopSignals) -> None:
        self.tuning, self.parts, self.sampling, self.signals = tuning, parts, sampling, signals
        self.trials = trials

    def run(self, start: dict[str, Any]) -> None:
        """Runs them; trial 0 has the values `start`."""
        trials = self.tuning.trials
        if trials and trials[-1].state == "running":
            self.finish(trials[-1])
        while len(trials) < self.trials:
            values = self.sampling.suggest(trials) if trials else start
            if values is None:
                log.info("every combination of values has been tried: there are only %s", plural(len(trials), "trial"))
                return
            trials.append(Trial(number=len(trials), values=values))
            self.tuning.save()
            self.finish(trials[-1])

    def finish(self, trial: Trial) -> None:
        """Trains the folds that a trial lacks, and saves it."""
        begun, before = time.perf_counter(), trial.seconds
        log.info("trial %d of %d: %s", trial.number, self.trials, _describe_values(trial.values))
        try:
            config = with_values(self.tuning.config, trial.values)
            while len(trial.rows) < len(self.parts):
                self.signals.check()
                rows, whole = self.train_fold(config, trial)
                trial.rows.append(rows)
                trial.seconds = before + time.perf_counter() - begun
                if not whole:
                    trial.state = "pruned"
                    break
                self.tuning.save()
            else:
                trial.state = "complete"
        except (DivergedError, ConfigError, torch.OutOfMemoryError) as error:
            if trial.number == 0 and not isinstance(error, DivergedError):
                raise
            trial.state, trial.error = "failed", str(error).splitlines()[0]
        except Stopped:
            log.warning("stopped in trial %d; the same command goes on from there", trial.number)
            raise
        finally:
            trial.seconds = before + time.perf_counter() - begun
            self.tuning.save()
        for fold in range(len(self.parts)):
            shutil.rmtree(fold_folder(self.tuning.path, trial.number, fold), ignore_errors=True)
        log.info("trial %d: %s", trial.number, self.describe(trial))

    def train_fold(self, config: Config, trial: Trial) -> tuple[list[Figures], bool]:
        """Trains on the images without the next fold.

        Returns:
            A row for each epoch that was measured, and whether the last one was reached.
        """
        fold = len(trial.rows)
        folder = RunFolder(fold_folder(self.tuning.path, trial.number, fold))
        watch = _Watch(self, trial)
        if not folder.results.is_file():  # it exists if the search was stopped just after the fold's last step
            resume = folder.last.is_file()
            if not resume:
                shutil.rmtree(folder.path, ignore_errors=True)
            objects = Objects(dict(self.parts[fold]), callbacks=(watch,))
            try:
                with _brief_log():
                    run_process(_of_fold(config, len(self.parts)), folder.path, resume=resume, objects=objects)
            except _BehindError:
                return _rows(Run(folder.path)), False
        rows = _rows(Run(folder.path))
        figures = best_figures(rows)
        said = f"{describe(figures)}, epoch {figures['epoch']:g}"
        log.info("trial %d, fold %d of %d: %s", trial.number, fold + 1, len(self.parts), said)
        return rows, True

    def describe(self, trial: Trial) -> str:
        """What became of a trial, in a line."""
        if trial.state == "failed":
            return f"failed ({trial.error})"
        if trial.state == "pruned":
            return f"pruned in fold {len(trial.rows)} after epoch {trial.rows[-1][-1]['epoch']:g}"
        best = ", the best so far" if trial.number and self.tuning.best is trial else ""
        return f"{describe(trial.figures)}{best}"


class _BehindError(Exception):
    """A trial is given up."""


class _Watch:
    """A callback that gives a trial up if it falls behind.

    Args:
        search: The search.
        trial: The trial; the run is that of the fold after those in `trial.rows`.
    """

    def __init__(self, search: _Search, trial: Trial) -> None:
        self.search, self.trial = search, trial

    def begin(self, run: Run) -> None:
        """Logs what a run of a fold looks like, once."""
        if self.trial.number == 0 and not self.trial.rows:
            log.info("%s", run.plan)

    def epoch(self, run: Run, epoch: int, figures: Figures) -> None:
        """Ends the run if it has fallen behind; not in the first half of the first fold, nor at the end of the last one."""
        fold, last = len(self.trial.rows), run.config.training.num_epochs
        is_early, is_over = fold == 0 and 2 * epoch <= last, fold == len(self.search.parts) - 1 and epoch >= last
        if is_early or is_over or "validation recall@1" not in figures:
            return
        rows = [*self.trial.rows, _rows(run)]
        if self.search.sampling.is_behind(self.search.tuning.trials, self.trial.number, rows):
            raise _BehindError


def _open(new: Tuning) -> Tuning:
    """The search in the folder of a new one, if there is one; it must be of the same configuration, space, metric and data."""
    if not (new.path / "tuning.json").is_file():
        return new
    found = Tuning.open(new.path)
    if not any(
        trial.rows for trial in found.trials
    ):  # nothing was measured, perhaps because the configuration was wrong
        return new
    changed = changed_options(new.config, found.config, FREE_TO_CHANGE)
    pairs: dict[str, tuple[object, object]] = {
        "space": (found.space, new.space),
        "metric": (found.metric, new.metric),
        "folds": (found.num_folds, new.num_folds),
    }
    changed += [f"{name}: {then}, now {now}" for name, (then, now) in pairs.items() if then != now]
    if not changed and found.fingerprints != new.fingerprints:
        changed = ["other images or classes"]
    if changed:
        raise CheckpointError(
            f"{new.path}: holds a tuning of another kind ({', '.join(changed)}); set these options as they were to continue it, "
            "choose another folder, or pass overwrite=True"
        )
    found.take_options(new.config)
    found.save()
    return found


def _of_fold(config: Config, folds: int) -> Config:
    """The configuration of a run whose images bring the fold as their validation images."""
    data = {"split": "classes", "validation_share": 1 / folds, "folds": None, "fold": 0, "unreadable": "refuse"}
    return load(config, {"data": data, "training.callbacks": []})


def _rows(run: Run) -> list[Figures]:
    """The measured epochs of a run of a fold."""
    measured = [row for row in run.metrics if "validation recall@1" in row]
    return [{"epoch": row["epoch"], **_short(unlabelled("validation", row))} for row in measured]


def _short(figures: Figures) -> Figures:
    return {name: figures[name] for name in ("recall@1", "map@r")}


def _describe_values(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


@contextlib.contextmanager
def _brief_log() -> Iterator[None]:
    """Leaves out the messages of the runs of the folds, except for errors and the signals that stop them."""

    def is_shown(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.module in ("signals", "tune")

    log.addFilter(is_shown)
    try:
        yield
    finally:
        log.removeFilter(is_shown)
