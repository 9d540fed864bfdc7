"""Promises of `retrieval.config.network`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retrieval.config import load
from retrieval.config.network import build_network, build_preprocessing, own_network, require_whole_image
from retrieval.config.reading import load_of_run, to_yaml
from retrieval.data import Preprocessing
from retrieval.errors import ConfigError


def config(backbone: str, size: int):
    return load(
        "glyphs", {"model.backbone": backbone, "image.size": size, "image.resize": 64, "model.pretrained": False}
    )


def test_a_size_whose_last_rows_are_dropped_is_refused_with_the_nearest_ones():
    options = config("vit_tiny_patch16_224", 40)
    message = "image.size: vit_tiny_patch16_224 does not see the last 8 rows and columns of images of 40 x 40 pixels; "
    with pytest.raises(ConfigError, match=f"{message}set image.size to 32 or 48$"):
        require_whole_image(build_network(options), options)


def test_an_own_network_is_checked_too():
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    options = config("test_resnet", 36)
    with pytest.raises(ConfigError, match=r"does not see the last 4 rows .*; set image.size to 32$"):
        require_whole_image(own_network(network, options), options)
    options = config("test_resnet", 32)
    require_whole_image(own_network(network, options), options)


@pytest.mark.parametrize("limit", [None, 10**9])
def test_the_limit_on_pixels_is_part_of_the_preprocessing(limit):
    options = load("glyphs", {"image.max_pixels": limit})
    preprocessing = build_preprocessing(options, nn.Identity())
    assert preprocessing.max_pixels == limit
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def test_new_models_reduce_large_jpeg_files_and_runs_of_earlier_versions_do_not(tmp_path):
    assert build_preprocessing(load("glyphs"), nn.Identity()).decoding == "reduced"
    assert build_preprocessing(load("glyphs", {"image.decoding": "full"}), nn.Identity()).decoding == "full"
    text = to_yaml(load("glyphs"))
    assert "  decoding: reduced\n" in text
    (tmp_path / "config.yaml").write_text(text)
    assert load_of_run(tmp_path / "config.yaml").image.decoding == "reduced"
    (tmp_path / "config.yaml").write_text(text.replace("  decoding: reduced\n", ""))
    assert load_of_run(tmp_path / "config.yaml").image.decoding == "full"


@pytest.mark.parametrize(("option", "timm", "own"), [(None, True, False), (True, True, True), (False, False, False)])
def test_the_weights_of_a_network_of_timm_are_channels_last_and_those_of_an_own_one_by_the_option(option, timm, own):
    options = config("test_resnet", 32)
    options = options.model_copy(update={"model": options.model.model_copy(update={"channels_last": option})})

    def is_channels_last(network: nn.Module) -> bool:
        weights = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1]
        return all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert is_channels_last(build_network(options)) == timm
    assert is_channels_last(own_network(network, options)) == own
