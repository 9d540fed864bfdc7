"""`retrieval hub`: a run, a saved model and an index to the hub and back, and a training that starts from a repository."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import commit_of
from huggingface_hub import ModelCard
from numpy.testing import assert_array_equal
from safetensors.torch import load
from small_run import arguments, call

from retrieval.index import Index
from retrieval.model import Model
from retrieval.runs import Run

pytestmark = pytest.mark.usefixtures("quick_pictures")

MODELS, DATASETS = "models/user/glyphs", "datasets/user/glyphs"


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """--quiet lasts as long as its test."""
    logger = logging.getLogger("retrieval")
    before = logger.level
    yield
    logger.setLevel(before)


def run_commands(hub, home: Path, *commands: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Commands in one process, with the environment variables that a user sets; it exits with the highest of their codes."""
    program = f"import sys; from retrieval import cli; sys.exit(max(map(cli.run, {commands!r})))"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **hub.environment(home), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_card_of_a_run_has_what_was_measured_and_no_folder_of_this_computer(hub, run, images, capsys):
    code, out, err = call(capsys, "hub", "push", str(run), "user/glyphs")
    assert (code, err) == (0, ""), err
    assert out.splitlines()[0] == f"pushed    {hub.url}/user/glyphs"
    files = hub.files(MODELS)
    card = ModelCard(files["README.md"].decode())
    measured = Run.open(run)
    chosen = "best by validation" if measured.model().source["checkpoint"] == "best" else "last"
    figures = measured.results[chosen]
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results.keys() == {name for name in figures if name not in ("queries", "left_out", "ties")}
    for name, result in results.items():
        assert result.metric_value == pytest.approx(figures[name], abs=1e-6)
        assert result.metric_args["interval low"] <= result.metric_value <= result.metric_args["interval high"]
        assert f"| {name} | {100 * figures[name]:.2f} | " in card.text
    assert {result.dataset_split for result in results.values()} == {"test classes"}
    assert "in a gallery" not in card.text
    assert "The network sees 32 x 32 pixels" in card.text
    assert "A score of " in card.text
    assert "backbone: test_resnet" in card.text
    assert str(images) not in files["README.md"].decode()
    assert str(run.parent) not in files["README.md"].decode()
    assert files["gallery.png"] == (run / "gallery.png").read_bytes()


def test_the_picture_can_be_left_out(hub, run, capsys):
    code, _, _ = call(capsys, "hub", "push", str(run), "user/glyphs", "--no-gallery", "--checkpoint", "last", "--quiet")
    assert code == 0
    assert "gallery.png" not in hub.files(MODELS)
    assert "gallery.png" not in hub.files(MODELS)["README.md"].decode()


def test_without_an_index_the_card_has_the_figures_without_intervals(hub, run, tmp_path, capsys, caplog):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    assert call(capsys, "hub", "push", str(copy), "user/glyphs")[0] == 0
    assert "so the card has no intervals" in caplog.text
    card = ModelCard(hub.files(MODELS)["README.md"].decode())
    assert card.data.eval_results
    assert "interval" not in hub.files(MODELS)["README.md"].decode()
    assert "No threshold was calibrated" in card.text


def test_a_run_without_results_has_a_card_without_figures(hub, run, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in run.iterdir():
        if file.is_file() and file.name != "results.json":
            (copy / file.name).write_bytes(file.read_bytes())
    assert call(capsys, "hub", "push", str(copy), "user/glyphs")[0] == 0
    card = ModelCard(hub.files(MODELS)["README.md"].decode())
    assert not card.data.eval_results
    assert "None: nothing was measured in the training run." in card.text
    assert "gallery.png" not in hub.files(MODELS)


def test_a_model_is_pulled_as_a_saved_model(hub, run, tmp_path, capsys):
    call(capsys, "hub", "push", str(run), "user/glyphs")
    first = commit_of(MODELS, 1)
    out = tmp_path / "model"
    code, text, _ = call(capsys, "hub", "pull", f"user/glyphs@{first}", "--out", str(out))
    assert code == 0
    assert text.startswith(f"model     {out}: images to vectors of 16 numbers")
    assert Model.load(out).stored().fingerprint() == Run.open(run).model(device="cpu").stored().fingerprint()
    code, _, err = call(capsys, "hub", "pull", "user/glyphs", "--out", str(out))
    assert (code, err) == (1, f"error: {out}: exists already; choose another folder or pass --overwrite\n")
    code, text, _ = call(capsys, "hub", "pull", "user/glyphs", "--out", str(out), "--overwrite", "--json")
    assert (code, json.loads(text)) == (0, {"out": str(out), "kind": "model"})


def test_a_repository_is_a_model_for_every_command(hub, run, images, tmp_path, capsys):
    call(capsys, "hub", "push", str(run), "user/glyphs")
    place, photos = "hf-hub:user/glyphs", str(images / "test")
    code, _, _ = call(capsys, "embed", place, photos, "--out", str(tmp_path / "vectors"))
    assert code == 0
    code, _, _ = call(capsys, "index", place, "--images", photos, "--out", str(tmp_path / "index"))
    assert code == 0
    assert_array_equal(
        np.sort(np.load(tmp_path / "vectors" / "vectors.npy"), axis=0),
        np.sort(Index.open(tmp_path / "index").vectors, axis=0),
    )
    code, _, err = call(capsys, "index", place, "--images", photos)
    assert (code, err) == (2, f"error: {place}: is no folder that an index could be in; give one with --out\n")


def test_an_index_is_pushed_as_a_data_set_and_pulled_as_it_is(hub, run, tmp_path, capsys, caplog):
    index, out = run / "index-test", tmp_path / "index"
    code, text, err = call(capsys, "hub", "push", str(index), "datasets/user/glyphs")
    assert (code, err) == (0, "")
    assert text.splitlines()[0] == f"pushed    {hub.url}/datasets/user/glyphs"
    assert "will name the path of every image" in caplog.text
    code, text, _ = call(capsys, "hub", "pull", "datasets/user/glyphs", "--out", str(out))
    assert (code, text.splitlines()[0]) == (0, f"index     {out}: 28 vectors")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in index.iterdir() if not file.name.startswith(".")
    }
    assert not any(file.is_symlink() for file in out.iterdir())
    assert_array_equal(Index.open(out).vectors, Index.open(index).vectors)


def test_a_tampered_index_is_refused_and_nothing_is_written(hub, run, tmp_path, capsys):
    call(capsys, "hub", "push", str(run / "index-test"), "datasets/user/glyphs")
    files = dict(hub.files(DATASETS))
    files["vectors.npy"] = files["vectors.npy"][:-1] + b"?"
    hub.commit(DATASETS, files)
    code, _, err = call(capsys, "hub", "pull", "datasets/user/glyphs", "--out", str(tmp_path / "index"), "--quiet")
    assert code == 1
    assert "vectors.npy: sha256 is" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("index*"))


@pytest.mark.parametrize(
    ("place", "name", "message"),
    [
        ("index-test", "user/glyphs", "is an index; give datasets/user/glyphs, or push its model alone after"),
        (".", "datasets/user/glyphs", "is a training run, expected an index; give "),
        ("none", "user/glyphs", "not the folder of a training run, an index or a saved model"),
        (".", "glyphs", "'glyphs' is no repository; give user/name or datasets/user/name"),
        (".", "user/glyphs@v1", "a push goes to the main branch; leave out @v1"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(hub, run, capsys, place, name, message):
    code, out, err = call(capsys, "hub", "push", str(run / place), name)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not hub.repositories


@pytest.mark.slow
def test_a_training_starts_from_the_backbone_of_a_repository(hub, run, images, tmp_path, capsys):
    call(capsys, "hub", "push", str(run), "user/glyphs", "--checkpoint", "last")
    out = tmp_path / "next"
    options = ["model.pretrained=hf-hub:user/glyphs", "training.max_steps=1", "training.learning_rate=1e-12"]
    code, _, err = call(capsys, *arguments(images, out, *options))
    assert code == 0, err
    weights = dict(Model.load(out).network.backbone.named_parameters())
    pushed = load(hub.files(MODELS)["model.safetensors"])
    for name, value in weights.items():
        np.testing.assert_allclose(value.detach(), pushed[name], atol=1e-6)
    assert Run.open(out).config.model.pretrained == "hf-hub:user/glyphs"
    code, _, err = call(capsys, "hub", "push", str(out), "user/next")
    assert code == 0
    assert (
        "The training started from the weights hf-hub:user/glyphs"
        in hub.files("models/user/next")["README.md"].decode()
    )


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("hf-hub:user/none", 1, "has no such repository"),
        ("hf-hub:user/glyphs@v9", 1, "has no revision 'v9'"),
        ("hf-hub:user", 2, "model.pretrained: 'hf-hub:user' is no repository"),
        (
            "hf-hub:datasets/user/glyphs",
            2,
            "model.pretrained: hf-hub:datasets/user/glyphs: is no repository of a model",
        ),
        ("hf-hub:user/pickle", 1, "has no model.safetensors"),
        ("hf-hub:user/altered", 1, "model.safetensors: sha256 is"),
    ],
)
def test_a_repository_that_a_training_cannot_start_from_is_one_line(
    hub, run, images, tmp_path, capsys, value, code, message
):
    call(capsys, "hub", "push", str(run), "user/glyphs")
    files = dict(hub.files(MODELS))
    weights = files["model.safetensors"]
    hub.commit("models/user/altered", {**files, "model.safetensors": weights[:-4] + b"????"})
    hub.commit("models/user/pickle", {"pytorch_model.bin": b"\x80\x04K\x01."})
    found, _, err = call(capsys, *arguments(images, tmp_path / "next", f"model.pretrained={value}", "--quiet"))
    assert found == code
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_environment_of_a_user_is_enough(hub, run, tmp_path):
    push = ["hub", "push", str(run), "user/glyphs"]
    pull = ["hub", "pull", "user/glyphs", "--out", str(tmp_path / "model")]
    done = run_commands(hub, tmp_path / "home", push, pull)
    assert done.returncode == 0, done.stderr
    *pushed, pulled = done.stderr.splitlines()
    assert all("loaded the weights of" in line for line in pushed)
    assert "loaded commit" in pulled
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["pushed", "edit", "next", "model", "next"]
    script = (
        "import timm, torch; "
        "network = timm.create_model('hf-hub:user/glyphs', pretrained=True).eval(); "
        "print(torch.nn.functional.normalize(network(torch.ones(1, 3, 32, 32)), dim=1).shape[1])"
    )
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home of timm"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout == "16\n"


@pytest.mark.slow
def test_a_wrong_token_and_a_hub_that_is_down_are_one_line_of_the_command(hub, run, tmp_path):
    done = run_commands(hub, tmp_path / "home", ["hub", "push", str(run), "user/glyphs"], HF_TOKEN="hf_wrong")
    assert (done.returncode, done.stdout) == (1, "")
    settings = f"{hub.url}/settings/tokens"
    assert (
        done.stderr == f"error: hf-hub:user/glyphs: {hub.url} does not accept HF_TOKEN; set it to one of {settings}\n"
    )
    words = ["hub", "pull", "user/glyphs", "--out", str(tmp_path / "model")]
    done = run_commands(hub, tmp_path / "home", words, HF_ENDPOINT="http://127.0.0.1:9")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: hf-hub:user/glyphs: http://127.0.0.1:9 cannot be reached (")


@pytest.mark.slow
def test_an_altered_block_of_a_large_index_is_refused_and_nothing_is_written(hub, tmp_path, capsys):
    vectors = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    Index.from_vectors(vectors, ["a", "b"] * 20_000, out=tmp_path / "large")
    assert call(capsys, "hub", "push", str(tmp_path / "large"), "datasets/user/glyphs")[0] == 0
    files = dict(hub.files(DATASETS))
    content = bytearray(files["vectors.npy"])
    content[9_000_000] ^= 1
    hub.commit(DATASETS, files | {"vectors.npy": bytes(content)})
    code, _, err = call(capsys, "hub", "pull", "datasets/user/glyphs", "--out", str(tmp_path / "pulled"), "--quiet")
    assert (code, "vectors.npy: xxh3_128 of block 1 is" in err) == (1, True), err
    assert not list(tmp_path.glob("pulled*"))
