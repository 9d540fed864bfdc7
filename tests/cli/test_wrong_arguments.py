"""Wrong arguments print one line to stderr, have the right exit code, and leave existing files as they are."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import arguments, call, record_training

from retrieval.index import editing
from retrieval.index.bundle import read_bundle
from retrieval.index.writing import make_bundle, write_bundle
from retrieval.model import Model, onnx

pytestmark = pytest.mark.usefixtures("quick_pictures")


def refused(capsys, code: int, words: str, *command: str | Path) -> None:
    """Checks for one line on stderr with this text, nothing on stdout, and the exit code."""
    found, out, err = call(capsys, *map(str, command))
    assert (found, out) == (code, ""), err
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "fault of the program" not in err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def index(run) -> str:
    return str(run / "index-test")


@pytest.fixture
def query(images) -> str:
    return str(images / "test" / "class 09" / "3.png")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a file, an empty folder and a folder of photographs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "1.png")
    return tmp_path


def test_wrong_usage_is_one_line_that_names_the_help(capsys):
    refused(capsys, 2, "No such command 'trian'", "trian")
    refused(capsys, 2, "(see `retrieval recall --help`)", "recall")
    refused(
        capsys, 2, "'1.5' is not a valid whole number (see `retrieval search --help`)", "search", "x", "y", "--k", "1.5"
    )
    refused(capsys, 2, "Did you mean '--overwrite'? (see `retrieval train --help`)", "train", "--overwrit")
    refused(capsys, 2, "did you mean remove?", "index", "remov", "some-index", "1.png")


def test_options_of_a_group_may_precede_the_name_of_its_command(capsys, here, index):
    for words in (["--quiet", "merge"], ["--quiet", "--debug", "merge"]):
        assert call(capsys, "index", *words, index, "--out", "merged", "--overwrite")[0] == 0
    refused(capsys, 2, "did you mean merge?", "index", "--quiet", "merg", index)
    refused(capsys, 2, "Missing command", "index", "--quiet")
    assert call(capsys, "index", "--quiet", index, "--images", "photos", "--out", "built")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["recall", "PATH"],
        ["recall", "x", "--queries", "PATH"],
        ["report", "PATH"],
        ["report", "x", "--out", "PATH"],
        ["runs", "PATH"],
        ["compare", "PATH", "x"],
        ["search", "PATH", "x"],
        ["search", "x", "PATH"],
        ["search", "x", "y", "--picture", "PATH"],
        ["embed", "x", "PATH", "--out", "o"],
        ["embed", "x", "y", "--out", "PATH"],
        ["export", "npy", "PATH", "--out", "o"],
        ["export", "onnx", "x", "--out", "PATH"],
        ["index", "build", "PATH"],
        ["index", "x", "--images", "PATH"],
        ["index", "x", "--out", "PATH"],
        ["index", "add", "x", "PATH"],
        ["index", "merge", "x", "y", "--out", "PATH"],
        ["train", "PATH"],
        ["train", "--out", "PATH"],
        ["data", "verify", "folder", "--root", "PATH"],
        ["data", "prepare", "folder", "PATH", "--root", "x"],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_folder(capsys, here, words):
    refused(capsys, 2, "the path is empty", *["" if word == "PATH" else word for word in words])


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("missing", 1, "missing: "),
        ("file", 2, "'file' is a file, expected a folder"),
        ("empty", 1, "empty: "),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "recall PLACE",
        "report PLACE",
        "compare PLACE INDEX",
        "search PLACE QUERY",
        "embed PLACE QUERY --out o",
        "export npy PLACE --out o",
        "export onnx PLACE --out o",
        "index PLACE",
        "index add PLACE QUERY",
        "index remove PLACE 1.png",
        "index merge PLACE INDEX --out o",
    ],
)
def test_a_path_that_is_neither_an_index_nor_a_run_is_named(capsys, here, index, query, command, what, code, words):
    given = {"PLACE": what, "INDEX": index, "QUERY": query}
    refused(capsys, code, words, *[given.get(word, word) for word in command.split()])
    assert names(Path()) == ["empty", "file", "photos"]


def test_a_run_given_as_an_index_names_the_indexes_that_it_has(capsys, run, query, tmp_path):
    for command in (["recall", run], ["compare", run, run], ["export", "npy", run, "--out", "o"]):
        refused(capsys, 1, f"is a training run, expected an index; give {run}/index-test", *command)
    index = shutil.copytree(run / "index-test", tmp_path / "my run" / "index")
    refused(capsys, 1, f"did you mean '{index}'?", "recall", index.parent)
    refused(capsys, 1, "did you mean 'test/class 08/0.png' or ", "index", "remove", index, "class 08/0.png")


def test_impossible_cut_offs_are_refused_and_repeated_ones_count_once(capsys, index, query):
    for k in ("0", "-1", "1.5", "", ",", "1,,2", "x"):
        refused(capsys, 2, "'--k'", "recall", index, "--k", k)
    for k in ("28", "99999999999999999999"):
        refused(capsys, 2, f"{index}: cannot be measured: k is {k}", "recall", index, "--k", k)
        refused(capsys, 2, f"{index}: cannot be measured: k is {k}", "compare", index, index, "--k", k)
    for k in ("0", "-1", "1.5", "x"):
        refused(capsys, 2, "'--k'", "search", index, query, "--k", k)
    assert call(capsys, "recall", index, "--k", "1,2,1")[1] == call(capsys, "recall", index, "--k", "1,2")[1]
    assert call(capsys, "search", index, query, "--k", "99999999999999999999")[1].count("\n") == 2 + 28


def test_default_cut_offs_are_those_that_fit_a_small_index(capsys, here):
    np.save("v.npy", np.random.default_rng(0).standard_normal((4, 3)))
    Path("l.csv").write_text("label\na\na\nb\nb\n")
    assert call(capsys, "index", "--from-npy", "v.npy", "--labels", "l.csv", "--out", "small")[0] == 0
    for more in ([], ["--qe", "1"], ["--per-class"]):
        code, out, err = call(capsys, "recall", "small", *more)
        assert code == 0, err
        assert "recall@2" in out
        assert "recall@4" not in out
        refused(capsys, 2, "k is 8, but a query has 3 others", "recall", "small", "--k", "1,2,4,8", *more)
    assert "recall@4" in call(capsys, "recall", "small", "--queries", "small")[1]


def test_an_alpha_that_is_not_finite_is_refused(capsys, index, query):
    for alpha in ("nan", "inf", "-1", "x"):
        refused(capsys, 2, "'--alpha'", "recall", index, "--qe", "2", "--alpha", alpha)
        refused(capsys, 2, "'--alpha'", "search", index, query, "--qe", "2", "--alpha", alpha)


def test_any_finite_alpha_is_accepted(capsys, index):
    assert call(capsys, "recall", index, "--qe", "2", "--dba", "2", "--alpha", "1e308")[0] == 0


def test_options_without_effect_are_refused(capsys, index, query):
    for command in (["recall", index], ["search", index, query]):
        refused(capsys, 2, "--alpha goes with --qe and --dba only", *command, "--alpha", "3")
        refused(capsys, 2, "--alpha goes with --qe and --dba only", *command, "--alpha", "3", "--rerank", "5")
    refused(capsys, 2, "--seed goes with --intervals and --sample only", "recall", index, "--seed", "0")
    refused(capsys, 2, "--metrics does not go with", "recall", index, "--metrics", "mrr", "--qe", "2")
    refused(capsys, 2, "exclude each other", "recall", index, "--json", "--csv")


def test_an_image_is_added_under_the_folder_it_was_given_by(capsys, index, here, images):
    shutil.copytree(images, "images")
    shutil.copytree(index, "index")
    shutil.copy("images/test/class 09/3.png", "images/test/class 09/new.png")
    assert call(capsys, "index", "add", "index", "images/test/class 09/new.png", "--root", "images")[0] == 0
    found = json.loads(call(capsys, "search", "index", "images/test/class 09/new.png", "--k", "2", "--json")[1])
    assert {neighbour["class"] for neighbour in found[0]["neighbours"]} == {"class 09"}


@pytest.mark.skipif(os.fsencode("\udcff") != b"\xff", reason="file names here are UTF-8 always")
def test_a_file_name_that_is_not_utf_8_is_one_line(capsys, here, run, index, query):
    name = os.fsdecode(b"photos/caf\xe9.png")
    shutil.copy(query, name)
    shutil.copytree("photos", "classes/a")
    shutil.copytree("photos", "classes/b")
    for command in (
        ["embed", run, "photos", "--out", "o"],
        ["embed", run, name, "--out", "o"],
        ["search", index, "photos"],
        ["search", index, name, "--html", "o"],
        ["index", run, "--images", "photos", "--out", "o"],
        ["index", "add", index, "photos", "--root", "photos"],
    ):
        refused(capsys, 1, "photos/caf\\xe9.png: its name is no UTF-8, which lists are written in; rename it", *command)
    refused(capsys, 1, "classes/a/caf\\xe9.png: its name is no UTF-8", *arguments(here / "classes", here / "o"))
    assert not Path("o").exists()


def test_the_reason_why_weights_do_not_fit_is_in_the_message(capsys, here, run, index, query):
    bundle = read_bundle(index)
    model = replace(bundle.model, description={**bundle.model.description, "embedding_dim": 8})
    write_bundle(make_bundle(**editing.contents(bundle) | {"model": model}), "index")
    refused(capsys, 1, "its weights do not fit ('head.weight' is (16, 96), expected (8, 96))", "search", "index", query)
    shutil.copytree(run, "run")
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("embedding_dim: 16", "embedding_dim: 8"))
    words = (
        "run: its config.yaml and its checkpoint are of different models (Error(s) in loading state_dict for Embedder: "
    )
    refused(capsys, 1, words + "size mismatch for head.weight", "embed", "run", query, "--out", "o")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "gpu", "meta", ""])
def test_a_missing_device_is_one_short_line(capsys, here, run, index, images, query, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (
        ["search", index, query],
        ["embed", run, query, "--out", "o"],
        ["index", run, "--out", "o"],
        [*arguments(images, here / "o")],
    ):
        found, out, err = call(capsys, *map(str, command), "--device", device)
        assert (found, out) == (2, "")
        assert f"device: {device!r}" in err
        assert "auto or cpu" in err
        assert err.count("\n") == 1
        assert len(err) < 200
    assert not (here / "o").exists()


def test_a_report_that_must_make_its_index_takes_a_device(capsys, run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("index-*"))
    refused(capsys, 2, "device: 'tpu9'", "report", tmp_path / "run", "--device", "tpu9")


def test_seed_and_device_are_options_of_train(capsys, monkeypatch):
    calls = record_training(monkeypatch)
    for words in (
        ["--seed", "3", "--device", "cpu"],
        ["seed=3", "device=cpu"],
        ["seed=4", "--seed", "3", "--device", "cpu"],
    ):
        assert call(capsys, "train", *words)[0] == 0
    assert [(config.seed, config.device) for config, _, _ in calls] == [(3, "cpu")] * 3
    refused(capsys, 2, "'--seed'", "train", "--seed", "-1")


def test_a_configuration_without_config_is_pointed_out(capsys):
    words = "'cub200': expected a folder of images, a .csv list, or KEY=VALUE; or do you mean --config cub200?"
    refused(capsys, 2, words, "train", "cub200")
    refused(capsys, 2, "'cub': expected a folder of images, a .csv list, or KEY=VALUE", "train", "cub")
    refused(
        capsys,
        2,
        "command line: unknown key 'los.projection'; did you mean loss.projection?",
        "train",
        "los.projection=std",
    )
    refused(capsys, 2, "command line: unknown key 'loss.projektion'", "train", "loss.projektion=std", "seed=3")


def test_a_configuration_that_is_a_folder_or_missing_says_what_to_give(capsys, run, here):
    refused(capsys, 2, f"is a folder; give {run}/config.yaml", "train", "--config", run)
    refused(capsys, 2, "missing.yaml: cannot be read", "train", "--config", "missing.yaml")
    refused(capsys, 2, "`retrieval config list`", "config", "show", "missing.yaml")


def test_a_run_is_resumed_by_its_folder_alone(capsys, run, monkeypatch):
    calls = record_training(monkeypatch)
    assert call(capsys, "train", "--out", str(run), "--resume", "training.epochs=9")[0] == 0
    ((config, out, options),) = calls
    assert (config.model.embedding_dim, config.training.epochs) == (16, 9)
    assert (out, options["resume"]) == (str(run), True)


def test_the_command_to_resume_is_quoted_for_a_shell(capsys, images, tmp_path):
    out = tmp_path / "my run"
    assert call(capsys, *arguments(images, out, "training.max_steps=1"))[0] == 0
    words = f"resume it with --config '{out}/config.yaml'"
    refused(capsys, 1, words, *arguments(images, out, "seed=5"), "--resume")


class TestNothingIsLost:
    """Outputs that exist already."""

    def test_a_folder_of_other_files_survives_overwrite(self, capsys, here, run, index, query):
        for command in (
            ["embed", run, query, "--out", "photos"],
            ["export", "npy", index, "--out", "photos"],
            ["index", run, "--out", "photos"],
            ["index", "merge", index, "--out", "photos"],
        ):
            refused(capsys, 1, "photos: exists already", *command)
            refused(capsys, 1, "photos: holds '1.png', which ", *command, "--overwrite")
        assert names(Path("photos")) == ["1.png"]
        assert names(Path()) == ["empty", "file", "photos"]

    def test_the_output_of_the_same_command_is_replaced(self, capsys, here, run, index, query):
        for command in (["embed", run, query, "--out", "o1"], ["export", "npy", index, "--out", "o2"]):
            assert call(capsys, *map(str, command))[0] == 0
            refused(capsys, 1, "exists already", *command)
            assert call(capsys, *map(str, command), "--overwrite")[0] == 0

    def test_the_vectors_that_an_index_is_made_of_are_kept(self, capsys, here):
        (here / "vectors").mkdir()
        np.save("vectors/vectors.npy", np.eye(3))
        Path("labels.csv").write_text("label\na\na\nb\n")
        words = [
            "index",
            "--from-npy",
            "vectors/vectors.npy",
            "--labels",
            "labels.csv",
            "--out",
            "vectors",
            "--overwrite",
        ]
        refused(capsys, 1, "vectors: holds 'vectors.npy', which ", *words)
        assert np.load("vectors/vectors.npy").dtype == np.float64

    def test_a_file_is_replaced_only_on_request(self, capsys, here, index, query):
        shutil.copy(query, "photo.png")
        search = ["search", index, "photo.png", "--k", "2"]
        refused(capsys, 1, "photo.png: exists already", *search, "--picture", "photo.png")
        refused(capsys, 1, "file: exists already", *search, "--html", "file")
        assert Path("photo.png").read_bytes() == Path(query).read_bytes()
        assert Path("file").read_text() == "years of work"
        for _ in range(2):
            assert call(capsys, *search, "--picture", "new/found.png", "--html", "new/page.html", "--overwrite")[0] == 0
        refused(capsys, 2, "does not end in .png", *search, "--picture", "photo.jpg")
        same = ("--picture", "x.png", "--html", "empty/../x.png")
        refused(capsys, 2, "--picture and --html are the same file", *search, *same)
        assert not Path("x.png").exists()

    @pytest.mark.slow
    def test_a_model_is_exported_over_a_file_only_on_request(self, capsys, here, run, monkeypatch):
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name)
        refused(capsys, 1, "file: exists already", "export", "onnx", run, "--out", "file")
        assert Path("file").read_text() == "years of work"
        words = "file: exists and is not an ONNX file of `retrieval export onnx`, so it is not replaced"
        refused(capsys, 1, words, "export", "onnx", run, "--out", "file", "--overwrite")
        assert Path("file").read_text() == "years of work"
        export, exported = onnx.export_network, []

        def export_once(*arguments):
            exported[:] = exported or [export(*arguments)]
            return exported[0]

        monkeypatch.setattr(onnx, "export_network", export_once)  # which takes seconds
        for _ in range(2):
            assert call(capsys, "export", "onnx", str(run), "--out", "new/model.onnx", "--overwrite")[0] == 0

    def test_a_file_that_appears_during_the_work_is_not_lost(self, capsys, here, run, index, query, monkeypatch):
        def meanwhile(owner: Any, name: str, place: str) -> None:
            done = getattr(owner, name)

            def patched(*arguments, **options):
                Path(place).write_text("years of work")
                return done(*arguments, **options)

            monkeypatch.setattr(owner, name, patched)

        for command in (["embed", run, query], ["export", "npy", index]):
            assert call(capsys, *map(str, command), "--out", "vectors", "--overwrite")[0] == 0
        for module in ("retrieval.model.model", "retrieval.index.index"):
            meanwhile(import_module(module), "write_arrays", "vectors/photo.png")
        for command in (["embed", run, query], ["export", "npy", index]):
            refused(capsys, 1, "vectors: holds 'photo.png', which ", *command, "--out", "vectors", "--overwrite")
            assert Path("vectors/photo.png").read_text() == "years of work"
            Path("vectors/photo.png").unlink()
        monkeypatch.setattr(onnx, "require_packages", lambda *names: None)
        monkeypatch.setattr(onnx, "export_network", lambda *arguments: (b"model", 18))
        monkeypatch.setattr(onnx, "compare", lambda *arguments: 0.0)
        meanwhile(onnx, "compare", "model.onnx")
        refused(capsys, 1, "model.onnx: exists already", "export", "onnx", run, "--out", "model.onnx")
        assert Path("model.onnx").read_text() == "years of work"

    def test_a_command_that_fails_on_its_input_leaves_no_folder(self, capsys, here, run, index):
        Path("text.png").write_text("no image")
        for command in (
            ["search", index, "text.png", "--picture", "new/deep/x.png"],
            ["search", index, "text.png", "--html", "new/deep/x.html"],
            ["search", index, "missing.png", "--html", "new/deep/x.html"],
            ["embed", run, "text.png", "--out", "new/deep/x"],
            ["export", "npy", "empty", "--out", "new/deep/x"],
            ["index", "empty", "--out", "new/deep/x"],
            ["index", "merge", "empty", "--out", "new/deep/x"],
            ["index", "--from-npy", "text.png", "--labels", "file", "--out", "new/deep/x"],
            ["report", "empty", "--out", "new/deep/x.html"],
            ["data", "prepare", "folder", "file", "--root", "new/deep/x"],
        ):
            refused(capsys, 1, "error: ", *command)
            assert names(here) == ["empty", "file", "photos", "text.png"], command
        refused(capsys, 2, "did you mean folder", "data", "verify", "foldr", "--root", "photos", "--faults", "new/x")
        assert names(here) == ["empty", "file", "photos", "text.png"]

    def test_faults_replace_only_a_list_of_faults(self, capsys, here, images):
        words = ["data", "verify", "folder", "--root", images]
        refused(capsys, 1, "file: exists and lists no faults", *words, "--faults", "file")
        assert Path("file").read_text() == "years of work"
        shutil.copytree(images, "broken")
        Path("broken/train/class 01/0.png").write_bytes(b"")
        words = ["data", "verify", "folder", "--root", "broken"]
        for _ in range(2):
            code, _, err = call(capsys, *words, "--faults", "faults")
            assert (code, err) == (1, "error: folder: faults: 1, listed in faults\n")
        refused(capsys, 1, "missing: does not exist", "data", "verify", "folder", "--root", "missing")
        assert not list(here.glob("*-faults.txt"))

    def test_an_output_that_cannot_be_written_is_reported_before_the_work(
        self, capsys, here, index, query, run, monkeypatch
    ):
        def work(*_, **__):
            raise AssertionError("not reached")

        for owner, name in (
            (Model, "encode"),
            (Model, "_onnx"),
            (import_module("retrieval.index.reporting"), "analyse"),
        ):
            monkeypatch.setattr(owner, name, work)
        for command in (
            ["search", index, query, "--picture", "file/x.png"],
            ["search", index, query, "--html", "file/x.html"],
            ["embed", run, query, "--out", "file/x"],
            ["report", index, "--out", "file/x.html"],
            ["export", "onnx", run, "--out", "file/x"],
        ):
            refused(capsys, 1, "file/x", *command)
        refused(capsys, 1, "missing: does not exist", "report", index, "--images", "missing", "--out", "r.html")


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Gives up the rights of root, by whom tests in a container are often run, during the block."""
    user = os.getuid()
    if user == 0:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(user, user, user)


@pytest.fixture
def shut(run, images) -> Iterator[Path]:
    """A folder with an index, images, a run, and a folder "shut" without write permission."""
    for room in ("runs", "index", "model", "data.verify", "data.faults"):
        import_module(f"retrieval.{room}")  # as long as its files may be read
    folder = Path(tempfile.mkdtemp())
    for name, source in (("index", run / "index-test"), ("images", images / "test"), ("run", run)):
        shutil.copytree(source, folder / name)
    (folder / "shut").mkdir()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "shut").chmod(0o555)
    yield folder
    (folder / "shut").chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_is_named(capsys, shut):
    index, query, out = shut / "index", shut / "images" / "class 09" / "3.png", shut / "shut"
    moved = shut / "moved"
    shutil.copytree(shut / "images", moved / "test")
    shutil.copy(query, moved / "new.png")
    for path in (index, shut / "index", shut):
        path.chmod(0o555)
    with nobody():
        for command in (
            ["search", index, query, "--picture", out / "x.png"],
            ["search", index, query, "--html", out / "x.html"],
            ["embed", shut / "run", query, "--out", out / "x"],
            ["index", index, "--images", shut / "images", "--out", out / "x"],
            ["index", "merge", index, "--out", out / "x"],
            ["index", "add", index, moved / "new.png", "--root", moved, "--class", "a"],
            ["index", "remove", index, "test/class 09/3.png"],
            ["export", "npy", index, "--out", out / "x"],
            ["report", index, "--out", out / "x.html"],
            ["report", index],
            [*arguments(shut / "images", out / "run", "data.validation_share=0", "data.options.test_share=0.5")],
            ["data", "verify", "folder", "--root", shut / "run", "--faults", out / "faults"],
        ):
            found, _, err = call(capsys, *map(str, command))
            assert (found, err.count("\n")) == (1, 1), err
            assert "Permission denied" in err
    assert names(out) == []
    assert names(shut) == ["images", "index", "moved", "run", "shut"]
    shut.chmod(0o755)


def test_a_file_that_may_not_be_read_is_named(capsys, shut):
    index, run, query = shut / "index", shut / "run", shut / "images" / "class 09" / "3.png"
    copies = {name: shutil.copytree(index, shut / name) for name in ("manifest.json", "items.arrows", "model.json")}
    for name, copy in copies.items():
        (copy / name).chmod(0)
    for file in (
        index / "vectors.npy",
        query,
        run / "last.safetensors",
        run / "previous.safetensors",
        run / "results.json",
    ):
        file.chmod(0)
    (shut / "secret").mkdir(mode=0)
    (shut / "list.csv").touch(mode=0)
    with nobody():
        for copy in (*copies.values(), index):
            refused(capsys, 1, "Permission denied", "recall", copy)
        for command in (
            ["index", run, "--images", shut / "images", "--out", shut / "o"],
            ["search", run / "index-test", query],
            ["report", run, "--out", shut / "o.html"],
            ["index", run, "--list", shut / "list.csv", "--out", shut / "o"],
            ["index", "--from-npy", query, "--labels", shut / "list.csv", "--out", shut / "o"],
        ):
            found, _, err = call(capsys, *map(str, command))
            assert found == 1, err
            assert err.splitlines()[-1].startswith("error: ")
            assert str(shut) in err
            assert "Permission denied" in err
        for command in (["recall", shut / "secret"], ["runs", shut / "secret"], ["search", run / "index-test", query]):
            refused(capsys, 1, "cannot be read (Permission denied)", *command)
