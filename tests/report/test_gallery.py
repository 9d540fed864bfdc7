from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.report import GalleryRow, Neighbour, plot_gallery

GREEN, VERMILLION, GREY, MISSING = (0, 158, 115), (213, 94, 0), (138, 138, 138), (217, 217, 217)


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 30), (255, 0, 255)).save(path)
    return path


def gallery(path: Path, rows, **options) -> np.ndarray:
    plot_gallery(rows, path, **options)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def count(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(pixels - color).max(2) <= 2).sum())


@pytest.mark.parametrize(("correct", "color"), [(True, GREEN), (False, VERMILLION), (None, GREY)])
def test_a_frame_says_whether_the_neighbour_is_right(tmp_path, image, correct, color):
    picture = gallery(tmp_path / "out.png", [GalleryRow(image, "a", (Neighbour(image, "b", 0.5, correct),))])
    assert count(picture, color) > 1000
    assert all(count(picture, other) < 200 for other in (GREEN, VERMILLION, GREY) if other != color)
    assert count(picture, (255, 0, 255)) > 2 * 100 * 75


def test_the_frame_of_a_wrong_neighbour_is_dashed_so_that_colour_is_not_the_only_sign(tmp_path, image):
    frames = {}
    for correct, color in ((True, GREEN), (False, VERMILLION)):
        picture = gallery(tmp_path / "out.png", [GalleryRow(image, "a", (Neighbour(image, "b", 0.5, correct),))])
        frames[correct] = count(picture, color)
    assert 0.5 < frames[False] / frames[True] < 0.9


def test_images_that_cannot_be_read_become_grey_tiles(tmp_path, image):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    neighbours = (Neighbour(broken, "b", 0.5, True), Neighbour(tmp_path, "c", 0.4, False))
    picture = gallery(tmp_path / "out.png", [GalleryRow(tmp_path / "gone.png", "a", neighbours)])
    assert count(picture, MISSING) > 3 * 100 * 100
    assert count(gallery(tmp_path / "out.png", [GalleryRow(image, "a", ())]), MISSING) < 200


@pytest.mark.parametrize(
    "label", ["price $5 and $7", "$\\frac$", "日本語 العربية \U0001f600", "two\nlines\t\x00", "", "W" * 300]
)
def test_any_label_and_title_can_be_drawn(tmp_path, image, label):
    rows = [GalleryRow(image, label, (Neighbour(image, label, -0.25, True),))]
    picture = gallery(tmp_path / "out.png", rows, title=label)
    plain = gallery(
        tmp_path / "plain.png", [GalleryRow(image, "a", (Neighbour(image, "a", -0.25, True),))], title="t" * bool(label)
    )
    assert picture.shape == plain.shape
    margin = picture[:, -15:]
    assert (margin == 255).all()  # nothing runs out of the picture


def test_greyscale_transparent_and_16_bit_images_are_previewed(tmp_path):
    saved = {
        "16.png": Image.fromarray(np.full((20, 20), 32768, dtype=np.uint16)),
        "l.png": Image.new("L", (20, 20), 90),
        "rgba.png": Image.new("RGBA", (20, 20), (0, 0, 0, 0)),
    }
    for name, image in saved.items():
        image.save(tmp_path / name)
    for name in saved:
        picture = gallery(tmp_path / "out.png", [GalleryRow(tmp_path / name, "a", ())])
        assert count(picture, MISSING) < 200
        assert (count(picture, (90, 90, 90)) > 10_000) == (name == "l.png")


def test_rows_of_different_length_and_more_neighbours_than_columns_are_drawn(tmp_path, image):
    found = tuple(Neighbour(image, "b", 0.5, True) for _ in range(7))
    rows = [GalleryRow(image, "a", found), GalleryRow(image, "a", found[:2]), GalleryRow(image, "a", ())]
    wide, narrow = (gallery(tmp_path / "out.png", rows, columns=columns) for columns in (10, 3))
    assert wide.shape[0] == narrow.shape[0]
    assert count(wide, GREEN) == pytest.approx(count(narrow, GREEN) * 9 / 5, rel=0.05)


@pytest.mark.slow
def test_a_picture_ends_after_a_hundred_rows(tmp_path, image):
    rows = [GalleryRow(tmp_path / "gone", "a", ())] * 130
    first = gallery(tmp_path / "out.png", rows[:100])
    longer = gallery(tmp_path / "out.png", rows)
    assert 0 < longer.shape[0] - first.shape[0] < 50  # room for the line that says so


def test_a_query_without_neighbours_is_said_to_have_no_similar_image(tmp_path, image):
    empty = gallery(
        tmp_path / "out.png", [GalleryRow(image, "a", ()), GalleryRow(image, "a", (Neighbour(image, "b", 1, None),))]
    )
    beside = empty[60:240, 200:]  # of the first row
    assert (beside < 128).any()


@pytest.mark.slow
@pytest.mark.parametrize("content", ["noise", "photographs", "flat"])
def test_a_picture_of_eight_rows_has_less_than_1_mb_whatever_the_images(tmp_path, content):
    generator = np.random.default_rng(0)
    for i in range(9):
        pixels = generator.integers(0, 256, (144, 144, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels if content == "noise" else np.full_like(pixels, 25 * i))
        if content == "photographs":  # smooth, with grain
            picture = Image.blend(
                Image.radial_gradient("L").resize((144, 144)).convert("RGB"), Image.fromarray(pixels), 0.2
            )
        picture.save(tmp_path / f"{i}.png")
    neighbours = tuple(Neighbour(tmp_path / f"{i}.png", "a class", 0.5, i % 2 == 0) for i in range(8))
    rows = [GalleryRow(tmp_path / "8.png", "a class", neighbours)] * 8
    pixels = gallery(tmp_path / "gallery.png", rows, title="Neighbours", columns=8)
    assert (tmp_path / "gallery.png").stat().st_size < 1_000_000
    assert (
        min(int((np.abs(pixels - color).max(2) <= 40).sum()) for color in (GREEN, VERMILLION)) > 5000
    )  # the frames stay


def test_nothing_to_draw_is_refused(tmp_path, image):
    with pytest.raises(ValueError, match="no rows"):
        plot_gallery([], tmp_path / "out.png")
    with pytest.raises(ValueError, match="columns is 0"):
        plot_gallery([GalleryRow(image, "a", ())], tmp_path / "out.png", columns=0)
