"""The figures of a run so far, and the best of its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Figures = dict[str, float]


@dataclass
class Record:
    """The rows of a run, one for each epoch, and its results.

    A row holds "epoch", "step", "loss" (the mean since the row before) and the figures that were measured, such as
    "validation recall@1". An epoch in which a run ended and was resumed later has two rows, each of which may be the best.

    Args:
        rows: The rows in the order of their steps.
        results: Figures of the test classes by what was measured, such as "untrained" and "last".
    """

    rows: list[Figures] = field(default_factory=list)
    results: dict[str, Figures] = field(default_factory=dict)

    def add(self, row: Figures) -> None:
        """Adds a row. It replaces the row of the same step, which a resumed run measures again."""
        self.rows = [other for other in self.rows if other["step"] < row["step"]] + [row]

    def best(self, split: str) -> Figures | None:
        """The first row with the best recall@1 on a split, then the best MAP@R; None if the split was never measured."""
        measured = [row for row in self.rows if f"{split} recall@1" in row]
        return max(measured, key=lambda row: (row[f"{split} recall@1"], row[f"{split} map@r"]), default=None)

    def improved(self, split: str) -> bool:
        """Whether the last row is the best on a split."""
        return bool(self.rows) and self.best(split) is self.rows[-1]

    def evaluations_since_best(self, split: str) -> int:
        """The number of measurements of a split after its best row."""
        best = self.best(split)
        return sum(f"{split} recall@1" in row and row["step"] > best["step"] for row in self.rows) if best else 0


def labelled(split: str, figures: Mapping[str, float]) -> Figures:
    """Figures with the name of their split in front, as a row holds them."""
    return {f"{split} {name}": value for name, value in figures.items()}


def unlabelled(split: str, row: Mapping[str, float]) -> Figures:
    """The figures of a split that a row holds."""
    return {name.removeprefix(f"{split} "): value for name, value in row.items() if name.startswith(f"{split} ")}
