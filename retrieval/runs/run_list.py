"""The runs below a folder, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from retrieval.config.yaml_text import parse
from retrieval.errors import RetrievalError
from retrieval.files import is_locked, read_text
from retrieval.runs.record import LARGEST_RECORD, Figures, Record, parse_results, parse_rows, unlabelled
from retrieval.training import RunFolder

_LOWER_IS_BETTER = ("loss", "mean_intruders")


@dataclass(frozen=True)
class RunSummary:
    """What a run has reached.

    Args:
        path: Its folder.
        state: "running", "finished", "stopped", or "damaged" if its files cannot be read.
        epochs: The number of epochs that were measured.
        best: The best value of every figure over the epochs: the smallest loss and fewest intruders, the largest of all others.
        results: The final figures by what was measured ("untrained", "last", ...).
        validation: The validation figures of the epoch that is best by them; empty if none were measured.
        config: The configuration as its file holds it: sections of options.
    """

    path: Path
    state: str
    epochs: int
    best: dict[str, float]
    results: dict[str, Figures]
    validation: Figures
    config: dict[str, Any]

    @property
    def dataset(self) -> str | None:
        """The name of the data set; of own images with that of their folder or list: "folder: my_photos"."""
        name, place = self._option("data", "name"), self._option("data", "root")
        if name == "csv":
            place = (self._option("data", "options") or {}).get("file") or place
        return f"{name}: {PurePath(place).name}" if name in ("folder", "csv") and place else name

    @property
    def backbone(self) -> str | None:
        """The name of the backbone."""
        return self._option("model", "backbone")

    @property
    def loss(self) -> str | None:
        """The name of the loss, with the projection of a recall loss: "recall (std)"; terms are joined by " + "."""
        terms = self._option("loss", "terms") or [self.config.get("loss") or {}]
        names = [
            f"recall ({term.get('projection')})" if term.get("name") == "recall" else term.get("name") for term in terms
        ]
        return " + ".join(map(str, names)) if all(names) else None

    @property
    def pixels(self) -> int | None:
        """The side of the images that the network gets, in pixels."""
        return self._option("image", "size")

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.config.get("seed")

    @property
    def description(self) -> dict[str, Any]:
        """What a table shows of the configuration."""
        return {"dataset": self.dataset, "backbone": self.backbone, "loss": self.loss, "pixels": self.pixels}

    @property
    def split(self) -> str:
        """The split of the `headline`: "test", or "validation" where nothing was tested."""
        return "test" if self._tested else "validation"

    @property
    def measured_on(self) -> str:
        """What the figures of `headline` are of: "test classes", "query images" or "validation images"; "" if there are none."""
        if self._tested:
            return "query images" if "not_in_gallery" in self._tested else "test classes"
        return "validation images" if self.validation else ""

    @property
    def headline(self) -> Figures:
        """The figures of the best epoch by validation, or of the last epoch where nothing was validated.

        They are those of the test. Where nothing was tested, they are those of the validation. Empty if there are neither.
        """
        return self._tested or self.validation

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {
            "path": str(self.path),
            "state": self.state,
            "epochs": self.epochs,
            **self.description,
            "seed": self.seed,
            "best": self.best,
            "results": self.results,
            "validation": self.validation,
            "measured_on": self.measured_on,
        }

    @property
    def _tested(self) -> Figures:
        return self.results.get("best by validation") or self.results.get("last") or {}

    def _option(self, section: str, name: str) -> Any:
        return (self.config.get(section) or {}).get(name)


def list_runs(folder: str | Path) -> list[RunSummary]:
    """All runs in a folder and its folders, by name.

    Raises:
        RetrievalError: There is no such folder.

    Examples:
        >>> import tempfile, retrieval
        >>> retrieval.list_runs(tempfile.mkdtemp())
        []
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RetrievalError(f"{folder}: no such folder; give the one that holds the runs")
    runs = (RunFolder(config.parent) for config in sorted(folder.rglob("config.yaml")))
    return [summarize(run) for run in runs if run.environment.exists()]


def summarize(run: RunFolder) -> RunSummary:
    """The summary of a run."""
    try:
        config, _ = parse(_read(run.config), str(run.config))
        rows = parse_rows(_read(run.metrics_lines)) if run.metrics_lines.exists() else []
        results = parse_results(_read(run.results)) if run.results.exists() else {}
        best: dict[str, float] = {}
        for name, value in (item for row in rows for item in row.items()):
            if name not in ("epoch", "step"):
                best[name] = (min if name in _LOWER_IS_BETTER else max)(best.get(name, value), value)
        epochs = len({row["epoch"] for row in rows} - {0})  # 0 is before training; an epoch may have several rows
        validation = unlabelled("validation", Record(rows).best("validation") or {})
        summary = RunSummary(run.path, _state(run), epochs, best, results, validation, config)
        summary.description  # noqa: B018 - an error if a section is none
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RetrievalError):
        return RunSummary(run.path, "damaged", 0, {}, {}, {}, {})
    return summary


def _state(run: RunFolder) -> str:
    return "running" if is_locked(run.path) else "finished" if run.results.is_file() else "stopped"


def _read(path: Path) -> str:
    return read_text(path, LARGEST_RECORD)
