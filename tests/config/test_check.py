from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from small_run import call

import retrieval
from retrieval.config import Config, config_names, load
from retrieval.config.check import PARTS, build_callbacks, check
from retrieval.errors import ConfigError

# For every kind of name a wrong one, and what its line says.
WRONG = {
    "data.name=fodler": "data: there is no data set 'fodler'; known are cars196, csv,",
    "data.options={clases: 3}": "data: glyphs has no option 'clases'",
    "data={name: folder, root: nowhere}": "data.root: nowhere: no such folder; give the folder of the images",
    "data={name: folder, root: own.py}": "data.root: own.py: no such folder",
    "model.backbone=resnet5O": "model: backbone 'resnet5O' is not a model of timm",
    "model.pretrained=missing.safetensors": "model.pretrained: missing.safetensors: no such weights file; give true, false",
    "loss.name=tripelt": "loss: there is no loss 'tripelt'; did you mean triplet or soft_triple?",
    "loss={name: triplet, options: {margn: 1}}": "loss: triplet has no option 'margn'",
    "loss={name: triplet, miner: multi_similarty}": "loss: there is no miner 'multi_similarty'; did you mean multi_similarity?",
    "loss={name: triplet, miner: multi_similarity, miner_options: {epsilom: 1}}": "loss: multi_similarity has no option 'epsilom'",
    "training.optimizer=adamx": "training.optimizer: 'adamx' is not an optimiser of timm; did you mean",
    "training.optimizer_options={moment: 1}": "training.optimizer_options: adamw refuses them (",
    "training.callbacks=[tensorbord]": "training.callbacks: tensorbord: there is no such callback; did you mean tensorboard?",
    "training.callbacks=[{name: tensorboard, options: {folder: x}}]": "training.callbacks: tensorboard: ",
}

# Wrong names that fit into one configuration, and the sections of their lines, in order.
ALL_AT_ONCE = [
    "data.name=fodler",
    "model.backbone=resnet5O",
    "model.pretrained=missing.safetensors",
    "loss={terms: [{name: tripelt}, {name: triplet, options: {margn: 1}}, {name: triplet, miner: x}]}",
    "training.optimizer=adamx",
    "training.callbacks=[tensorbord, 'no_such_module:Log']",
]
SECTIONS = [
    *("data", "model", "model.pretrained", "loss.terms.0", "loss.terms.1", "loss.terms.2"),
    *("training.optimizer", "training.callbacks", "training.callbacks"),
]

OWN = """
from pathlib import Path

import torch
from torch import nn

from retrieval.data import ImageSet


class MyLoss(nn.Module):
    def __init__(self, num_classes, embedding_size, scale=1.0):
        super().__init__()
        self.given = (num_classes, embedding_size, scale)


class MyMiner(nn.Module):
    def __init__(self, epsilon=0.1):
        super().__init__()


def build(width=4, pretrained=False):
    raise AssertionError("check builds no network")


def needy(width, image_size, pretrained=False):
    raise AssertionError("check builds no network")


class Silent:
    pass


def read(root: Path, shade=0):
    raise AssertionError("check reads no images")


def adam(groups, lr, momentum=0.0):
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


class Log:
    def __init__(self, every=1):
        self.every = every

    def step(self, run, step, figures):
        pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with own code in own.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def configure(*overrides: str) -> Config:
    return load("glyphs", ["model.backbone=test_resnet", "model.pretrained=false", *overrides])


def mistakes(config: Config, *arguments, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(config, *arguments, **options)
    return caught.value.mistakes


@pytest.mark.parametrize("override", WRONG)
def test_every_kind_of_wrong_name_is_one_line(here, override):
    (mistake,) = mistakes(configure(override))
    assert mistake.startswith(WRONG[override]), mistake


def test_mistakes_of_all_sections_come_at_once_from_check_the_command_and_a_run(here, capsys):
    found = mistakes(configure(*ALL_AT_ONCE))
    assert [mistake.split(": ")[0] for mistake in found] == SECTIONS
    assert all("\n" not in mistake for mistake in found)
    options = ["model.backbone=test_resnet", "model.pretrained=false", *ALL_AT_ONCE]
    for command in (["config", "check", "glyphs"], ["train", "--config", "glyphs", "--out", "run"]):
        code, out, err = call(capsys, *command, *options)
        assert (code, out) == (2, "")
        lines = err.replace(f"{here}/", "").splitlines()  # a run takes paths as absolute
        assert lines == [f"error: {mistake}" for mistake in found]
    code, out, _ = call(capsys, "config", "check", "glyphs", *options, "--json")
    assert (code, json.loads(out)) == (2, {"source": "glyphs", "mistakes": found})
    with pytest.raises(ConfigError) as caught:
        retrieval.train(configure(*ALL_AT_ONCE), out="run")
    assert [mistake.replace(f"{here}/", "") for mistake in caught.value.mistakes] == found
    assert not Path("run").exists()


def test_mistakes_of_own_code_come_at_once_too(here):
    found = mistakes(
        configure(
            *("data.name=own.py:raed", "model.backbone=own.py:biuld", "loss.name=own.py:MyLos"),
            *("training.optimizer=own.py:adom", "training.callbacks=['own.py:Lag']"),
        )
    )
    sections, right = (line.partition(": own.py has no ") for line in found), ("read", "build", "MyLoss", "adam", "Log")
    assert [section for section, _, _ in sections] == [
        "data",
        "model",
        "loss",
        "training.optimizer",
        "training.callbacks: own.py:Lag",
    ]
    assert all(f"did you mean {name}" in line for name, line in zip(right, found, strict=True))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "data={name: 'own.py:read', root: ., options: {shad: 1}}",
            r"data: own\w*:read has no option 'shad'; known are shade, test_share, seed; did you mean shade",
        ),
        (
            "model={backbone: 'own.py:build', pretrained: false, backbone_options: {widht: 3}}",
            "model: own.py:build has no option 'widht'; its parameters are width, pretrained",
        ),
        (
            "loss={name: 'own.py:MyLoss', options: {scael: 1}}",
            "loss: own.py:MyLoss has no option 'scael'; known are scale",
        ),
        (
            "loss={name: triplet, miner: 'own.py:MyMiner', miner_options: {epsilom: 1}}",
            "loss: own.py:MyMiner has no option 'epsilom'; known are epsilon; did you mean epsilon?",
        ),
        ("loss.name=own.py:Log", "loss: own.py:Log returned a value of type Log, expected a torch.nn.Module"),
        (
            "model={backbone: 'own.py:needy', pretrained: false}",
            "model: own.py:needy needs the option 'width'; set it under",
        ),
        ("training.callbacks=['own.py:Silent']", "training.callbacks: own.py:Silent: "),
        (
            "training={optimizer: 'own.py:adam', optimizer_options: {moment: 1}}",
            "training.optimizer: own.py:adam raises TypeError: ",
        ),
        ("training.callbacks=[{name: 'own.py:Log', options: {evry: 1}}]", "training.callbacks: own.py:Log: "),
    ],
)
def test_a_wrong_option_of_own_code_is_one_line(here, override, line):
    section, _, value = override.partition("=")
    (mistake,) = mistakes(configure(f"{section}={value}"))
    assert re.match(line if "\\w" in line else re.escape(line), mistake), mistake


def test_own_code_passes_and_is_only_called_where_no_work_is_done(here, capsys):
    overrides = [
        "data={name: 'own.py:read', root: images, options: {shade: 3}, workers: 0}",
        "model={backbone: 'own.py:build', pretrained: false, backbone_options: {width: 8}}",
        "loss={name: 'own.py:MyLoss', options: {scale: 2.0}, miner: 'own.py:MyMiner', miner_options: {epsilon: 0.2}}",
        "training={optimizer: 'own.py:adam', optimizer_options: {momentum: 0.5}, callbacks: ['own.py:Log']}",
    ]
    check(load("glyphs", overrides))
    assert call(capsys, "config", "check", "glyphs", *overrides) == (0, "glyphs: no mistakes\n", "")
    single = ["data.name=own:read", "model.backbone=own:build", "loss.name=own:MyLoss", "training.optimizer=own:adam"]
    check(load("glyphs", [*single, "training.callbacks=['own:Log', {name: 'own:Log', options: {every: 2}}]"]))


def test_callbacks_are_made_with_their_options_in_order(here):
    config = configure("training.callbacks=['own.py:Log', {name: 'own.py:Log', options: {every: 7}}]")
    assert [callback.every for callback in build_callbacks(config)] == [1, 7]


def test_only_the_parts_that_are_asked_for_are_checked(here):
    config = configure(*ALL_AT_ONCE)
    check(config, ())
    for part, count in zip(PARTS, (1, 2, 3, 1, 2), strict=True):
        assert len(mistakes(config, (part,))) == count
    assert len(mistakes(config, ("network",), pretrained=False)) == 1


def test_a_weights_file_that_exists_passes_and_a_folder_does_not(here):
    Path("w.safetensors").touch()
    check(configure("model.pretrained=w.safetensors"))
    assert mistakes(configure("model.pretrained=."))[0].startswith("model.pretrained: .: no such weights file")


def test_a_missing_package_of_a_callback_is_a_mistake_with_the_command_that_installs_it(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert len(mistakes(configure("training.callbacks=[wandb]", "loss.name=tripelt"))) == 2
    (mistake,) = mistakes(configure("training.callbacks=[wandb]"))
    assert "pip install 'image-retrieval-toolkit[wandb]'" in mistake


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_passes_where_its_weights_are(here, name, capsys):
    config = load(name)
    if isinstance(config.model.pretrained, str):
        assert mistakes(config)[-1].startswith(f"model.pretrained: {config.model.pretrained}: no such weights file")
        Path(config.model.pretrained).touch()
    if config.data.root is not None:
        assert mistakes(config) == [f"data.root: {config.data.root}: no such folder; give the folder of the images"]
        Path(config.data.root).mkdir()
    check(config)
    assert call(capsys, "config", "check", name) == (0, f"{name}: no mistakes\n", "")


def test_a_wrong_option_of_the_augmentation_is_a_mistake_among_others():
    config = load("glyphs", ["image.augmentation_options={foo: 1}", "loss.name=nothing"])
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert [line.partition(":")[0] for line in caught.value.mistakes] == ["loss", "image.augmentation_options"]
