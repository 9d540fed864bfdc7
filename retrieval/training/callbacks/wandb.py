"""Logging to Weights & Biases."""

from __future__ import annotations

from typing import Any

from retrieval.errors import RetrievalError, reason_of
from retrieval.training.callbacks.callback import Callback, TrackedRun
from retrieval.training.callbacks.tracker import epoch_figures, import_package, result_figures, step_figures


class WandB(Callback):
    """Logs to Weights & Biases; its files are in the subfolder "wandb" of the run's folder.

    The x-axis of all charts is the figure "step". W&B's own step only counts the calls: W&B drops figures whose own step is
    smaller than the last one. The results are in the summary.

    A resumed run continues the newest W&B run in its folder. Offline it adds a second part with the same id, and `wandb sync`
    uploads both parts as one run. A run that stopped before the end of its first epoch starts a new W&B run.

    Args:
        project: W&B project.
        name: W&B name of the run; None takes the name of the run's folder.
        mode: "online", "offline" or "disabled"; None lets W&B decide (online, unless WANDB_MODE is set).
        options: more arguments of `wandb.init`, for example entity or tags.

    Raises:
        RetrievalError: the package is not installed, or `begin` cannot start the W&B run.
    """

    def __init__(
        self, project: str = "retrieval", name: str | None = None, mode: str | None = None, **options: Any
    ) -> None:
        self._wandb = import_package("wandb", extra="wandb")
        self._name = name
        self._options = {"project": project, "mode": mode, **options}
        self._run: Any = None
        self._exit_code = 1

    def begin(self, run: TrackedRun) -> None:
        options = {"name": self._name or run.path.name, "dir": run.path, "config": run.config.model_dump(mode="json")}
        if run.metrics and (parts := list((run.path / "wandb").glob("*run-*-*"))):
            # Named [offline-]run-<date>_<time>-<id>.
            options |= {"id": max(part.name.partition("run-")[2] for part in parts).split("-", 1)[1], "resume": "allow"}
        try:
            self._run = self._wandb.init(**{**options, **self._options})
        except self._wandb.Error as error:
            raise RetrievalError(
                f"W&B cannot start a run ({reason_of(error)}); run `wandb login`, or set the option mode=offline"
            ) from error
        self._exit_code = 1
        self._run.define_metric("*", step_metric="step")

    def step(self, run: TrackedRun, step: int, figures: dict[str, float]) -> None:
        self._run.log({**step_figures(figures), "step": step})

    def epoch(self, run: TrackedRun, epoch: int, figures: dict[str, float]) -> None:
        self._run.log({**epoch_figures(figures), "step": int(figures["step"]), "epoch": epoch})

    def end(self, run: TrackedRun, results: dict[str, dict[str, float]]) -> None:
        self._run.summary.update(result_figures(results))
        self._exit_code = 0

    def close(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)
            self._run = None
