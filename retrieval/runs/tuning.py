"""A search for the options of a configuration, as its folder holds it: its trials, the best of them, and what may be said of it."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from retrieval.config import Config, to_yaml
from retrieval.config.space import Choices, Range, describe_space, with_values
from retrieval.errors import CheckpointError
from retrieval.files import begins_with, read_file, require_place, write_json, write_text
from retrieval.files.cells import guard
from retrieval.runs.record import LARGEST_RECORD, Figures, Record, labelled
from retrieval.runs.run_groups import half_width

NAMES = ("recall@1", "map@r", "sum")
METRICS = ("sum", "recall@1", "map@r")

_MARK = '{\n  "format": "retrieval tuning"'
_FOLDS = "trial-*-fold-*"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Trial(BaseModel):
    """A trial: values of the searched options, and what was measured with them.

    Args:
        number: Its number; 0 is the configuration as it is.
        values: The values by option.
        state: "running", "complete", "pruned" (ended early, since it was behind the others), or "failed".
        rows: For each fold, a row for each epoch: "epoch", "recall@1" and "map@r" of the fold. Epoch 0 is before training. The last
            fold of a pruned trial is not whole.
        seconds: The time that it took.
        error: Why it failed.
    """

    model_config = ConfigDict(extra="forbid")

    number: int
    values: dict[str, Any]
    state: Literal["running", "complete", "pruned", "failed"] = "running"
    rows: list[list[dict[str, Finite]]] = []
    seconds: Finite = 0.0
    error: str = ""

    @property
    def folds(self) -> list[Figures]:
        """For each fold the figures of the best epoch, as a run chooses it: "recall@1", "map@r", "sum" and "epoch"."""
        return [best_figures(rows) for rows in self.rows]

    @property
    def figures(self) -> Figures:
        """The means over the folds of "recall@1", "map@r" and "sum"; empty unless the trial is complete."""
        if self.state != "complete":
            return {}
        return {name: fmean(fold[name] for fold in self.folds) for name in NAMES}

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {
            "number": self.number,
            "state": self.state,
            "values": self.values,
            "figures": self.figures,
            "folds": self.folds,
            "seconds": self.seconds,
            **({"error": self.error} if self.error else {}),
        }


def best_figures(rows: Sequence[Figures]) -> Figures:
    """The figures of the best of some epochs; see `Record.best`."""
    record = Record([{"step": row["epoch"], "epoch": row["epoch"], **labelled("fold", row)} for row in rows])
    best = record.best("fold")
    assert best is not None
    recall, map_at_r = best["fold recall@1"], best["fold map@r"]
    return {"recall@1": recall, "map@r": map_at_r, "sum": recall + map_at_r, "epoch": int(best["epoch"])}


class _File(BaseModel):
    """What tuning.json holds."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["retrieval tuning"] = "retrieval tuning"
    metric: Literal["sum", "recall@1", "map@r"]
    space: dict[str, Any]
    data: list[dict[str, str]]  # for each fold, the fingerprints of its splits
    config: Config
    trials: list[Trial] = []

    @field_validator("config", mode="before")
    @classmethod
    def _decoding_of_an_earlier_version(cls, value: Any) -> Any:
        """A search of an earlier version decoded every pixel."""
        if isinstance(value, dict) and isinstance(value.get("image"), dict):
            return {**value, "image": {"decoding": "full", **value["image"]}}
        return value


class Tuning:
    """A search for the options of a configuration. `retrieval.tune` returns one, `Tuning.open` opens one.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import retrieval
        >>> pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 40, 3), dtype=np.uint8)
        >>> images = retrieval.ImageSet.from_dataset(pixels, labels=[i // 4 for i in range(48)])
        >>> options = {"data.workers": 0, "batch.size": 8, "training.max_steps": 1}
        >>> made = retrieval.tune("glyphs", images, tempfile.mkdtemp() + "/tuned", trials=1, folds=2, **options)
        >>> tuning = retrieval.Tuning.open(made.path)
        >>> tuning.best.number, tuning.best.state, list(tuning.space)
        (0, 'complete', ['training.learning_rate', 'loss.temperature'])
    """

    def __init__(self, path: str | Path, content: _File) -> None:
        self.path = Path(path)
        self._content = content

    @classmethod
    def open(cls, path: str | Path) -> Tuning:
        """Opens the folder of a search.

        Raises:
            CheckpointError: It is none, or its files are damaged.
        """
        file = Path(path) / "tuning.json"
        try:
            content = _File.model_validate_json(read_file(file, LARGEST_RECORD))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: not the folder of a tuning (it has no {file.name})") from error
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise CheckpointError(
                f"{file}: cannot be read ({reason}); restore it, or start anew with overwrite=True"
            ) from error
        return cls(path, content)

    @property
    def config(self) -> Config:
        """The configuration that the search started from: that of trial 0."""
        return self._content.config

    @property
    def metric(self) -> str:
        """What is searched for the largest mean over the folds: "sum" of recall@1 and MAP@R, "recall@1" or "map@r"."""
        return self._content.metric

    @property
    def space(self) -> dict[str, Any]:
        """The searched options, each with the list of its values or with its range: "low", "high" and "log"."""
        return self._content.space

    @property
    def num_folds(self) -> int:
        """The number of folds."""
        return len(self._content.data)

    @property
    def fingerprints(self) -> list[dict[str, str]]:
        """For each fold, the fingerprints of its "train" and "validation" images."""
        return self._content.data

    @property
    def trials(self) -> list[Trial]:
        """The trials by number."""
        return self._content.trials

    @property
    def start(self) -> Trial:
        """Trial 0, the configuration as it is."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The complete trial with the largest metric; the first of equal ones.

        Raises:
            CheckpointError: No trial is complete.
        """
        complete = [trial for trial in self.trials if trial.state == "complete"]
        if not complete:
            reason = next((f": {trial.error}" for trial in self.trials if trial.error), "")
            raise CheckpointError(f"{self.path}: no trial is complete{reason}")
        return max(complete, key=lambda trial: trial.figures[self.metric])

    @property
    def best_config(self) -> Config:
        """The configuration of the best trial, which best.yaml holds."""
        return with_values(self.config, self.best.values)

    @property
    def difference(self) -> Figures:
        """The figures of the best trial less those of trial 0: means over the folds, paired.

        "<name> low" and "<name> high" are the bounds of the 95 % interval of the mean over the folds, by Student's t. Empty if
        trial 0 is the best or is not complete.
        """
        found: Figures = {}
        if self.best is self.start or self.start.state != "complete":
            return found
        for name in NAMES:
            pairs = zip(self.best.folds, self.start.folds, strict=True)
            values = [fold[name] - other[name] for fold, other in pairs]
            mean, half = fmean(values), half_width(values)
            found |= {name: mean, f"{name} low": mean - half, f"{name} high": mean + half}
        return found

    @property
    def cautions(self) -> list[str]:
        """What to know about the best trial: that it may be no better than trial 0, or that a range is too narrow."""
        difference, found = self.difference, []
        if self.best is self.start:
            found.append("no trial is better than the configuration as it is")
        elif difference and difference[f"{self.metric} low"] <= 0:
            found.append(
                "the interval of the difference includes zero: the best may be no better than the start on other classes; "
                "more folds make the interval narrower"
            )
        for key, values in self.space.items():
            value, numbers = self.best.values[key], Range(**values) if isinstance(values, dict) else None
            if numbers is not None and numbers.edge(value) is not None:
                line = f"{key}: the best value, {value:.3g}, is at the edge of its range {numbers}; widen the range"
                found.append(line)
        return found

    def take_options(self, config: Config) -> None:
        """Takes over the options of a configuration that may differ from those at the beginning, such as the device."""
        self._content.config = config

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them; figures are fractions of 1."""
        return {
            "tuning": str(self.path),
            "metric": self.metric,
            "folds": self.num_folds,
            "space": self.space,
            "best": self.best.to_dict(),
            "start": self.start.to_dict(),
            "difference": self.difference,
            "cautions": self.cautions,
            "trials": [trial.to_dict() for trial in self.trials],
        }

    def save(self) -> None:
        """Writes tuning.json, trials.csv and, unless a trial is running or none is complete, best.yaml.

        Raises:
            RetrievalError: They cannot be written.
        """
        write_json(self.path / "tuning.json", self._content.model_dump(mode="json"))
        write_text(self.path / "trials.csv", self._table())
        if self.trials[-1].state != "running" and any(trial.state == "complete" for trial in self.trials):
            origin = f"# trial {self.best.number} of `retrieval tune`, the best of {len(self.trials)}\n"
            write_text(self.path / "best.yaml", origin + to_yaml(self.best_config))

    def _table(self) -> str:
        """The trials as CSV: a row for each, figures as fractions of 1."""
        rows = []
        for trial in self.trials:
            row: dict[str, Any] = {"trial": trial.number, "state": trial.state, **trial.values}
            row |= {name: trial.figures.get(name) for name in NAMES}
            for number in range(self.num_folds):
                fold = trial.folds[number] if number < len(trial.rows) else {}
                row |= {f"fold {number + 1} {name}": fold.get(name) for name in ("recall@1", "map@r", "epoch")}
            rows.append(row | {"seconds": round(trial.seconds, 1), "error": trial.error})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["trial"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: guard(value) for name, value in row.items()} for row in rows)
        return text.getvalue()


def new_tuning(
    path: Path, config: Config, space: dict[str, Range | Choices], metric: str, data: list[dict[str, str]]
) -> Tuning:
    """A search without trials, of which nothing is written yet."""
    return Tuning(path, _File(metric=metric, space=describe_space(space), data=data, config=config))  # type: ignore[arg-type]


def check_place(path: Path, *, overwrite: bool) -> None:
    """Checks that a search can be written to a folder, before the work begins.

    Raises:
        CheckpointError: It holds something else.
        RetrievalError: It cannot be made.
    """
    require_place(path)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: is a file; a tuning needs a folder")
    file = path / "tuning.json"
    others = path.is_dir() and any(not item.name.startswith(".") for item in path.iterdir())
    if others and not (begins_with(file, _MARK.encode()) if overwrite else file.is_file()):
        raise CheckpointError(f"{path}: holds other files than those of a tuning; choose another folder")


def clear_place(path: Path) -> None:
    """Removes the files of a search from its folder; the one that marks it last."""
    for folder in path.glob(_FOLDS):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("best.yaml", "trials.csv", "tuning.json"):
        (path / name).unlink(missing_ok=True)


def fold_folder(path: Path, trial: int, fold: int) -> Path:
    """The folder of the run of a fold, which exists as long as the fold is trained; `fold` counts from 0."""
    return path / f"trial-{trial}-fold-{fold + 1}"
