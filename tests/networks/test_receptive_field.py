"""Promises of `retrieval.networks.receptive_field`: what a network does not see is counted."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from retrieval.networks import create_embedder, unseen_border


class Patches(nn.Module):
    """Pools patches of `side` pixels; what is left over is dropped."""

    def __init__(self, side: int, stride: int | None = None) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, side, stride or side)

    def forward(self, images):
        return self.patches(images).relu().mean((2, 3))


@pytest.mark.parametrize(("size", "unseen"), [(32, 0), (40, 8), (33, 1), (47, 15)])
def test_a_vision_transformer_drops_what_is_no_whole_patch(size, unseen):
    options = {"depth": 1, "embed_dim": 24, "num_heads": 3, "num_classes": 0}
    assert unseen_border(timm.create_model("vit_tiny_patch16_224", img_size=size, **options), size) == unseen
    padded = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, dynamic_img_size=True, dynamic_img_pad=True, **options
    )
    assert unseen_border(padded, size) == 0


@pytest.mark.parametrize(
    ("side", "stride", "size", "unseen"), [(8, 8, 30, 6), (7, 4, 32, 1), (7, 4, 31, 0), (3, 2, 9, 0)]
)
def test_strides_without_padding_drop_what_is_left_over(side, stride, size, unseen):
    assert unseen_border(Patches(side, stride), size) == unseen
    assert unseen_border(create_embedder(Patches(side, stride), embedding_dim=5, image_size=size), size) == unseen


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "resnet18", "tf_efficientnet_lite0"])
def test_convolutions_with_padding_see_images_of_odd_sizes_whole(backbone):
    network = timm.create_model(backbone, num_classes=0)
    assert [unseen_border(network, size) for size in (33, 50)] == [0, 0]


def test_residual_branches_that_start_as_zeros_hide_nothing():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Conv2d(3, 8, 3, 2, padding=1)
            nn.init.zeros_(self.branch.weight)
            self.shortcut = Patches(8)

        def forward(self, images):
            return self.shortcut(images) + self.branch(images).mean((2, 3))

    assert unseen_border(Residual(), 30) == 0


def test_subsampling_is_not_taken_for_a_border():
    network = nn.Sequential(nn.Upsample(scale_factor=0.25), nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    assert unseen_border(network, 32) == 0


def test_the_network_stays_as_it_is():
    network = create_embedder("test_vit", embedding_dim=8, image_size=32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    unseen_border(network, 32)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_gradients_is_left_alone():
    class Frozen(Patches):
        @torch.no_grad()
        def forward(self, images):
            return super().forward(images)

    assert unseen_border(Frozen(8), 30) == 0
