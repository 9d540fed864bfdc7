from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.networks import create_embedder, embed
from retrieval.networks.embedding import PIECE


def test_embedding_in_batches_equals_embedding_at_once_and_needs_no_gradient():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    images = torch.randn(7, 3, 32, 32)
    vectors = embed(model, images.split(3))
    assert not model.training
    torch.testing.assert_close(torch.from_numpy(vectors), model(images).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv2_100", "test_vit", "convnext_atto"])
@pytest.mark.parametrize("pooling", [None, "gem"])
def test_autocast_gives_nearly_the_same_float32_vectors(backbone, pooling):
    torch.manual_seed(0)
    model = create_embedder(backbone, embedding_dim=16, image_size=64, pooling=pooling)
    images = torch.randn(5, 3, 64, 64)
    expected = embed(model, [images])
    vectors = embed(model, images.split(2), autocast=True)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * expected).sum(axis=1).min() > 0.99
    assert (vectors != expected).any()


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_a_batch_passes_a_network_on_a_cpu_few_images_at_a_time(count):
    sizes = []

    def network(images):
        sizes.append(len(images))
        return images.mean(dim=(2, 3))

    images = torch.randn(count, 3, 4, 4)
    np.testing.assert_array_equal(embed(network, [images]), network(images).numpy())
    assert (sum(sizes[:-1]), max(sizes[:-1]) <= PIECE) == (count, True)


def test_no_images_are_an_error_with_a_message():
    with pytest.raises(ValueError, match="no batch of images to embed"):
        embed(create_embedder("test_resnet", image_size=32), [])
