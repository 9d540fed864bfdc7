from __future__ import annotations

import json

import pytest

from retrieval.errors import CheckpointError
from retrieval.training import RunFolder, describe_environment, write_metrics


def test_a_run_folder_is_made_with_its_configuration_and_environment(tmp_path):
    run = RunFolder(tmp_path / "a" / "b")
    run.create("seed: 1\n", describe_environment(device="cpu"))
    assert run.config.read_text() == "seed: 1\n"
    environment = json.loads(run.environment.read_text())
    assert environment["device"] == "cpu"
    assert "torch" in environment["versions"]
    run.require()


def test_a_folder_in_use_is_refused_and_replaced_only_on_request(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create("seed: 1\n", {})
    (run.path / "notes.txt").write_text("mine")
    run.last.write_text("old")
    with pytest.raises(CheckpointError, match=r"pass --resume, --overwrite, or another --out"):
        run.create("seed: 2\n", {})
    assert run.config.read_text() == "seed: 1\n"
    run.create("seed: 2\n", {}, overwrite=True)
    assert run.config.read_text() == "seed: 2\n"
    assert not run.last.exists()
    assert (run.path / "notes.txt").exists()


def test_overwriting_never_deletes_what_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds no run"):
        RunFolder(tmp_path).create("", {}, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_an_empty_folder_can_be_used_and_a_file_cannot(tmp_path):
    RunFolder(tmp_path).create("seed: 1\n", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        RunFolder(tmp_path / "file").create("", {})
    with pytest.raises(CheckpointError, match=r"x: not the folder of a training run"):
        RunFolder(tmp_path / "x").require()


def test_metrics_with_different_figures_share_one_table(tmp_path):
    write_metrics(
        tmp_path / "m.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "validation recall@1": 0.75}]
    )
    assert (tmp_path / "m.csv").read_text() == "epoch,loss,validation recall@1\n1,0.5,\n2,0.25,0.75\n"
