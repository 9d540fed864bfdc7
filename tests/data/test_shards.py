"""Images in tar archives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.data import Preprocessing, load_image
from retrieval.data.shards import ShardImages, find_shards, read_members
from retrieval.errors import DatasetError

REDUCED = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), decoding="reduced")


def picture(seed: int, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_the_class_of_an_image_is_its_label_or_its_folder_or_its_shard(tmp_path):
    members = {"7.png": picture(0), "7.cls": b"3\n", "cats/a.b.png": picture(1), "8.png": picture(2), "8.txt": b"text"}
    members |= {"cats/._a.png": b"", "dogs/9.json": b"{}"}
    shard = write_tar(tmp_path / "00000.tar", members)
    found = read_members(shard)
    assert [(member.name, member.class_name) for member in found] == [
        ("7.png", "3"),
        ("cats/a.b.png", "cats"),
        ("8.png", "00000"),
    ]


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_images_of_shards_are_those_of_files(tmp_path, format):
    shards = [
        write_tar(tmp_path / f"{i}.tar", {f"{i}{j}.{format}": picture(10 * i + j, format) for j in range(3)})
        for i in range(2)
    ]
    dataset = ShardImages([member for shard in shards for member in read_members(shard)], REDUCED)
    images = dataset.as_images()
    assert images.class_names == ("0", "1")
    for i in range(6):
        (tmp_path / "image").write_bytes(picture(10 * (i // 3) + i % 3, format))
        expected = load_image(tmp_path / "image", least_side=REDUCED.least_side)
        assert expected.size == ((48, 40) if format == "PNG" else (24, 20))
        np.testing.assert_array_equal(np.asarray(images.load(i)), np.asarray(expected))


def test_shards_are_given_by_a_pattern_a_folder_or_a_file(tmp_path):
    for i in (2, 9, 10):
        write_tar(tmp_path / f"s-{i:02}.tar", {"a.png": picture(i)})
        write_tar(tmp_path / "natural" / f"s{i}.tar", {"a.png": picture(i)})
    assert find_shards(tmp_path / "s-{09..10}.tar") == [tmp_path / "s-09.tar", tmp_path / "s-10.tar"]
    assert find_shards(tmp_path / "s-{0..0}{9..9}.tar") == [tmp_path / "s-09.tar"]
    assert find_shards(tmp_path / "s-02.tar") == [tmp_path / "s-02.tar"]
    assert [shard.name for shard in find_shards(tmp_path / "natural")] == ["s2.tar", "s9.tar", "s10.tar"]
    assert find_shards(tmp_path) == []  # it has a folder, so it is a folder of images
    assert find_shards(tmp_path / "image.png") == []
    with pytest.raises(DatasetError, match=r"s-08\.tar: does not exist, but s-\{08\.\.10\}\.tar names it"):
        find_shards(tmp_path / "s-{08..10}.tar")
    for pattern in ("s-{10..02}.tar", "s-{0..9999999}.tar"):
        with pytest.raises(DatasetError, match="stands for no shards, or for too many"):
            find_shards(tmp_path / pattern)


def test_what_is_no_whole_plain_archive_is_one_line(tmp_path):
    content = write_tar(tmp_path / "a.tar", {"a.png": picture(0), "b.png": picture(1)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 3])
    (tmp_path / "text.tar").write_bytes(b"text" * 1000)
    write_tar(tmp_path / "packed.tar", {"a.png": picture(0)}, "w:gz")
    write_tar(tmp_path / "empty.tar", {"a.txt": b"text"})
    write_tar(tmp_path / "label.tar", {"a.png": picture(0), "a.cls": b"\xff\xfe"})
    for name, text in (
        ("cut", "is not a whole tar archive"),
        ("text", "is not a whole tar archive"),
        ("packed", "write it again as a plain .tar file, without compression"),
        ("empty", "contains no images"),
        ("label", "is not a whole tar archive"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(DatasetError, match=text) as error:
            read_members(tmp_path / f"{name}.tar")
        assert "\n" not in str(error.value)
        assert f"{name}.tar: " in str(error.value)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a\tb.png", "a\\b.png"])
def test_a_name_that_cannot_be_stored_is_refused(tmp_path, name):
    with pytest.raises(DatasetError):
        read_members(write_tar(tmp_path / "a.tar", {name: picture(0)}))


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.png": picture(0)})
    write_tar(tmp_path / "a.tar", {"a.png": picture(1)}, "a")
    with pytest.raises(DatasetError, match=r"holds 'a\.png' twice"):
        read_members(tmp_path / "a.tar")


def test_a_damaged_image_names_its_shard(tmp_path):
    shard = write_tar(tmp_path / "a.tar", {"a.png": picture(0)[:100]})
    with pytest.raises(DatasetError, match=r"a\.tar/a\.png: cannot be read as an image"):
        ShardImages(read_members(shard)).as_images().load(0)
