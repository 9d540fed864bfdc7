from __future__ import annotations

import sys
from importlib import metadata

import torch

from retrieval.files import write_json
from retrieval.training import describe_environment
from retrieval.training.environment import PACKAGES


def test_the_environment_has_versions_machine_command_and_the_values_of_the_caller(tmp_path):
    found = describe_environment(device="cpu", seed=3, data={"train": "abc"})
    assert found["versions"].keys() == {"retrieval", *PACKAGES}
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["command"] == sys.argv
    assert (found["device"], found["seed"], found["data"]) == ("cpu", 3, {"train": "abc"})
    assert (found["processes"], len(found["gpus"])) == (1, torch.cuda.device_count())
    write_json(tmp_path / "environment.json", found)


def test_a_package_that_came_under_another_name_has_no_version(monkeypatch):
    monkeypatch.setattr("retrieval.training.environment.PACKAGES", ("torch", "faiss-of-another-name"))
    assert describe_environment()["versions"]["faiss-of-another-name"] is None
