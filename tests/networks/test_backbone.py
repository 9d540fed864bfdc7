from __future__ import annotations

import contextlib
import pickle
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save, save_file

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.networks import backbone as module
from retrieval.networks.backbone import create_backbone

REPOSITORY = "timm/test_resnet.r160_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Sets the hub's address to a port of this computer; its cache is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def at(port: int) -> str:
        endpoint = f"http://127.0.0.1:{port}"
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return endpoint

    return at


@pytest.fixture
def weights():
    torch.manual_seed(5)
    return timm.create_model("test_resnet").state_dict()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def forbid_downloads(monkeypatch):
    """The hub's library would retry for most of a minute: it must not be asked to download."""

    def download(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)


def assert_loaded(network, weights):
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_an_unknown_backbone_is_named_with_near_names():
    with pytest.raises(ValueError, match=r"'resnet5O' is not a model of timm .*did you mean resnet50"):
        create_backbone("resnet5O", False, 32)


def test_an_unknown_tag_of_weights_is_named_with_near_tags():
    assert create_backbone("test_resnet.r160_in1k", False, 32).training
    with pytest.raises(ValueError, match=r"has no weights of that tag; did you mean test_resnet\.r160_in1k"):
        create_backbone("test_resnet.r160_in21k", False, 32)
    with pytest.raises(ValueError, match="has no weights of that tag"):
        create_backbone("test_resnet.", False, 32)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped.pth"])
def test_local_weights_are_loaded_from_any_usual_file(tmp_path, weights, kind):
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if kind == "wrapped.pth" else weights, path)
    assert_loaded(create_backbone("test_resnet", str(path), 32), weights)


def test_local_weights_of_a_vision_transformer_are_fitted_to_the_size_of_the_images(tmp_path):
    network = timm.create_model("test_vit", img_size=160)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    small = create_backbone("test_vit", tmp_path / "w.safetensors", 64)
    assert small(torch.zeros(1, 3, 64, 64)).shape == (1, 64)
    assert torch.equal(small.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)


def test_loading_local_weights_leaves_the_random_numbers_as_building_without_them_does(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    torch.manual_seed(0)
    create_backbone("test_resnet", False, 32)
    expected = torch.rand(1)
    torch.manual_seed(0)
    create_backbone("test_resnet", tmp_path / "w.safetensors", 32)
    assert torch.equal(torch.rand(1), expected)


def test_weights_that_do_not_fit_are_named(tmp_path, weights):
    with pytest.raises(CheckpointError, match="none: no such weights file"):
        create_backbone("test_resnet", tmp_path / "none", 32)
    with pytest.raises(CheckpointError, match="no such weights file"):
        create_backbone("test_resnet", "", 32)
    (tmp_path / "text").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "cut.safetensors").write_bytes(save(weights)[:1000])
    for name in ("text", "empty.pth", "cut.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}: these weights do not fit test_resnet"):
            create_backbone("test_resnet", tmp_path / name, 32)


@pytest.mark.parametrize("prefix", ["other.", "backbone."])
def test_weights_of_other_names_are_refused_and_not_left_random(tmp_path, weights, prefix):
    save_file({prefix + name: value for name, value in weights.items()}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: .* test_resnet \(\d+ weight matrices are not in"):
        create_backbone("test_resnet", tmp_path / "w.safetensors", 32)


def test_weights_of_another_backbone_are_one_line_that_names_both_and_counts_the_keys(tmp_path):
    torch.manual_seed(1)
    for other, line in (
        ("resnet50", r"23 weights have another shape in the file, e\.g\. layer1\.0\.conv1\.weight"),
        ("test_vit", r"20 weight matrices are not in the file, e\.g\. conv1\.weight"),
    ):
        save_file(timm.create_model(other, num_classes=0).state_dict(), tmp_path / "w.safetensors")
        advice = "give weights of resnet18, or set model.backbone to the network of the file"
        with pytest.raises(CheckpointError, match=rf"w\.safetensors: .* fit resnet18 \({line}\); {advice}$"):
            create_backbone("resnet18", tmp_path / "w.safetensors", 32)
    with pytest.raises(CheckpointError, match=r"its key 'blocks\.\S+' is of another network"):
        create_backbone("convnext_atto", tmp_path / "w.safetensors", 32)


def test_keys_that_the_network_does_not_have_are_one_line(tmp_path, weights, caplog):
    save_file(weights, tmp_path / "w.safetensors")
    create_backbone("test_resnet", tmp_path / "w.safetensors", 32)
    assert caplog.messages == []
    more = {f"layer5.{i}.weight": torch.ones(2) for i in range(30)}
    save_file(weights | more, tmp_path / "w.safetensors")
    assert_loaded(create_backbone("test_resnet", tmp_path / "w.safetensors", 32), weights)
    (line,) = caplog.messages
    assert "w.safetensors: has weights for 30 keys that test_resnet does not have, e.g. layer5.0.weight" in line
    assert "layer5.1" not in line


def test_one_missing_matrix_is_named(tmp_path, weights):
    del weights["layer2.0.conv1.weight"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"1 weight matrix is not in the file, e\.g\. layer2\.0\.conv1\.weight"):
        create_backbone("test_resnet", tmp_path / "w.safetensors", 32)


def test_a_foreign_pickle_is_refused_and_runs_nothing(tmp_path):
    class Foreign:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Foreign(), protocol=2))
    torch.save({"state_dict": Foreign()}, tmp_path / "zip.pth")
    for name in ("w.pth", "zip.pth"):
        with pytest.raises(CheckpointError, match=f"{name}: these weights do not fit"):
            create_backbone("test_resnet", tmp_path / name, 32)
    assert not (tmp_path / "ran").exists()


def test_an_unreachable_hub_is_one_line_before_any_retry(hub, monkeypatch):
    endpoint = hub(closed_port())
    forbid_downloads(monkeypatch)
    with pytest.raises(RetrievalError) as caught:
        create_backbone("test_resnet", True, 32)
    message = str(caught.value)
    assert message.startswith(f"weights of test_resnet are not in the cache, and {endpoint} cannot be reached (")
    assert message.endswith("set model.pretrained to the path of a local file, or to false")
    assert "\n" not in message


def test_a_hub_that_never_answers_is_a_timeout(hub, monkeypatch):
    forbid_downloads(monkeypatch)
    monkeypatch.setattr(module, "HUB_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub(silent.getsockname()[1])
        with pytest.raises(RetrievalError, match="cannot be reached"):
            create_backbone("test_resnet", True, 32)


def test_offline_mode_is_respected(hub, monkeypatch):
    hub(closed_port())
    forbid_downloads(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RetrievalError, match="cannot be reached"):
        create_backbone("test_resnet", True, 32)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_cache_need_no_hub(hub, tmp_path, monkeypatch, weights, file):
    hub(closed_port())
    forbid_downloads(monkeypatch)
    folder = tmp_path / "cache" / f"models--{REPOSITORY.replace('/', '--')}"
    for part in ("refs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    path = folder / "snapshots" / COMMIT / file
    save_file(weights, path) if file.endswith("safetensors") else torch.save(weights, path)
    assert_loaded(create_backbone("test_resnet", True, 32), weights)


@contextlib.contextmanager
def a_hub_that_answers(status: int, content: bytes) -> Iterator[int]:
    """A web server with one file; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            found = self.path == f"/{REPOSITORY}/resolve/main/model.safetensors"
            self.send_response(status if found else 404)
            for name, value in {"ETag": '"1"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_weights_are_downloaded_from_a_hub_that_answers_and_cached(hub, monkeypatch, weights):
    with a_hub_that_answers(200, save(weights)) as port:
        hub(port)
        assert_loaded(create_backbone("test_resnet", True, 32), weights)
    forbid_downloads(monkeypatch)
    assert_loaded(create_backbone("test_resnet", True, 32), weights)


def test_a_gateway_that_refuses_is_reported_as_an_unreachable_hub(hub, monkeypatch):
    forbid_downloads(monkeypatch)
    with a_hub_that_answers(503, b"") as port:
        hub(port)
        with pytest.raises(RetrievalError, match=r"cannot be reached \(.*503"):
            create_backbone("test_resnet", True, 32)


def test_a_hub_without_the_file_is_one_line(hub):
    with a_hub_that_answers(404, b"") as port:
        hub(port)
        with pytest.raises(
            RetrievalError, match=r"weights of test_resnet cannot be fetched \(.*\); set model\.pretrained"
        ) as caught:
            create_backbone("test_resnet", True, 32)
    assert "\n" not in str(caught.value)


def test_a_size_that_a_network_asserts_is_refused_with_the_nearest_ones():
    with pytest.raises(
        ValueError, match=r"xcit_nano_12_p16_224 cannot take images of 40 x 40 .*; set image.size to 32 or 48$"
    ):
        create_backbone("xcit_nano_12_p16_224", False, 40)
