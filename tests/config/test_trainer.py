from __future__ import annotations

import pytest
import torch
from torch import nn

from retrieval.config import Config, config_names, load
from retrieval.config.network import build_network, build_preprocessing
from retrieval.config.splits import build_augmentation
from retrieval.config.trainer import build_trainer
from retrieval.errors import ConfigError
from retrieval.training import SiMix, Trainer

STEPS = 10


def configure(*words: str) -> Config:
    return load("glyphs", ["model.embedding_dim=16", "training.learning_rate=1e-3", *words])


def build(*words: str) -> Trainer:
    torch.manual_seed(0)
    config = configure(*words)
    return build_trainer(config, build_network(config), num_classes=6, steps_per_epoch=STEPS)


def learning_rates(trainer: Trainer) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}


def rate_after(trainer: Trainer, epochs: float) -> float:
    trainer.scheduler.step_update(round(epochs * STEPS))
    return learning_rates(trainer)["head"]


def test_parts_have_multiples_of_the_learning_rate_and_vectors_no_weight_decay():
    trainer = build(
        *("model.pooling=gem", "model.head_lr_multiplier=3", "model.pooling_lr_multiplier=5"),
        *("loss.name=proxy_anchor", "loss.lr_multiplier=100"),
    )
    rates = learning_rates(trainer)
    assert rates["backbone"] == pytest.approx(1e-3)
    assert rates["head"] == pytest.approx(3e-3)
    assert rates["pooling without decay"] == pytest.approx(5e-3)
    assert rates["extra.loss"] == pytest.approx(0.1)
    decays = {group["name"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decays["head"] == 1e-4
    assert decays["head without decay"] == 0
    of_modules = {id(p) for module in (trainer.model, trainer.loss_function) for p in module.parameters()}
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == of_modules


def test_class_proxies_learn_ten_times_as_fast_as_the_network_without_weight_decay():
    for words in ((), ("loss.memory=256",), ("batch.simix=true",)):
        trainer = build("loss.proxies=true", "model.head_lr_multiplier=3", *words)
        (group,) = (group for group in trainer.optimizer.param_groups if "loss" in group["name"])
        assert [tuple(parameter.shape) for parameter in group["params"]] == [(6, 16)]
        assert group["lr"] == pytest.approx(1e-2)
        assert group["weight_decay"] == 0
    assert learning_rates(build("loss.proxies=true", "loss.lr_multiplier=2"))["extra.loss without decay"] == 2e-3
    assert learning_rates(build("loss.name=proxy_anchor"))["extra.loss"] == 1e-3


def test_schedules_have_the_learning_rates_of_their_options():
    assert rate_after(build("training.epochs=8"), 4) == pytest.approx(5e-4)
    assert rate_after(build("training.epochs=8"), 8) == pytest.approx(0, abs=1e-9)
    assert rate_after(build("training.epochs=8", "training.min_learning_rate=1e-5"), 8) == pytest.approx(1e-5)
    assert rate_after(build("training.schedule=constant"), 7.9) == pytest.approx(1e-3)
    steps = ("training.schedule=multistep", "training.decay_epochs=[2, 5]", "training.decay_rate=0.3")
    for epochs, factor in ((1.5, 1), (2.5, 0.3), (5.5, 0.09)):
        assert rate_after(build(*steps), epochs) == pytest.approx(1e-3 * factor)
    step = ("training.schedule=step", "training.decay_epochs=[2]", "training.decay_rate=0.5")
    assert rate_after(build(*step), 6.5) == pytest.approx(1e-3 / 8)


def test_a_warmup_rises_from_little_to_each_parts_own_learning_rate():
    words = ("training.warmup_epochs=2", "training.schedule=constant", "model.head_lr_multiplier=10")
    trainer = build(*words)
    assert 0 < learning_rates(trainer)["head"] < 1e-4
    assert rate_after(trainer, 1) == pytest.approx(5e-3, rel=0.01)
    assert rate_after(trainer, 2) == pytest.approx(1e-2)
    assert learning_rates(trainer)["backbone"] == pytest.approx(1e-3)


def test_options_of_training_reach_the_trainer():
    trainer = build("training.amp=bfloat16", "training.clip_norm=2", "batch.chunk=4", "batch.simix=true", "seed=7")
    assert (trainer.precision, trainer.clip_norm, trainer.chunk_size, trainer.seed) == ("bfloat16", 2, 4, 7)
    assert isinstance(trainer.loss_function, SiMix)
    assert trainer.average is None
    average = build("model.ema=0.9").average
    assert average.decay == 0.9
    assert isinstance(build("training.optimizer=sgd").optimizer, torch.optim.SGD)
    betas = build("training.optimizer_options={betas: [0.5, 0.6]}").optimizer.param_groups[0]["betas"]
    assert list(betas) == [0.5, 0.6]


@pytest.mark.parametrize(("mode", "size"), [("none", None), ("statistics", 16), ("affine", 16)])
def test_a_batch_passes_in_pieces_on_a_cpu_if_batchnorm_is_frozen(mode, size):
    assert build(f"model.freeze_batchnorm={mode}").piece_size == size


def test_parts_are_frozen_in_the_epochs_of_the_options():
    trainer = build("model.freeze_batchnorm=affine", "model.freeze_backbone_epochs=2")
    norms = [module for module in trainer.model.modules() if isinstance(module, nn.BatchNorm2d)]
    for epoch, trains in ((0, False), (1, False), (2, True)):
        trainer.training_mode(trainer.model, epoch)
        assert trainer.model.backbone.conv1[0].weight.requires_grad is trains
        assert trainer.model.head.weight.requires_grad
        assert trainer.model.training
        assert not any(norm.training or norm.weight.requires_grad for norm in norms)


def test_layer_decay_lowers_the_learning_rate_towards_the_image():
    rates = learning_rates(build("model.layer_decay=0.5"))
    layers = [rate for name, rate in rates.items() if name.startswith("backbone.") and "without" not in name]
    assert min(layers) < 0.3 * max(layers)
    assert max(layers) <= rates["head"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.optimizer=adamx", "training.optimizer: 'adamx' is not an optimiser of timm; did you mean"),
        ("training.optimizer_options={moment: 1}", "training.optimizer_options: adamw refuses them"),
        ("loss.name=proxy", "loss: there is no loss 'proxy'; did you mean"),
    ],
)
def test_unknown_names_are_mistakes(word, message):
    with pytest.raises(ConfigError, match=message):
        build(word)


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_can_be_built(name):
    config = load(name)
    if config.training.epochs == "auto":
        config = load(config, ["training.epochs=8"])
    model = build_network(config, pretrained=False)
    build_augmentation(config, build_preprocessing(config, model))
    trainer = build_trainer(config, model, num_classes=100, steps_per_epoch=STEPS)
    trainer.training_mode(trainer.model, 0)
    assert trainer.model.training
