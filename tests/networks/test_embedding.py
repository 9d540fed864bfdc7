from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.networks import create_embedder, embed, runtime
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


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr("retrieval.networks.embedding.MANY", 4)
    pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "mobilenetv2_100", "tf_efficientnet_lite0", "resnet18", "regnety_002"]
)
@pytest.mark.parametrize("pooling", [None, "gem"])
def test_a_convolutional_network_goes_on_with_onnxruntime_and_makes_the_same_vectors(soon, backbone, pooling):
    torch.manual_seed(0)
    model = create_embedder(backbone, embedding_dim=16, image_size=64, pooling=pooling).eval()
    images, notes = torch.randn(11, 3, 64, 64), []
    vectors = embed(model, images.split(4), fold=True, note=notes.append)
    assert notes == ["onnxruntime"]
    np.testing.assert_allclose(vectors, model(images).detach(), atol=1e-5)


@pytest.mark.parametrize("why", ["few images", "no fold", "bfloat16", "no convolution", "another dtype"])
def test_other_calls_stay_on_torch(soon, why):
    torch.manual_seed(0)
    backbone = "test_vit" if why == "no convolution" else "test_resnet"
    model = create_embedder(backbone, embedding_dim=8, image_size=32).eval()
    if why == "another dtype":
        model = model.double()
    images, notes = torch.randn(4 if why == "few images" else 12, 3, 32, 32), []
    vectors = embed(model, images.split(4), autocast=why == "bfloat16", fold=why != "no fold", note=notes.append)
    assert notes == []
    if why != "bfloat16":
        np.testing.assert_allclose(vectors, embed(model, [images]), atol=1e-5)


@pytest.mark.parametrize("fault", ["missing", "not exported", "different"])
def test_a_network_that_onnxruntime_cannot_run_stays_on_torch(soon, monkeypatch, fault):
    torch.manual_seed(0)
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32).eval()
    images, notes = torch.randn(12, 3, 32, 32), []
    if fault == "missing":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if fault == "not exported":
        monkeypatch.setattr(torch.onnx, "export", lambda *given, **options: (_ for _ in ()).throw(RuntimeError("gone")))
    if fault == "different":
        session = runtime._session
        monkeypatch.setattr(runtime, "_session", lambda content: lambda images: session(content)(images) + 0.01)
    vectors = embed(model, images.split(4), fold=True, note=notes.append)
    assert notes == []
    np.testing.assert_allclose(vectors, model(images).detach(), atol=1e-5)


def test_images_of_another_size_stay_on_torch(soon):
    torch.manual_seed(0)
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32).eval()
    batches = [torch.randn(4, 3, side, side) for side in (32, 32, 48, 32)]
    np.testing.assert_allclose(embed(model, batches, fold=True), embed(model, batches), atol=1e-5)
