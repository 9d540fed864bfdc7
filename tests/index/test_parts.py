"""Finished parts of an index that is being built: used again for the same images and model only, by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from model.networks import draw_folder, timm_model
from numpy.testing import assert_array_equal

from retrieval.data import ImageSet
from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.files import claimed
from retrieval.index import Index, parts
from retrieval.model import Model

BATCH = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("images") / "photos", 4, 3)


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """The number of images of every part that is embedded. A part has one batch."""
    counts: list[int] = []
    encode = parts.encode_shared

    def counted(model: Model, images: ImageSet, **options: object) -> np.ndarray:
        vectors = encode(model, images, **options)
        counts.append(len(images))
        return vectors

    monkeypatch.setattr(parts, "PART", 1)
    monkeypatch.setattr(parts, "encode_shared", counted)
    return counts


def build(photos: Path | list[Path], out: Path, seed: int = 0, **options: object) -> Index:
    return Index.build(timm_model(seed, batch_size=BATCH), photos, out, **options)


def interrupt(photos: Path | list[Path], out: Path, monkeypatch) -> None:
    """Builds an index until everything is embedded."""

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.index.building.write_bundle", stop)
        with pytest.raises(KeyboardInterrupt):
            build(photos, out)


def test_finished_parts_are_used_again_and_removed_at_the_end(photos, tmp_path, embedded, monkeypatch):
    interrupt(photos, tmp_path / "index", monkeypatch)
    assert embedded == [4, 4, 4]
    next((tmp_path / ".index.unfinished" / "parts").iterdir()).unlink()
    index = build(photos, tmp_path / "index")
    assert embedded == [4, 4, 4, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert_array_equal(index.vectors, build(photos, tmp_path / "whole").vectors)


@pytest.mark.parametrize("change", ["order", "model", "content"])
def test_parts_of_other_images_or_of_another_model_are_not_used(tmp_path, embedded, monkeypatch, change):
    photos = draw_folder(tmp_path / "photos", 4, 3)
    files = sorted(photos.glob("*/*.png"))
    interrupt(files, tmp_path / "index", monkeypatch)
    if change == "order":  # as many images, the first of which are the last
        files = [*files[4:], *files[:4]][::-1]
    elif change == "content":
        files[-1].write_bytes(files[0].read_bytes())
        os.utime(files[-1], ns=(0, 0))
    seed = 1 if change == "model" else 0
    index = build(files, tmp_path / "index", seed)
    assert len(embedded) == {"order": 6, "model": 6, "content": 4}[change]
    assert_array_equal(index.vectors, build(files, tmp_path / "whole", seed).vectors)


def test_a_part_beside_those_of_this_call_is_not_used_whatever_its_place(photos, tmp_path, embedded, monkeypatch):
    """Also without a lock, on a file system that has none, two calls never take parts of one another."""
    other = draw_folder(tmp_path / "other", 4, 3)
    expected = build(photos, tmp_path / "expected").vectors
    interrupt(other, tmp_path / "index", monkeypatch)
    interrupt(photos, tmp_path / "index", monkeypatch)
    assert len(list((tmp_path / ".index.unfinished" / "parts").iterdir())) == 6
    assert_array_equal(build(photos, tmp_path / "index").vectors, expected)


def test_two_calls_that_write_one_index_do_not_mix_their_images(photos, tmp_path, monkeypatch):
    encode, refused = parts.encode_shared, []

    def build_meanwhile(model: Model, images: ImageSet, **options: object) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr("retrieval.files.claims._own", type("Thread", (), {})())  # as another process
            with pytest.raises(RetrievalError) as error:
                build(photos, tmp_path / "index", 1)
        refused.append(str(error.value))
        return encode(model, images, **options)

    monkeypatch.setattr(parts, "encode_shared", build_meanwhile)
    index = build(photos, tmp_path / "index")
    assert refused == [
        f"{tmp_path / 'index'}: another call (process {os.getpid()}) is writing to it; wait until it ends, or choose another path"
    ]
    monkeypatch.undo()
    assert_array_equal(index.vectors, build(photos, tmp_path / "whole").vectors)


@pytest.mark.slow
def test_an_index_that_another_call_writes_is_neither_changed_replaced_merged_nor_exported_to(
    photos, tmp_path, monkeypatch
):
    index = build(photos, tmp_path / "index")
    index.export(tmp_path / "vectors")
    timm_model().save(tmp_path / "model")
    image = next(photos.glob("*/*.png"))
    calls = {
        tmp_path / "index": [
            lambda: index.add([image]),
            lambda: index.remove(ids=[0]),
            lambda: index.save(tmp_path / "index", overwrite=True),
            lambda: build(photos, tmp_path / "index", overwrite=True),
            lambda: index.merge(out=tmp_path / "index", overwrite=True),
            lambda: Index.from_vectors(np.eye(2), "ab", tmp_path / "index", overwrite=True),
        ],
        tmp_path / "vectors": [
            lambda: index.export(tmp_path / "vectors", overwrite=True),
            lambda: timm_model().embed_files([image], tmp_path / "vectors", overwrite=True),
        ],
        tmp_path / "model": [lambda: timm_model().save(tmp_path / "model", overwrite=True)],
        tmp_path / "page.html": [
            lambda: index.write_page([image], index.search([image]), tmp_path / "page.html"),
            lambda: index.report(tmp_path / "page.html"),
        ],
        tmp_path / "model.onnx": [lambda: timm_model().export_onnx(tmp_path / "model.onnx")],
    }
    for out, writers in calls.items():
        with claimed(out):
            monkeypatch.setattr("retrieval.files.claims._own", type("Thread", (), {})())  # as another process
            for write in writers:
                with pytest.raises(RetrievalError, match=rf"{out.name}: another call \(process \d+\) is writing to it"):
                    write()
            monkeypatch.undo()
    assert index.remove(ids=[0]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "model", "vectors"]


def test_a_refused_add_leaves_nothing_behind(tmp_path):
    photos = draw_folder(tmp_path / "photos", 2, 3)
    index = build(photos, tmp_path / "index")
    (first, *others) = sorted(photos.rglob("*.png"))
    others[-1].replace(first)  # another content
    with pytest.raises(IndexFormatError, match="already, with another content"):
        index.add(photos)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos"]


def test_a_link_to_an_image_is_an_image_of_its_own(tmp_path):
    photos = draw_folder(tmp_path / "photos", 2, 2)
    index = build(draw_folder(tmp_path / "others", 2, 2), tmp_path / "index")
    (first, *_) = sorted(photos.rglob("*.png"))
    (first.parent.parent / "linked").mkdir()
    (first.parent.parent / "linked" / "link.png").symlink_to(first)
    assert index.add(photos) == 5
    assert [str(photos / "linked" / "link.png")] == [path for path in index.paths if path.endswith("link.png")]
