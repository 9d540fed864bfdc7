"""The options of a configuration reach the run."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_run import arguments, call

from retrieval import Model, Run, cli
from retrieval.config import Config, load
from retrieval.config.network import head_start, without_head
from retrieval.networks import Embedder, start_head
from retrieval.training import load_checkpoint

pytestmark = pytest.mark.usefixtures("quick_pictures")


def results(run) -> dict[str, dict[str, float]]:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights for the backbone, which differ from its initial ones."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def shop(images, tmp_path_factory):
    """The training classes; three queries and a gallery of four for every test class; super-classes of two classes each."""
    root = tmp_path_factory.mktemp("shop") / "shop"
    shutil.copytree(images, root)
    lines = ["path,label,split,super_class"]
    for class_ in range(12):
        for i in range(7):
            split = "train" if class_ < 8 else ("query" if i < 3 else "gallery")
            folder = "train" if class_ < 8 else "test"
            lines.append(f"{folder}/class {class_:02d}/{i}.png,{class_},{split},{class_ // 2}")
    (root / "images.csv").write_text("\n".join(lines))
    return root


def test_frozen_features_are_measured_first_and_all_results_are_in_one_table(images, weights, tmp_path, capsys):
    words = arguments(images, tmp_path / "run", f"model.pretrained={weights}", "evaluation.test_every=1")
    code, out, _ = call(capsys, *words)
    assert code == 0
    names = ["frozen features", "untrained", "last", "best by validation", "best on test"]
    assert list(results(tmp_path / "run")) == [*names[:2], "frozen features (validation)", *names[2:]]
    assert [line[:18].strip() for line in out.splitlines()[1:6]] == names
    found = results(tmp_path / "run")
    assert found["frozen features"] != found["untrained"]
    rows = load_checkpoint(tmp_path / "run" / "last.safetensors")["rows"]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert found["untrained"]["map@r"] == rows[0]["test map@r"]
    best = max(rows, key=lambda row: row["test recall@1"] + row["test map@r"])
    assert found["best on test"]["map@r"] == best["test map@r"]
    assert found["last"]["map@r"] == rows[-1]["test map@r"]
    best = max(rows, key=lambda row: row["validation recall@1"] + row["validation map@r"])
    assert found["best by validation"]["map@r"] == best["test map@r"]


def test_event_files_are_written_by_the_callback_tensorboard_only(images, run, tmp_path):
    pytest.importorskip("tensorboard")
    assert not list(run.glob("events.out.tfevents.*"))
    words = ("training.callbacks=[tensorboard]", "training.max_steps=1")
    assert cli.run(arguments(images, tmp_path / "run", *words)) == 0
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_frozen_features_and_untrained_are_one_row_where_they_are_one_thing(images, weights, tmp_path):
    words = (f"model.pretrained={weights}", "model.embedding_dim=null", "training.max_steps=1")
    assert cli.run(arguments(images, tmp_path / "run", *words)) == 0
    found = results(tmp_path / "run")
    assert "frozen features" in found
    assert "untrained" not in found


AWAY = """
import torch

class Away(torch.nn.Module):
    def forward(self, embeddings, labels):
        return (embeddings @ embeddings.T)[labels[:, None] == labels].mean()
"""


def test_a_run_that_training_made_worse_says_so_in_one_line_and_hands_over_the_start(
    images, weights, tmp_path, capsys, caplog
):
    (tmp_path / "away.py").write_text(AWAY)
    words = (f"model.pretrained={weights}", f"loss.name={tmp_path / 'away.py'}:Away", "training.learning_rate=0.05")
    code, out, err = call(capsys, *arguments(images, tmp_path / "run", *words, "model.freeze_batchnorm=statistics"))
    assert code == 0, err
    found = results(tmp_path / "run")
    assert found["last"]["map@r"] < found["frozen features"]["map@r"]
    (line,) = [line for line in caplog.messages if "below the frozen features on the test images" in line]
    assert "the start, untrained" in line
    assert "model     the start, the best by validation: recall@1" in out
    assert found["best by validation"] == found["untrained"]
    assert load_checkpoint(tmp_path / "run" / "best.safetensors")["step"] == 0
    source = Model.load(tmp_path / "run").source
    assert (source["checkpoint"], source["step"]) == ("best", 0)


@pytest.mark.parametrize("kind", ["pca", "whiten"])
def test_the_head_starts_from_the_features_of_the_training_images(images, weights, tmp_path, kind):
    words = (f"model.pretrained={weights}", f"model.head_init={kind}", "training.max_steps=1")
    assert cli.run(arguments(images, tmp_path / "run", *words, "training.learning_rate=1e-12")) == 0
    run = Run.open(tmp_path / "run")
    model = run.model("best")
    head, width = model.network.head, model.network.head.in_features
    features = Model(without_head(model.network), model.preprocessing).encode(run.splits["train"])
    reference = torch.nn.Linear(width, head.out_features)
    start_head(reference, torch.from_numpy(features), kind)
    torch.testing.assert_close(head.weight, reference.weight, atol=1e-5, rtol=1e-4)


def test_the_head_of_a_pretrained_backbone_is_whitened_by_default_and_a_random_one_is_random():
    assert head_start(Config().model) == "whiten"
    assert head_start(load("glyphs").model) == "random"
    assert head_start(load("glyphs", ["model.pretrained=true"]).model) == "whiten"
    assert head_start(load("glyphs", ["model.pretrained=true", "model.head_init=random"]).model) == "random"


@pytest.mark.slow
def test_a_run_stops_early_without_validation_gain_and_does_not_continue_when_resumed(images, tmp_path, monkeypatch):
    words = ["training.learning_rate=1e-12", "training.epochs=9", "training.patience=2", "evaluation.every=2"]
    words += ["model.freeze_batchnorm=statistics"]
    assert cli.run(arguments(images, tmp_path / "run", *words)) == 0
    for resume in ([], ["--resume"]):
        state = load_checkpoint(tmp_path / "run" / "last.safetensors")
        assert [row["epoch"] for row in state["rows"]] == [0, 1, 2, 3, 4, 5, 6]
        assert state["step"] == 30
        if not resume:
            assert cli.run(arguments(images, tmp_path / "run", *words, "--resume")) == 0
    assert "stopped early" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_queries_are_measured_against_their_gallery_and_so_are_the_saved_indices(shop, tmp_path, capsys, pictures):
    run = tmp_path / "run"
    assert cli.run(arguments(shop, run, "data.name=csv")) == 0
    assert results(run)["last"]["queries"] == 12
    assert (run / "gallery.png").is_file()
    for split in ("gallery", "query"):
        assert cli.run(["index", str(run), "--split", split, "--checkpoint", "last"]) == 0
    code, out, _ = call(
        capsys, "recall", str(run / "index-gallery"), "--queries", str(run / "index-query"), "--json", "--k", "1,2,4,8"
    )
    assert code == 0
    assert json.loads(out) == results(run)["last"]
    assert call(capsys, "index", str(run), "--split", "test")[0] == 1


def test_the_hierarchical_sampler_needs_super_classes(shop, images, tmp_path, capsys):
    words = ["batch.sampler=hierarchical", "data.validation_share=0", "training.epochs=1"]
    assert cli.run(arguments(shop, tmp_path / "run", "data.name=csv", *words)) == 0
    code, _, err = call(capsys, *arguments(images, tmp_path / "other", *words))
    assert code == 2
    assert "folder has no super-classes" in err


@pytest.mark.parametrize("words", [["loss.name=proxy_anchor", "loss.options.alpha=16"], ["loss.proxies=true"]])
def test_a_loss_keeps_its_proxies_in_the_checkpoint_and_its_own_learning_rate(images, tmp_path, words):
    words = [*words, "loss.lr_multiplier=50", "training.epochs=1"]
    assert cli.run(arguments(images, tmp_path / "run", *words)) == 0
    state = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert state["loss"]["proxies"].shape == (6, 16)
    groups = {group["name"].split(" ")[0]: group["lr"] for group in state["optimizer"]["param_groups"]}
    assert groups["extra.loss"] == pytest.approx(50 * groups["head"])


def test_terms_miners_memory_mixtures_chunks_and_averages_go_together(images, tmp_path, capsys):
    terms = "[{projection: local, weight: 0.5, memory: 32}, {name: triplet, miner: multi_similarity}]"
    words = [f"loss.terms={terms}", "batch.chunk=3", "batch.simix=true", "model.ema=0.5", "model.layer_norm=true"]
    words += ["model.freeze_batchnorm=affine", "model.pooling=gem", "model.freeze_backbone_epochs=1"]
    words += ["training.amp=bfloat16", "training.clip_norm=1", "model.channels_last=true"]
    words += ["evaluation.amp=bfloat16"]
    run = tmp_path / "run"
    assert cli.run(arguments(images, run, *words)) == 0
    assert cli.run(["index", str(run), "--split", "test", "--checkpoint", "last"]) == 0
    code, out, _ = call(capsys, "recall", str(run / "index-test"), "--json")
    assert code == 0
    assert json.loads(out) == results(run)["last"]


def test_evaluation_amp_holds_in_training_and_in_an_index(images, tmp_path, monkeypatch):
    forward, seen = Embedder.forward, []

    def watched(model: Embedder, batch: torch.Tensor) -> torch.Tensor:
        # The check of the image size takes a gradient, and that of folded layers takes two images.
        if not model.training and not torch.is_grad_enabled() and len(batch) > 2:
            seen.append(torch.is_autocast_enabled("cpu"))
        return forward(model, batch)

    monkeypatch.setattr(Embedder, "forward", watched)
    for amp, expected in (("none", {False}), ("bfloat16", {True})):
        run = tmp_path / amp
        seen.clear()
        assert cli.run(arguments(images, run, f"evaluation.amp={amp}", "training.max_steps=1")) == 0
        assert set(seen) == expected
        seen.clear()
        assert cli.run(["index", str(run)]) == 0
        assert set(seen) == expected | {False}  # the cost of bfloat16 is measured against float32


def test_mistakes_that_need_the_data_or_the_network_are_one_line_and_leave_no_folder(images, tmp_path, capsys):
    for words, text in (
        (["loss.name=tripelt"], "did you mean triplet"),
        (["loss.name=triplet", "loss.options.margn=1"], "did you mean margin"),
        (["image.augmentation=photo", "image.augmentation_options={aera: [1, 1]}"], "did you mean area"),
        (["training.optimizer_options={moment: 1}"], "training.optimizer_options: adamw refuses them"),
        (["model.pooling=cls"], "the backbone has no class token"),
        (["data.folds=5"], "data.folds: 5 folds of 8 classes"),
        (["model.layer_decay=0.5", "model.backbone=no"], "backbone 'no'"),
        (
            ["model.backbone=vit_tiny_patch16_224", "image.size=40", "image.resize=40"],
            "does not see the last 8 rows and columns of images of 40 x 40 pixels; set image.size to 32 or 48",
        ),
    ):
        code, out, err = call(capsys, *arguments(images, tmp_path / "run", *words))
        assert (code, out) == (2, ""), err
        assert text in err
        assert err.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_class_of_a_single_image_is_refused_or_left_out_by_the_option(images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "images")
    for i in range(1, 7):
        (tmp_path / "images" / "train" / "class 03" / f"{i}.png").unlink()
    words = arguments(tmp_path / "images", tmp_path / "run", "data.validation_share=0", "training.epochs=1")
    code, _, err = call(capsys, *words)
    assert code == 1
    assert "class 03" in err
    assert "set data.lone_classes to leave_out" in err
    assert call(capsys, *words, "data.lone_classes=leave_out")[0] == 0


def test_a_broken_image_stops_a_run_with_the_command_that_lists_all_of_them(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(images, tmp_path / "my images")
    for i in range(2):
        (root / "test" / "class 09" / f"{i}.png").write_text("no image")
    code, _, err = call(capsys, *arguments(root, tmp_path / "run"))
    assert code == 1
    assert err.count("\n") == 1
    assert "0.png: cannot be read as an image" in err
    command = re.search("`retrieval (.*)` lists all faults", err)
    code, out, _ = call(capsys, *shlex.split(command[1]))
    assert code == 1
    assert [f"{i}.png: cannot be read as an image" in out for i in range(3)] == [True, True, False]


def test_runs_are_listed_with_their_figures(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "runs" / "one", ignore=shutil.ignore_patterns("index-*"))
    (tmp_path / "runs" / "notes").mkdir()
    assert call(capsys, "runs", "runs/notes") == (0, "no run in runs/notes\n", "")
    assert call(capsys, "runs", "runs/notes", "--json") == (0, "[]\n", "")
    code, out, _ = call(capsys, "runs")
    assert code == 0
    line = " ".join(line for line in out.splitlines() if "one" in line)
    assert "finished" in line
    assert f"{100 * results(run)['last']['recall@1']:.2f}" in line
    assert f"{100 * results(run)['best by validation']['map@r']:.2f}" in line
    code, out, _ = call(capsys, "runs", str(tmp_path / "runs"), "--json")
    (found,) = json.loads(out)
    assert found["results"] == results(run)
    assert found["best"]["validation recall@1"] > 0
    assert call(capsys, "runs", str(tmp_path / "none"))[0] == 1
