"""BatchNorm layers that are folded into convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from retrieval.networks import create_embedder
from retrieval.networks.folding import fold_batchnorm


def trained(network: nn.Module) -> nn.Module:
    """With statistics that differ from those of a new network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2)):
                if tensor is not None:
                    tensor.uniform_(low, high)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)
    return network.eval()


def count(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "backbone",
    ["test_resnet", "mobilenetv2_100", "tf_efficientnet_lite0", "resnet18", "densenet121", "regnety_002", "repvgg_a0"],
)
def test_a_folded_network_makes_the_same_vectors_with_fewer_layers(backbone):
    torch.manual_seed(0)
    network = trained(create_embedder(backbone, embedding_dim=8, image_size=64))
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        folded = fold_batchnorm(network, images)
        torch.testing.assert_close(folded(images), network(images), atol=1e-5, rtol=0)
    assert count(folded) < count(network)
    assert not folded.training
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_network_without_batchnorm_is_not_copied():
    network = create_embedder("test_vit", embedding_dim=8, image_size=64).eval()
    assert fold_batchnorm(network, torch.randn(2, 3, 64, 64)) is network


class Odd(nn.Module):
    """Convolutions and BatchNorm layers in one of the ways in which they must not be folded."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, affine=way != "plain", track_running_stats=way != "batch statistics")

    def forward(self, images: Tensor) -> Tensor:
        made = self.first(images)
        out = self.norm(made)
        if self.way == "shared convolution":
            out = out + self.first(out)
        elif self.way == "shared norm":
            out = self.norm(self.second(out))
        elif self.way == "second use":
            out = out + made
        elif self.way == "own weights":
            out = out * self.norm.running_mean.mean()
        elif self.way == "after activation":
            out = self.norm(made.relu())
        return out.mean((2, 3))


@pytest.mark.parametrize("way", ["shared convolution", "shared norm", "second use", "own weights", "batch statistics"])
def test_layers_that_are_used_otherwise_are_left_alone(way):
    torch.manual_seed(0)
    network = trained(Odd(way))
    assert fold_batchnorm(network, torch.randn(2, 3, 8, 8)) is network


def test_a_layer_without_weights_is_folded():
    torch.manual_seed(0)
    network, images = trained(Odd("plain")), torch.randn(2, 3, 8, 8)
    folded = fold_batchnorm(network, images)
    assert count(folded) == 0
    torch.testing.assert_close(folded(images), network(images))


def test_a_folded_network_keeps_its_type_and_layout():
    network = trained(create_embedder("test_resnet", embedding_dim=8, image_size=32)).double()
    folded = fold_batchnorm(network, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert count(folded) == 0
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float64}
    assert all(
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in folded.parameters()
        if parameter.ndim == 4
    )


def test_layers_are_folded_under_autocast_too():
    torch.manual_seed(0)
    network = trained(create_embedder("test_resnet", embedding_dim=8, image_size=32))
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        folded = fold_batchnorm(network, images)
        assert count(folded) == 0
        torch.testing.assert_close(folded(images), network(images), atol=0.05, rtol=0)
