"""What a search tries next, and which trial it prunes: Optuna's samplers and pruners, from the trials so far.

A study of Optuna is made from the trials anew for each suggestion, with a random state of its own. A search that was stopped
therefore goes on as if it had not been. The trials are on disk in a file of this package and not in a storage of Optuna, so that a
full disk or a kill leaves the previous file intact.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import inf, prod
from statistics import fmean
from typing import Any

import numpy as np

from retrieval.config.space import Choices, Range, Space
from retrieval.errors import RetrievalError, reason_of
from retrieval.runs.record import Figures
from retrieval.runs.tuning import Trial, best_figures

_RANDOM_TRIALS = 5  # before the sampler follows the results, and before a trial is pruned
_LONGEST = 100_000  # epochs of a fold; the steps of Optuna count epochs over all folds
_ATTEMPTS = 100  # at values that no trial has had


class Sampling:
    """Samples trials from a space.

    Args:
        space: The options and their values.
        metric: The figure to maximise.
        seed: The seed of the samples.

    Raises:
        RetrievalError: Optuna is not installed.
    """

    def __init__(self, space: Space, metric: str, seed: int) -> None:
        try:
            self._optuna: Any = importlib.import_module("optuna")
        except ImportError as error:
            raise RetrievalError(
                f"tuning needs Optuna, which cannot be imported ({reason_of(error)}); install it with "
                "`python -m pip install 'image-retrieval-toolkit[tune]'`"
            ) from error
        self._space, self._metric, self._seed = space, metric, seed
        self._distributions = {key: self._distribution(values) for key, values in space.items()}

    def suggest(self, trials: Sequence[Trial]) -> dict[str, Any] | None:
        """The values of the next trial, other than those of all trials so far; None if there are no others."""
        tried = {_key(trial.values) for trial in trials}
        if len(tried) >= self._count_combinations():
            return None
        for attempt in range(_ATTEMPTS):
            with self._study(trials, attempt) as study:
                values = self._values(study.ask(self._distributions).params)
            if _key(values) not in tried:
                return values
        return None

    def is_behind(self, trials: Sequence[Trial], number: int, rows: Sequence[Sequence[Figures]]) -> bool:
        """Whether a trial is to be pruned: its best is below the median of the complete trials at the same epoch.

        Args:
            trials: The trials so far.
            number: The number of the trial.
            rows: Its rows; those of the last fold are of the epochs so far.
        """
        complete = [trial for trial in trials if trial.state == "complete" and trial.number != number]
        with self._study(complete, _ATTEMPTS) as study:
            trial = study.ask()
            for step, value in self._reached(trials, rows).items():
                trial.report(value, step)
            return bool(trial.should_prune())

    def _count_combinations(self) -> float:
        """The number of different trials of the space; infinite if it has a range of numbers that are not whole."""
        counts = [
            len(values.values) if isinstance(values, Choices) else values.high - values.low + 1 if values.whole else inf
            for values in self._space.values()
        ]
        return prod(counts)

    def _reached(self, trials: Sequence[Trial], rows: Sequence[Sequence[Figures]]) -> dict[int, float]:
        """What a trial has reached by each epoch: the mean over its folds so far, each less what trial 0 reached in the fold.

        The differences make folds comparable that are not equally hard.
        """
        start = next((trial.folds for trial in trials if trial.number == 0 and trial.state == "complete"), None)
        reached: dict[int, float] = {}
        finished: list[float] = []
        for fold, fold_rows in enumerate(rows):
            offset, value = 0.0 if start is None else start[fold][self._metric], 0.0
            for count, row in enumerate(fold_rows, start=1):
                value = best_figures(fold_rows[:count])[self._metric] - offset
                reached[fold * _LONGEST + int(row["epoch"])] = fmean([*finished, value])
            finished.append(value)
        return reached

    def _observed(self, trials: Sequence[Trial]) -> list[tuple[Trial, dict[int, float]]]:
        """Each trial with what it has reached; a pruned one by its last epoch. A failed one has the least of the others."""
        found = {trial.number: {} if trial.state == "failed" else self._reached(trials, trial.rows) for trial in trials}
        least = min((list(reached.values())[-1] for reached in found.values() if reached), default=0.0)
        return [(trial, found[trial.number] or {0: least}) for trial in trials]

    @contextlib.contextmanager
    def _study(self, trials: Sequence[Trial], attempt: int) -> Iterator[Any]:
        """A study that holds these trials. Optuna's messages are not shown.

        The first attempt at values is a model of the results by a Gaussian process; later ones are at random.
        """
        optuna = self._optuna
        samplers, verbosity = optuna.samplers, optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = int(np.random.default_rng([self._seed, len(trials), attempt]).integers(2**31))
        try:
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                study = optuna.create_study(
                    direction="maximize",
                    # With a few options and tens of trials, it needs fewer of them than Optuna's default, the TPESampler.
                    sampler=samplers.RandomSampler(seed)
                    if attempt
                    else samplers.GPSampler(seed=seed, n_startup_trials=_RANDOM_TRIALS),
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_TRIALS, n_min_trials=_RANDOM_TRIALS),
                )
            for trial, reached in self._observed(trials):
                study.add_trial(
                    optuna.trial.create_trial(
                        value=list(reached.values())[-1],
                        params={key: self._encode(values, trial.values[key]) for key, values in self._space.items()},
                        distributions=self._distributions,
                        intermediate_values=reached,
                    )
                )
            yield study
        finally:
            optuna.logging.set_verbosity(verbosity)

    def _distribution(self, values: Range | Choices) -> Any:
        distributions = self._optuna.distributions
        if isinstance(values, Choices):  # by position, since Optuna takes no lists
            return distributions.CategoricalDistribution(range(len(values.values)))
        kind = distributions.IntDistribution if values.whole else distributions.FloatDistribution
        return kind(values.low, values.high, log=values.log)

    def _values(self, parameters: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for key, values in self._space.items():
            parameter = parameters[key]
            if isinstance(values, Choices):
                found[key] = values.values[parameter]
            else:
                found[key] = int(parameter) if values.whole else _shorten(parameter, values)
        return found

    def _encode(self, values: Range | Choices, value: Any) -> Any:
        if isinstance(values, Range):
            return value
        return next(position for position, each in enumerate(values.values) if value in Choices((each,)))


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _shorten(value: float, values: Range) -> float:
    """A number of four digits, within the range."""
    return min(max(float(f"{value:.4g}"), values.low), values.high)
