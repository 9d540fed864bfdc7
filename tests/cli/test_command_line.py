from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import arguments, call

from retrieval.index import Index
from retrieval.index.bundle import read_bundle


def test_a_run_leaves_everything_that_was_promised(run):
    names = {file.name for file in run.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "images.csv",
        "metrics.csv",
        "metrics.jsonl",
        "log.txt",
        "results.json",
        "last.safetensors",
        "best.safetensors",
    }
    assert names >= {"curves.png", "gallery.png", "index-test"}
    assert [name for name in names if name.startswith(".")] == [".lock"]
    assert (run / "metrics.csv").read_text().splitlines()[0].startswith("epoch,step,loss,validation recall@1")
    first, *trained = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {"score_spread", "mean_intruders", "perfect_queries"}
    assert not names & first.keys()
    assert all(row["score_spread"] > 0 and row["mean_intruders"] >= 0 <= row["perfect_queries"] <= 1 for row in trained)
    for picture in ("curves.png", "gallery.png"):
        with Image.open(run / picture) as image:
            assert min(image.size) > 300


@pytest.mark.parametrize(("checkpoint", "name"), [("best", "best by validation"), ("last", "last")])
def test_recall_on_the_saved_index_equals_the_figures_of_its_checkpoint_to_the_digit(
    run, capsys, tmp_path, checkpoint, name
):
    words = ("index", str(run), "--split", "test", "--checkpoint", checkpoint, "--out", str(tmp_path / "index"))
    assert call(capsys, *words)[0] == 0
    code, out, err = call(capsys, "recall", str(tmp_path / "index"), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((run / "results.json").read_text())[name]


def test_the_table_shows_the_same_figures_in_percent(run, capsys):
    figures = json.loads((run / "results.json").read_text())["best by validation"]
    code, out, _ = call(capsys, "recall", str(run / "index-test"), "--k", "1,3")
    assert code == 0
    assert f"{100 * figures['recall@1']:.2f}" in out
    assert f"{100 * figures['map@r']:.2f}" in out
    assert "recall@3" in out
    assert "over 28 queries" in out


def test_searching_with_a_gallery_image_finds_it_first_then_its_neighbours(run, images, capsys, tmp_path):
    query = images / "test" / "class 09" / "3.png"
    picture = tmp_path / "found.png"
    code, out, _ = call(
        capsys, "search", str(run / "index-test"), str(query), "--k", "5", "--json", "--picture", str(picture)
    )
    assert code == 0
    (result,) = json.loads(out)
    assert [neighbour["rank"] for neighbour in result["neighbours"]] == [1, 2, 3, 4, 5]
    assert result["neighbours"][0]["path"] == "test/class 09/3.png"
    assert result["neighbours"][0]["score"] == pytest.approx(1, abs=1e-5)
    scores = [neighbour["score"] for neighbour in result["neighbours"]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(picture) as image:
        assert image.width > 300


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_an_image_of_any_mode_can_be_searched(run, images, capsys, tmp_path, mode):
    with Image.open(images / "test" / "class 09" / "3.png") as image:
        if mode == "I;16":
            converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            converted = image.convert("L").convert(mode) if mode == "LA" else image.convert(mode)
    file = tmp_path / ("query.tif" if mode == "CMYK" else "query.png")
    converted.save(file)
    code, out, _ = call(capsys, "search", str(run / "index-test"), str(file), "--k", "1", "--json")
    assert code == 0
    assert json.loads(out)[0]["neighbours"][0]["path"] == "test/class 09/3.png"


def test_the_index_works_where_it_is_moved_without_run_and_images(run, capsys, tmp_path):
    shutil.copytree(run / "index-test", tmp_path / "moved")
    assert (
        call(capsys, "recall", str(tmp_path / "moved"), "--json")[1]
        == call(capsys, "recall", str(run / "index-test"), "--json")[1]
    )


def test_the_best_checkpoint_and_other_splits_can_be_indexed(run, capsys, tmp_path):
    code, out, _ = call(
        capsys, "index", str(run), "--split", "validation", "--checkpoint", "best", "--out", str(tmp_path / "v")
    )
    assert code == 0
    assert str(tmp_path / "v") in out
    bundle = read_bundle(tmp_path / "v")
    assert len(bundle.ids) == 14
    assert bundle.manifest["source"]["checkpoint"] == "best"


class TestBadInput:
    """Each mistake prints one line to stderr and nothing to stdout, and has the right exit code."""

    def expect(self, capsys, code: int, words: str, *arguments: str) -> None:
        found, out, err = call(capsys, *arguments)
        assert found == code, err
        assert out == ""
        assert words in err
        assert err.count("\n") == 1
        assert "Traceback" not in err

    def test_a_missing_or_empty_data_folder(self, capsys, tmp_path):
        self.expect(capsys, 2, str(tmp_path / "none"), *arguments(tmp_path / "none", tmp_path / "run"))
        (tmp_path / "empty").mkdir()
        self.expect(capsys, 1, str(tmp_path / "empty"), *arguments(tmp_path / "empty", tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_a_training_class_with_one_image(self, capsys, images, tmp_path):
        shutil.copytree(images, tmp_path / "images")
        for i in range(1, 7):
            (tmp_path / "images" / "train" / "class 03" / f"{i}.png").unlink()
        self.expect(capsys, 1, "class 03", *arguments(tmp_path / "images", tmp_path / "run", "data.validation_share=0"))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_an_unreadable_image_in_training_and_in_evaluation(self, capsys, images, tmp_path, workers):
        for split in ("train", "test"):
            root = tmp_path / split
            shutil.copytree(images, root)
            for file in (root / split).rglob("2.png"):
                file.write_bytes(file.read_bytes()[:60])
            overrides = (f"data.workers={workers}", "data.validation_share=0", "training.epochs=1")
            # The log says how the untrained model did before training meets the first broken image.
            found, out, err = call(capsys, "--quiet", *arguments(root, tmp_path / f"run-{split}", *overrides))
            assert (found, out) == (1, "")
            assert f"{root}/{split}/class" in err
            assert "2.png" in err
            assert err.count("\n") == 1

    def test_mistakes_of_the_configuration_come_all_at_once(self, capsys, tmp_path):
        (tmp_path / "c.yaml").write_text("seed: 1\nseed: 2\nmodle: {}\ntraining: {epochs: soon}\n")
        code, out, err = call(capsys, "train", "--config", str(tmp_path / "c.yaml"), "loss.projection=sdt")
        assert (code, out) == (2, "")
        for words in (
            "'seed' stands twice",
            "did you mean model?",
            "training.epochs",
            "'none', 'mean', 'norm', 'std', 'local' or 'softmax'",
        ):
            assert words in err
        assert err.count("error: ") == err.count("\n") == 4

    def test_an_unknown_backbone_data_set_optimizer_or_device(self, capsys, images, tmp_path):
        out = tmp_path / "run"
        self.expect(capsys, 2, "did you mean resnet50", *arguments(images, out, "model.backbone=resnet5O"))
        self.expect(capsys, 2, "did you mean folder", *arguments(images, out, "data.name=fodler"))
        self.expect(capsys, 2, "did you mean", *arguments(images, out, "training.optimizer=adamx"))
        self.expect(capsys, 2, "device", *arguments(images, out, "device=tpu9"))
        self.expect(capsys, 2, "did you mean test_share", *arguments(images, out, "data.options={test_shar: 0.5}"))
        assert not out.exists()

    def test_a_run_folder_in_use(self, capsys, images, run):
        before = (run / "results.json").read_bytes()
        self.expect(capsys, 1, "pass --resume or --overwrite, or choose another folder", *arguments(images, run))
        self.expect(capsys, 1, "another configuration", *arguments(images, run, "seed=5"), "--resume")
        assert (run / "results.json").read_bytes() == before

    def test_resuming_where_there_is_no_run(self, capsys, images, tmp_path):
        self.expect(capsys, 1, "not the folder of a training run", *arguments(images, tmp_path / "none"), "--resume")

    def test_a_missing_or_altered_file_of_an_index(self, capsys, run, tmp_path):
        for name in ("vectors.npy", "items.arrows", "model.json", "model.safetensors", "manifest.json"):
            for how in ("missing", "altered"):
                index = tmp_path / f"{how}-{name}"
                shutil.copytree(run / "index-test", index)
                file = index / name
                content = bytearray(file.read_bytes())
                content[len(content) // 2] ^= 1
                file.unlink() if how == "missing" else file.write_bytes(content)
                self.expect(capsys, 1, str(index), "recall", str(index))

    def test_an_existing_index_is_kept(self, capsys, run):
        self.expect(capsys, 1, "exists already", "index", str(run), "--split", "test")

    def test_a_query_that_is_not_an_image(self, capsys, run, tmp_path):
        (tmp_path / "text.png").write_text("no image")
        self.expect(capsys, 1, "text.png", "search", str(run / "index-test"), str(tmp_path / "text.png"))
        self.expect(capsys, 1, "nowhere.png", "search", str(run / "index-test"), str(tmp_path / "nowhere.png"))

    def test_a_k_beyond_the_gallery(self, capsys, run):
        self.expect(capsys, 2, "largest usable k is 27", "recall", str(run / "index-test"), "--k", "28")

    def test_wrong_usage(self, capsys):
        for words in (
            ["trian"],
            ["recall"],
            ["recall", "x", "--k", "0"],
            ["recall", "x", "--k", "one"],
            ["train", "--resume", "--overwrite"],
        ):
            code, out, err = call(capsys, *words)
            assert (code, out) == (2, "")
            assert err.startswith("error: ")
            assert err.count("\n") == 1

    def test_a_fault_of_the_program_is_one_line_and_a_traceback_only_on_request(self, capsys, monkeypatch):
        def fail(*args, **kwargs):
            raise ZeroDivisionError("by accident")

        monkeypatch.setattr(Index, "open", fail)
        self.expect(capsys, 1, "ZeroDivisionError: by accident", "recall", "x")
        code, _, err = call(capsys, "--debug", "recall", "x")
        assert code == 1
        assert "Traceback" in err

    def test_incompatible_torch_and_torchvision_are_named_with_the_remedy(self, capsys, monkeypatch):
        def fail(*args, **kwargs):
            raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.setattr(Index, "open", fail)
        self.expect(capsys, 1, "pip install --force-reinstall torch torchvision", "recall", "x")


class TestConfigCommands:
    def test_list_shows_every_configuration_in_80_columns(self, capsys):
        code, out, _ = call(capsys, "config", "list")
        assert code == 0
        assert "glyphs" in out
        assert max(map(len, out.splitlines())) <= 80

    def test_show_prints_a_configuration_that_train_reads(self, capsys, tmp_path):
        code, out, _ = call(capsys, "config", "show", "glyphs", "seed=3")
        assert code == 0
        (tmp_path / "c.yaml").write_text(out)
        assert call(capsys, "config", "show", str(tmp_path / "c.yaml"))[1] == out

    def test_check_prints_that_there_are_no_mistakes(self, capsys):
        assert call(capsys, "config", "check", "glyphs", "training.epochs=1") == (0, "glyphs: no mistakes\n", "")
        assert call(capsys, "config", "check", "glyphs", "training.epohcs=1")[0] == 2


def test_help_imports_neither_torch_nor_any_other_heavy_package():
    code = (
        "import sys; from retrieval import cli; cli.run(['--help']); cli.run(['train', '--help']); cli.run(['recall', '-h'])\n"
        "heavy = {'torch', 'timm', 'numpy', 'faiss', 'albumentations', 'pytorch_metric_learning', 'matplotlib', 'pydantic'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


def test_the_console_command_and_the_module_are_the_same(tmp_path):
    script = Path(sys.executable).parent / "retrieval"
    for command in ([str(script)], [sys.executable, "-m", "retrieval.cli"]):
        words = ["data", "verify", "folder", "--root", "none"]  # imports little
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: none: ")
