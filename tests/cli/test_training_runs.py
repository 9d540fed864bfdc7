"""Training runs lose nothing when they are stopped, and are resumed to the same result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from forked import COMMAND, Program, two_processes
from safetensors.torch import save_file
from small_run import arguments, call, draw_images, record_training

from retrieval import cli
from retrieval.runs import Run, measuring, process
from retrieval.training import RunFolder, Trainer, load_checkpoint

pytestmark = pytest.mark.usefixtures("quick_pictures")

# All that a run remembers from step to step.
STATEFUL = [
    "model.ema=0.9",
    "model.head_init=whiten",
    "loss.memory=24",
    "loss.noise=0.01",
    "loss.proxies=true",
    "training.warmup_epochs=1",
    "batch.size=12",
    "evaluation.test_every=1",
    "training.epochs=6",
]


def assert_same_run(left: Path, right: Path) -> None:
    """All weights, states and figures, to the last bit."""
    states = [load_checkpoint(run / "last.safetensors") for run in (left, right)]
    assert_same(*states)
    assert_same(*(load_checkpoint(run / "best.safetensors") for run in (left, right)))
    for file in ("metrics.csv", "results.json"):
        assert (left / file).read_bytes() == (right / file).read_bytes()


def assert_same(left, right) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        assert left == right


def stop_at(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Sends this process a signal during a step."""
    take_step = Trainer._take_step

    def and_a_signal(trainer: Trainer, *batch: torch.Tensor) -> float:
        if trainer.step == step:
            os.kill(os.getpid(), number)
        return take_step(trainer, *batch)

    monkeypatch.setattr(Trainer, "_take_step", and_a_signal)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_exits_with_its_code(images, tmp_path, monkeypatch, capsys, number, code):
    stop_at(monkeypatch, 6, number)  # an epoch has 5 steps
    found, out, err = call(capsys, *arguments(images, tmp_path / "run", "training.epochs=4"))
    assert (found, out) == (code, "")
    assert "Traceback" not in err
    state = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert state["step"] == 7
    assert [row["epoch"] for row in state["rows"]] == [0, 1]
    assert not (tmp_path / "run" / "results.json").exists()
    assert "resume the run to go on" in (tmp_path / "run" / "log.txt").read_text()


def test_quiet_leaves_nothing_out_of_the_log_of_a_run_which_begins_with_the_reading(images, tmp_path, capsys, caplog):
    logs = []
    for quiet in ([], ["--quiet"]):
        caplog.clear()
        out = tmp_path / f"run{len(quiet)}"
        assert call(capsys, *arguments(images, out, "batch.size=64", "training.epochs=1", *quiet))[0] == 0
        assert bool(caplog.messages) == (not quiet)
        logs.append(re.sub(r"^\d{4}-\S+ \S+ ", "", (out / "log.txt").read_text(), flags=re.MULTILINE))
    assert logs[0] == logs[1]
    assert "its own splits train, test are used" in logs[0].splitlines()[0]
    assert "INFO batch.size: 12 instead of 64" in logs[0]
    assert "INFO epoch 1 of 1" in logs[0]


@pytest.mark.slow
def test_a_run_stopped_within_an_epoch_is_resumed_to_the_same_result_as_a_whole_run(images, tmp_path, monkeypatch):
    words = [*STATEFUL, "training.epochs=3"]
    assert cli.run(arguments(images, tmp_path / "whole", *words)) == 0
    stop_at(monkeypatch, 4)  # an epoch has 3 steps
    assert cli.run(arguments(images, tmp_path / "stopped", *words)) == 143
    monkeypatch.undo()
    assert cli.run(arguments(images, tmp_path / "stopped", *words, "--resume")) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


UNLEARNED = ["training.learning_rate=1e-30", "model.freeze_batchnorm=statistics"]


@pytest.fixture(scope="module")
def unlearned(images, tmp_path_factory) -> Path:
    """A whole run that learns nothing."""
    out = tmp_path_factory.mktemp("unlearned") / "run"
    assert cli.run(arguments(images, out, *UNLEARNED)) == 0
    return out


# Of the untrained model on test and validation classes, of the validation classes after both epochs, of the last epoch, of the best
# one, which is the start: nothing is learned.
@pytest.mark.parametrize("measurement", [4, 5, 6])
def test_ctrl_c_in_a_measurement_after_the_last_step_loses_nothing(
    images, unlearned, tmp_path, monkeypatch, capsys, measurement
):
    encode_shared, calls = measuring.encode_shared, []

    def and_a_signal(*words, **more):
        calls.append(words)
        if len(calls) == measurement:
            os.kill(os.getpid(), signal.SIGINT)
        return encode_shared(*words, **more)

    monkeypatch.setattr(measuring, "encode_shared", and_a_signal)
    out = tmp_path / "run"
    code, printed, err = call(capsys, *arguments(images, out, *UNLEARNED))
    assert (code, printed) == (130, "")
    assert len(calls) == measurement
    assert "Traceback" not in err
    assert "stopped after step 10; resume the run to go on" in (out / "log.txt").read_text()
    assert not (out / "results.json").exists()
    assert cli.run(arguments(images, out, *UNLEARNED, "--resume")) == 0
    assert_same_run(unlearned, out)


@pytest.mark.parametrize("picture", ["draw_neighbours", "plot_training"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_last_pictures_are_drawn_ends_a_finished_run_with_its_code(
    images, tmp_path, monkeypatch, capsys, picture, number, code
):
    draw, out = getattr(process, picture), tmp_path / "run"

    def after_a_signal(*words, **more):
        os.kill(os.getpid(), number)
        draw(*words, **more)

    monkeypatch.setattr(process, picture, after_a_signal)
    found, printed, err = call(capsys, *arguments(images, out, "training.max_steps=1"))
    assert (found, printed) == (code, "")
    assert "Traceback" not in err
    assert "last" in json.loads((out / "results.json").read_text())
    assert all((out / name).is_file() for name in ("last.safetensors", "curves.png", "gallery.png"))


@pytest.mark.slow
def test_three_epochs_and_three_resumed_ones_equal_six_epochs(images, tmp_path):
    assert cli.run(arguments(images, tmp_path / "six", *STATEFUL, "data.workers=2")) == 0
    assert cli.run(arguments(images, tmp_path / "three", *STATEFUL, "training.max_steps=9")) == 0
    assert load_checkpoint(tmp_path / "three" / "last.safetensors")["step"] == 9
    assert cli.run(arguments(images, tmp_path / "three", *STATEFUL, "data.workers=1", "--resume")) == 0
    assert load_checkpoint(tmp_path / "three" / "last.safetensors")["step"] == 18
    assert_same_run(tmp_path / "six", tmp_path / "three")


def test_a_run_that_ended_within_an_epoch_keeps_that_row_when_it_is_resumed(images, tmp_path):
    run, looks = tmp_path / "run", []
    for last in (7, 10):  # an epoch has 5 steps
        more = ["--resume"] if looks else []
        assert cli.run(arguments(images, run, f"training.max_steps={last}", *more)) == 0
        looks.append(load_checkpoint(run / "last.safetensors")["rows"])
    assert [row["step"] for row in looks[1]] == [0, 5, 7, 10]
    assert [row["epoch"] for row in looks[1]] == [0, 1, 2, 2]
    assert looks[1][:3] == looks[0]
    best = max(looks[1], key=lambda row: row["validation recall@1"] + row["validation map@r"])
    assert load_checkpoint(run / "best.safetensors")["step"] == best["step"]


def test_a_damaged_last_checkpoint_is_replaced_by_the_previous_one(images, run, tmp_path, monkeypatch, caplog):
    stop_at(monkeypatch, 7)
    assert cli.run(arguments(images, tmp_path / "stopped")) == 143
    monkeypatch.undo()
    last = tmp_path / "stopped" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    assert cli.run(arguments(images, tmp_path / "stopped", "--resume")) == 0
    assert "last.safetensors" in caplog.text
    assert_same(*(load_checkpoint(out / "last.safetensors")["model"] for out in (run, tmp_path / "stopped")))


def test_a_finished_run_that_is_resumed_changes_nothing(run, images, tmp_path):
    before = {name: (run / name).read_bytes() for name in ("results.json", "metrics.csv", "best.safetensors")}
    step = load_checkpoint(run / "last.safetensors")["step"]
    assert cli.run(arguments(images, run, "--resume")) == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    assert load_checkpoint(run / "last.safetensors")["step"] == step


def test_only_options_that_change_no_step_may_change_when_a_run_is_resumed(images, run, capsys):
    code, _, err = call(capsys, *arguments(images, run, "--resume", "training.learning_rate=1", "seed=3"))
    assert code == 1
    assert "seed: 0, now 3, training.learning_rate: 0.002, now 1.0" in err
    assert call(capsys, *arguments(images, run, "--resume", "training.epochs=9"))[0] == 1  # a cosine would be another
    assert call(capsys, *arguments(images, run, "--resume", "training.patience=9", "data.timeout=9"))[0] == 0


def test_a_run_is_not_resumed_on_other_images(tmp_path, capsys):
    images, out = draw_images(tmp_path / "images"), tmp_path / "run"
    assert cli.run(arguments(images, out, "training.max_steps=1")) == 0
    (images / "test" / "class 08" / "0.png").rename(images / "test" / "class 08" / "9.png")
    code, _, err = call(capsys, *arguments(images, out, "--resume"))
    assert code == 1
    assert "was started with other images or classes (test)" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_run_is_resumed_with_moved_images_and_without_its_pretrained_weights(tmp_path, monkeypatch):
    images, out, weights = draw_images(tmp_path / "images"), tmp_path / "run", tmp_path / "weights.safetensors"
    torch.manual_seed(5)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    words = [f"model.pretrained={weights}", "training.epochs=1"]
    assert cli.run(arguments(images, tmp_path / "whole", *words)) == 0
    stop_at(monkeypatch, 2)
    assert cli.run(arguments(images, out, *words)) == 143
    monkeypatch.undo()
    images.rename(tmp_path / "moved")
    weights.unlink()
    assert cli.run(arguments(tmp_path / "moved", out, *words, "--resume")) == 0
    assert_same_run(tmp_path / "whole", out)
    assert f"root: {tmp_path / 'moved'}" in (out / "config.yaml").read_text()


def test_a_run_without_a_folder_is_named_after_its_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = record_training(monkeypatch)
    (tmp_path / "mine").mkdir()
    for file in ("config.yaml", "other.yaml", "mine/config.yaml"):
        Path(file).write_text("seed: 1\n")
        assert cli.run(["train", "--config", file]) == 0
    assert cli.run(["train"]) == 0
    assert cli.run(["train", "--config", "mine/config.yaml", "--resume"]) == 0
    names = [tmp_path.name, "other", "mine", "glyphs"]
    assert [Path(out) for _, out, _ in calls] == [*(Path("runs") / name for name in names), Path("mine")]


def test_a_second_run_in_the_same_folder_is_refused(images, tmp_path, capsys):
    out = tmp_path / "run"
    with RunFolder(out).hold():
        code, _, err = call(capsys, *arguments(images, out))
        assert code == 1
        assert "another run" in err
        assert err.count("\n") == 1


@pytest.mark.slow
def test_workers_do_not_change_a_run(images, run, tmp_path):
    assert cli.run(arguments(images, tmp_path / "run", "data.workers=2")) == 0
    assert_same_run(tmp_path / "run", run)


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_would(images, tmp_path):
    # Without noise, which goes by the order of a batch; and not by Adam, which makes much of a gradient that is but rounding.
    words = [*STATEFUL, "loss.noise=0", "model.freeze_batchnorm=statistics", "training.epochs=2", "batch.chunk=4"]
    words += ["training.optimizer=sgd", "training.learning_rate=0.001"]
    assert cli.run(arguments(images, tmp_path / "one", *words)) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "retrieval.cli", *arguments(images, tmp_path / "two", *words), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["last"]["queries"] == 28  # printed once, by the first process
    one, two = (load_checkpoint(tmp_path / run / "last.safetensors") for run in ("one", "two"))
    for name, weights in one["model"].items():
        torch.testing.assert_close(two["model"][name], weights, rtol=1e-3, atol=1e-5)
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("one", "two")]
    assert results[0]["untrained"] == results[1]["untrained"]
    assert results[0]["last"] == pytest.approx(results[1]["last"], abs=0.08)  # of 28 queries, two may differ
    losses = [[row["loss"] for row in state["rows"][1:]] for state in (one, two)]  # after that of the start
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != losses[0][1]


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one_to_the_same_figures(images, tmp_path):
    words = [*STATEFUL, "loss.noise=0", "model.freeze_batchnorm=statistics", "training.epochs=2"]
    words += ["training.optimizer=sgd", "training.learning_rate=0.001"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert cli.run(arguments(images, whole, *words)) == 0
    with two_processes(tmp_path, COMMAND, *arguments(images, out, *words, "training.max_steps=4")) as processes:
        assert [process.wait() for process in processes] == [0, 0], processes[0].stderr
    assert load_checkpoint(out / "last.safetensors")["step"] == 4  # of 6, within the second epoch
    assert cli.run(["train", "--out", str(out), "--resume", "training.max_steps=null"]) == 0
    states = [load_checkpoint(run / "last.safetensors") for run in (whole, out)]
    assert [state["step"] for state in states] == [6, 6]
    for name, weights in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][name], weights, rtol=1e-3, atol=1e-5)
    ends = [state["rows"][-1] for state in states]
    assert ends[0].keys() == ends[1].keys()
    assert (
        json.loads((out / "results.json").read_text()).keys() == json.loads((whole / "results.json").read_text()).keys()
    )
    figures = [json.loads((run / "results.json").read_text())["last"] for run in (whole, out)]
    assert figures[0] == pytest.approx(figures[1], abs=0.08)  # of 28 queries, two may differ


MISSED_SOON = """
import sys
from functools import partial
from retrieval import cli
from retrieval.training import distributed, heartbeat

heartbeat.LOST = 15
distributed.Heartbeat = partial(heartbeat.Heartbeat, interval=0.2)
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped_ends_the_other_with_one_line_that_names_it(images, tmp_path, number):
    out = tmp_path / "run"
    words = arguments(images, out, "model.freeze_batchnorm=statistics", "training.epochs=100000", "--quiet")
    with two_processes(tmp_path, MISSED_SOON, *words) as (first, second):
        first.wait_until(lambda: number_of_rows(out) > 1)
        second.send(number)
        assert first.wait() == 1
        errors = first.stderr
    assert errors.count("\n") == 1
    assert "rank 1 ended, or does not respond" in errors
    assert "rank 1 ended, or does not respond" in (out / "log.txt").read_text()
    assert load_checkpoint(out / "last.safetensors")["step"] > 0


STOPPED_IN_A_MEASUREMENT = """
import os, signal, sys
from retrieval import cli
from retrieval.runs import measuring

encode_shared, calls = measuring.encode_shared, []

def and_a_signal(*words, watch):
    def watched(batches):
        for batch in watch(batches):
            if os.environ["RANK"] == "1" and len(calls) == 3:  # after the untrained model: the first epoch
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch
    calls.append(words)
    return encode_shared(*words, watch=watched)

measuring.encode_shared = and_a_signal
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_in_a_measurement_stops_both_and_saves(images, tmp_path):
    out = tmp_path / "run"
    words = arguments(images, out, "model.freeze_batchnorm=statistics", "evaluation.batch_size=4")
    with two_processes(tmp_path, STOPPED_IN_A_MEASUREMENT, *words) as processes:
        assert [process.wait() for process in processes] == [143, 143], processes[0].stderr
    assert "stopped after step 5; resume the run to go on" in (out / "log.txt").read_text()
    state = load_checkpoint(out / "last.safetensors")
    assert (state["step"], [row["epoch"] for row in state["rows"]], len(state["losses"])) == (5, [0], 5)


@pytest.mark.slow
def test_ctrl_c_and_kill_at_any_moment_leave_a_run_that_can_be_resumed(images, tmp_path):
    out = tmp_path / "run"
    words = arguments(images, out, "data.workers=2", "training.epochs=100000")
    for stop, code in (
        (signal.SIGINT, 130),
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
    ):
        resume = ["--resume"] if out.exists() else []
        before = number_of_rows(out)
        with Program(tmp_path, COMMAND, *words, *resume) as training:
            training.wait_until(lambda before=before: number_of_rows(out) >= before + 2)
            training.send(stop, group=True)  # as a terminal does: to the data workers too
            assert training.wait(60) == code, training.stderr
            assert "Traceback" not in training.stderr
    assert load_checkpoint(out / "last.safetensors")["step"] > 0


def number_of_rows(out: Path) -> int:
    """The rows that a run has measured so far."""
    return (out / "metrics.csv").read_text().count("\n") - 1 if (out / "metrics.csv").exists() else 0


def test_a_run_of_an_earlier_version_is_resumed_with_the_decoding_that_it_had(images, tmp_path):
    run = tmp_path / "run"
    assert cli.run(arguments(images, run, "training.max_steps=2", "image.decoding=full")) == 0
    text = (run / "config.yaml").read_text()
    assert "  decoding: full\n" in text
    (run / "config.yaml").write_text(text.replace("  decoding: full\n", ""))
    assert cli.run(["train", "--out", str(run), "--resume", "training.max_steps=4"]) == 0
    assert load_checkpoint(run / "last.safetensors")["step"] == 4
    assert Run.open(run).config.image.decoding == "full"
