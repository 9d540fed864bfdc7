from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch.nn import functional

from retrieval.networks import Embedder, create_embedder, embed, freeze_batchnorm, pretraining_statistics


@pytest.mark.parametrize(("backbone", "dim"), [("test_resnet", 16), ("test_vit", 16), ("test_efficientnet", None)])
def test_any_backbone_gives_unit_vectors_of_the_given_dimension(backbone, dim):
    model = create_embedder(backbone, embedding_dim=dim, image_size=64).eval()
    vectors = model(torch.randn(3, 3, 64, 64))
    assert vectors.shape == (3, model.embedding_dim)
    assert dim is None or model.embedding_dim == dim
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_a_zero_feature_gives_a_finite_vector_and_gradient():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_dry_forward_leaves_the_model_as_it_was():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    assert model.training
    fresh = timm.create_model("test_resnet", num_classes=0)
    assert all(torch.equal(a, b) for a, b in zip(fresh.buffers(), model.backbone.buffers(), strict=True))


def test_statistics_come_from_the_pretraining():
    mean, std, interpolation = pretraining_statistics(create_embedder("resnet18", image_size=32))
    assert (mean, std, interpolation) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


def test_a_size_of_images_that_a_backbone_cannot_take_is_named():
    with pytest.raises(ValueError, match=r"test_vit cannot take images of 50 x 50 pixels \(.*divisible by patch size"):
        create_embedder("test_vit", image_size=50)
    with pytest.raises(ValueError, match=r"convnext_atto cannot take images of 20 x 20 pixels"):
        create_embedder("convnext_atto", image_size=20)


def test_the_names_of_the_weights_are_those_of_the_backbone_and_the_head():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    names = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert list(model.state_dict()) == [*(f"backbone.{name}" for name in names), "head.weight", "head.bias"]
    headless = create_embedder("test_resnet", embedding_dim=None, image_size=32, pooling="avgmax")
    assert list(headless.state_dict()) == [f"backbone.{name}" for name in names]
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32, pooling="gem", layer_norm=True)
    others = {name for name in model.state_dict() if not name.startswith("backbone.")}
    assert others == {"pooling.power", "norm.weight", "norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embedding_dim": None, "pooling": "max"},
        {"embedding_dim": 7, "pooling": "gem", "layer_norm": True, "image_size": 64, "gradient_checkpointing": True},
    ],
)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_model_is_built_again_from_its_description(backbone, options):
    model = create_embedder(backbone, **{"image_size": 32, **options}).eval()
    description = json.loads(json.dumps(model.describe()))
    again = create_embedder(**description).eval()
    again.load_state_dict(model.state_dict())
    assert again.describe() == model.describe()
    images = torch.randn(2, 3, description["image_size"], description["image_size"])
    assert torch.equal(again(images), model(images))


def test_a_network_around_another_module_than_timms_has_no_description():
    with pytest.raises(ValueError, match="the backbone Flatten is not a model of timm"):
        Embedder(torch.nn.Flatten(), 12, 4).describe()


def test_layer_norm_is_applied_before_the_head():
    model = create_embedder("test_resnet", embedding_dim=None, image_size=32, layer_norm=True).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = functional.normalize(functional.layer_norm(model.backbone(images), (model.embedding_dim,)), dim=1)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "mobilenetv2_100", "convnext_atto"])
def test_gradient_checkpointing_changes_no_gradient(backbone):
    gradients = []
    images, weights = torch.randn(3, 3, 32, 32), torch.randn(3, 8)
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = create_embedder(backbone, embedding_dim=8, image_size=32, gradient_checkpointing=checkpointing)
        freeze_batchnorm(model.train(), "statistics")
        (model(images) * weights).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        embed(model, [images])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_a_backbone_without_gradient_checkpointing_is_named():
    with pytest.raises(ValueError, match="vgg11 has no gradient checkpointing in timm; leave it off"):
        create_embedder("vgg11", embedding_dim=None, image_size=32, gradient_checkpointing=True)


@pytest.mark.parametrize("pooling", [None, "gem"])
def test_vectors_are_float32_under_autocast_and_float64_in_a_float64_model(pooling):
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32, pooling=pooling).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model(images)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert model.double()(images.double()).dtype == torch.float64


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv2_100", "test_vit", "convnext_atto"])
def test_a_model_with_weights_in_channels_last_learns_the_same(backbone):
    gradients = []
    images, weights = torch.randn(3, 3, 32, 32), torch.randn(3, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = create_embedder(backbone, embedding_dim=8, image_size=32, pooling="gem").to(memory_format=layout)
        freeze_batchnorm(model.train(), "statistics")
        (model(images) * weights).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-4)


def test_timms_average_of_weights_follows_a_model_and_describes_itself():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32, pooling="gem")
    average = ModelEmaV3(model, decay=0.75)
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 3, 32, 32))  # moves BatchNorm's statistics
    with torch.no_grad():
        model.head.weight += 1
        model.pooling.power += 1
    average.update(model)
    assert average.module.describe() == model.describe()
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * model.state_dict()[name])
    assert not average.module.training
