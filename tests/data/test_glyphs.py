"""Promises of `retrieval.data.glyphs`."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.data import glyphs
from retrieval.data.typeface import choose_characters, load_faces
from retrieval.errors import DatasetError, RetrievalError

FEW = "ABCQRXaegk2357&?"


@pytest.fixture(scope="module")
def few_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("glyphs") / "few"
    glyphs.generate(root, candidates=FEW)
    return root


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_a_class_is_a_character_in_a_folder_of_its_code_point(few_root: Path) -> None:
    splits = glyphs.read(few_root)
    names = {split: set(images.class_names) for split, images in splits.items()}
    assert names["train"] | names["test"] == {f"U+{ord(character):04X}" for character in FEW}
    assert (len(names["train"]), len(names["test"])) == (10, 6)
    for images in splits.values():
        assert set(images.class_sizes()) == {12}


def test_images_are_small_grey_and_dark_on_light(few_root: Path) -> None:
    for path in few_root.rglob("*.png"):
        image = pixels(path)
        assert image.shape == (40, 40)
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.mean() > 190
        assert np.sort(image, axis=None)[:20].mean() < edge.mean() - 80


def test_the_views_of_a_character_differ(few_root: Path) -> None:
    for folder in few_root.glob("*/*"):
        assert len({path.read_bytes() for path in folder.iterdir()}) == 12


def test_the_same_bytes_are_written_each_time(few_root: Path, tmp_path: Path) -> None:
    glyphs.generate(tmp_path / "again", candidates=reversed(FEW))
    first = {path.relative_to(few_root): path.read_bytes() for path in few_root.rglob("*.png")}
    assert {
        path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.png")
    } == first


def test_views_do_not_depend_on_which_other_characters_there_are(few_root: Path, tmp_path: Path) -> None:
    glyphs.generate(tmp_path / "fewer", candidates="AQ")
    for path in (tmp_path / "fewer").rglob("*.png"):
        (same,) = few_root.glob(f"*/{path.parent.name}/{path.name}")
        assert path.read_bytes() == same.read_bytes()


def test_the_split_is_fixed_and_leaves_six_tenths_for_training() -> None:
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 1_200)]
    splits = glyphs.split_of(characters)
    assert sum(split == "train" for split in splits.values()) == 720
    assert glyphs.split_of(reversed(characters)) == splits
    assert {character for character, split in glyphs.split_of("abcdefghij").items() if split == "test"} == set("aghi")


def test_an_existing_folder_is_not_written_to(few_root: Path) -> None:
    with pytest.raises(RetrievalError, match="exists already"):
        glyphs.generate(few_root, candidates="A")


@pytest.fixture
def generate_few(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes `read` generate few characters; the list of folders it was asked for."""
    asked: list[Path] = []
    generate = glyphs.generate

    def generate_few_characters(folder: Path) -> None:
        asked.append(folder)
        generate(folder, candidates=FEW)

    monkeypatch.setattr(glyphs, "generate", generate_few_characters)
    monkeypatch.setattr(glyphs, "CLASSES", len(FEW))
    return asked


def test_without_a_root_the_images_are_generated_once_into_the_cache(
    generate_few: list[Path], few_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_CACHE", str(tmp_path / "cache"))
    first, second = glyphs.read(), glyphs.read()
    assert generate_few == [tmp_path / "cache" / "glyphs-v1"]
    assert first["test"].root == tmp_path / "cache" / "glyphs-v1"
    assert first["test"].fingerprint() == second["test"].fingerprint() == glyphs.read(few_root)["test"].fingerprint()


def test_processes_that_generate_at_once_all_read_the_same_images(
    generate_few: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_CACHE", str(tmp_path))
    # All pass the check before any writes, as processes that start together do.
    together = threading.Barrier(3, timeout=60)
    generate, started = glyphs.generate, set()

    def generate_together(folder: Path) -> None:
        if threading.get_ident() not in started:
            started.add(threading.get_ident())
            together.wait()
        generate(folder)

    monkeypatch.setattr(glyphs, "generate", generate_together)
    fingerprints: list[str] = []
    threads = [
        threading.Thread(target=lambda: fingerprints.append(glyphs.read()["train"].fingerprint())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 3
    assert len(fingerprints) == 3
    assert len(set(fingerprints)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["glyphs-v1"]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("RETRIEVAL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert glyphs.cache_folder() == Path("/home/ada/.cache/retrieval")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert glyphs.cache_folder() == Path("/caches/retrieval")
    monkeypatch.setenv("RETRIEVAL_CACHE", "~/mine")
    assert glyphs.cache_folder() == Path("/home/ada/mine")


def test_a_cache_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RETRIEVAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match=r"file/glyphs-v1: cannot be created .* set RETRIEVAL_CACHE") as caught:
        glyphs.read()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_complete_data_set_has_twelve_hundred_classes_that_can_be_told_apart(tmp_path: Path) -> None:
    splits = glyphs.read()  # of the cache: they are those that are generated now
    split_of = glyphs.split_of(choose_characters(load_faces(), count=glyphs.CLASSES))
    for split, images in splits.items():
        assert set(images.class_names) == {f"U+{ord(one):04X}" for one in split_of if split_of[one] == split}
    glyphs.generate(tmp_path / "some", candidates=list(split_of)[::50])
    some = list((tmp_path / "some").rglob("*.png"))
    assert len(some) == 24 * glyphs.VIEWS
    for path in some:
        (same,) = splits["test"].root.glob(f"*/{path.parent.name}/{path.name}")
        assert path.read_bytes() == same.read_bytes()
    assert {split: (images.num_classes, len(images)) for split, images in splits.items()} == {
        "train": (720, 8_640),
        "test": (480, 5_760),
    }
    # A neighbour by bare pixels is of the right class far more often than by chance, and far from always.
    test = splits["test"]
    ink = np.stack([255 - pixels(test.root / path).ravel().astype(np.float32) for path in test.paths])
    ink -= ink.mean(axis=1, keepdims=True)
    ink /= np.linalg.norm(ink, axis=1, keepdims=True)
    scores = ink @ ink.T
    np.fill_diagonal(scores, -1)
    assert 0.3 < (test.labels[scores.argmax(axis=1)] == test.labels).mean() < 0.7


def test_a_cache_with_images_missing_is_refused_with_the_mend(
    generate_few: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_CACHE", str(tmp_path / "cache"))
    glyphs.read()
    next((tmp_path / "cache").rglob("05.png")).unlink()
    with pytest.raises(DatasetError, match="has 191 images, expected 192; delete the folder"):
        glyphs.read()
