from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from retrieval.report.embedding_map import MOST_IMAGES, PICTURE, SIDE, choose_for_map, draw_map, project


def clusters(of_each: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(5, 16))
    vectors = np.repeat(centres, of_each, axis=0) + 0.05 * generator.normal(size=(5 * of_each, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(5), of_each)


def test_images_of_one_class_lie_together_on_the_map():
    vectors, labels = clusters()
    places, method = project(vectors, seed=0)
    assert method == "t-SNE"
    assert places.shape == (60, 2)
    assert 0 <= places.min() <= places.max() <= 1
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95


def test_one_seed_gives_one_map():
    vectors, _ = clusters()
    assert (project(vectors, seed=3)[0] == project(vectors, seed=3)[0]).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_vectors_lie_by_their_main_directions(count):
    places, method = project(clusters()[0][:count], seed=0)
    assert method == "PCA"
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_copies_of_one_vector_and_single_numbers_have_a_place():
    for vectors in (np.tile(clusters()[0][:1], (20, 1)), np.ones((20, 1), dtype=np.float32)):
        places, _ = project(vectors, seed=0)
        assert np.isfinite(places).all()


def test_whole_classes_are_chosen_where_the_images_are_too_many():
    labels = np.repeat(np.arange(700), 5) * 3
    chosen = choose_for_map(labels, np.random.default_rng(0))
    assert len(chosen) == MOST_IMAGES == len(set(chosen.tolist()))
    assert (np.unique(labels[chosen], return_counts=True)[1] == 5).all()
    assert (choose_for_map(labels[:50], np.random.default_rng(0)) == np.arange(50)).all()
    assert len(choose_for_map(np.zeros(3000, dtype=np.int64), np.random.default_rng(0))) == MOST_IMAGES


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {color for _, color in picture.getcolors(SIDE * SIDE)}


def dark_picture(position: int) -> Image.Image:
    return Image.new("RGB", (PICTURE, PICTURE), (9, 9, 9))


GREEN, ORANGE, GREY = (0, 158, 115, 255), (213, 94, 0, 255), (138, 138, 138, 255)


def test_frames_say_by_colour_and_by_dashes_whether_the_first_neighbour_is_right():
    counts = {}
    for name, right, asked in (("right", True, True), ("wrong", False, True), ("unknown", False, False)):
        picture = draw_map(np.array([[0.5, 0.5]]), np.array([right]), np.array([asked]), dark_picture)
        assert picture.size == (SIDE, SIDE)
        counts[name] = {color: count for count, color in picture.getcolors(SIDE * SIDE)}
    assert GREEN in counts["right"]
    assert ORANGE in counts["wrong"]
    assert GREY in counts["unknown"]
    assert counts["wrong"][ORANGE] < 0.8 * counts["right"][GREEN]


def test_one_picture_is_shown_of_those_in_one_place_and_none_lies_on_another():
    generator = np.random.default_rng(0)
    picture = draw_map(generator.random((500, 2)), np.ones(500, dtype=bool), np.ones(500, dtype=bool), dark_picture)
    inside = sum(count for count, color in picture.getcolors(SIDE * SIDE) if color == (9, 9, 9, 255))
    assert inside % (PICTURE - 6) ** 2 == 0
    assert 100 < inside // (PICTURE - 6) ** 2 < 500


def test_images_that_cannot_be_read_become_discs_and_crosses():
    places = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    picture = draw_map(places, np.array([True, False, False]), np.array([True, True, False]), lambda position: None)
    assert {GREEN, ORANGE, GREY} <= colours(picture)
    assert picture.getpixel((0, SIDE // 3))[3] == 0  # shows through
