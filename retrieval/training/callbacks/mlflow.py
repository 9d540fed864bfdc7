"""Logging to MLflow."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from retrieval.errors import RetrievalError, plural, reason_of
from retrieval.files import write_text
from retrieval.training.callbacks.callback import Callback, TrackedRun
from retrieval.training.callbacks.tracker import (
    epoch_figures,
    flatten_options,
    import_package,
    result_figures,
    step_figures,
)

log = logging.getLogger("retrieval")

RUN_ID_FILE = "mlflow_run_id.txt"


class MLflow(Callback):
    """Logs to an MLflow server, or to any other store of the installed MLflow.

    The figures are sent after every epoch, the results at the end. If the server does not answer (after the retries that
    MLFLOW_HTTP_REQUEST_MAX_RETRIES allows), the training goes on, and the figures are sent with the next ones.

    A resumed run continues its MLflow run, whose id is in the file mlflow_run_id.txt of the run's folder. A run that stopped
    before the end of its first epoch starts a new MLflow run. Within an active MLflow run the new one is nested.

    Args:
        tracking_uri: for example "http://localhost:5000"; None takes MLFLOW_TRACKING_URI or MLflow's default.
        experiment: MLflow experiment; it is created if missing.
        name: MLflow name of the run; None takes the name of the run's folder.

    Raises:
        RetrievalError: the package is not installed, or `begin` cannot start the MLflow run.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "retrieval", name: str | None = None) -> None:
        self._mlflow = import_package("mlflow", extra="mlflow")
        self._tracking_uri, self._experiment, self._name = tracking_uri, experiment, name
        self._id: str | None = None
        self._status = "FAILED"
        self._unsent: list[Any] = []

    def begin(self, run: TrackedRun) -> None:
        self._status, self._unsent = "FAILED", []
        try:
            self._start(run)
        except self._mlflow.MlflowException as error:
            file = run.path / RUN_ID_FILE
            remedy = (
                f"delete {file} to start a new MLflow run, or set the option tracking_uri to the server that has this one"
                if run.metrics and file.is_file()
                else "set the option tracking_uri to a server (http://...), or `python -m pip install mlflow` for a local database"
            )
            where = self._mlflow.get_tracking_uri()
            raise RetrievalError(f"MLflow cannot start a run at {where} ({reason_of(error)}); {remedy}") from error

    def _start(self, run: TrackedRun) -> None:
        mlflow, file = self._mlflow, run.path / RUN_ID_FILE
        if self._tracking_uri is not None:
            mlflow.set_tracking_uri(self._tracking_uri)
        mlflow.set_experiment(self._experiment)
        nested = mlflow.active_run() is not None
        if run.metrics and file.is_file():
            self._id = mlflow.start_run(file.read_text(encoding="utf-8").strip(), nested=nested).info.run_id
            return
        self._id = str(mlflow.start_run(run_name=self._name or run.path.name, nested=nested).info.run_id)
        write_text(file, self._id + "\n")
        # `log_batch` splits long lists and cuts long values itself, within MLflow's limits.
        options = flatten_options(run.config.model_dump(mode="json"))
        params = [mlflow.entities.Param(_valid(key), str(value)) for key, value in options.items()]
        mlflow.MlflowClient().log_batch(self._id, params=params)

    def step(self, run: TrackedRun, step: int, figures: dict[str, float]) -> None:
        self._add(step, step_figures(figures))

    def epoch(self, run: TrackedRun, epoch: int, figures: dict[str, float]) -> None:
        self._add(int(figures["step"]), epoch_figures(figures))
        self._send()

    def end(self, run: TrackedRun, results: dict[str, dict[str, float]]) -> None:
        self._add(int(run.metrics[-1]["step"]) if run.metrics else 0, result_figures(results))
        self._status = "FINISHED"

    def close(self) -> None:
        if self._id is None:
            return
        self._send()
        self._id = None
        try:
            self._mlflow.end_run(self._status)
        except self._mlflow.MlflowException as error:
            log.warning("MLflow did not end the run (%s)", reason_of(error))

    def _add(self, step: int, figures: dict[str, float]) -> None:
        now, metric = int(1000 * time.time()), self._mlflow.entities.Metric
        self._unsent += [metric(_valid(name), value, now, step) for name, value in figures.items()]

    def _send(self) -> None:
        try:
            self._mlflow.MlflowClient().log_batch(self._id, metrics=self._unsent)
        except self._mlflow.MlflowException as error:
            log.warning(
                "MLflow did not accept %s (%s); sent again later", plural(len(self._unsent), "figure"), reason_of(error)
            )
        else:
            self._unsent = []


def _valid(name: str) -> str:
    """The name without the characters that MLflow does not allow."""
    return re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))
