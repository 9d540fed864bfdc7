"""A model in a repository of the hub: what is pushed, what loads it, and what is refused."""

from __future__ import annotations

import copy
import json
import re
import socket

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from fake_hub import FakeHub, commit_of
from huggingface_hub import ModelCard
from model.networks import DIMENSION, PREPARE, SIDE, own_model, pixels_of, timm_model
from numpy.testing import assert_array_equal
from PIL import Image
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.files import hub_calls
from retrieval.files.hub import MODEL_REPOSITORY
from retrieval.files.repository import Repository
from retrieval.model import Model, timm_layout
from retrieval.model.card_sections import Training
from retrieval.networks import create_embedder

NAME, PLACE = "user/model", "hf-hub:user/model"
MODELS = "models/user/model"
IMAGES = [pixels_of(seed) for seed in range(3)]


def model_of(backbone: str = "test_resnet", *, size: int = SIDE, **options) -> Model:
    """A model of a timm network with weights and statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = create_embedder(backbone, image_size=size, **options)
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.1 * torch.rand_like(buffer))
    return Model(network.eval(), type(PREPARE)(size + 4, size, PREPARE.mean, PREPARE.std, "bicubic"))


def in_timms_layout(model: Model) -> nn.Module:
    """The network in the memory layout that timm makes it in; channels last rounds otherwise."""
    return copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)


def line_of(error) -> str:
    """The message of an error, which is one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def close(hub: FakeHub, monkeypatch) -> None:
    """The hub is down: its port is closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


_FILES: dict[str, bytes] = {}


@pytest.fixture
def pushed(hub) -> FakeHub:
    """A hub with the repository that a push of `timm_model()` makes; it is made once."""
    if not _FILES:
        timm_model().push_to_hub(NAME)
        _FILES.update(hub.files(MODELS))
        hub.asked.clear()
    else:
        hub.repositories[MODELS] = [{}, dict(_FILES)]
    return hub


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(timm_model(), id="head"),
        pytest.param(model_of(embedding_dim=None), id="no head"),
        pytest.param(model_of(embedding_dim=DIMENSION, pooling="gem", layer_norm=True), id="gem and norm"),
        pytest.param(model_of("test_vit", size=160, embedding_dim=DIMENSION), id="vision transformer"),
        pytest.param(own_model(), id="own network"),
    ],
)
def test_a_model_that_was_pushed_is_loaded_with_the_same_vectors(hub, model):
    assert model.push_to_hub(NAME) == f"{hub.url}/{NAME}"
    loaded = Model.load(PLACE, device="cpu")
    assert loaded.preprocessing == model.preprocessing
    if model.is_described:
        assert loaded.stored().fingerprint() == model.stored().fingerprint()
        assert_array_equal(loaded.encode(IMAGES), model.encode(IMAGES))
    else:
        np.testing.assert_allclose(loaded.encode(IMAGES), model.encode(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model_of(embedding_dim=DIMENSION), id="head"),
        pytest.param(model_of(embedding_dim=None), id="no head"),
        pytest.param(model_of("test_vit", size=160, embedding_dim=DIMENSION), id="vision transformer"),
        pytest.param(model_of("test_vit", size=192, embedding_dim=DIMENSION), id="vision transformer of another size"),
        pytest.param(model_of("test_convnext", embedding_dim=DIMENSION), id="head inside a block"),
        pytest.param(model_of("test_efficientnet", embedding_dim=DIMENSION), id="efficientnet"),
    ],
)
def test_timm_alone_gives_the_same_vectors_from_the_same_pixels_bit_for_bit(hub, model):
    model.push_to_hub(NAME)
    network = timm.create_model(PLACE, pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    images = torch.stack([prepare(Image.fromarray(pixels)) for pixels in IMAGES])
    assert_array_equal(images, torch.stack([model.preprocessing(Image.fromarray(pixels)) for pixels in IMAGES]))
    with torch.inference_mode():
        vectors = functional.normalize(network(images), dim=1)
        assert_array_equal(vectors, in_timms_layout(model)(images))
    assert "timm alone gives the same vectors, bit for bit" in hub.files(MODELS)["README.md"].decode()


@pytest.mark.parametrize("resize", [*range(32, 80), 256, 288, 301])
def test_timm_resizes_to_the_same_side(resize):
    description = {
        "backbone": "test_resnet",
        "preprocessing": type(PREPARE)(resize, 32, PREPARE.mean, PREPARE.std).to_dict(),
    }
    share = timm_layout._config(description, 0)["pretrained_cfg"]["crop_pct"]
    transform = timm.data.create_transform((3, 32, 32), crop_pct=share, crop_mode="center")
    assert transform.transforms[0].size == resize


def test_pooling_and_norm_are_in_a_second_file_and_timm_gives_the_features(hub):
    model = model_of(embedding_dim=DIMENSION, pooling="gem")
    model.push_to_hub(NAME)
    files = hub.files(MODELS)
    assert set(load(files["head.safetensors"])) == {"pooling.power", "head.weight", "head.bias"}
    features = timm.create_model(PLACE, pretrained=True).eval()
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert_array_equal(features(images), in_timms_layout(model).backbone(images))
    card = files["README.md"].decode()
    assert "timm alone loads the backbone" in card
    assert "bit for bit" not in card


def test_the_features_of_a_model_with_a_head_are_those_of_timm_without_its_classifier(hub):
    model = timm_model()
    model.push_to_hub(NAME)
    features = timm.create_model(PLACE, pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert_array_equal(features(images), in_timms_layout(model).backbone(images))


def test_a_head_that_timm_would_not_read_as_it_is_stays_in_the_second_file(monkeypatch):
    monkeypatch.setattr(timm_layout, "_agree", lambda stored, files: False)
    stored = timm_model().stored()
    files = timm_layout.split(stored)
    assert set(load(files["head.safetensors"])) == {"head.weight", "head.bias"}
    assert timm_layout.join(stored.description, files) == stored.weights


def test_a_repository_holds_no_pickle_and_its_manifest_lists_every_file_except_the_card(pushed):
    files = pushed.files(MODELS)
    assert set(files) == {"README.md", "config.json", "manifest.json", "model.json", "model.safetensors"}
    listed = json.loads(files["manifest.json"])["files"]
    assert set(listed) == set(files) - {"README.md", "manifest.json"}


def test_a_repository_names_no_folder_of_this_computer(hub):
    timm_model(source={"dataset": "/home/me/my_data.py:read", "checkpoint": "last", "step": 7}).push_to_hub(NAME)
    assert not any(b"/home" in content for content in hub.files(MODELS).values())
    assert Model.load(PLACE).source == {"dataset": "my_data.py:read", "checkpoint": "last", "step": 7}
    assert "Its weights are of the last checkpoint, step 7." in hub.files(MODELS)["README.md"].decode()


@pytest.mark.slow
def test_a_second_push_removes_the_files_of_the_first_and_keeps_those_of_others(hub):
    model_of(embedding_dim=DIMENSION, pooling="avg").push_to_hub(NAME)
    hub.commit(MODELS, {**hub.files(MODELS), "notes.txt": b"mine"})
    own_model().push_to_hub(NAME)
    assert set(hub.files(MODELS)) == {"README.md", "manifest.json", "model.json", "model.onnx", "notes.txt"}
    assert Model.load(PLACE, device="cpu").embedding_dim == DIMENSION


def test_a_second_push_keeps_the_fields_of_the_card_that_were_filled_in(pushed):
    card = pushed.files(MODELS)["README.md"].decode()
    assert "# license: fill in" in card
    edited = re.sub("# license: .*", "license: mit", card)
    pushed.commit(MODELS, {**pushed.files(MODELS), "README.md": edited.encode()})
    Model.load(PLACE)  # the card is not in the manifest
    timm_model(seed=1).push_to_hub(NAME)
    card = pushed.files(MODELS)["README.md"].decode()
    assert ModelCard(card).data.license == "mit"
    assert "# license" not in card
    assert "# datasets: fill in" in card


@pytest.mark.slow
def test_a_revision_is_a_branch_a_tag_or_a_commit(hub):
    for seed in (0, 1):
        timm_model(seed).push_to_hub(NAME)
    first, last = (timm_model(seed).encode(IMAGES) for seed in (0, 1))
    hub.branches[MODELS] = {"v1": 1}
    assert_array_equal(Model.load(PLACE).encode(IMAGES), last)
    assert_array_equal(Model.load(f"{PLACE}@v1").encode(IMAGES), first)
    assert_array_equal(Model.load(f"{PLACE}@{commit_of(MODELS, 1)}").encode(IMAGES), first)
    with pytest.raises(RetrievalError) as error:
        Model.load(f"{PLACE}@v2")
    assert line_of(error) == f"{PLACE}@v2: has no revision 'v2'; give a branch, a tag or a commit"


def test_a_new_repository_is_private_if_asked_for_and_a_public_one_is_never_written_then(hub, monkeypatch):
    timm_model().push_to_hub(NAME, private=True)
    assert hub.private == {MODELS}
    timm_model(1).push_to_hub(NAME, private=True)
    assert Model.load(PLACE).embedding_dim == DIMENSION
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RetrievalError, match="no such repository, or it is private and HF_TOKEN, which could read it"):
        Model.load(PLACE)
    monkeypatch.undo()


def test_a_public_repository_is_not_written_where_a_private_one_is_asked_for(pushed):
    with pytest.raises(RetrievalError, match="exists and is public; make it private on"):
        timm_model(1).push_to_hub(NAME, private=True)
    assert len(pushed.repositories[MODELS]) == 2


def test_the_token_comes_from_the_environment_only(hub, tmp_path, monkeypatch):
    stored = tmp_path / "token"
    stored.write_text("hf_stored")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(stored))
    timm_model().push_to_hub(NAME)
    monkeypatch.delenv("HF_TOKEN")
    assert Model.load(PLACE).embedding_dim == DIMENSION  # "hf_stored" would be refused
    with pytest.raises(RetrievalError) as error:
        timm_model().push_to_hub(NAME)
    assert (
        line_of(error)
        == f"{PLACE}: a push needs a token; set HF_TOKEN to one that may write, of {hub.url}/settings/tokens"
    )


def test_a_wrong_token_is_one_line(pushed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for work in (lambda: timm_model().push_to_hub(NAME), lambda: Model.load(PLACE)):
        with pytest.raises(RetrievalError) as error:
            work()
        assert (
            line_of(error)
            == f"{PLACE}: {pushed.url} does not accept HF_TOKEN; set it to one of {pushed.url}/settings/tokens"
        )


def test_a_place_of_others_is_one_line(hub):
    with pytest.raises(RetrievalError) as error:
        timm_model().push_to_hub("others/model")
    assert "the token in HF_TOKEN cannot upload" in line_of(error)


def test_a_missing_repository_is_one_line(hub):
    with pytest.raises(RetrievalError) as error:
        Model.load("hf-hub:user/none")
    assert line_of(error) == (
        f"hf-hub:user/none: {hub.url} has no such repository, or it is private and the token in HF_TOKEN cannot read it; "
        "check the name"
    )


NO_NAMES = (
    *("", "model", "user/../x", "user/a/b", "hf-hub:", "user/m@", "user/m@../x", "user/a--b", "user/a.git", "-x/y"),
    *("user/a b", "local-dir:x/y"),
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_none_is_one_line_before_the_hub_is_asked(hub, name):
    with pytest.raises(RetrievalError) as error:
        timm_model().push_to_hub(name)
    assert "is no repository; give user/name or datasets/user/name" in line_of(error)
    assert hub.asked == []


def test_a_hub_that_is_down_is_one_line_and_nothing_is_retried(hub, monkeypatch):
    close(hub, monkeypatch)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", None)  # a retry would wait
    for work in (lambda: timm_model().push_to_hub(NAME), lambda: Model.load(PLACE)):
        with pytest.raises(RetrievalError) as error:
            work()
        assert "cannot be reached" in line_of(error)


def test_a_hub_that_never_answers_is_one_line(hub, monkeypatch):
    monkeypatch.setattr(hub_calls, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RetrievalError) as error:
            Model.load(PLACE)
    assert "cannot be reached" in line_of(error)


def test_a_model_in_the_cache_needs_no_hub(pushed, monkeypatch):
    expected = Model.load(PLACE).encode(IMAGES)
    close(pushed, monkeypatch)
    assert_array_equal(Model.load(PLACE).encode(IMAGES), expected)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert_array_equal(Model.load(PLACE).encode(IMAGES), expected)


def test_an_upload_that_breaks_off_is_one_line_and_changes_nothing(pushed):
    before = pushed.files(MODELS)
    pushed.refuse_uploads = True
    with pytest.raises(RetrievalError) as error:
        timm_model(1).push_to_hub(NAME)
    assert line_of(error).startswith(f"{PLACE}: the upload failed (")
    assert pushed.files(MODELS) == before
    pushed.refuse_uploads = False
    timm_model(1).push_to_hub(NAME)
    assert_array_equal(Model.load(PLACE).encode(IMAGES), timm_model(1).encode(IMAGES))


def test_an_upload_that_stalls_is_one_line(hub, monkeypatch):
    monkeypatch.setattr(hub_calls, "STALL", 0.1)
    hub.stalls = True
    with pytest.raises(RetrievalError) as error:
        timm_model().push_to_hub(NAME)
    assert "timed out" in line_of(error)


def test_a_download_that_breaks_off_is_one_line_and_the_next_one_goes_on(pushed):
    pushed.cut = 50_000
    with pytest.raises(RetrievalError) as error:
        Model.load(PLACE)
    assert line_of(error).startswith(f"{PLACE}: the download failed (")
    pushed.cut = None
    assert_array_equal(Model.load(PLACE).encode(IMAGES), timm_model().encode(IMAGES))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_tampered_file_is_refused_in_one_line(pushed, name):
    files = dict(pushed.files(MODELS))
    content = bytearray(files[name])
    content[-3] ^= 1
    pushed.commit(MODELS, {**files, name: bytes(content)})
    with pytest.raises(CheckpointError) as error:
        Model.load(PLACE)
    assert f"{name}: sha256 is" in line_of(error)


def forge(hub: FakeHub, **changed: bytes | None) -> None:
    """A commit with other files, and a manifest that fits them."""
    files = dict(hub.files(MODELS))
    files |= {name.replace("_", "."): content for name, content in changed.items() if content is not None}
    files = {name: content for name, content in files.items() if name in MODEL_REPOSITORY.files}
    facts = {"dimension": DIMENSION, "source": {}}
    hub.commit(MODELS, {**files, "manifest.json": MODEL_REPOSITORY.text(facts, files)})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", "hf-hub:x/y"),
        ("backbone", "my_code:build"),
        ("pooling", "my_code:Pool"),
        ("code", "print(1)"),
        ("embedding_dim", 10**9),
    ],
)
def test_a_repository_can_name_no_code_and_no_other_download(pushed, key, value):
    description = json.loads(pushed.files(MODELS)["model.json"])
    forge(pushed, model_json=json.dumps({**description, key: value}).encode())
    with pytest.raises(CheckpointError) as error:
        Model.load(PLACE)
    line_of(error)


@pytest.mark.parametrize(
    "content",
    [b"\x80\x04K\x01.", save({"backbone.x": torch.ones(1)}), save({}), b""],
    ids=["a pickle", "other weights", "none", "empty"],
)
def test_weights_that_do_not_fit_are_one_line(pushed, content):
    forge(pushed, model_safetensors=content)
    with pytest.raises(CheckpointError) as error:
        Model.load(PLACE)
    line_of(error)


def test_a_repository_of_timm_is_named_as_such(hub):
    hub.commit(MODELS, {"config.json": b"{}", "model.safetensors": save({})})
    with pytest.raises(CheckpointError) as error:
        Model.load(PLACE)
    assert line_of(error).endswith(f"set model.pretrained={PLACE}")


def test_a_repository_has_no_checkpoints(hub):
    with pytest.raises(RetrievalError, match="has no best checkpoint; leave it out"):
        Model.load(PLACE, checkpoint="best")


def test_a_model_without_a_run_has_a_card_without_figures(pushed):
    card = ModelCard(pushed.files(MODELS)["README.md"].decode())
    assert card.data.eval_results in (None, [])
    assert card.data.library_name == "timm"
    assert "None: this model was pushed without a training run." in card.text
    assert "%" not in card.text
    assert "No threshold was calibrated" in card.text


def test_the_card_of_a_run_has_its_figures_their_intervals_and_what_they_are_of(hub):
    figures = {"recall@1": 0.75, "recall@1 low": 0.7, "recall@1 high": 0.8, "map@r": 0.5, "queries": 120.0, "ties": 0.0}
    training = Training(
        "birds",
        "test classes",
        figures,
        baseline={"recall@1": 0.4},
        splits={"train": (900, 30), "test": (120, 10)},
        command="retrieval train --config photos",
        config="seed: 1",
        gallery=b"png",
    )
    timm_model().push_to_hub(NAME, training=training)
    card = ModelCard(hub.files(MODELS)["README.md"].decode())
    recall, precision = card.data.eval_results
    assert (recall.metric_type, recall.metric_value, recall.dataset_split) == ("recall@1", 0.75, "test classes")
    assert recall.metric_args == {"interval low": 0.7, "interval high": 0.8}
    assert (precision.metric_type, precision.metric_args) == ("map@r", None)
    for text in (
        "| recall@1 | 75.00 | 70.00 to 80.00 | 40.00 |",
        "| map@r | 50.00 |  |  |",
        "Measured on the test classes of birds, 120 queries, each against all other images.",
        "![Queries and their nearest neighbours](gallery.png)",
        "- Trained on 900 images of 30 classes.",
        "retrieval train --config photos",
        "seed: 1",
    ):
        assert text in card.text
    assert hub.files(MODELS)["gallery.png"] == b"png"


def test_names_are_read_with_and_without_prefix_kind_and_revision():
    assert Repository.parse("user/name") == Repository("user/name")
    assert Repository.parse("hf-hub:user/name@v1.0") == Repository("user/name", revision="v1.0")
    assert Repository.parse("hf-hub:datasets/user/name@refs/pr/1") == Repository("user/name", "dataset", "refs/pr/1")
    assert str(Repository("user/name", "dataset", "x")) == "hf-hub:datasets/user/name@x"
