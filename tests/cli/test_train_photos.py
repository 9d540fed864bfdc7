"""`retrieval train PHOTOS`: own images from a folder or a list to a trained model, in one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_run import SMALL, call, draw_images, record_training

from retrieval.config import load

pytestmark = pytest.mark.usefixtures("quick_pictures")

# A small network from random weights in place of the pretrained one of `photos`.
QUICK = [*SMALL[1:7], *SMALL[8:9], "model.freeze_batchnorm=none", "training.epochs=1", "device=cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Twelve class folders of seven images each."""
    root = tmp_path_factory.mktemp("photos")
    drawn = draw_images(root / "drawn")
    for folder in [*(drawn / "train").iterdir(), *(drawn / "test").iterdir()]:
        folder.rename(root / folder.name)
    shutil.rmtree(drawn)
    return root


@pytest.fixture
def here(photos, tmp_path, monkeypatch) -> Path:
    """The current folder, with the photographs in `my_photos` and a list of them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "my_photos")
    lines = [f"my_photos/{path.parent.name}/{path.name},{path.parent.name}" for path in sorted(photos.glob("*/*.png"))]
    Path("list.csv").write_text("\n".join(["path,label", *lines]))
    return tmp_path


def test_a_folder_takes_the_configuration_photos_and_a_run_of_its_name(here, capsys, monkeypatch):
    calls = record_training(monkeypatch)
    assert call(capsys, "train", "my_photos/", "training.epochs=3", "data.options.test_share=0.25")[0] == 0
    ((config, out, _),) = calls
    expected = {"data.root": "my_photos", "training.epochs": 3, "data.options": {"test_share": 0.25}}
    assert config == load("photos", expected)
    assert Path(out) == Path("runs/my_photos")


def test_a_list_is_read_relative_to_its_folder(here, capsys, monkeypatch):
    calls = record_training(monkeypatch)
    assert call(capsys, "train", str(here / "list.csv"))[0] == 0
    ((config, out, _),) = calls
    assert (config.data.name, config.data.root, config.data.options) == ("csv", str(here), {"file": "list.csv"})
    assert Path(out) == Path("runs/list")
    assert config.model == load("photos").model


def test_with_config_the_images_take_the_place_of_those_of_that_configuration(here, capsys, monkeypatch):
    calls = record_training(monkeypatch)
    assert call(capsys, "train", "--config", "cub200_small", "my_photos", "data.options.test_share=0.3")[0] == 0
    ((config, out, _),) = calls
    assert (
        config.data.model_copy(update={"validation_share": 0.1})
        == load(
            "glyphs",
            {"data.name": "folder", "data.root": "my_photos", "data.options": {"test_share": 0.3}, "data.workers": 2},
        ).data
    )
    assert (config.loss, Path(out)) == (load("cub200_small").loss, Path("runs/my_photos"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my_photo"], "'my_photo': expected a folder of images, a .csv list, or KEY=VALUE"),
        (["my_photos", "list.csv"], "'list.csv': images are given already ('my_photos'); give one folder or list"),
        (["notes.txt"], "notes.txt: is no folder and no .csv file; give a folder of images, or a CSV list"),
    ],
)
def test_what_is_no_folder_and_no_list_is_one_line(here, capsys, words, message):
    Path("notes.txt").write_text("")
    code, out, err = call(capsys, "train", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_dry_run_prints_the_summary_and_writes_nothing(here, capsys, caplog):
    before = sorted(here.rglob("*"))
    code, out, err = call(capsys, "train", "my_photos", "--dry-run", *QUICK)
    assert code == 0, err
    assert sorted(here.rglob("*")) == before
    lines = out.splitlines()
    assert lines[1].split() == ["train", "28", "4", "7-7-7", "trained", "on"]
    assert lines[2].split()[:3] == ["validation", "14", "2"]
    assert lines[3].split()[:4] == ["test", "42", "6", "7-7-7"]
    assert [line.split()[0] for line in lines[4:]] == ["network", "device", "pixels", "steps", "batch", "loss", "run"]
    assert "batch      16 images = 4 classes x 4" in lines
    assert "steps      1 = 1 epochs x 1" in lines
    assert "batch.size: 16 instead of 64, which the classes cannot fill" in caplog.messages
    code, out, err = call(capsys, "train", "my_photos", "--dry-run", "--json", "--quiet", *QUICK)
    assert (code, err) == (0, "")
    assert json.loads(out)["splits"]["train"]["class_size"] == [7, 7.0, 7]


@pytest.mark.slow
def test_a_run_prints_the_summary_first_and_is_resumed_by_its_folder_alone(here, capsys, caplog):
    code, out, err = call(capsys, "train", "my_photos", *QUICK, "training.epochs=auto", "training.max_steps=2")
    assert code == 0, err
    assert caplog.text.index("trained on") < caplog.text.index("untrained")
    assert out.startswith("test classes")
    config = load("runs/my_photos/config.yaml")
    assert (config.training.epochs, config.batch.size) == (30, 16)
    assert config.data.root == str(here / "my_photos")
    assert call(capsys, "train", "--resume", "--out", "runs/my_photos", "training.max_steps=3")[0] == 0
    code, _, err = call(
        capsys, "train", "my_photos", "--resume", *QUICK, "training.epochs=auto", "training.max_steps=4"
    )
    assert code == 0, err
    steps = [json.loads(line)["step"] for line in Path("runs/my_photos/metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_every_class_trains_and_nothing_is_tested(here, capsys, caplog):
    code, out, err = call(capsys, "train", "my_photos", "data.split=all", *QUICK)
    assert code == 0, err
    assert "best epoch chosen on: queries in train" in caplog.text
    assert out.startswith("validation images")
    assert "\nlast  " in out
    assert "test" not in json.loads(Path("runs/my_photos/results.json").read_text())
    assert call(capsys, "report", "runs/my_photos")[0] == 0
    assert Path("runs/my_photos/index-validation").is_dir()
    assert Path("runs/my_photos/index-train").is_dir()


def test_other_images_of_the_same_classes_are_queries_against_the_gallery(here, capsys):
    code, out, err = call(capsys, "train", "my_photos", "data.split=images", *QUICK)
    assert code == 0, err
    assert out.startswith("query images")
    assert json.loads(Path("runs/my_photos/results.json").read_text())["last"]["queries"] == 12


def test_test_images_of_training_classes_are_queries_against_the_training_images(here, capsys, caplog):
    for path in sorted(Path("my_photos").glob("*/*.png")):
        target = (
            Path("closed")
            / ("test" if path.stem in "56" else "valid" if path.stem in "34" else "train")
            / path.parent.name
        )
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    code, out, err = call(capsys, "train", "closed", *QUICK)
    assert code == 0, err
    assert "its own splits train, validation, test are used; the test classes are training classes" in caplog.text
    assert out.startswith("query images")
    assert json.loads(Path("runs/closed/results.json").read_text())["last"]["queries"] == 24


@pytest.mark.parametrize("word", ["data.root=elsewhere", "data.name=cub200"])
def test_images_that_are_given_twice_are_one_line(here, capsys, word):
    code, out, err = call(capsys, "train", "my_photos", word)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{word.partition('=')[0]}: the images are given already (my_photos); leave out one of them" in err


@pytest.mark.parametrize("word", ["test_share=2", "test_share=abc", "seed=-1"])
def test_an_option_of_the_division_out_of_range_is_named(here, capsys, word):
    code, out, err = call(capsys, "train", "my_photos", f"data.options.{word}", "--dry-run", *QUICK)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{word.partition('=')[0]} is {word.partition('=')[2]}; give" in err
