from __future__ import annotations

import json
import os
import threading

import pytest
import torch

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.files import claimed
from retrieval.training import RunFolder, RunLog, describe_environment, write_metrics

ROWS = [
    {"epoch": 1, "step": 5, "loss": 0.5},
    {"epoch": 2, "step": 10, "loss": 0.25, "validation recall@1": 0.75},
]


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_file_of_a_run_is_refused_at_once(tmp_path):
    run = RunFolder(tmp_path)
    for file in (run.log, run.last, run.previous):
        os.mkfifo(file)
    with pytest.raises(CheckpointError, match=r"log\.txt: cannot be written \(it is a pipe\)"), RunLog() as log:
        log.open(run.log)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: cannot be read \(it is a pipe\)"):
        run.load_last()


def test_a_run_folder_is_made_with_its_configuration_and_environment(tmp_path):
    run = RunFolder(tmp_path / "a" / "b")
    run.create("seed: 1\n", describe_environment(device="cpu"))
    assert run.config.read_text() == "seed: 1\n"
    assert json.loads(run.environment.read_text())["device"] == "cpu"
    run.require()


def test_a_folder_in_use_is_refused_and_replaced_only_on_request(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create("seed: 1\n", {})
    (run.path / "notes.txt").write_text("mine")
    (run.path / "events.out.tfevents.1").write_text("old")
    for file in (run.last, run.previous, run.metrics_lines, run.log):
        file.write_text("old")
    with pytest.raises(CheckpointError, match=r"pass resume=True or overwrite=True, or choose another folder"):
        run.create("seed: 2\n", {})
    assert run.config.read_text() == "seed: 1\n"
    run.create("seed: 2\n", {}, overwrite=True)
    assert run.config.read_text() == "seed: 2\n"
    assert names(run) == ["config.yaml", "environment.json", "notes.txt"]


def test_overwriting_never_deletes_a_folder_that_is_not_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds no run"):
        RunFolder(tmp_path).create("", {}, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_of_another_program_with_files_of_such_names_is_left_alone(tmp_path):
    files = {"config.yaml": "model: mine\n", "log.txt": "years of work", "results.json": "{}", "environment.json": "{}"}
    for environment in ("{}", "[]", "no JSON", '{"versions": {"torch": "2"}}', '{"versions": 3}', None):
        files["environment.json"] = environment or ""
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        if environment is None:
            (tmp_path / files.popitem()[0]).unlink()
        with pytest.raises(CheckpointError, match="holds no run, so overwrite=True leaves it alone"):
            RunFolder(tmp_path).create("", {}, overwrite=True)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_run_of_an_earlier_version_and_one_that_was_removed_in_part_are_replaced(tmp_path):
    run = RunFolder(tmp_path)
    run.create("seed: 1\n", {})
    run.environment.write_text(json.dumps(describe_environment()))
    run.create("seed: 2\n", {}, overwrite=True)
    run.config.unlink()  # by a process that was killed while it removed the run
    run.create("seed: 3\n", {}, overwrite=True)
    assert run.config.read_text() == "seed: 3\n"


def test_a_run_is_written_where_a_link_leads_and_nowhere_into_a_pipe(tmp_path):
    (tmp_path / "link").symlink_to("run")
    run = RunFolder(tmp_path / "link")
    run.check_free()
    with run.hold():
        run.create("seed: 1\n", {})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "run" / "config.yaml").is_file()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RetrievalError, match="pipe: is a pipe, expected a file or a folder"):
        RunFolder(tmp_path / "pipe").check_free(overwrite=True)


def test_a_run_that_cannot_be_removed_completely_is_still_a_run(tmp_path):
    run = RunFolder(tmp_path)
    run.create("seed: 1\n", {})
    run.metrics.mkdir()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="cannot be created"):
            run.create("seed: 2\n", {}, overwrite=True)


def test_an_empty_folder_can_be_used_and_a_file_cannot(tmp_path):
    RunFolder(tmp_path).create("seed: 1\n", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        RunFolder(tmp_path / "file").create("", {})
    with pytest.raises(CheckpointError, match=r"x: not the folder of a training run"):
        RunFolder(tmp_path / "x").require()


def test_a_held_folder_can_be_used_by_its_own_run_only(tmp_path):
    run, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with run.hold():
        run.check_free()
        run.create("seed: 1\n", {})
        with pytest.raises(CheckpointError, match="another run"):
            other.hold().__enter__()
    with other.hold():
        assert names(run) == [".lock", "config.yaml", "environment.json"]


def test_holding_removes_only_the_temporary_files_of_a_killed_run(tmp_path):
    run = RunFolder(tmp_path)
    run.create("", {})
    for name in (".last.safetensors.x1.tmp", ".previous.safetensors.link.tmp", "mine.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("")
    (tmp_path / ".index-test.x1.tmp").mkdir()  # an index that another process writes
    with run.hold():
        assert names(run) == [
            *(".index-test.x1.tmp", ".lock", ".mine.tmp"),
            *("config.yaml", "environment.json", "mine.tmp"),
        ]


def test_the_last_checkpoint_falls_back_to_the_previous_one(tmp_path, caplog):
    run = RunFolder(tmp_path)
    for step in range(3):
        run.save_last({"step": step, "weights": torch.zeros(5)})
    assert run.load_last()["step"] == 2
    run.last.write_bytes(run.last.read_bytes()[:50])
    assert run.load_last()["step"] == 1
    assert "continuing from the previous checkpoint previous.safetensors" in caplog.text


def test_rows_are_written_as_csv_and_as_lines_of_json(tmp_path):
    run = RunFolder(tmp_path)
    run.write_rows(ROWS[:1])
    run.write_rows(ROWS)
    assert run.metrics.read_text() == "epoch,step,loss,validation recall@1\n1,5,0.5,\n2,10,0.25,0.75\n"
    assert [json.loads(line) for line in run.metrics_lines.read_text().splitlines()] == ROWS
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_rows([{"epoch": 1, "step": 5, "loss": float("nan")}])


def test_metrics_with_different_figures_share_one_table(tmp_path):
    write_metrics(tmp_path / "m.csv", ROWS)
    assert (tmp_path / "m.csv").read_text() == "epoch,step,loss,validation recall@1\n1,5,0.5,\n2,10,0.25,0.75\n"


def test_a_folder_that_another_call_writes_is_refused_at_once(tmp_path):
    def write() -> None:
        with claimed(tmp_path / "out"):
            claim_made.set()
            done.wait(60)

    claim_made, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=write)
    thread.start()
    claim_made.wait(60)
    try:
        with pytest.raises(RetrievalError, match=r"out: another call .* is writing to it; wait until it ends"):
            RunFolder(tmp_path / "out").check_free(overwrite=True)
    finally:
        done.set()
        thread.join()
    RunFolder(tmp_path / "out").check_free()
