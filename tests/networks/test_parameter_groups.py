from __future__ import annotations

import pytest
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from retrieval.networks import create_embedder, parameter_groups


def by_name(model, groups, extra=()):
    """(learning rate, weight decay) of every parameter, and that each is in one group."""
    names = {parameter: name for name, parameter in [*model.named_parameters(), *extra]}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    assert len({group["name"] for group in groups}) == len(groups)
    return found


def test_matrices_have_weight_decay_and_vectors_have_none():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32, pooling="gem", layer_norm=True)
    found = by_name(model, parameter_groups(model, learning_rate=0.5, weight_decay=0.1))
    for name, parameter in model.named_parameters():
        assert found[name] == (0.5, 0.1 if parameter.ndim > 1 else 0.0), name


def test_parameters_that_a_backbone_exempts_have_no_weight_decay():
    model = create_embedder("test_vit", embedding_dim=8, image_size=64)
    found = by_name(model, parameter_groups(model, learning_rate=0.5, weight_decay=0.1))
    assert found["backbone.pos_embed"] == found["backbone.cls_token"] == (0.5, 0.0)
    assert found["backbone.blocks.0.attn.qkv.weight"] == (0.5, 0.1)


def test_head_pooling_and_proxies_have_multiples_of_the_learning_rate():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32, pooling="gem", layer_norm=True)
    proxies = nn.Embedding(5, 8)
    groups = parameter_groups(
        model, learning_rate=0.5, weight_decay=0.1, head=4.0, pooling=10.0, extra={"proxies": (proxies, 100.0)}
    )
    found = by_name(model, groups, [("proxies", proxies.weight)])
    assert found["head.weight"] == (2.0, 0.1)
    assert found["head.bias"] == found["norm.weight"] == (2.0, 0.0)
    assert found["pooling.power"] == (5.0, 0.0)
    assert found["proxies"] == (50.0, 0.1)
    assert found["backbone.conv1.0.weight"] == (0.5, 0.1)


def test_a_loss_without_parameters_and_an_extra_module_with_the_name_of_a_part_are_accepted():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    other = nn.Linear(2, 2, bias=False)
    extra = {"loss": (nn.Identity(), 1.0), "head": (other, 3.0)}
    groups = parameter_groups(model, learning_rate=0.5, weight_decay=0.1, extra=extra)
    found = by_name(model, groups, [("other", other.weight)])
    assert found["other"] == (1.5, 0.1)
    assert found["head.weight"] == (0.5, 0.1)


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv2_100", "test_vit", "convnext_atto"])
def test_layer_decay_is_that_of_timm(backbone):
    model = create_embedder(backbone, embedding_dim=8, image_size=32)
    found = by_name(model, parameter_groups(model, learning_rate=2.0, weight_decay=0.1, layer_decay=0.7, head=3.0))
    scales = {
        parameter: group["lr_scale"]
        for group in param_groups_layer_decay(model.backbone, layer_decay=0.7)
        for parameter in group["params"]
    }
    for name, parameter in model.backbone.named_parameters():
        assert found[f"backbone.{name}"][0] == pytest.approx(2.0 * scales[parameter]), name
    assert len({rate for rate, _ in found.values()}) > 4
    assert max(rate for name, (rate, _) in found.items() if name.startswith("backbone")) == 2.0
    assert found["head.weight"] == (6.0, 0.1)


def test_frozen_parameters_are_in_the_groups_so_that_they_can_be_unfrozen_later():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32).requires_grad_(False)
    assert by_name(model, parameter_groups(model, learning_rate=0.5, weight_decay=0.1, layer_decay=0.9))


def test_timms_optimisers_keep_the_groups():
    model = create_embedder("test_vit", embedding_dim=8, image_size=64)
    groups = parameter_groups(model, learning_rate=0.5, weight_decay=0.1, layer_decay=0.5, head=4.0)
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=0.01, weight_decay=0.01)
    for group, made in zip(groups, optimizer.param_groups, strict=True):
        assert (made["lr"], made["weight_decay"], made["name"]) == (group["lr"], group["weight_decay"], group["name"])


def test_wrong_factors_are_named():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    with pytest.raises(ValueError, match=r"the learning rate of head is -1\.0 times the model's, expected 0 or more"):
        parameter_groups(model, learning_rate=0.5, weight_decay=0.1, head=-1.0)
    with pytest.raises(ValueError, match=r"the learning rate of extra\.proxies is -2\.0 times"):
        parameter_groups(model, learning_rate=0.5, weight_decay=0.1, extra={"proxies": (nn.Linear(1, 1), -2.0)})
    for factor in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"layer_decay is {factor}, expected above 0 and at most 1"):
            parameter_groups(model, learning_rate=0.5, weight_decay=0.1, layer_decay=factor)
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="timm does not know the layers of Linear; leave out layer_decay"):
        parameter_groups(model, learning_rate=0.5, weight_decay=0.1, layer_decay=0.5)
