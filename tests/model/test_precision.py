"""Embedding in bfloat16, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model.networks import draw_folder, mean_color, own_model, timm_model

from retrieval.data import images_in
from retrieval.errors import ConfigError
from retrieval.index import Index
from retrieval.model import Model, precision


def test_a_precision_is_chosen_for_a_call_and_the_model_keeps_its_own(tmp_path):
    images = images_in(draw_folder(tmp_path / "photos"))
    model = timm_model(batch_size=5)
    exact, rough = model.encode(images), model.encode(images, precision="bfloat16")
    assert model.precision == "float32"
    assert 1e-5 < np.abs(exact - rough).max() < 0.1
    np.testing.assert_array_equal(rough, timm_model(batch_size=5, precision="bfloat16").encode(images))
    np.testing.assert_array_equal(exact, model.at("bfloat16").encode(images, precision="float32"))
    assert model.at(None) is model.at("float32") is model


def test_a_precision_that_does_not_exist_or_is_not_of_torch_is_refused():
    with pytest.raises(ValueError, match="precision is 'float16', expected float32 or bfloat16"):
        timm_model().at("float16")
    with pytest.raises(ConfigError, match="precision bfloat16 is of torch, and this model is a function"):
        Model(mean_color).encode([np.zeros((4, 4, 3), np.uint8)], precision="bfloat16")


def test_the_cost_is_the_share_of_the_neighbours_that_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_LEAST", 30)
    images = images_in(draw_folder(tmp_path / "photos", 10, 5))
    model = own_model(precision="bfloat16")
    rough, exact = model.encode(images), model.encode(images, precision="float32")
    cost = precision.measure(model, images, rough)["precision"]
    assert (cost["name"], cost["images"]) == ("bfloat16", 30)
    sample = np.sort(np.random.default_rng(0).permutation(50)[:30])
    for k in (1, 10):
        found = []
        for i in sample:
            others = [j for j in sample if j != i]
            near = [sorted(others, key=lambda j, i=i, of=of: -float(of[i] @ of[j]))[:k] for of in (exact, rough)]
            found.append(len({*near[0]} & {*near[1]}) / k)
        assert cost[f"recall@{k}"] == pytest.approx(np.mean(found))
    assert precision.measure(own_model(), images, exact) == {}


def test_a_single_image_has_a_precision_and_no_neighbours(tmp_path):
    index = Index.build(timm_model(precision="bfloat16"), draw_folder(tmp_path / "photos", 1, 1))
    assert index.manifest["source"]["precision"] == {"name": "bfloat16", "images": 1}


def test_an_index_records_its_precision_and_keeps_it(tmp_path):
    photos = draw_folder(tmp_path / "photos")
    index = Index.build(timm_model().at("bfloat16"), photos, tmp_path / "index")
    cost = index.manifest["source"]["precision"]
    assert cost.keys() == {"name", "images", "recall@1", "recall@10"}
    assert Index.open(tmp_path / "index").manifest["source"]["precision"] == cost
    assert Index.open(tmp_path / "index").model.precision == "float32"
    assert "precision" not in Index.build(timm_model(), photos).manifest["source"]


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (None, "expected a name, a number of images and shares"),
        ({"name": "float8", "images": 1}, "expected a name"),
        ({"name": "bfloat16"}, "expected a name"),
        ({"name": "bfloat16", "images": 0}, "expected a name"),
        ({"name": "bfloat16", "images": True}, "expected a name"),
        ({"name": "bfloat16", "images": 1, "recall@2": 1}, "expected a name"),
        ({"name": "bfloat16", "images": 1, "recall@1": 1.5}, r"precision\.recall@1 is 1\.5"),
        ({"name": "bfloat16", "images": 1, "recall@1": "all"}, r"precision\.recall@1 is 'all'"),
    ],
)
def test_a_stored_cost_of_another_form_is_refused(cost, text):
    with pytest.raises(ValueError, match=text):
        timm_model(source={"precision": cost})


def test_the_costs_of_parts_are_pooled_by_their_images():
    costs = [{"name": "bfloat16", "images": 10, "recall@1": 1.0}, {"name": "bfloat16", "images": 30, "recall@1": 0.9}]
    pooled = precision.pooled([{"precision": cost} for cost in costs])["precision"]
    assert pooled == {"name": "bfloat16", "images": 40, "recall@1": pytest.approx(0.925)}
    assert precision.pooled([{}, {}]) == {}


def test_a_network_of_timm_is_stored_channels_last_and_saved_as_before(tmp_path):
    model = timm_model()
    weights = [p for p in model.network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    model.save(tmp_path / "model")
    plain = Model(model.network.to(memory_format=torch.contiguous_format), model.preprocessing)
    assert plain.stored().fingerprint() == model.stored().fingerprint()
    loaded = Model.load(tmp_path / "model", device="cpu").network
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in loaded.parameters() if p.ndim == 4)
    model.network.to(memory_format=torch.channels_last)  # of the other tests, too
