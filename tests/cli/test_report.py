from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import call

from retrieval.files import blocks
from retrieval.index import Index
from retrieval.index.bundle import read_bundle
from retrieval.training import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("quick_pictures")

PICTURES = {
    f"{name}.png"
    for name in ("loss", "validation-recall", "validation-map", "recall", "ranks", "classes", "scores", "map", "random")
}


def text_of(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8")).split())


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder))


@pytest.mark.slow
def test_a_run_gets_a_page_and_pictures_in_its_folder(run, tmp_path, capsys, pictures):
    run = copy_of(run, tmp_path / "run")
    (run / "curves.png").write_bytes(b"")
    assert (
        call(capsys, "train", "--out", str(run), "--resume")[0] == 0
    )  # draws it again, whatever other tests left there
    code, out, err = call(capsys, "report", str(run))
    assert (code, out) == (0, f"report    {run}/report.html\npictures  {run}/report-pictures\n"), err
    text = text_of(run / "report.html")
    figures = Index.open(run / "index-test").evaluate()
    assert f"recall@1 {100 * figures['recall@1']:.2f}" in text
    assert "untrained" in text
    assert "images 28 classes 4" in text
    assert "could not be read" not in text
    assert "chosen epoch the start, 0, best by validation" in text
    assert "training loss over 2 epochs; chosen: the start, epoch 0" in (run / "report.html").read_text(
        encoding="utf-8"
    )
    for picture in (run / "report-pictures" / "loss.png", run / "curves.png"):
        with Image.open(picture) as image:  # the grey of the marked epoch; grid lines are lighter
            assert (np.asarray(image.convert("RGB")) == 204).all(axis=2).mean() > 0.001
    assert {path.name for path in (run / "report-pictures").iterdir()} >= PICTURES
    assert (run / "report.html").stat().st_size < 3_000_000


def test_a_run_without_an_index_gets_one(run, tmp_path, capsys, caplog):
    run = copy_of(run, tmp_path / "run")
    shutil.rmtree(run / "index-test")
    code, _, err = call(capsys, "report", str(run), "--out", str(tmp_path / "page.html"))
    assert code == 0, err
    assert f"{run}/index-test does not exist: embedding the images" in caplog.text
    assert (run / "index-test" / "manifest.json").is_file()
    assert (tmp_path / "page-pictures" / "map.png").is_file()


def test_an_index_of_other_weights_than_the_run_has_now_is_refused_with_two_remedies(run, tmp_path, capsys):
    run = copy_of(run, tmp_path / "my run")
    state = load_checkpoint(run / "best.safetensors")
    name = next(iter(state["model"]))
    state["model"][name] = state["model"][name] + 1  # as after further training
    save_checkpoint(run / "best.safetensors", state)
    code, out, err = call(capsys, "report", str(run))
    assert (code, out) == (1, "")
    assert err == (
        f"error: {run}/index-test: was made with other weights than the run's best ones now; make it again with "
        f"`retrieval index '{run}' --split test --checkpoint best --overwrite`, or report the index itself\n"
    )
    assert not (run / "report.html").exists()
    assert call(capsys, "report", f"{run}/index-test")[0] == 0
    assert call(capsys, "index", str(run), "--split", "test", "--checkpoint", "last", "--overwrite")[0] == 0
    assert call(capsys, "report", str(run))[0] == 0


def test_weights_of_several_blocks_are_compared_as_those_of_one(run, tmp_path, capsys, monkeypatch):
    run = copy_of(run, tmp_path / "run")
    monkeypatch.setattr(blocks, "BLOCK", 2**16)
    assert call(capsys, "index", str(run), "--split", "test", "--overwrite")[0] == 0
    assert "block" in Index.open(run / "index-test").manifest["files"]["model.safetensors"]
    code, _, err = call(capsys, "report", str(run))
    assert code == 0, err


def test_a_run_without_checkpoints_still_gets_a_report_on_its_index(run, tmp_path, capsys):
    run = copy_of(run, tmp_path / "run")
    for file in run.glob("*.safetensors"):
        file.unlink()
    code, _, err = call(capsys, "report", str(run))
    assert code == 0, err


def test_a_folder_of_other_pictures_is_left_alone(run, tmp_path, capsys):
    folder = tmp_path / "page-pictures"
    folder.mkdir()
    words = ("report", str(run / "index-test"), "--out", str(tmp_path / "page.html"))
    assert call(capsys, *words)[0] == 0  # into an empty folder
    (tmp_path / "page.html").unlink()
    (folder / "map.png").write_text("years of work")
    code, _, err = call(capsys, *words)
    assert (code, err) == (
        1,
        f"error: {folder}: exists and is not part of a report, so it is not replaced; move it away, or choose another --out\n",
    )
    assert (folder / "map.png").read_text() == "years of work"
    assert not (tmp_path / "page.html").exists()


def test_an_index_gets_a_page_beside_it_and_is_not_changed(run, tmp_path, capsys):
    index = copy_of(run / "index-test", tmp_path / "moved")
    code, out, err = call(capsys, "report", str(index), "--k", "1,5")
    assert code == 0, err
    assert f"{tmp_path}/moved-report.html" in out
    text = text_of(tmp_path / "moved-report.html")
    assert "recall@5" in text
    assert "untrained" not in text
    read_bundle(index)


def test_a_report_is_replaced_and_another_file_is_left_alone(run, tmp_path, capsys):
    index = run / "index-test"
    page = tmp_path / "page.html"
    for _ in range(2):
        assert call(capsys, "report", str(index), "--out", str(page))[0] == 0
    (tmp_path / "thesis.html").write_text("years of work")
    code, _, err = call(capsys, "report", str(index), "--out", str(tmp_path / "thesis.html"))
    assert (code, err) == (
        1,
        f"error: {tmp_path}/thesis.html: exists and is not a report, so it is not replaced; choose another name\n",
    )
    assert (tmp_path / "thesis.html").read_text() == "years of work"


def test_images_that_have_moved_are_reported_and_read_from_their_new_folder(run, tmp_path, capsys, caplog):
    whole = Index.open(run / "index-test")
    index = tmp_path / "index"
    places = {"ids": whole.ids, "paths": whole.paths, "root": tmp_path / "gone"}
    Index.from_vectors(whole.vectors, whole.classes, index, **places)
    code, _, err = call(capsys, "report", str(index))
    assert code == 0, err
    assert "images cannot be read" in caplog.text
    assert "--images" in caplog.text
    caplog.clear()
    assert "could not be read" in text_of(tmp_path / "index-report.html")
    code, _, err = call(capsys, "report", str(index), "--images", str(whole.root))
    assert code == 0, err
    assert "cannot be read" not in caplog.text
    assert "could not be read" not in text_of(tmp_path / "index-report.html")


@pytest.mark.parametrize(("where", "place"), [(".", "."), ("inside", "..")])
def test_the_current_folder_gets_its_page_beside_it(run, tmp_path, monkeypatch, capsys, where, place):
    index = copy_of(run / "index-test", tmp_path / "index")
    (index / where).mkdir(exist_ok=True)
    monkeypatch.chdir(index / where)
    code, _, err = call(capsys, "report", place)
    assert code == 0, err
    assert (tmp_path / "index-report.html").is_file()
    assert (tmp_path / "index-report-pictures" / "map.png").is_file()


def test_a_seed_may_have_any_size(run, tmp_path, capsys):
    words = ("report", str(run / "index-test"), "--out", str(tmp_path / "page.html"), "--seed", str(2**64))
    code, _, err = call(capsys, *words)
    assert code == 0, err


def test_queries_of_another_index_are_searched_in_the_first(run, tmp_path, capsys):
    index, page = str(run / "index-test"), tmp_path / "page.html"
    code, _, err = call(capsys, "report", index, "--queries", index, "--out", str(page))
    assert code == 0, err
    assert "against 28 images of the gallery" in text_of(page)
    assert "recall@1 100.00" in text_of(page)  # each query finds itself


@pytest.mark.parametrize("words", [("nowhere",), (".",)])
def test_a_folder_that_is_neither_a_run_nor_an_index_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "report", *words)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["{no json", "[" * 5000, "[1, 2]"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json"])
def test_a_damaged_record_of_a_run_is_one_line(run, tmp_path, capsys, name, text):
    run = copy_of(run, tmp_path / "run")
    (run / name).write_text(text)
    code, _, err = call(capsys, "report", str(run))
    assert code == 1
    assert re.fullmatch(rf"error: {run}: {name} is damaged \(.*\); restore it, or train again\n", err)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json", "config.yaml", "best.safetensors"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_one_line(run, tmp_path, capsys, name):
    run = copy_of(run, tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    code, _, err = call(capsys, "report", str(run))
    assert code in (1, 2)
    assert f"error: {run / name}: cannot be read (it is a pipe)" in err


def test_a_report_of_vectors_alone_has_no_places_for_pictures(tmp_path, capsys):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 10
    np.save(tmp_path / "v.npy", random.normal(size=(10, 8))[labels] + random.normal(size=(60, 8)))
    (tmp_path / "l.txt").write_text("".join(f"class {label}\n" for label in labels))
    words = ("index", "--from-npy", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.txt"))
    assert call(capsys, *words, "--out", str(tmp_path / "vectors"))[0] == 0
    code, _, err = call(capsys, "report", str(tmp_path / "vectors"))
    assert code == 0, err
    text = text_of(tmp_path / "vectors-report.html").lower()
    assert "recall@1" in text
    assert "no picture" not in text
    assert "could not be read" not in text
    assert "cannot be read" not in err
