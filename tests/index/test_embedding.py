"""Parts of many images, each embedded into a file of its own, in any order and by processes that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.test_shards import write_tar
from model.networks import draw_folder, mean_color, own_model, timm_model
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save_file

from retrieval.errors import ConfigError, DatasetError, IndexFormatError, RetrievalError
from retrieval.index import Index, embed_part, embedding, part_files
from retrieval.index.shares import Part
from retrieval.model import Model

BATCH = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("images") / "photos", 4, 3)


@pytest.fixture(scope="module")
def parts(photos, tmp_path_factory) -> Path:
    """Three finished parts of the photos."""
    folder = tmp_path_factory.mktemp("parts") / "parts"
    for number in (2, 3, 1):
        make(photos, folder, number)
    return folder


@pytest.fixture
def copy(parts, tmp_path) -> Path:
    return shutil.copytree(parts, tmp_path / "parts")


def make(photos: Path, folder: Path, number: int, count: int = 3, **options) -> tuple[Path, int]:
    return embed_part(timm_model(batch_size=BATCH), [photos], folder, (number, count), **options)


def refused(folder: Path) -> str:
    with pytest.raises(IndexFormatError) as error:
        Index.from_parts(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("length", "count"), [(12, 5), (5, 5), (7, 2), (1000, 7)])
def test_parts_hold_everything_once_and_are_about_equally_large(length, count):
    parts = [range(length)[Part(number, count).slice_of(length)] for number in range(1, count + 1)]
    assert [i for part in parts for i in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_index_of_parts_is_that_of_the_images(photos, parts, tmp_path):
    index = Index.from_parts(parts, tmp_path / "index")
    whole = Index.build(timm_model(batch_size=BATCH), photos, tmp_path / "whole")
    assert_array_equal(index.vectors, whole.vectors)
    assert (index.paths, index.classes, index.root) == (whole.paths, whole.classes, whole.root)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    image = next(photos.glob("*/*.png"))
    assert index.search(image, k=1)[0].path == image.relative_to(photos).as_posix()
    assert sorted(path.name for path in parts.iterdir()) == [
        "model.json",
        "model.safetensors",
        *(f"part-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
    ]


def test_a_finished_part_is_skipped_unless_it_is_to_be_overwritten(photos, copy, monkeypatch):
    calls = []
    write = embedding.write_part
    monkeypatch.setattr(embedding, "write_part", lambda *arguments: calls.append(arguments) or write(*arguments))
    before = (copy / "part-00002-of-00003.safetensors").read_bytes()
    assert make(photos, copy, 2) == (copy / "part-00002-of-00003.safetensors", 4)
    assert not calls
    make(photos, copy, 2, overwrite=True)
    assert len(calls) == 1
    assert (copy / "part-00002-of-00003.safetensors").read_bytes() == before


def test_missing_parts_are_named(copy):
    (copy / "part-00002-of-00003.safetensors").unlink()
    assert "lacks 1 of 3 parts (2); run `retrieval embed --part 2/3`" in refused(copy)
    (copy / "part-00001-of-00003.safetensors").unlink()
    assert "lacks 2 of 3 parts (1, 2)" in refused(copy)
    (copy / "part-00003-of-00003.safetensors").unlink()
    assert "holds no parts" in refused(copy)
    assert "does not exist" in refused(copy / "nothing")


def test_a_part_that_is_there_twice_is_refused(copy):
    first, second = (copy / f"part-0000{i}-of-00003.safetensors" for i in (1, 2))
    shutil.copy(first, second)
    assert "part-00002-of-00003.safetensors: is part 1/3, so its name is part-00001-of-00003" in refused(copy)
    second.rename(copy / "part-00001-of-00003 (copy).safetensors")
    assert "part-00001-of-00003 (copy).safetensors: is not a part" in refused(copy)


def test_parts_of_another_number_are_refused(photos, copy, tmp_path):
    make(photos, tmp_path / "others", 1, 4)
    shutil.copy(tmp_path / "others" / "part-00001-of-00004.safetensors", copy)
    assert "holds parts of 3 and of 4" in refused(copy)
    with pytest.raises(RetrievalError, match="holds parts of 3 and of 4"):
        make(photos, copy, 1)
    with pytest.raises(ConfigError, match="holds parts of another number than 2"):
        make(photos, tmp_path / "others", 1, 2)


@pytest.mark.parametrize("change", ["images", "model", "precision", "batch", "place"])
def test_a_foreign_part_is_refused(photos, copy, tmp_path, change):
    images, seed, options = [photos], 0, {"batch_size": BATCH}
    if change == "images":
        images = [draw_folder(tmp_path / "others", 4, 4)]
    elif change == "place":
        images = [shutil.copytree(photos, tmp_path / "elsewhere")]
    elif change == "model":
        seed = 1
    else:
        options = {"precision": {"batch_size": BATCH, "precision": "bfloat16"}, "batch": {"batch_size": 2}}[change]
    embed_part(timm_model(seed, **options), images, tmp_path / "foreign", (2, 3))
    shutil.copy(tmp_path / "foreign" / "part-00002-of-00003.safetensors", copy)
    what = {"model": "by another model", "place": "in another folder"}.get(change, "of other images, or in another way")
    assert f"part-00002-of-00003.safetensors: was made {what} than part-00001-of-00003.safetensors" in refused(copy)


def test_a_model_beside_parts_of_another_model_is_refused(photos, copy, tmp_path):
    with pytest.raises(IndexFormatError, match="holds parts by another model; choose another folder"):
        embed_part(timm_model(1), [photos], copy, (1, 3))
    embed_part(timm_model(1), [photos], tmp_path / "others", (1, 3))
    shutil.copy(tmp_path / "others" / "model.safetensors", copy)
    assert "its parts were made by another model than that in it" in refused(copy)
    (copy / "model.json").unlink()
    assert "has no model.json" in refused(copy)


def test_a_damaged_part_is_refused(copy):
    path = copy / "part-00002-of-00003.safetensors"
    content = path.read_bytes()
    for position in (3, 20, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        text = refused(copy)
        assert "part-00002-of-00003.safetensors: cannot be used" in text or "was made" in text or "is part" in text
    for cut in (0, 10, len(content) - 1):
        path.write_bytes(content[:cut])
        assert "part-00002-of-00003.safetensors: cannot be used" in refused(copy)
    save_file({"vectors": np.zeros((1, 8), np.float32)}, path)
    assert "it is not a part that `retrieval embed --part` has written" in refused(copy)
    path.unlink()
    path.mkdir()
    assert "it is no file" in refused(copy)


def test_a_part_of_images_that_have_changed_is_not_taken_for_finished(tmp_path):
    photos = draw_folder(tmp_path / "photos", 2, 3)
    make(photos, tmp_path / "parts", 1, 2)
    first = min(photos.rglob("*.png"))
    os.utime(first, ns=(0, 0))
    with pytest.raises(ConfigError, match="was made of other images, or in another way; choose another folder"):
        make(photos, tmp_path / "parts", 1, 2)
    assert make(photos, tmp_path / "parts", 1, 2, overwrite=True)[1] == 3


def test_more_parts_than_images_are_refused(photos, tmp_path):
    with pytest.raises(ConfigError, match="part 1/13 of 12 images: a part would be empty; make at most 12 parts"):
        make(photos, tmp_path / "parts", 1, 13)
    for number in (0, 4):
        with pytest.raises(ConfigError, match="give a number from 1 to 3"):
            make(photos, tmp_path / "parts", number)
    assert not (tmp_path / "parts").exists()


def test_a_list_and_files_have_parts_too(photos, tmp_path):
    files = sorted(photos.glob("*/*.png"))[:5]
    lines = "".join(f"{file.relative_to(photos).as_posix()},{i % 2}\n" for i, file in enumerate(files))
    (photos / "list.csv").write_text(f"path,label\n{lines}")
    for name, images in (("list", [photos / "list.csv"]), ("files", files)):
        for number in (1, 2):
            embed_part(timm_model(batch_size=BATCH), images, tmp_path / name, (number, 2))
    (photos / "list.csv").unlink()
    listed, given = Index.from_parts(tmp_path / "list"), Index.from_parts(tmp_path / "files")
    assert listed.classes == tuple("01010")
    assert given.classes == tuple(file.parent.name for file in files)
    assert listed.paths == given.paths == tuple(file.relative_to(photos).as_posix() for file in files)


@pytest.mark.parametrize("by_folder", [False, True])
def test_shards_have_parts_of_whole_shards(photos, tmp_path, by_folder):
    files = sorted(photos.glob("*/*.png"))
    for i in range(3):
        members = {file.relative_to(photos).as_posix(): file.read_bytes() for file in files[4 * i : 4 * i + 4]}
        write_tar(tmp_path / "shards" / f"{i:03}.tar", members)
    place = tmp_path / "shards" if by_folder else tmp_path / "shards" / "{000..002}.tar"
    for number in (2, 1):
        embed_part(timm_model(batch_size=BATCH, workers=2), [place], tmp_path / "parts", (number, 2))
    index, whole = Index.from_parts(tmp_path / "parts"), Index.build(timm_model(batch_size=BATCH), files)
    assert_array_equal(index.vectors, whole.vectors)
    assert index.classes == whole.classes
    assert index.paths == tuple(f"{i // 4:03}.tar/{path}" for i, path in enumerate(whole.paths))
    with pytest.raises(ConfigError, match="part 1/4 of 3 shards: a part would be empty"):
        embed_part(timm_model(), [place], tmp_path / "more", (1, 4))
    with pytest.raises(ConfigError, match="is no tar shard, but the others are"):
        embed_part(timm_model(), [place, photos], tmp_path / "more", (1, 2))


def test_unreadable_images_are_refused_or_skipped_in_their_part(tmp_path):
    photos = draw_folder(tmp_path / "photos", 2, 3)
    (photos / "class 0" / "1.png").write_bytes(b"text")
    members = {path.relative_to(photos).as_posix(): path.read_bytes() for path in sorted(photos.rglob("*.png"))}
    write_tar(tmp_path / "0.tar", members)
    for name, place, first in (
        ("files", photos, "class 0/2.png"),
        ("shards", tmp_path / "0.tar", "0.tar/class 0/2.png"),
    ):
        count = 2 if name == "files" else 1
        with pytest.raises(DatasetError, match=r"1\.png: cannot be read as an image"):
            make(place, tmp_path / name, 1, count)
        for number in range(1, count + 1):
            make(place, tmp_path / name, number, count, skip_unreadable=True)
        index = Index.from_parts(tmp_path / name)
        assert len(index) == 5
        assert index.paths[1] == first


def test_the_cost_of_bfloat16_is_that_of_all_parts(photos, tmp_path):
    for number in (1, 2):
        embed_part(timm_model(precision="bfloat16"), [photos], tmp_path / "parts", (number, 2))
    cost = Index.from_parts(tmp_path / "parts").manifest["source"]["precision"]
    assert (cost["name"], cost["images"]) == ("bfloat16", 12)
    assert 0 <= cost["recall@1"] <= 1


def test_the_source_of_a_model_is_that_of_its_index(photos, tmp_path):
    source = {"dataset": "glyphs", "checkpoint": "best", "step": 12}
    embed_part(timm_model(source=source), [photos], tmp_path / "parts", (1, 1))
    assert Index.from_parts(tmp_path / "parts").manifest["source"] == source


def test_a_model_that_no_file_can_hold_has_no_parts(photos, tmp_path):
    with pytest.raises(RetrievalError, match="this model is a function"):
        embed_part(Model(mean_color), [photos], tmp_path / "parts", (1, 1))


def test_a_part_is_a_file_that_other_programs_read(parts):
    with safe_open(parts / "part-00001-of-00003.safetensors", framework="np") as file:
        items = json.loads(file.get_tensor("items").tobytes())
        assert file.get_tensor("vectors").shape == (4, 8)
    assert items["paths"][3] == "class 1/0.png"
    assert items["classes"] == ["class 0", "class 0", "class 0", "class 1"]


def work(photos: Path, folder: Path, number: int, moment: str) -> None:
    """Makes a part; is killed before it is written, or once a file of this name is."""
    write = part_files.write_bytes

    def write_until_the_moment(path: Path, data: bytes, **options: Any) -> None:
        if moment == "before" and path.name.startswith("part"):
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data, **options)
        if moment == path.name:
            os.kill(os.getpid(), signal.SIGKILL)

    part_files.write_bytes = write_until_the_moment
    make(photos, folder, number)


@pytest.mark.slow
def test_workers_that_are_killed_at_any_time_and_started_again_make_the_same_parts(photos, parts, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrieval.index.embedding"])  # torch is imported only once

    def outcome(number: int, moment: str = "never") -> int | None:
        process = context.Process(target=work, args=(photos, tmp_path / "parts", number, moment))
        process.start()
        process.join(300)
        return process.exitcode

    assert outcome(3, "model.safetensors") == -signal.SIGKILL
    assert outcome(3, "before") == -signal.SIGKILL
    assert outcome(1, "part-00001-of-00003.safetensors") == -signal.SIGKILL
    assert [outcome(number) for number in (2, 3, 1)] == [0, 0, 0]
    assert_array_equal(Index.from_parts(tmp_path / "parts").vectors, Index.from_parts(parts).vectors)
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {path.name for path in parts.iterdir()}


@pytest.mark.slow
def test_the_parts_of_an_own_network_hold_it_as_onnx(photos, tmp_path):
    pytest.importorskip("onnxscript")
    for number in (1, 2):
        embed_part(own_model(), [photos], tmp_path / "parts", (number, 2))
    index = Index.from_parts(tmp_path / "parts", tmp_path / "index")
    np.testing.assert_allclose(index.vectors, Index.build(own_model(), photos).vectors, atol=1e-5)
    assert (tmp_path / "index" / "model.onnx").is_file()


def test_a_part_whose_facts_were_altered_is_refused(tmp_path, photos):
    embed_part(timm_model(), [photos], tmp_path / "parts", (1, 1))
    (file,) = tmp_path.glob("parts/part-*")
    content, root = file.read_bytes(), str(photos).encode()
    assert root in content
    file.write_bytes(content.replace(root, root[:-1] + b"?"))
    with pytest.raises(IndexFormatError, match="it has been altered"):
        Index.from_parts(tmp_path / "parts")
