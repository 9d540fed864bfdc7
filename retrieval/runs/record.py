"""The figures of a run so far, and the best of its epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.errors import brief

LARGEST_RECORD = 2**28  # bytes of a file of a run besides its weights

Figures = dict[str, float]


@dataclass
class Record:
    """The rows of a run, one for each epoch, and its results.

    A row holds "epoch", "step", "loss" and the figures of the training batches such as "score_spread" (means since the row before),
    and the figures that were measured, such as "validation recall@1". Epoch 0 is the network before training and has no loss. An
    epoch in which a run ended and was resumed later has two rows, each of which may be the best.

    Args:
        rows: The rows in the order of their steps.
        results: Figures by what was measured and on what; see `result_name`.
    """

    rows: list[Figures] = field(default_factory=list)
    results: dict[str, Figures] = field(default_factory=dict)

    def add(self, row: Figures) -> None:
        """Adds a row. It replaces the row of the same step, which a resumed run measures again."""
        self.rows = [other for other in self.rows if other["step"] < row["step"]] + [row]

    def best(self, split: str) -> Figures | None:
        """The first row with the largest sum of recall@1 and MAP@R on a split; None if the split was never measured.

        On few classes recall@1 alone is soon 1, and then chooses at random. A trained epoch is better than an equal start.
        """

        def rank(row: Figures) -> tuple[float, bool]:
            return row[f"{split} recall@1"] + row[f"{split} map@r"], row["epoch"] > 0

        return max((row for row in self.rows if f"{split} recall@1" in row), key=rank, default=None)

    def improved(self, split: str) -> bool:
        """Whether the last row is the best on a split."""
        return bool(self.rows) and self.best(split) is self.rows[-1]

    def evaluations_since_best(self, split: str) -> int:
        """The number of measurements of a split after its best row."""
        best = self.best(split)
        return sum(f"{split} recall@1" in row and row["step"] > best["step"] for row in self.rows) if best else 0


def parse_rows(text: str) -> list[Figures]:
    """The rows in the text of metrics.jsonl.

    Raises:
        ValueError: The text is damaged.
    """
    return check_rows([_parse(line) for line in text.splitlines()])


def parse_results(text: str) -> dict[str, Figures]:
    """The results in the text of results.json.

    Raises:
        ValueError: The text is damaged.
    """
    return check_results(_parse(text))


def check_rows(rows: list[Any]) -> list[Figures]:
    """Returns the rows if they are rows of a `Record`.

    Raises:
        ValueError: They are not.
    """
    for number, row in enumerate(rows, start=1):
        if not _are_figures(row) or not {"epoch", "step"} <= row.keys() or not _measured_together(row):
            raise ValueError(f"row {number} is {brief(row)}, expected epoch, step and figures")
    return rows


def check_results(results: Any) -> dict[str, Figures]:
    """Returns the results if they are results of a `Record`.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(results, dict) or not all(_are_figures(figures) for figures in results.values()):
        raise ValueError(f"the results are {brief(results)}, expected figures by what was measured")
    return results


def labelled(split: str, figures: Mapping[str, float]) -> Figures:
    """Figures with the name of their split in front, as a row holds them."""
    return {f"{split} {name}": value for name, value in figures.items()}


def unlabelled(split: str, row: Mapping[str, float]) -> Figures:
    """The figures of a split that a row holds."""
    return {name.removeprefix(f"{split} "): value for name, value in row.items() if name.startswith(f"{split} ")}


def result_name(what: str, split: str) -> str:
    """The name of a result: "last" on the test images, "last (validation)" on the validation images."""
    return what if split == "test" else f"{what} ({split})"


def below_frozen_features(results: Mapping[str, Figures], best: Figures | None) -> str | None:
    """A line that says that the model or the last epoch is below the frozen features, and what to do; None if neither is.

    Args:
        results: The results of a run; see `Record`.
        best: The row of the best epoch, whose weights are handed over. None: those of the last epoch are.
    """
    split = "test" if "last" in results else "validation"
    frozen, start, last = (results.get(result_name(what, split)) for what in ("frozen features", "untrained", "last"))
    if not frozen or not last:
        return None
    model = results.get(result_name("best by validation", split), last)
    name = "the last epoch" if best is None else f"epoch {best['epoch']:g}" if best["epoch"] else "the start, untrained"
    where = f"below the frozen features on the {split} images"
    advice = "Lower training.learning_rate or training.epochs, keep model.freeze_batchnorm at statistics, or add images"
    if below := _below(model, frozen):
        line = f"the model of this run, {name}, is {where} ({below})"
        if not _below(last, frozen):
            advice = "The last epoch is not; raise data.validation_share, so that more images choose the epoch"
        elif start and _below(start, frozen):
            advice = "The head starts below them too; model.embedding_dim=null model.head_init=null starts at the frozen features"
    elif below := _below(last, frozen):
        line = f"the last epoch is {where} ({below}). The model of this run is {name}"
    else:
        return None
    return f"{line}. {advice}"


def _below(figures: Figures, frozen: Figures) -> str:
    """The figures that are below those of the frozen features, in percent."""
    return ", ".join(
        f"{title} {100 * figures[name]:.2f} against {100 * frozen[name]:.2f}"
        for name, title in (("recall@1", "recall@1"), ("map@r", "MAP@R"))
        if figures[name] < frozen[name]
    )


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects inside one another") from error


def _are_figures(values: Any) -> bool:
    """Whether values are finite numbers by name."""
    return isinstance(values, dict) and all(
        isinstance(name, str) and type(value) in (int, float) and math.isfinite(value) for name, value in values.items()
    )


def _measured_together(row: Figures) -> bool:
    """Whether the figures that `Record.best` needs of a split are all there or none is."""
    return all((f"{split} recall@1" in row) == (f"{split} map@r" in row) for split in ("validation", "test"))
