"""What a run has measured so far, and which of its epochs was the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Figures = dict[str, float]


@dataclass
class Record:
    """The rows of a run, one an epoch, and its results.

    A row holds "epoch", "step", "loss" (its mean since the row before) and, where they were measured, figures as
    "validation recall@1" or "test recall@1". An epoch within which a run ended, and was gone on with later, has a row for either
    end: each may be the best.

    Args:
        rows: in the order of their steps.
        results: figures on the test classes by what was measured, e.g. "untrained" and "last".
    """

    rows: list[Figures] = field(default_factory=list)
    results: dict[str, Figures] = field(default_factory=dict)

    def add(self, row: Figures) -> None:
        """Adds a row, in place of one that its step may have already: a run that was stopped measures it again."""
        self.rows = [other for other in self.rows if other["step"] < row["step"]] + [row]

    def best(self, split: str) -> Figures | None:
        """The first row that no other outdoes on a split: recall@1 decides, then MAP@R. None where the split was never measured."""
        measured = [row for row in self.rows if f"{split} recall@1" in row]
        return max(measured, key=lambda row: (row[f"{split} recall@1"], row[f"{split} map@r"]), default=None)

    def improved(self, split: str) -> bool:
        """Whether the last row is the best on a split."""
        return bool(self.rows) and self.best(split) is self.rows[-1]

    def looks_since_best(self, split: str) -> int:
        """How often a split was measured since the best row on it."""
        best = self.best(split)
        return sum(f"{split} recall@1" in row and row["step"] > best["step"] for row in self.rows) if best else 0


def labelled(split: str, figures: Mapping[str, float]) -> Figures:
    """Figures as a row holds them, under the name of their split."""
    return {f"{split} {name}": value for name, value in figures.items()}


def unlabelled(split: str, row: Mapping[str, float]) -> Figures:
    """The figures of a split that a row holds."""
    return {name.removeprefix(f"{split} "): value for name, value in row.items() if name.startswith(f"{split} ")}
