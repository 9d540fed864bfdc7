"""--overwrite replaces nothing but what the same command has written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model.networks import draw_folder, own_model, timm_model
from PIL import Image

from retrieval.errors import RetrievalError
from retrieval.index import Index

VECTORS = np.eye(6, dtype=np.float32)


@pytest.fixture
def index() -> Index:
    return Index.from_vectors(VECTORS, list("aabbcc"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture(file: Path) -> None:
    Image.new("RGB", (9, 9)).save(file)


FOREIGN_FOLDERS = {
    "a manifest of another program": {"manifest.json": b'{"name": "my extension", "version": 3}'},
    "vectors of another program": {"vectors.npy": b"\x93NUMPY"},
    "vectors with labels of another program": {"vectors.npy": b"\x93NUMPY", "labels.csv": b"label\ncat\n"},
    "paths of another program": {"paths.csv": b"path,size\na.png,3\n"},
    "items of another program": {"items.csv": b"item,price\npen,3\n"},
    "photographs": {"cat/0.jpg": b"\xff\xd8"},
}


@pytest.mark.parametrize("found", FOREIGN_FOLDERS.values(), ids=FOREIGN_FOLDERS)
def test_a_folder_of_another_program_is_left_alone(index, tmp_path, found):
    out = tmp_path / "out"
    for name, content in found.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    writers = [
        lambda: index.save(out, overwrite=True),
        lambda: index.merge(out=out, overwrite=True),
        lambda: Index.from_vectors(VECTORS, list("aabbcc"), out, overwrite=True),
        lambda: Index.build(timm_model(), tmp_path, out, overwrite=True),
        lambda: index.export(out, overwrite=True),
        lambda: timm_model().save(out, overwrite=True),
        lambda: timm_model().embed_files([tmp_path], out, overwrite=True),
    ]
    for write in writers:
        with pytest.raises(RetrievalError, match="would be lost; move it away, or choose another folder"):
            write()
    assert contents(tmp_path) == {f"out/{name}": content for name, content in found.items()}


def test_each_kind_of_output_is_replaced_by_the_same_kind_only(index, tmp_path):
    photos = draw_folder(tmp_path / "photos", 2, 2)
    model = timm_model()
    writers = {
        "index": lambda out: index.save(out, overwrite=True),
        "vectors": lambda out: index.export(out, overwrite=True),
        "embedded": lambda out: model.embed_files([photos], out, overwrite=True),
        "model": lambda out: model.save(out, overwrite=True),
    }
    for _ in range(2):
        for name, write in writers.items():
            write(tmp_path / name)
    for name, write in writers.items():
        for other in writers.keys() - {name}:
            if {name, other} != {"vectors", "embedded"}:  # the same files but for the table
                with pytest.raises(RetrievalError, match="would be lost"):
                    write(tmp_path / other)


def test_a_file_beside_those_of_an_index_or_of_vectors_is_not_lost(index, tmp_path):
    for write in (index.save, index.export):
        out = tmp_path / write.__name__
        write(out)
        (out / "notes.txt").write_text("years of work")
        with pytest.raises(RetrievalError, match=r"holds 'notes\.txt', which is no part of"):
            write(out, overwrite=True)
        assert (out / "notes.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["photo.png", "thesis.html", "model.onnx"])
def test_a_file_that_no_search_has_drawn_is_left_alone(index, tmp_path, name):
    file = tmp_path / name
    picture(file) if name == "photo.png" else file.write_text("<!doctype html><title>years of work</title>")
    before = file.read_bytes()
    hits = index.search(VECTORS[0])
    for write in (index.draw, index.write_page):
        with pytest.raises(
            RetrievalError, match=f"{name}: exists and is not a picture or page of search results, so it is"
        ):
            write(VECTORS[0], hits, file, overwrite=True)
    with pytest.raises(RetrievalError, match="so it is not replaced; choose another name"):
        Index.require_drawable(file, overwrite=True)
    with pytest.raises(RetrievalError, match="exists and is not a report"):
        index.report(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pictures_and_pages_of_a_search_are_replaced(index, tmp_path):
    hits = index.search(VECTORS[0])
    for _ in range(2):
        index.draw(VECTORS[0], hits, tmp_path / "found.png", overwrite=True)
        index.write_page(VECTORS[0], hits, tmp_path / "found.html", overwrite=True)
        Index.require_drawable(tmp_path / "found.png", overwrite=True)
    with Image.open(tmp_path / "found.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.text == {"Software": "retrieval"}


@pytest.mark.slow
def test_only_an_onnx_file_of_this_package_is_replaced(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, file = own_model(), tmp_path / "model.onnx"
    for _ in range(2):
        model.export_onnx(file, overwrite=True)
    proto = onnx.load(file)
    del proto.metadata_props[:]
    for content in (proto.SerializeToString(), b"years of work"):
        file.write_bytes(content)
        with pytest.raises(RetrievalError, match="exists and is not an ONNX file of `retrieval export onnx`"):
            model.export_onnx(file, overwrite=True)
        assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", ["index", "vectors", "model"])
def test_a_link_to_an_output_stays_when_its_target_is_changed(index, tmp_path, name):
    writers = {"index": index.save, "vectors": index.export, "model": timm_model().save}
    (tmp_path / "link").symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk").mkdir()
    for _ in range(2):  # of a link to nothing, and of one to a folder
        writers[name](tmp_path / "link", overwrite=True)
        assert (tmp_path / "link").readlink() == tmp_path / "disk" / name
        assert [path.name for path in (tmp_path / "disk").iterdir()] == [name]
    if name == "index":
        opened = Index.open(tmp_path / "link")
        opened.remove(ids=[0])
        assert (tmp_path / "link").is_symlink()
        assert len(Index.open(tmp_path / "disk" / "index")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
