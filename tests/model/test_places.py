from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model.folders import rewrite
from model.networks import (
    DIMENSION,
    PREPARE,
    SIDE,
    Means,
    draw_folder,
    mean_color,
    own_model,
    pixels_of,
    timm_model,
)
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from retrieval.config import load
from retrieval.config.network import build_network, build_preprocessing
from retrieval.config.reading import to_yaml
from retrieval.errors import CheckpointError, ConfigError, IndexFormatError, RetrievalError
from retrieval.index import Index
from retrieval.model import Model
from retrieval.training import RunFolder
from retrieval.training.checkpoint import save_checkpoint

OPTIONS = {
    "model.backbone": "test_resnet",
    "model.embedding_dim": DIMENSION,
    "image.size": SIDE,
    "image.resize": SIDE,
    "evaluation.batch_size": 3,
    "data.workers": 0,
    "device": "cpu",
}
IMAGES = [pixels_of(i) for i in range(4)]


def network_of(seed: int, **changes) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(load("glyphs", {**OPTIONS, **changes}), pretrained=False)


def write_run(folder: Path, *names: str, average: int | None = None, **changes) -> Path:
    """A run with checkpoints of these names: the weights of "last" are of seed 1, those of "best" of seed 2."""
    run = RunFolder(folder)
    run.create(to_yaml(load("glyphs", OPTIONS)), {})
    for name in names:
        state = {"model": network_of({"last": 1, "best": 2}[name], **changes).state_dict(), "step": 12, "average": None}
        if average is not None:
            weights = network_of(average, **changes).state_dict()
            state["average"] = {f"module.{key}": tensor for key, tensor in weights.items()}
        save_checkpoint(getattr(run, name), state)
    return folder


def vectors_of(seed: int) -> np.ndarray:
    network = network_of(seed)
    preprocessing = build_preprocessing(load("glyphs", OPTIONS), network)
    return Model(network, preprocessing, batch_size=3).encode(IMAGES)


def refused(place, error: type[RetrievalError] = CheckpointError, **options) -> str:
    with pytest.raises(error) as caught:
        Model.load(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture
def saved(tmp_path) -> Path:
    timm_model().save(tmp_path / "model")
    return tmp_path / "model"


# Runs


def test_of_a_run_the_best_checkpoint_is_loaded_where_there_is_one(tmp_path):
    assert_array_equal(Model.load(write_run(tmp_path / "1", "last", "best")).encode(IMAGES), vectors_of(2))
    assert_array_equal(Model.load(write_run(tmp_path / "2", "last")).encode(IMAGES), vectors_of(1))


def test_of_a_run_either_checkpoint_can_be_chosen(tmp_path):
    run = write_run(tmp_path / "run", "last", "best")
    last, best = (Model.load(run, checkpoint=name) for name in ("last", "best"))
    assert_array_equal(last.encode(IMAGES), vectors_of(1))
    assert_array_equal(best.encode(IMAGES), vectors_of(2))
    assert last.source == {"dataset": "glyphs", "checkpoint": "last", "step": 12}
    assert best.source["checkpoint"] == Model.load(str(run)).source["checkpoint"] == "best"
    assert (last.batch_size, last.workers, last.precision) == (3, 0, "float32")
    assert last.embedding_dim == DIMENSION


def test_of_a_run_with_averaged_weights_these_are_loaded(tmp_path):
    run = write_run(tmp_path / "run", "last", "best", average=7)
    for name in (None, "last", "best"):
        assert_array_equal(Model.load(run, checkpoint=name).encode(IMAGES), vectors_of(7))


def test_of_a_damaged_last_checkpoint_the_previous_one_is_loaded_with_a_warning(tmp_path, caplog):
    run = write_run(tmp_path / "run", "last")
    shutil.copy(run / "last.safetensors", run / "previous.safetensors")
    (run / "last.safetensors").write_bytes(b"damaged")
    assert_array_equal(Model.load(run).encode(IMAGES), vectors_of(1))
    assert "last.safetensors" in caplog.text


def test_a_run_without_a_checkpoint_or_of_an_unknown_name_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    assert "last.safetensors: no such checkpoint" in refused(run)
    assert "best.safetensors: no such checkpoint" in refused(write_run(tmp_path / "2", "last"), checkpoint="best")
    message = refused(write_run(tmp_path / "3", "last", "best"), ConfigError, checkpoint="first")
    assert message == "checkpoint is 'first'; give last or best"


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = write_run(tmp_path / "run", "last", "best")
    content = (run / "best.safetensors").read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-40] + bytes(40)):
        (run / "best.safetensors").write_bytes(damaged)
        assert "best.safetensors: " in refused(run)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run = write_run(tmp_path / "run", "last", **{"model.embedding_dim": DIMENSION + 1})
    assert "its config.yaml and its checkpoint are of different models" in refused(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(saved, tmp_path, value):
    state = {"model": network_of(1).state_dict(), "step": 12}
    name = next(iter(dict(network_of(1).named_parameters())))
    state["model"][name] = torch.full_like(state["model"][name], value)
    run = write_run(tmp_path / "run", "last")
    save_checkpoint(run / "best.safetensors", state)
    assert f"its best checkpoint: its weights hold NaN or infinity ({name})" in refused(run)
    assert_array_equal(Model.load(run, checkpoint="last").encode(IMAGES), vectors_of(1))
    model = timm_model(seed=77)  # of its own: networks are shared
    torch.nn.init.constant_(next(model.network.parameters()), value)
    model.save(tmp_path / "other")
    assert "model.json: its model cannot be built (its weights hold NaN or infinity (" in refused(tmp_path / "other")


def test_a_run_of_a_network_that_was_given_in_python_asks_for_it(tmp_path):
    run = write_run(tmp_path / "run", "last")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("backbone: test_resnet", "backbone: <Means>"))
    assert "was trained with an object that was given in Python, <Means>; give it again" in refused(run)


def test_a_run_that_names_code_of_others_is_refused_before_it_is_run(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", "last")
    (run / "evil.py").write_text("raise SystemExit('this code has run')")
    config = (run / "config.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    for name in ("os:system", f"{run}/evil.py:build", "run/evil.py:build", "timm:create_model"):
        (run / "config.yaml").write_text(config.replace("backbone: test_resnet", f"backbone: '{name}'"))
        assert "names code that is not in a file of yours" in refused(run)


# Indexes


@pytest.fixture
def index(tmp_path, photos) -> Path:
    Index.build(timm_model(), photos, tmp_path / "index")
    return tmp_path / "index"


def test_the_model_of_an_index_is_that_which_made_it(index):
    model = Model.load(index)
    assert_array_equal(model.encode(IMAGES), timm_model().encode(IMAGES))
    assert model.preprocessing == PREPARE


def test_the_vectors_of_an_index_are_not_read_for_its_model(index):
    for name in ("vectors.npy", "items.arrows"):
        (index / name).write_bytes(b"damaged")
    assert_array_equal(Model.load(index).encode(IMAGES), timm_model().encode(IMAGES))
    with pytest.raises(IndexFormatError, match=r"vectors\.npy: size is 7, expected"):
        Index.open(index)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "manifest.json"])
def test_damage_to_the_model_of_an_index_is_named(index, name):
    content = bytearray((index / name).read_bytes())
    content[len(content) // 2] ^= 1
    (index / name).write_bytes(content)
    assert name in refused(index, IndexFormatError)


def test_an_index_without_a_model_says_how_to_open_it(tmp_path):
    Index.from_vectors(np.eye(3), ["a", "a", "b"], tmp_path / "index")
    message = refused(tmp_path / "index", IndexFormatError)
    assert "holds vectors without a model, so images cannot be searched in it; open it in Python" in message


def test_an_index_of_images_in_a_folder_named_like_a_kind_of_folder_is_an_index(tmp_path):
    photos = draw_folder(tmp_path / "retrieval model", 2, 2)
    Index.build(timm_model(), photos, tmp_path / "index")
    assert "retrieval model" in (tmp_path / "index" / "manifest.json").read_text()
    assert_array_equal(Model.load(tmp_path / "index").encode(IMAGES), timm_model().encode(IMAGES))
    with pytest.raises(RetrievalError, match="which is no part of a saved model"):
        timm_model().save(tmp_path / "index", overwrite=True)


# Saved models


def test_a_network_of_timm_is_the_same_to_the_last_bit_after_it_was_saved(saved):
    model = Model.load(saved)
    assert_array_equal(model.encode(IMAGES), timm_model().encode(IMAGES))
    before, after = timm_model().network.state_dict(), model.network.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])
    assert model.preprocessing == PREPARE
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "model.json", "model.safetensors"]
    assert json.loads((saved / "manifest.json").read_text())["dimension"] == DIMENSION


def test_a_model_that_is_saved_again_has_the_same_files(saved, tmp_path):
    Model.load(saved).save(tmp_path / "again")
    for name in ("model.json", "model.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_module_of_the_user_comes_back_through_onnx(tmp_path):
    model = own_model()
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["manifest.json", "model.json", "model.onnx"]
    loaded = Model.load(tmp_path / "model")
    assert_allclose(loaded.encode(IMAGES), model.encode(IMAGES), atol=1e-4)
    assert_allclose(loaded.encode(IMAGES[0]), model.encode(IMAGES[0]), atol=1e-4)
    assert loaded.embedding_dim == DIMENSION
    assert loaded.to("cpu") is loaded
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "model" / "model.onnx").read_bytes()


def test_the_source_of_a_model_is_kept(tmp_path):
    model = Model(timm_model().network, PREPARE, source={"dataset": "glyphs", "step": 12})
    model.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").source == {"dataset": "glyphs", "step": 12}


def test_a_saved_model_is_replaced_only_on_request_and_nothing_else_is(saved, tmp_path):
    other = timm_model(seed=1)
    with pytest.raises(RetrievalError, match="exists already"):
        other.save(saved)
    assert_array_equal(Model.load(saved).encode(IMAGES), timm_model().encode(IMAGES))
    other.save(saved, overwrite=True)
    assert_array_equal(Model.load(saved).encode(IMAGES), other.encode(IMAGES))
    (saved / "thesis.tex").write_text("years of work")
    with pytest.raises(RetrievalError, match=r"holds 'thesis\.tex', which is no part of a saved model"):
        other.save(saved, overwrite=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.json").write_text("{}")
    with pytest.raises(RetrievalError, match=r"holds 'model\.json', which is no part of a saved model"):
        other.save(tmp_path / "folder", overwrite=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(mean_color), "is a function, not a torch.nn.Module"),
        (
            Model(Means(), lambda image: torch.zeros(3, SIDE, SIDE)),
            "preprocessing is a function, which no file can hold",
        ),
        (Model(timm_model().network, PREPARE.__call__), "preprocessing is a method, which no file can hold"),
    ],
)
def test_a_model_that_no_file_can_hold_is_refused_and_nothing_is_left(tmp_path, model, message):
    with pytest.raises(RetrievalError, match=message):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_onnx_cannot_express_is_refused_and_stays_as_it_was(tmp_path):
    class Choice(nn.Module):
        def forward(self, images):
            vectors = images.mean((2, 3))
            return vectors if vectors.sum() > 0 else -vectors

    model = Model(Choice(), PREPARE)
    with pytest.raises(RetrievalError, match="this model cannot be exported as ONNX") as caught:
        model.save(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert model.encode(IMAGES).shape == (4, 3)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "manifest.json"])
def test_damage_to_a_saved_model_is_named(saved, name):
    content = (saved / name).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (bytes(flipped), content[:-2], content + b"x"):
        (saved / name).write_bytes(damaged)
        message = refused(saved)
        assert name in message
        assert "save the model again" in message
    (saved / name).unlink()
    assert name in refused(saved)


def test_a_saved_model_without_a_part_is_refused(saved, tmp_path):
    def without(name):
        folder = tmp_path / f"without {name}"
        shutil.copytree(saved, folder)
        (folder / name).unlink()
        rewrite(folder)
        return refused(folder)

    assert "model.json: lies beside none of model.safetensors and model.onnx, expected one" in without(
        "model.safetensors"
    )
    assert "has no model.json" in without("model.json")
    (saved / "model.onnx").write_bytes(b"onnx")
    rewrite(saved)
    assert "model.json: lies beside both of model.safetensors and model.onnx, expected one" in refused(saved)


def test_a_saved_model_whose_parts_do_not_fit_is_refused(saved, tmp_path):
    rewrite(saved, dimension=DIMENSION + 1)
    assert "it makes vectors of 8 numbers, expected 9" in refused(saved)
    rewrite(saved, dimension=DIMENSION)
    Model.load(saved)
    own = Model(build_network(load("glyphs", OPTIONS | {"model.embedding_dim": 9})), PREPARE)
    own.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    rewrite(saved)
    assert "model.json: its model cannot be built (its weights do not fit" in refused(saved)
    (saved / "model.safetensors").write_bytes(b"garbage")
    rewrite(saved)
    assert "its weights are no safetensors file" in refused(saved)


# Anything else


def test_what_is_no_place_of_a_model_is_refused(tmp_path, photos):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"format": "web"}')
    for place in (photos, tmp_path / "nowhere", tmp_path / "file", "resnet50"):
        message = refused(place)
        assert f"{place}: not the folder of a training run, an index or a saved model" in message
    assert 'does not say "format": "retrieval index"' in refused(tmp_path / "other", IndexFormatError)


def test_a_device_that_is_not_there_is_named(saved):
    assert "device: 'cuda:99' is not available" in refused(saved, ConfigError, device="cuda:99")
