from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from forked import COMMAND, Program, two_processes
from index import bundles
from numpy.testing import assert_array_equal
from PIL import Image
from small_run import call

from retrieval.files import blocks
from retrieval.index.bundle import read_bundle
from retrieval.runs import Run

pytestmark = pytest.mark.usefixtures("quick_pictures")


@pytest.fixture
def photos(run, images, tmp_path, capsys) -> Path:
    """An index of a copy of the test images, read as a folder."""
    shutil.copytree(images / "test", tmp_path / "images")
    words = ("index", str(run), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "photos"), "--thumbnails")
    assert call(capsys, *words)[0] == 0
    return tmp_path / "photos"


def test_a_folder_of_images_becomes_an_index_whose_classes_are_its_folders(run, photos):
    bundle = read_bundle(photos)
    assert sorted(set(bundle.class_names)) == ["class 08", "class 09", "class 10", "class 11"]
    assert bundle.paths[0] == "class 08/0.png"
    assert_array_equal(bundle.vectors, read_bundle(run / "index-test").vectors)
    with Image.open(photos.parent / "images" / bundle.paths[3]) as image:
        assert image.size == (40, 40)
    pictures = bundle.thumbnails
    assert pictures is not None
    assert len(pictures) == 28
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures)
    assert sorted(path.name for path in photos.parent.iterdir()) == ["images", "photos"]


def test_a_list_of_images_becomes_an_index_in_its_order(run, images, capsys, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\ntest/class 09/3.png,b\ntrain/class 01/2.png,a\n")
    words = (
        "index",
        str(run),
        "--list",
        str(tmp_path / "list.csv"),
        "--root",
        str(images),
        "--out",
        str(tmp_path / "i"),
    )
    code, out, _ = call(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["count"] == 2
    bundle = read_bundle(tmp_path / "i")
    assert (bundle.paths, bundle.class_names) == (("test/class 09/3.png", "train/class 01/2.png"), ("b", "a"))


def test_the_model_of_an_index_embeds_another_folder(run, images, capsys, tmp_path):
    words = ("index", str(run / "index-test"), "--images", str(images / "train"), "--out", str(tmp_path / "train"))
    assert call(capsys, *words)[0] == 0
    assert read_bundle(tmp_path / "train").model_hash == read_bundle(run / "index-test").model_hash


@pytest.mark.slow
def test_a_killed_command_is_continued_and_makes_the_same_index(run, images, tmp_path, monkeypatch):
    program = """
import os, sys
from retrieval import cli
from retrieval.index import parts
parts.PART = 8
whole = parts._write_part
def write(file, vectors):
    whole(file, vectors)
    if len(list(file.parent.iterdir())) == 2:
        os.kill(os.getpid(), 9)
parts._write_part = write
cli.run(sys.argv[1:])
"""
    (tmp_path / "batch").mkdir()
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("index-test"))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 256", "batch_size: 4"))
    words = ["index", str(tmp_path / "run"), "--images", str(images / "test"), "--out", str(tmp_path / "index")]
    with Program(tmp_path / "output", program, *words) as killed:
        assert killed.wait() == -signal.SIGKILL
    side = tmp_path / ".index.unfinished"
    assert not (tmp_path / "index").exists()
    assert len(list(side.glob("parts/*.npy"))) == 2

    from retrieval.index import parts
    from retrieval.runs import build_index

    monkeypatch.setattr(parts, "PART", 8)
    embedded = []
    encode_shared = parts.encode_shared

    def counted(model, images, **options):
        embedded.append(len(images))
        return encode_shared(model, images, **options)

    monkeypatch.setattr(parts, "encode_shared", counted)
    build_index(tmp_path / "run", tmp_path / "index", images=images / "test")
    assert embedded == [8, 4]
    assert not side.exists()
    whole = build_index(tmp_path / "run", tmp_path / "whole", images=images / "test")
    assert_array_equal(read_bundle(tmp_path / "index").vectors, whole.vectors)


def test_parts_of_other_images_and_damaged_parts_are_not_used(run, images, tmp_path, monkeypatch):
    from retrieval.runs import build_index

    shutil.copytree(images / "test", tmp_path / "images")

    def fail(*_, **__):
        raise KeyboardInterrupt

    def interrupted():
        with monkeypatch.context() as patch:
            patch.setattr("retrieval.index.building.write_bundle", fail)
            with pytest.raises(KeyboardInterrupt):
                build_index(run, tmp_path / "index", images=tmp_path / "images", overwrite=True)
        return next((tmp_path / ".index.unfinished" / "parts").iterdir())

    part = interrupted()
    part.write_bytes(part.read_bytes()[:-5])
    build_index(run, tmp_path / "index", images=tmp_path / "images")
    expected = read_bundle(tmp_path / "index").vectors

    assert interrupted().is_file()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / "class 08" / "0.png")
    build_index(run, tmp_path / "index", images=tmp_path / "images", overwrite=True)
    found = read_bundle(tmp_path / "index").vectors
    assert not part.exists()
    assert (found[0] != expected[0]).any()
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-6)


@pytest.mark.slow
def test_two_processes_write_the_same_index_as_one(run, images, tmp_path):
    words = ["index", str(run), "--images", str(images / "test"), "--out", str(tmp_path / "index"), "--json"]
    with two_processes(tmp_path / "output", COMMAND, *words) as processes:
        assert [process.wait() for process in processes] == [0, 0], processes[0].stderr
        assert json.loads(processes[0].stdout)["count"] == 28
        assert processes[1].stdout == ""
    assert_array_equal(read_bundle(tmp_path / "index").vectors, read_bundle(run / "index-test").vectors)


def test_images_are_removed_by_path_id_and_class_and_added_again(photos, capsys):
    before = read_bundle(photos)
    images = photos.parent / "images"
    code, out, _ = call(
        capsys, "index", "remove", str(photos), "class 08/1.png", "--id", "10", "--class", "class 11", "--json"
    )
    assert code == 0
    assert (json.loads(out)["removed"], json.loads(out)["count"]) == (9, 19)
    left = read_bundle(photos)
    assert not {"class 08/1.png", before.paths[10]} & set(left.paths)
    code, out, _ = call(
        capsys, "index", "add", str(photos), str(images / "class 08" / "1.png"), str(images / "class 11")
    )
    assert code == 0
    assert "added     8 images" in out
    after = read_bundle(photos)
    assert after.ids.tolist() == [*left.ids, *range(21, 29)]
    old, new = (dict(zip(bundle.paths, bundle.vectors, strict=True)) for bundle in (before, after))
    for path in after.paths:
        np.testing.assert_allclose(new[path], old[path], atol=1e-6)
    names = dict(zip(after.paths, after.class_names, strict=True))
    assert names["class 11/3.png"] == "class 11"
    assert len(after.thumbnails or []) == 27


def test_images_from_anywhere_are_added_under_the_folder_they_are_given_by(photos, images, capsys, tmp_path):
    before = read_bundle(photos)
    code, out, err = call(capsys, "index", "add", str(photos), str(images / "train" / "class 01"), "--json")
    assert (code, json.loads(out)["added"]) == (0, 7), err
    file = str(images / "train" / "class 02" / "3.png")
    assert call(capsys, "index", "add", str(photos), file)[0] == 0
    both = (str(images / "train" / "class 01"), str(images / "train" / "class 02"))
    code, out, err = call(capsys, "index", "add", str(photos), *both, "--json")
    assert (code, json.loads(out)["added"]) == (0, 6), err  # the others are in the index
    after = read_bundle(photos)
    assert after.class_names[28:] == ("class 01",) * 7 + ("class 02",) * 7
    assert after.paths[:28] == before.paths
    assert all((after.root / path).is_file() for path in after.paths)
    assert call(capsys, "index", "remove", str(photos), file)[0] == 0


def test_a_root_that_some_images_are_missing_from_is_refused_and_changes_nothing(photos, images, capsys, tmp_path):
    before = read_bundle(photos).manifest
    words = ("index", "add", str(photos), str(images / "train" / "class 01"), "--root", str(images / "train"))
    code, out, err = call(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not the folder of all images" in err
    assert "'class 08/0.png' and 27 more are not there; leave --root out to add images from anywhere" in err
    assert read_bundle(photos).manifest == before


def test_images_that_have_moved_are_added_with_their_new_root(photos, capsys, tmp_path):
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "images", tmp_path / "moved" / "images")
    new = tmp_path / "moved" / "images" / "class 08" / "new.png"
    shutil.copy(new.with_name("0.png"), new)
    words = ("--root", str(tmp_path / "moved" / "images"), "--class", "mine")
    assert call(capsys, "index", "add", str(photos), str(new), *words)[0] == 0
    bundle = read_bundle(photos)
    assert (bundle.labels[28], bundle.class_names[28], bundle.paths[28]) == (4, "mine", "class 08/new.png")
    assert bundle.manifest["images_root"] == str(tmp_path / "moved" / "images")


def test_merged_indices_measure_as_one_index_of_all(run, images, capsys, tmp_path):
    for name in ("class 08", "class 09"):
        shutil.copytree(images / "test" / name, tmp_path / name / name)
        words = ("index", str(run), "--images", str(tmp_path / name), "--out", str(tmp_path / f"index {name}"))
        assert call(capsys, *words)[0] == 0
    parts = [str(tmp_path / f"index {name}") for name in ("class 08", "class 09")]
    code, out, _ = call(capsys, "index", "merge", *parts, "--out", str(tmp_path / "both"), "--json")
    assert (code, json.loads(out)["count"], json.loads(out)["classes"]) == (0, 14, 2)
    bundle = read_bundle(tmp_path / "both")
    assert bundle.paths[0] == "class 08/class 08/0.png"
    assert (Path(bundle.manifest["images_root"]) / bundle.paths[0]).is_file()
    assert call(capsys, "recall", str(tmp_path / "both"))[0] == 0


def test_exported_vectors_make_an_index_with_the_same_figures(photos, capsys, tmp_path):
    assert call(capsys, "export", "npy", str(photos), "--out", str(tmp_path / "files"))[0] == 0
    np.save(tmp_path / "longer.npy", 7 * np.load(tmp_path / "files" / "vectors.npy").astype(np.float64))
    words = ("--from-npy", str(tmp_path / "longer.npy"), "--labels", str(tmp_path / "files" / "labels.csv"))
    assert call(capsys, "index", *words, "--out", str(tmp_path / "again"))[0] == 0
    again, before = read_bundle(tmp_path / "again"), read_bundle(photos)
    assert (again.paths, again.class_names, again.ids.tolist()) == (
        before.paths,
        before.class_names,
        before.ids.tolist(),
    )
    np.testing.assert_allclose(again.vectors, before.vectors, atol=1e-7)
    assert again.model is None
    found = [json.loads(call(capsys, "recall", str(index), "--json")[1]) for index in (photos, tmp_path / "again")]
    assert found[0] == pytest.approx(found[1])


def test_a_type_for_large_galleries_is_built_measured_and_searched(capsys, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.standard_normal((500, 16)))
    (tmp_path / "l.csv").write_text("label\n" + "".join(f"class {i % 50}\n" for i in range(500)))
    words = ("index", "--from-npy", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.csv"), "--type", "hnsw")
    code, out, _ = call(capsys, *words, "--out", str(tmp_path / "index"))
    assert code == 0
    assert "type      HNSW32\nfinds     100.00 % of the first 1, 100.00 % of the first 10\n" in out
    assert all(len(line) <= 80 or str(tmp_path) in line for line in out.splitlines())
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["approximate"]["recall@10"] > 0.99
    code, _, _ = call(capsys, "index", "remove", str(tmp_path / "index"), "0", "1")
    assert code == 0
    assert read_bundle(tmp_path / "index").manifest["type"] == "HNSW32"


@pytest.mark.parametrize("command", ["remove", "add"])
def test_an_index_is_not_changed_from_inside_its_folder(capsys, photos, monkeypatch, command):
    monkeypatch.chdir(photos)
    before = read_bundle(photos).manifest
    path = "class 08/1.png" if command == "remove" else str(photos.parent / "images" / "class 11")
    code, out, err = call(capsys, "index", command, ".", path)
    assert (code, out) == (1, "")
    assert err == "error: .: is the current folder or contains it; change to another folder first\n"
    assert read_bundle(photos).manifest == before


def test_an_index_that_would_be_too_small_for_its_type_stays_as_it_is(capsys, tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((80, 4)))
    (tmp_path / "l.csv").write_text("label\n" + "".join(f"{i % 8}\n" for i in range(80)))
    words = ("--from-npy", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.csv"), "--type", "IVF2,Flat")
    assert call(capsys, "index", *words, "--out", str(tmp_path / "index"))[0] == 0
    code, out, err = call(capsys, "index", "remove", str(tmp_path / "index"), "0", "1", "2")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{tmp_path}/index: type 'IVF2,Flat' needs at least 78 vectors" in err
    assert "build the index again" in err
    assert len(read_bundle(tmp_path / "index").ids) == 80


class TestMistakes:
    """Each mistake prints one line to stderr and nothing to stdout, and has the right exit code."""

    def expect(self, capsys, code: int, words: str, *arguments: str) -> None:
        found, out, err = call(capsys, *arguments)
        assert found == code, err
        assert out == ""
        assert words in err
        assert code == 2 or err.count("\n") == 1
        assert "Traceback" not in err

    def test_wrong_arguments_of_index(self, capsys, run, photos, tmp_path):
        out = ("--out", str(tmp_path / "out"))
        cases = [
            (2, "give one of RUN, --from-npy and --from-parts", "--split", "test"),
            (2, "belong together", "--from-npy", "x.npy"),
            (2, "--images does not go with --from-npy", "--from-npy", "x", "--labels", "y", "--images", "z", *out),
            (2, "--from-npy needs --out", "--from-npy", "x", "--labels", "y"),
            (2, "exclude each other", str(run), "--images", "x", "--list", "y", *out),
            (2, "--root belongs to --list", str(run), "--root", "x", *out),
            (2, "is not allowed", str(run), "--type", "LSH", *out),
            (2, "needs at least", str(run), "--type", "IVF4,Flat", *out),
            (1, "has no split 'query'", str(run), "--split", "query", *out),
            (1, "is no folder", str(run), "--images", str(tmp_path / "none"), *out),
            (2, "is not a run, so it has no splits", str(photos), *out),
            (1, "not the folder of a training run", str(tmp_path / "none")),
            (1, "has no path 'class 08/9.png'; did you mean", "remove", str(photos), "class 08/9.png"),
            (1, "has no id 99", "remove", str(photos), "--id", "99"),
            (2, "nothing to remove", "remove", str(photos)),
            (
                1,
                "already, as class 'class 08' and not 'a'",
                "add",
                str(photos),
                str(tmp_path / "images" / "class 08"),
                "--class",
                "a",
            ),
            (1, "exists already", "merge", str(photos), str(photos), "--out", str(photos)),
            (1, "as", "merge", str(photos), str(photos), *out),
            (2, "device", str(run), "--device", "tpu9", *out),
        ]
        for code, message, *words in cases:
            self.expect(capsys, code, message, "index", *words)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ("", "its columns are none; expected label"),
            ("id,path\n", "its columns are id, path; expected label"),
            ("label,color\n", "expected label, and perhaps id and path"),
            ("label,label\n", "once each"),
            ("label\na\n", "has 1 item, "),
            ("label,id\na,0\nb\n", "line 3: expected a value for each of label, id"),
            ("label,id\na,0\nb,0\n", "line 3: id 0 stands in line 2 already"),
            ("label,id\na,0\nb,-1\n", "line 3: id '-1' is no whole number"),
            ("label,path\na,../x\nb,y\n", "nor stays below"),
            ('label\n"a\nb\n', "cannot be read"),
        ],
    )
    def test_tables_of_labels_that_cannot_be_used(self, capsys, tmp_path, table, message):
        np.save(tmp_path / "v.npy", np.eye(2))
        (tmp_path / "l.csv").write_text(table)
        words = (
            "--from-npy",
            str(tmp_path / "v.npy"),
            "--labels",
            str(tmp_path / "l.csv"),
            "--out",
            str(tmp_path / "o"),
        )
        self.expect(capsys, 1, message, "index", *words)

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.array([[1, 0], [np.nan, 1]]), "row 1 holds NaN or infinity (1 of 2 rows)"),
            (np.array([[0, 0], [0, 1]]), "row 0 is zero and has no direction (1 of 2 rows)"),
            (np.zeros(3), "shape (3,), expected (number, dimension)"),
            (np.array([["a"]]), "<U1 values, expected an array of floats or integers"),
            (np.array([[None]]), "it holds values of type object, expected numbers or texts"),
        ],
    )
    def test_vectors_that_cannot_be_used(self, capsys, tmp_path, vectors, message):
        np.save(tmp_path / "v.npy", vectors)
        (tmp_path / "l.csv").write_text("label\na\nb\n")
        words = (
            "--from-npy",
            str(tmp_path / "v.npy"),
            "--labels",
            str(tmp_path / "l.csv"),
            "--out",
            str(tmp_path / "o"),
        )
        self.expect(capsys, 1, message, "index", *words)


@pytest.mark.slow
def test_a_reader_never_sees_half_a_bundle_while_it_is_replaced(photos):
    program = """
import sys, numpy as np
from retrieval.index import editing
from retrieval.files import blocks
from retrieval.index.bundle import read_bundle
while True:
    bundle = read_bundle(sys.argv[1])
    editing.rewrite(bundle, split=bundle.manifest["split"] + "x")
"""
    seen = set()
    with Program(photos.parent / "output", program, photos) as process:
        process.wait_until(lambda: seen.add(read_bundle(photos).manifest["split"]) or len(seen) == 10, 60)
    assert len(seen) == 10
    assert len(read_bundle(photos).ids) == 28


def test_of_own_images_every_image_is_indexed_once_and_a_line_says_so(run, images, tmp_path, capsys, caplog):
    code, out, err = call(capsys, "index", str(run), "--out", str(tmp_path / "all"), "--json")
    assert code == 0, err
    assert json.loads(out)["count"] == 84
    said = (
        "indexing all 84 images, of which 42 were trained on: recall@k of this index is not a test figure; --split test"
    )
    assert said in caplog.text
    bundle = read_bundle(tmp_path / "all")
    assert sorted(bundle.paths) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    assert bundle.manifest["split"] == "all"
    assert bundle.calibration is not None
    assert (bundle.calibration.queries, bundle.calibration.calibrated_on) == (
        28,
        "images that the model was not trained on",
    )


def test_the_index_of_all_images_is_the_default_of_a_run_and_the_report_stays_on_the_test(run, tmp_path, capsys):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    code, out, err = call(capsys, "index", str(folder))
    assert code == 0, err
    assert f"next      retrieval search {folder}/index-all photo.jpg" in out
    assert len(read_bundle(folder / "index-all").ids) == 84
    assert call(capsys, "index", str(folder), "--split", "all", "--overwrite")[0] == 0
    opened = Run.open(folder)
    assert opened.index().folder == folder / "index-all"
    shutil.rmtree(folder / "index-test")
    assert call(capsys, "report", str(folder))[0] == 0
    assert len(read_bundle(folder / "index-test").ids) == 28


def test_a_run_in_place_of_an_index_is_pointed_to_its_indexes(run, images, tmp_path, capsys):
    folder = Path(shutil.copytree(run, tmp_path / "my run"))
    code, out, err = call(capsys, "recall", str(folder))
    assert (code, out) == (1, "")
    assert err == f"error: {folder}: is a training run, expected an index; give '{folder}/index-test'\n"
    shutil.rmtree(folder / "index-test")
    expected = f"error: {folder}: is a training run without an index; make one with `retrieval index '{folder}'`\n"
    for words in (("recall",), ("search", str(images / "test" / "class 08" / "0.png"))):
        assert call(capsys, words[0], str(folder), *words[1:])[2] == expected


def test_a_run_is_searched_in_its_index_and_of_several_a_line_names_the_one(run, images, tmp_path, capsys, caplog):
    folder = Path(shutil.copytree(run, tmp_path / "my run"))
    photo = str(images / "test" / "class 08" / "0.png")
    found = call(capsys, "search", str(folder), photo)
    assert found == call(capsys, "search", str(folder / "index-test"), photo)
    assert (found[0], caplog.messages) == (0, [])
    shutil.copytree(folder / "index-test", folder / "another")  # a name before index-...
    assert call(capsys, "search", str(folder), photo) == found
    shutil.move(folder / "index-test", folder / "index-all")
    shutil.copytree(folder / "index-all", folder / "index-train")
    caplog.clear()
    assert call(capsys, "search", str(folder), photo)[:2] == found[:2]
    expected = f"searching {folder}/index-all; the run has other indexes, too: another, index-train"
    assert caplog.messages == [expected]
    shutil.rmtree(folder / "index-all")
    caplog.clear()
    assert call(capsys, "search", str(folder), photo)[0] == 0
    assert caplog.messages == [f"searching {folder}/another; the run has other indexes, too: index-train"]


@pytest.mark.parametrize(
    ("split", "caution"),
    [
        ("train", "The model was trained on these images: the figures are higher than those of new images."),
        (
            "all",
            "Images that the model was trained on are among these: the figures are not those of new images.",
        ),
        ("validation", "The best epoch was chosen on these images"),
        ("test", ""),
    ],
)
def test_figures_of_images_that_were_trained_on_have_a_caution(run, tmp_path, capsys, split, caution):
    index = str(tmp_path / split)
    assert call(capsys, "index", str(run), "--split", split, "--out", index)[0] == 0
    for more in ((), ("--macro",), ("--per-class",), ("--qe", "2")):
        code, out, err = call(capsys, "recall", index, *more)
        assert code == 0, err
        assert out.count("caution   ") == bool(caution)
        assert f"caution {caution}" * bool(caution) in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= 80
        found = json.loads(call(capsys, "recall", index, *more, "--json")[1])
        rows = found if isinstance(found, list) else list(found.values()) if "--qe" in more else [found]
        assert {row.get("caution", "")[: len(caution)] for row in rows} == {caution}
        heading = call(capsys, "recall", index, *more, "--csv")[1].splitlines()[0]
        assert heading.endswith(",caution") == bool(caution)
    out = " ".join(call(capsys, "compare", index, index)[1].split())
    assert out.count(f" caution {caution}") == bool(caution)
    assert json.loads(call(capsys, "compare", index, index, "--json")[1]).get("caution", "").startswith(caution)


def test_the_caution_is_that_of_the_queries_and_stays_when_indexes_are_merged(run, tmp_path, capsys):
    for split in ("train", "test", "all"):
        assert call(capsys, "index", str(run), "--split", split, "--out", str(tmp_path / split))[0] == 0
    train, test, every = (str(tmp_path / split) for split in ("train", "test", "all"))
    assert "caution   Images that the model" in call(capsys, "recall", every)[1]
    assert "caution" not in call(capsys, "recall", every, "--queries", test)[1]
    assert "caution   The model was trained on these" in call(capsys, "recall", every, "--queries", train)[1]
    for number, indices in enumerate([(train, test), (test, train)]):
        assert call(capsys, "index", "merge", *indices, "--out", str(tmp_path / f"{number}"))[0] == 0
        out = call(capsys, "recall", str(tmp_path / f"{number}"))[1]
        assert "caution   Images that the model was trained on are" in out
    index = read_bundle(tmp_path / "test")
    assert index.manifest["split"] == "test"


def test_a_threshold_of_few_images_has_a_caution_where_it_is_made_and_where_it_is_used(
    run, images, tmp_path, capsys, caplog
):
    index, photo = str(tmp_path / "index"), str(images / "test" / "class 08" / "0.png")
    out = call(capsys, "index", str(run), "--split", "test", "--out", index)[1]
    cautions = read_bundle(index).calibration.cautions
    assert cautions[0].startswith("min-score auto rests on 28 queries, too few")
    assert " ".join(f"caution {it}" for it in cautions) in " ".join(out.split())
    assert "".join(out).count("\ncaution   ") == len(cautions)
    caplog.clear()
    page = tmp_path / "page.html"
    words = ("search", index, photo, "--html", str(page), "--picture", str(tmp_path / "found.png"), "--overwrite")
    assert call(capsys, *words, "--min-score", "auto")[0] == 0
    assert caplog.messages == cautions
    threshold = f"{read_bundle(index).calibration.threshold:.4f}"
    assert f"<dt>minimum score</dt><dd><bdi>{threshold} (auto)</bdi></dd>" in page.read_text()
    note = f"Images with a score below {threshold}, the minimum score, are left out. It was calibrated on 28 images of the index"
    assert note in page.read_text()
    caplog.clear()
    assert call(capsys, *words, "--min-score", "0.5")[0] == 0
    assert "<bdi>0.5000</bdi>" in page.read_text()
    assert "below 0.5000, the minimum score, are left out.</p>" in page.read_text()
    assert call(capsys, *words)[0] == 0
    assert "minimum score" not in page.read_text()
    assert caplog.messages == []


def test_the_best_checkpoint_is_the_default_and_the_output_says_which_was_taken(run, images, tmp_path, capsys, caplog):
    photo = str(images / "test" / "class 08" / "0.png")
    commands = {
        "index": ("index", str(run), "--split", "test"),
        "embed": ("embed", str(run), photo),
        "model": ("export", "model", str(run)),
    }
    for name, words in commands.items():
        for number, (more, expected) in enumerate((((), "best"), (("--checkpoint", "last"), "last"))):
            out = str(tmp_path / f"{name}{number}")
            code, text, err = call(capsys, *words, *more, "--out", out)
            assert code == 0, err
            assert f"weights   {expected} checkpoint, step " in text
            code, text, _ = call(capsys, *words, *more, "--out", out, "--overwrite", "--json")
            assert json.loads(text)["source"]["checkpoint"] == expected
    folder = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("best*", "index-*")))
    assert "weights   last checkpoint" in call(capsys, "index", str(folder), "--out", str(tmp_path / "last"))[1]


@pytest.fixture
def shop(tmp_path, capsys) -> Path:
    """An index of vectors of classes that can be told apart."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 30
    np.save(tmp_path / "v.npy", random.normal(size=(30, 12))[labels] + 0.3 * random.normal(size=(120, 12)))
    (tmp_path / "l.txt").write_text("".join(f"class {label}\n" for label in labels))
    words = ("index", "--from-npy", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.txt"))
    code, out, _ = call(capsys, *words, "--out", str(tmp_path / "shop"))
    assert code == 0
    threshold = read_bundle(tmp_path / "shop").calibration.threshold
    assert f"min-score {threshold:.4f} (auto, 120 queries): accepts 1 % of unknown, " in out
    return tmp_path / "shop"


def test_labels_of_every_kind_are_measured_in_one_command_and_indexed(shop, capsys, tmp_path):
    names = (tmp_path / "l.txt").read_text().split("\n")[:-1]
    np.save(tmp_path / "l.npy", np.array(names))
    (tmp_path / "l.json").write_text(json.dumps(names))
    (tmp_path / "l.csv").write_text("label\n" + "\n".join(names) + "\n")
    expected = json.loads(call(capsys, "recall", str(shop), "--json")[1])
    vectors = str(tmp_path / "v.npy")
    for kind in ("npy", "csv", "txt", "json"):
        labels = str(tmp_path / f"l.{kind}")
        assert json.loads(call(capsys, "recall", vectors, "--labels", labels, "--json")[1]) == expected
        words = ("index", "--from-npy", vectors, "--labels", labels, "--out", str(tmp_path / kind), "--json")
        assert json.loads(call(capsys, *words)[1])["calibration"]["threshold"] == pytest.approx(
            read_bundle(shop).calibration.threshold
        )
        queries = ("--queries", vectors, "--query-labels", labels)
        figures = json.loads(call(capsys, "recall", vectors, "--labels", labels, *queries, "--json")[1])
        assert (figures["recall@1"], figures["not_in_gallery"]) == (1, 0)


def test_left_out_queries_are_told_apart_in_the_output(capsys, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(5))
    (tmp_path / "l.txt").write_text("a\na\nb\nb\nc\n")
    (tmp_path / "q.txt").write_text("a\nc\nd\nd\ne\n")
    words = ("recall", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.txt"))
    assert "over 4 queries, 1 left out (alone in their class)" in call(capsys, *words)[1]
    words += ("--queries", str(tmp_path / "v.npy"), "--query-labels", str(tmp_path / "q.txt"))
    assert "over 2 queries, 3 left out (class not in the gallery)" in call(capsys, *words)[1]
    assert "3 left out (class not in the gallery)" in call(capsys, *words, "--qe", "1")[1]


def test_an_index_is_verified_compacted_and_converted(photos, capsys):
    code, out, _ = call(capsys, "index", "verify", str(photos))
    assert (code, out.startswith("verified  28 images\n")) == (0, True)
    assert call(capsys, "index", "compact", str(photos))[0] == 0
    before = read_bundle(photos)
    bundles.downgrade(photos)
    assert json.loads(call(capsys, "index", "convert", str(photos), "--json")[1])["count"] == 28
    after = read_bundle(photos)
    assert after.manifest["version"] == 3
    assert (after.paths, after.class_names, after.thumbnails) == (before.paths, before.class_names, before.thumbnails)
    text = (photos / "manifest.json").read_bytes()
    assert call(capsys, "index", "convert", str(photos))[0] == 0
    assert (photos / "manifest.json").read_bytes() == text


def test_damage_in_a_block_is_named_by_verify(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((500, 16)))
    (tmp_path / "l.txt").write_text("a\nb\n" * 250)
    words = ("--from-npy", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.txt"))
    assert call(capsys, "index", *words, "--out", str(tmp_path / "index"))[0] == 0
    file = tmp_path / "index" / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[9000] ^= 1
    file.write_bytes(content)
    code, _, err = call(capsys, "index", "verify", str(tmp_path / "index"))
    assert (code, err.count("\n"), "vectors.npy: xxh3_128 of block 2 is" in err) == (1, 1, True)


def test_recall_of_a_sample_is_that_of_its_queries(capsys, tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((60, 4)))
    (tmp_path / "l.txt").write_text("a\nb\nc\n" * 20)
    words = ("recall", str(tmp_path / "v.npy"), "--labels", str(tmp_path / "l.txt"), "--json")
    found = json.loads(call(capsys, *words, "--sample", "20", "--seed", "1")[1])
    assert found["queries"] == 20
    assert found == json.loads(call(capsys, *words, "--sample", "20", "--seed", "1")[1])
    assert found != json.loads(call(capsys, *words, "--sample", "20", "--seed", "2")[1])
    assert json.loads(call(capsys, *words, "--sample", "60")[1]) == json.loads(call(capsys, *words)[1])
    for option in ("--per-class", "--rerank=5"):
        code, _, err = call(capsys, *words, "--sample", "20", option)
        assert (code, "--sample does not go with" in err) == (2, True)
