from __future__ import annotations

import shutil

import numpy as np
import pytest
from index import bundles
from numpy.testing import assert_array_equal

from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.files.manifest import FolderKind
from retrieval.index import editing
from retrieval.index.bundle import read_bundle
from retrieval.index.writing import write_bundle
from retrieval.model.description import StoredModel

MODEL = StoredModel({"backbone": "resnet18"}, b"weights")


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 6))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write(folder, count=7, seed=0, **changes):
    given = {
        "vectors": unit_vectors(count, seed),
        "ids": np.arange(count) * 2,
        "labels": np.arange(count) % 3,
        "class_names": ["a", "b", "c"],
        "paths": [f"{seed}-{i}.png" for i in range(count)],
        "model": MODEL,
        "images_root": "/images",
        "split": "test",
        "source": {"seed": seed},
        "pictures": [b"\xff\xd8 %d" % i for i in range(count)],
    }
    bundles.write(folder, **given | changes)
    return read_bundle(folder)


def test_a_bundle_rewritten_without_changes_is_the_same(tmp_path):
    before = write(tmp_path / "index")
    editing.rewrite(before)
    after = read_bundle(tmp_path / "index")
    assert after.manifest["files"] == before.manifest["files"]
    assert after.thumbnails == before.thumbnails


def test_items_are_added_under_the_ids_that_follow(tmp_path):
    before = write(tmp_path / "index")
    pictures = before.thumbnails or []
    editing.add(before, unit_vectors(2, 1), ["b", "new"], ["x.png", "y.png"], [b"x", b"y"])
    after = read_bundle(tmp_path / "index")
    assert after.ids.tolist() == [*before.ids, 13, 14]
    assert after.class_names == (*before.class_names, "b", "new")
    assert after.labels[-2] == before.labels[1]
    assert after.paths[-2:] == ("x.png", "y.png")
    assert_array_equal(after.vectors, np.concatenate([before.vectors, unit_vectors(2, 1)]))
    assert after.thumbnails == [*pictures, b"x", b"y"]
    assert after.model_hash == before.model_hash


def test_a_path_that_is_there_is_not_added_again(tmp_path):
    before = write(tmp_path / "index")
    with pytest.raises(IndexFormatError, match=r"holds '0-3\.png' already; remove it first"):
        editing.add(before, unit_vectors(1), ["a"], ["0-3.png"], [b""])
    assert read_bundle(tmp_path / "index").manifest == before.manifest


def test_items_are_removed_and_the_others_keep_their_ids(tmp_path):
    before = write(tmp_path / "index")
    pictures = before.thumbnails or []
    editing.remove(before, np.array([0, 3, 6]))  # the whole of class a
    after = read_bundle(tmp_path / "index")
    kept = [1, 2, 4, 5]
    assert_array_equal(after.ids, before.ids[kept])
    assert_array_equal(after.vectors, before.vectors[kept])
    assert after.class_names == tuple(before.class_names[i] for i in kept)
    assert after.manifest["num_classes"] == 2
    assert after.thumbnails == [pictures[i] for i in kept]
    with pytest.raises(IndexFormatError, match="nothing would be left"):
        editing.remove(after, np.arange(4))


def test_a_bundle_that_has_changed_since_it_was_read_is_left_alone(tmp_path):
    stale = write(tmp_path / "index")
    editing.remove(read_bundle(tmp_path / "index"), np.array([0]))
    now = read_bundle(tmp_path / "index").manifest
    with pytest.raises(RetrievalError, match="has been changed by another program in the meantime"):
        editing.remove(stale, np.array([1]))
    assert read_bundle(tmp_path / "index").manifest == now


def test_a_bundle_that_changes_while_it_is_rewritten_is_not_lost(tmp_path, monkeypatch):
    before = write(tmp_path / "index")
    other = write(tmp_path / "other", count=5, seed=1)
    write_files = FolderKind.write

    def meanwhile(*arguments):
        text = write_files(*arguments)
        (tmp_path / "index").rename(tmp_path / "old")  # by a program that knows no lock
        shutil.copytree(tmp_path / "other", tmp_path / "index")
        return text

    monkeypatch.setattr(FolderKind, "write", meanwhile)
    with pytest.raises(RetrievalError, match="index: has been changed by another program in the meantime; try again"):
        editing.remove(before, np.array([1]))
    assert_array_equal(read_bundle(tmp_path / "index").vectors, other.vectors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "old", "other"]


def test_a_file_that_comes_into_a_bundle_while_it_is_replaced_is_not_lost(tmp_path, monkeypatch):
    before = write(tmp_path / "index")
    write_files = FolderKind.write

    def meanwhile(*arguments):
        text = write_files(*arguments)
        (tmp_path / "index" / "photo.png").write_text("years of work")
        return text

    monkeypatch.setattr(FolderKind, "write", meanwhile)
    with pytest.raises(RetrievalError, match=r"holds 'photo\.png', which is no part of an index"):
        editing.remove(before, np.array([1]))
    assert (tmp_path / "index" / "photo.png").read_text() == "years of work"


def test_a_failure_in_the_midst_leaves_the_bundle_as_it_was(tmp_path, monkeypatch):
    before = write(tmp_path / "index")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderKind, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        editing.remove(before, np.array([0]))
    assert read_bundle(tmp_path / "index").manifest == before.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_merged_bundles_hold_the_items_of_all_and_classes_of_one_name_are_one(tmp_path):
    one, two = write(tmp_path / "1"), write(tmp_path / "2", 4, 1, class_names=["c", "a", "z"])
    write_bundle(editing.merge([one, two]), tmp_path / "both")
    both = read_bundle(tmp_path / "both")
    assert both.ids.tolist() == [*one.ids, 13, 14, 15, 16]
    assert both.class_names == one.class_names + two.class_names
    assert both.manifest["num_classes"] == 4
    assert both.paths == one.paths + two.paths
    assert_array_equal(both.vectors, np.concatenate([one.vectors, two.vectors]))
    assert both.thumbnails == [*(one.thumbnails or []), *(two.thumbnails or [])]
    assert both.manifest["images_root"] == "/images"


def test_paths_of_merged_bundles_start_from_the_folder_that_their_images_have_in_common(tmp_path):
    one = write(tmp_path / "1", images_root="/data/x/one")
    two = write(tmp_path / "2", images_root="/data/x")
    write_bundle(editing.merge([one, two]), tmp_path / "both")
    both = read_bundle(tmp_path / "both")
    assert both.manifest["images_root"] == "/data/x"
    assert both.paths == (*(f"one/{path}" for path in one.paths), *two.paths)


def test_bundles_that_do_not_go_together_are_refused_with_both_sides(tmp_path):
    one = write(tmp_path / "1")
    other = write(tmp_path / "2", seed=1, model=StoredModel({"backbone": "resnet18"}, b"others"))
    with pytest.raises(IndexFormatError) as caught:
        editing.merge([one, other])
    assert f"{tmp_path}/2: model is {other.model_hash}, that of {tmp_path}/1 is {one.model_hash}" in str(caught.value)
    narrow = write(tmp_path / "3", 2, vectors=np.eye(2, dtype=np.float32))
    with pytest.raises(IndexFormatError, match=r"3: dimension is 2, that of .*1 is 6"):
        editing.merge([one, narrow])
    with pytest.raises(IndexFormatError, match=r"holds '0-0\.png', as .*1 does"):
        editing.merge([one, write(tmp_path / "4", 3)])


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)], ids=["0", "1", "2", "3"]
)
def test_thumbnails_that_are_no_archive_of_all_items_are_refused(tmp_path, content):
    from retrieval.index import thumbnails

    with pytest.raises(IndexFormatError, match=r"thumbnails\.zip"):
        thumbnails.unpack(tmp_path / "thumbnails.zip", content, 3)


def test_an_archive_that_would_grow_is_refused(tmp_path):
    import io
    import zipfile

    from retrieval.index import thumbnails

    for words in ({"compress_type": zipfile.ZIP_DEFLATED, "data": bytes(100)}, {"data": bytes(70_000)}):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("0.jpg", **words)
        with pytest.raises(IndexFormatError, match="packed or too large"):
            thumbnails.unpack(tmp_path / "thumbnails.zip", content.getvalue(), 1)
