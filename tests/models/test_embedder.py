from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.models import create_embedder, embed, pretraining_statistics


@pytest.mark.parametrize(("backbone", "dim"), [("test_resnet", 16), ("test_vit", 16), ("test_efficientnet", None)])
def test_any_backbone_gives_unit_vectors_of_the_dimension_asked_for(backbone, dim):
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


def test_an_unknown_backbone_is_named_with_near_names():
    with pytest.raises(ValueError, match=r"'resnet5O' is not a model of timm .*did you mean resnet50"):
        create_embedder("resnet5O")


def test_local_weights_are_loaded_and_wrong_ones_named(tmp_path):
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    model = create_embedder("test_resnet", pretrained=str(tmp_path / "w.safetensors"), image_size=32)
    for left, right in zip(network.parameters(), model.backbone.parameters(), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(CheckpointError, match="no such weights file"):
        create_embedder("test_resnet", pretrained=tmp_path / "none", image_size=32)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: these weights do not fit test_efficientnet"):
        create_embedder("test_efficientnet", pretrained=tmp_path / "w.safetensors", image_size=32)
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CheckpointError, match="these weights do not fit"):
        create_embedder("test_resnet", pretrained=tmp_path / "text", image_size=32)


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("cannot reach the hub\nlong explanation")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        RetrievalError, match=r"weights of test_resnet cannot be fetched \(cannot reach the hub\); set"
    ) as caught:
        create_embedder("test_resnet", pretrained=True)
    assert "\n" not in str(caught.value)


def test_statistics_come_from_the_pretraining():
    mean, std, interpolation = pretraining_statistics(create_embedder("resnet18", image_size=32))
    assert (mean, std, interpolation) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


def test_embedding_in_batches_equals_embedding_at_once_and_needs_no_gradient():
    model = create_embedder("test_resnet", embedding_dim=8, image_size=32)
    images = torch.randn(7, 3, 32, 32)
    vectors = embed(model, images.split(3))
    assert not model.training
    torch.testing.assert_close(torch.from_numpy(vectors), model(images).detach(), rtol=1e-5, atol=1e-6)
