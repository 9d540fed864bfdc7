from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from retrieval.errors import RetrievalError
from retrieval.training.callbacks import (
    CALLBACKS,
    EVENT_FILES,
    RUN_ID_FILE,
    Callback,
    Callbacks,
    MLflow,
    TensorBoard,
    WandB,
)
from retrieval.training.callbacks.callback import METHODS


class Model(BaseModel):
    backbone: str = "resnet50"
    crop: tuple[int, int] = (224, 224)


class Config(BaseModel):
    seed: int = 3
    comment: str | None = None
    model: Model = Model()
    many: dict[str, int] = {f"option{i}": i for i in range(150)}
    long: str = "x" * 7000


@dataclass
class Run:
    """The part of a `retrieval.Run` that callbacks may use."""

    path: Path
    config: Config = field(default_factory=Config)
    metrics: list[dict[str, float]] = field(default_factory=list)


RESULTS = {"untrained": {"recall@1": 0.25}, "best by validation": {"recall@1": 0.75, "map@r": 0.5}}


def train(callback: Any, run: Run, steps: range, *, finish: bool = True, epoch: int = 2) -> None:
    """Calls a callback as a training run does: steps from 1, `epoch` of them in an epoch."""
    try:
        callback.begin(run)
        for step in steps:
            callback.step(run, step, {"loss": 1 / step, "learning_rate": 0.125})
            if step % epoch == 0:
                row = {"epoch": step // epoch, "step": step, "loss": 2 / step, "validation recall@1": step / 100}
                run.metrics = [old for old in run.metrics if old["step"] < step] + [row]
                callback.epoch(run, step // epoch, row)
                callback.evaluation(run, "validation", {"recall@1": step / 100})
        if finish:
            callback.end(run, RESULTS)
    finally:
        callback.close()


def next_second() -> None:
    """The trackers name their files by the second: a resumed run begins in a later one."""
    time.sleep(1.01 - time.time() % 1)


# Callbacks ----------------------------------------------------------------------------------------------------------------


def test_a_callback_of_the_base_class_does_nothing(tmp_path):
    run = Run(tmp_path)
    train(Callbacks([Callback()]), run, range(1, 5))
    assert not list(tmp_path.iterdir())


def test_callbacks_are_called_in_order_with_the_arguments_of_the_run(tmp_path):
    calls: list[tuple[str, str, tuple[Any, ...]]] = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def __getattr__(self, method):
            if method not in METHODS:
                raise AttributeError(method)
            return lambda *arguments: calls.append((self.name, method, arguments))

    run = Run(tmp_path)
    train(Callbacks([Recorder("a"), Recorder("b")]), run, range(1, 3))
    assert [(name, method) for name, method, _ in calls] == [
        (name, method)
        for method in ("begin", "step", "step", "epoch", "evaluation", "end", "close")
        for name in ("a", "b")
    ]
    assert calls[2][2] == (run, 1, {"loss": 1.0, "learning_rate": 0.125})
    assert calls[-3][2] == (run, RESULTS)


def test_a_callback_may_be_any_object_with_some_of_the_methods(tmp_path):
    class Log:
        losses: tuple[float, ...] = ()

        def epoch(self, run, epoch, figures):
            self.losses += (figures["loss"],)

    log = Log()
    train(Callbacks([log]), Run(tmp_path), range(1, 5))
    assert log.losses == (1, 0.5)


def test_an_object_without_any_method_and_a_class_are_refused():
    with pytest.raises(ValueError, match="is not a callback; define at least one of begin, step"):
        Callbacks(["tensorboard"])
    with pytest.raises(ValueError, match=r"Callback is a class; pass an instance: Callback\(\)"):
        Callbacks([Callback])


def test_all_callbacks_are_closed_and_the_first_error_is_raised(caplog):
    closed = []

    class Closing:
        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def close(self):
            closed.append(self.name)
            if self.error:
                raise self.error

    class NeverOpen:
        def begin(self, run):
            pass

    callbacks = [
        Closing("a"),
        Closing("b", OSError("first")),
        NeverOpen(),
        Closing("c", OSError("second")),
        Closing("d"),
    ]
    with pytest.raises(OSError, match="first"):
        Callbacks(callbacks).close()
    assert closed == ["a", "b", "c", "d"]
    assert caplog.messages == ["Closing: close failed"]
    assert "second" in caplog.text


def test_an_error_of_a_step_is_raised_and_the_run_can_still_close_all(tmp_path):
    closed = []

    class Failing(Callback):
        def step(self, run, step, figures):
            raise RuntimeError(f"step {step}")

        def close(self):
            closed.append(True)

    with pytest.raises(RuntimeError, match="step 1"):
        train(Callbacks([Failing(), Failing()]), Run(tmp_path), range(1, 3))
    assert closed == [True, True]


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_named_with_the_extra_to_install(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        RetrievalError, match=rf"callback {name} .*`python -m pip install 'image-retrieval-toolkit\[{name}\]'`"
    ):
        CALLBACKS[name]()


# TensorBoard --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scalars():
    """Reads the event files of a folder: steps and values by tag."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )

    def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    return read


def test_tensorboard_shows_the_figures_of_steps_and_epochs(tmp_path, scalars):
    train(TensorBoard(), Run(tmp_path), range(1, 5))
    found = scalars(tmp_path)
    assert found.keys() == {"step/loss", "step/learning_rate", "loss", "validation/recall@1"}
    assert found["step/loss"] == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)]
    assert found["loss"] == [(2, 1.0), (4, 0.5)]
    assert found["validation/recall@1"] == [(2, pytest.approx(0.02)), (4, pytest.approx(0.04))]
    assert len(list(tmp_path.glob(EVENT_FILES))) == 1


def test_tensorboard_can_read_the_figures_of_a_finished_epoch_while_the_run_goes_on(tmp_path, scalars):
    callback, run = TensorBoard(), Run(tmp_path)
    callback.begin(run)
    callback.epoch(run, 1, {"epoch": 1, "step": 2, "loss": 0.5})
    assert scalars(tmp_path) == {"loss": [(2, 0.5)]}
    callback.close()


def test_tensorboard_shows_each_step_once_after_a_resume_that_repeats_steps(tmp_path, scalars):
    run = Run(tmp_path)
    train(TensorBoard(), run, range(1, 6), finish=False)  # killed after step 5; the checkpoint is of step 2
    next_second()
    train(TensorBoard(), run, range(3, 7))
    found = scalars(tmp_path)
    assert [step for step, _ in found["step/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in found["loss"]] == [2, 4, 6]
    assert len(list(tmp_path.glob(EVENT_FILES))) == 2


# W&B ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wandb(tmp_path_factory):
    """W&B without the network, and with its files outside the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp(name)))
        for name in ("MODE", "API_KEY", "RUN_ID", "PROJECT", "NAME", "RESUME"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        module = pytest.importorskip("wandb", reason="W&B is not installed")
        yield module
        module.teardown()


def offline(**options: Any) -> WandB:
    return WandB(mode="offline", settings={"silent": True, "console": "off"}, **options)


def parts(run: Run) -> list[Path]:
    return sorted((run.path / "wandb").glob("offline-run-*/run-*.wandb"))


def records(path: Path) -> list[Any]:
    """The records of an offline run, the last of which is its exit. W&B may write the end of the file after `finish` returns."""
    deadline = time.monotonic() + 20
    while not (found := parse(path.read_bytes())) or not found[-1].HasField("exit"):
        assert time.monotonic() < deadline, f"{path}: has no exit"
        time.sleep(0.02)
    return found


def parse(data: bytes) -> list[Any]:
    """The complete records of a log in the format of LevelDB, whose blocks have 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, record, found = 7, b"", []
    while place + 7 <= len(data):
        if 0 < (left := -place % 2**15) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        place += 7 + length
        if place > len(data):
            break
        record += data[place - length : place]
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(record))
            record = b""
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(path: Path) -> list[dict[str, Any]]:
    return [values(record.history.item) for record in records(path) if record.WhichOneof("record_type") == "history"]


@pytest.mark.slow
def test_wandb_keeps_configuration_figures_and_results_of_a_finished_run(tmp_path, wandb, capfd):
    run = Run(tmp_path / "mine")
    run.path.mkdir()
    train(offline(project="birds", tags=["test"]), run, range(1, 5))
    (part,) = parts(run)
    kinds = {record.WhichOneof("record_type"): record for record in records(part)}
    assert (kinds["run"].run.project, kinds["run"].run.display_name) == ("birds", "mine")
    assert list(kinds["run"].run.tags) == ["test"]
    config = values(kinds["run"].run.config.update)
    assert config["model"] == {"backbone": "resnet50", "crop": [224, 224]}
    assert kinds["exit"].exit.exit_code == 0
    assert (kinds["metric"].metric.glob_name, kinds["metric"].metric.step_metric) == ("*", "step")

    rows = history(part)
    assert [(row["step"], row["step/loss"]) for row in rows if "step/loss" in row] == [
        (step, 1 / step) for step in (1, 2, 3, 4)
    ]
    assert [(row["step"], row["epoch"], row["loss"], row["validation/recall@1"]) for row in rows if "loss" in row] == [
        (2, 1, 1.0, 0.02),
        (4, 2, 0.5, 0.04),
    ]
    summary = {}
    for record in records(part):
        summary |= values(record.summary.update)
    assert summary["results/best by validation/map@r"] == 0.5
    assert capfd.readouterr() == ("", "")


def test_wandb_continues_the_same_run_after_a_resume_and_loses_no_step(tmp_path, wandb):
    run = Run(tmp_path)
    train(offline(), run, range(1, 6), finish=False)
    next_second()
    train(offline(), run, range(3, 7))
    first, second = parts(run)
    assert first.name == second.name  # run-<id>.wandb
    exits = [record.exit.exit_code for part in (first, second) for record in records(part) if record.HasField("exit")]
    assert exits == [1, 0]
    for part, steps in ((first, [1, 2, 3, 4, 5]), (second, [3, 4, 5, 6])):
        rows = history(part)
        assert [row["_step"] for row in rows] == list(range(len(rows)))  # W&B's own steps only grow
        assert [row["step"] for row in rows if "step/loss" in row] == steps
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)


def test_wandb_starts_a_new_run_when_the_folder_is_overwritten(tmp_path, wandb):
    train(offline(), Run(tmp_path), range(1, 3))
    next_second()
    train(offline(), Run(tmp_path), range(1, 3))
    assert len({part.name for part in parts(Run(tmp_path))}) == 2


def test_wandb_names_a_remedy_if_it_cannot_start(tmp_path, wandb, monkeypatch):
    def refuse(**options):
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(RetrievalError, match=r"no API key.*run `wandb login`, or set the option mode=offline"):
        train(WandB(), Run(tmp_path), range(1, 3))


# MLflow -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The URI of a new file store, and a client of it."""
    module = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the database that MLflow recommends needs the full package
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = (tmp_path / "mlruns").as_uri()
    yield uri, module.MlflowClient(uri)
    module.set_tracking_uri(None)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)


def runs_of(client: Any, experiment: str = "retrieval") -> list[Any]:
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def steps_of(client: Any, run: Any, name: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def test_mlflow_keeps_configuration_figures_and_results_of_a_finished_run(tmp_path, store):
    uri, client = store
    train(MLflow(uri, experiment="birds", name="first"), Run(tmp_path), range(1, 5))
    (found,) = runs_of(client, "birds")
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    params = found.data.params
    assert (params["seed"], params["model.backbone"], params["model.crop"]) == ("3", "resnet50", "[224, 224]")
    assert params["many.option149"] == "149"
    assert len(params["long"]) == 6000
    assert steps_of(client, found, "step/loss") == [1, 2, 3, 4]
    assert steps_of(client, found, "validation/recall_at_1") == [2, 4]
    assert found.data.metrics["validation/recall_at_1"] == 0.04
    assert found.data.metrics["results/best by validation/map_at_r"] == 0.5


def test_mlflow_continues_the_same_run_after_a_resume(tmp_path, store):
    uri, client = store
    run = Run(tmp_path)
    train(MLflow(uri), run, range(1, 5), finish=False)
    (found,) = runs_of(client)
    assert found.info.status == "FAILED"
    run.config = Config(seed=4)  # MLflow refuses to change a parameter
    train(MLflow(uri), run, range(5, 7))
    (found,) = runs_of(client)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == tmp_path.name
    assert steps_of(client, found, "step/loss") == [1, 2, 3, 4, 5, 6]
    assert steps_of(client, found, "loss") == [2, 4, 6]


def test_mlflow_starts_a_new_run_when_the_folder_is_overwritten(tmp_path, store):
    uri, client = store
    for _ in range(2):
        train(MLflow(uri), Run(tmp_path), range(1, 3))
    assert len(runs_of(client)) == 2


def test_mlflow_nests_the_run_in_an_active_one_and_leaves_that_open(tmp_path, store):
    import mlflow

    uri, client = store
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("retrieval")
    with mlflow.start_run() as outer:
        train(MLflow(), Run(tmp_path), range(1, 3))
        assert mlflow.active_run().info.run_id == outer.info.run_id
    inner = next(run for run in runs_of(client) if run.info.run_id != outer.info.run_id)
    assert inner.data.tags["mlflow.parentRunId"] == outer.info.run_id


def test_mlflow_sends_figures_later_if_the_server_does_not_answer(tmp_path, store, monkeypatch, caplog):
    import mlflow

    uri, client = store
    log_batch = mlflow.MlflowClient.log_batch
    outages = iter([False, True, False, False])  # of the configuration, two epochs and the end

    def unreliable(*arguments, **options):
        if next(outages):
            raise mlflow.MlflowException("no route to host")
        return log_batch(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", unreliable)
    train(MLflow(uri), Run(tmp_path), range(1, 5))
    (found,) = runs_of(client)
    assert steps_of(client, found, "step/loss") == [1, 2, 3, 4]
    assert [record.message for record in caplog.records if record.name == "retrieval"] == [
        "MLflow did not accept 6 figures (no route to host); sent again later"
    ]


def test_mlflow_names_a_remedy_if_it_cannot_start(tmp_path, store, monkeypatch):
    uri, _ = store
    with pytest.raises(RetrievalError, match=r"cannot start a run at nowhere://here .*set the option tracking_uri"):
        train(MLflow("nowhere://here"), Run(tmp_path), range(1, 3))
    (tmp_path / RUN_ID_FILE).write_text("0" * 32)
    with pytest.raises(RetrievalError, match=rf"not found.*delete .*{RUN_ID_FILE} to start a new MLflow run"):
        train(MLflow(uri), Run(tmp_path, metrics=[{"step": 2}]), range(3, 5))


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_tracker_that_was_never_begun_can_be_closed(name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    CALLBACKS[name]().close()
