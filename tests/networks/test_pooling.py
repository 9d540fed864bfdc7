from __future__ import annotations

import pytest
import torch

from retrieval.networks import create_embedder
from retrieval.networks.pooling import SMALLEST, Pooling, generalized_mean

CNNS = ["resnet18", "mobilenetv2_100", "convnext_atto", "test_resnet"]


def power(value, dtype=torch.float32):
    return torch.tensor([value], dtype=dtype)


def test_the_generalised_mean_is_its_formula():
    features = torch.rand(3, 7, 5, dtype=torch.float64) + 0.1
    for p in (1.0, 2.5, 3.0, 6.0):
        expected = (features**p).mean(dim=1) ** (1 / p)
        torch.testing.assert_close(generalized_mean(features, power(p, torch.float64)), expected)


def test_the_generalised_mean_has_a_shape_without_memory():
    features = torch.empty(3, 7, 5, device="meta")
    assert generalized_mean(features, torch.empty(1, device="meta")).shape == (3, 5)


def test_the_generalised_mean_goes_from_average_to_maximum():
    features = torch.rand(2, 9, 4) + 0.1
    torch.testing.assert_close(generalized_mean(features, power(1.0)), features.mean(dim=1))
    torch.testing.assert_close(generalized_mean(features, power(0.2)), features.mean(dim=1))
    torch.testing.assert_close(generalized_mean(features, power(500.0)), features.amax(dim=1), rtol=0.01, atol=0)


def test_the_gradient_of_the_generalised_mean_is_that_of_its_formula():
    features = (torch.rand(2, 6, 3, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(generalized_mean, (features, power(3.0, torch.float64).requires_grad_()))


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-8, 1e-3, 1e4, 1e30])
@pytest.mark.parametrize("p", [1.0, 3.0, 40.0])
def test_features_of_any_scale_and_any_power_stay_in_the_range_of_float32(scale, p):
    features = (torch.rand(2, 6, 3) * scale).requires_grad_()
    exponent = power(p).requires_grad_()
    pooled = generalized_mean(features, exponent)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert features.grad.isfinite().all()
    assert exponent.grad.isfinite().all()
    assert (pooled >= SMALLEST * 0.99).all()


def test_the_generalised_mean_is_computed_in_float32_under_autocast():
    features = torch.rand(2, 49, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = generalized_mean(features, power(3.0))
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, generalized_mean(features.float(), power(3.0)).bfloat16())


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "gem"])
def test_maps_of_either_layout_and_tokens_are_pooled_alike(kind):
    maps = torch.rand(2, 5, 3, 4)
    pooled = Pooling(kind)(maps)
    assert pooled.shape == (2, 5, 1, 1)
    torch.testing.assert_close(Pooling(kind, channels_last=True)(maps.permute(0, 2, 3, 1))[:, 0, 0], pooled[:, :, 0, 0])
    tokens = torch.cat([torch.full((2, 2, 5), 9.0), maps.flatten(2).mT], dim=1)  # two prefix tokens: no positions
    as_tokens = Pooling(kind, prefix_tokens=2)(tokens)
    assert as_tokens.shape == (2, 3, 5)
    for token in as_tokens.unbind(1):
        torch.testing.assert_close(token, pooled[:, :, 0, 0])


def test_avgmax_is_the_mean_of_average_and_maximum():
    maps = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(Pooling("avgmax")(maps), (Pooling("avg")(maps) + Pooling("max")(maps)) / 2)


@pytest.mark.parametrize("backbone", CNNS)
def test_the_average_as_our_pooling_equals_the_backbones_own(backbone):
    assert_same_features(backbone, "avg")


@pytest.mark.parametrize("backbone", ["test_vit", "vit_tiny_patch16_224"])
def test_the_class_token_as_our_pooling_equals_the_backbones_own(backbone):
    assert_same_features(backbone, "cls")


def test_layers_after_the_average_of_a_backbone_are_applied_after_ours_too():
    assert_same_features("test_vit2", "avg")  # a norm after the average of tokens
    assert_same_features("mobilenetv3_small_050", "avg")  # a layer after the average


def test_a_backbone_with_channels_last_maps_is_pooled_over_its_positions():
    assert_same_features("swin_tiny_patch4_window7_224", "avg")


@pytest.mark.parametrize("backbone", [*CNNS, "test_vit"])
@pytest.mark.parametrize("kind", ["max", "avgmax", "gem"])
def test_every_pooling_works_for_every_kind_of_backbone_and_passes_gradients(backbone, kind):
    model = create_embedder(backbone, embedding_dim=8, image_size=64, pooling=kind)
    vectors = model(torch.randn(3, 3, 64, 64))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    (vectors * torch.randn(3, 8)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if kind == "gem":
        assert model.pooling.power.grad != 0


def test_a_pooling_that_a_backbone_does_not_support_is_named():
    with pytest.raises(ValueError, match=r"pooling is 'mean', expected one of avg, max, avgmax, gem, cls"):
        create_embedder("test_resnet", image_size=32, pooling="mean")
    with pytest.raises(ValueError, match=r"pooling is 'cls', but the backbone has no class token; use avg"):
        create_embedder("test_resnet", image_size=32, pooling="cls")
    with pytest.raises(ValueError, match=r"pooling is 'gem', but test_vit3 pools by attention"):
        create_embedder("test_vit3", image_size=64, pooling="gem")


def assert_same_features(backbone, pooling):
    images = torch.randn(2, 3, 64, 64)
    models = []
    for kind in (None, pooling):
        torch.manual_seed(3)
        models.append(create_embedder(backbone, embedding_dim=None, image_size=64, pooling=kind).eval())
    with torch.no_grad():
        torch.testing.assert_close(models[1](images), models[0](images))
