from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from retrieval.networks import create_embedder, freeze_batchnorm, set_backbone_trainable


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)  # timm begins with some at zero, through which no gradient passes
    return model


def step(model):
    """One step of training; returns the names of the parameters and buffers that changed."""
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    (model(torch.randn(6, 3, 32, 32)) * torch.randn(6, 8)).sum().backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def parts_of_batchnorm(model):
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 5
    statistics = {f"{name}.{part}" for name in norms for part in ("running_mean", "running_var", "num_batches_tracked")}
    return statistics, {f"{name}.{part}" for name in norms for part in ("weight", "bias")}


def test_batchnorm_is_frozen_as_far_as_the_mode_says(model):
    statistics, affine = parts_of_batchnorm(model)
    everything = set(model.state_dict())
    freeze_batchnorm(model, "none")
    assert step(model) == everything
    freeze_batchnorm(model, "statistics")
    assert step(model) == everything - statistics
    model.train()
    freeze_batchnorm(model, "affine")
    assert step(model) == everything - statistics - affine


def test_a_frozen_scale_forgets_its_last_gradient(model):
    step(model)
    freeze_batchnorm(model, "affine")
    _, affine = parts_of_batchnorm(model)
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name in affine)


def test_an_unknown_mode_of_batchnorm_is_named(model):
    with pytest.raises(ValueError, match=r"BatchNorm's mode is 'all', expected one of none, statistics, affine"):
        freeze_batchnorm(model, "all")


def test_a_frozen_backbone_is_a_fixed_function_while_head_and_pooling_learn():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32, pooling="gem", layer_norm=True).train()
    step(model)
    set_backbone_trainable(model, False)
    assert model.training
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    model.train()  # as a trainer does after every evaluation
    assert step(model) == {"pooling.power", "norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_an_unfrozen_backbone_learns_again(model):
    set_backbone_trainable(model, False)
    set_backbone_trainable(model, True)
    assert step(model) == set(model.state_dict())


def test_switching_the_backbone_leaves_evaluation_mode_alone(model):
    model.eval()
    for trainable in (False, True):
        set_backbone_trainable(model, trainable)
        assert not any(module.training for module in model.modules())
