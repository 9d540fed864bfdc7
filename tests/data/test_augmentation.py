from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from random import Random

import numpy as np
import pytest
from PIL import Image

from retrieval.data import AUGMENTATIONS, Preprocessing, make_augmentation, prepare

PLAIN = Preprocessing(32, 24, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RANDOM = [name for name in AUGMENTATIONS if name != "none"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("mode", ["L", "RGBA", "F"])
def test_an_image_that_is_not_rgb_is_refused(name, mode):
    with pytest.raises(ValueError, match="RGB"):
        make_augmentation(name, PLAIN)(Image.new(mode, (30, 30)), 0)


def test_without_augmentation_an_image_is_prepared():
    image = noise(40, 50)
    np.testing.assert_array_equal(make_augmentation("none", PLAIN)(image, 3), prepare(image, PLAIN))


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_decides_the_pixels_in_any_order(name):
    image, augment = noise(40, 50), make_augmentation(name, PLAIN)
    views = {seed: augment(image, (7, 0, seed)) for seed in range(12)}
    other = make_augmentation(name, PLAIN)
    for seed in reversed(range(12)):
        np.testing.assert_array_equal(other(image, (7, 0, seed)), views[seed])
    assert len({view.tobytes() for view in views.values()}) == 12
    assert all(view.shape == (3, 24, 24) and view.dtype == np.float32 for view in views.values())


@pytest.mark.slow
def test_another_process_draws_the_same_views():
    image = noise(40, 50)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for name in RANDOM:
            augment = make_augmentation(name, PLAIN)
            augment(image, 1)  # what was drawn before does not matter
            np.testing.assert_array_equal(pool.submit(augment, image, 5).result(), augment(image, 5))


@pytest.mark.parametrize("name", RANDOM)
def test_an_augmentation_can_be_pickled(name):
    augment = pickle.loads(pickle.dumps(make_augmentation(name, PLAIN)))
    np.testing.assert_array_equal(augment(noise(40, 50), 5), make_augmentation(name, PLAIN)(noise(40, 50), 5))


def test_photos_are_flipped_about_half_of_the_time_whatever_the_crop():
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    augment = make_augmentation("photo", PLAIN)
    views = np.array([augment(Image.fromarray(ramp), seed)[0] for seed in range(300)])
    flipped = views[:, :, 0].mean(1) > views[:, :, -1].mean(1)
    assert 0.4 < flipped.mean() < 0.6
    # One generator shared by all transforms: how much is cut out says nothing of the flip.
    extent = np.abs(views[:, :, 0].mean(1) - views[:, :, -1].mean(1))
    assert abs(np.corrcoef(extent, flipped)[0, 1]) < 0.2


def test_photos_are_shrunk_with_antialiasing():
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    augment = make_augmentation("photo", PLAIN)
    views = np.array([augment(Image.fromarray(stripes), seed) for seed in range(20)])
    assert np.abs(views - 0.5).max() < 0.15


def test_characters_keep_the_colour_of_their_background():
    augment = make_augmentation("character", PLAIN)
    for paper, ink in (("white", "black"), ("black", "white")):
        image = Image.new("RGB", (32, 32), paper)
        image.paste(ink, (12, 12, 20, 20))
        views = np.array([augment(image, seed) for seed in range(30)])
        np.testing.assert_allclose(views[:, :, [0, 0, -1, -1], [0, -1, 0, -1]], 1.0 if paper == "white" else 0.0)
        assert (np.abs(views - views[:, :, :1, :1]).max((1, 2, 3)) > 0.5).all()


def test_an_unknown_augmentation_is_named_with_the_near_one():
    with pytest.raises(ValueError, match="'photos'; did you mean photo"):
        make_augmentation("photos", PLAIN)


def test_a_crop_is_cut_out_of_the_resized_image_anywhere():
    image = noise(64, 48)
    whole = prepare(image, Preprocessing(32, 32, PLAIN.mean, PLAIN.std))  # the middle of 42 x 32 pixels
    augment = make_augmentation("crop", PLAIN, flip=0)
    views = [augment(image, seed) for seed in range(200)]
    inside = [
        view for view in views for y in range(9) for x in range(9) if (whole[:, y : y + 24, x : x + 24] == view).all()
    ]
    assert 40 < len(inside) < 200  # the others reach into the margins
    assert len({view.tobytes() for view in views}) > 100


@pytest.mark.parametrize("name", ["photo", "crop"])
def test_the_probability_of_a_flip_is_an_option(name):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3)))
    for flip in (0, 1):
        augment = make_augmentation(name, PLAIN, flip=flip)
        views = np.array([augment(ramp, seed)[0] for seed in range(20)])
        assert ((views[:, :, 0].mean(1) > views[:, :, -1].mean(1)) == flip).all()


def test_the_area_of_a_photo_is_an_option():
    image = noise(40, 40)
    augment = make_augmentation("photo", Preprocessing(40, 40, PLAIN.mean, PLAIN.std), area=[1, 1], flip=0)
    np.testing.assert_allclose(augment(image, 3), np.asarray(image).transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("photo", {"aera": [0.5, 1]}, "photo has no option 'aera'; known are area, flip; did you mean area?"),
        ("none", {"flip": 1}, "none has no option 'flip'; known are none"),
        ("photo", {"area": [0, 1]}, r"area is \[0, 1\]; give the smallest and the largest fraction"),
        ("photo", {"area": 0.5}, "area is 0.5"),
        ("crop", {"flip": 2}, "flip is 2; give a probability"),
    ],
)
def test_a_wrong_option_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_augmentation(name, PLAIN, **options)


@pytest.mark.parametrize("area", [0.16, 0.4, 1])
def test_the_smallest_crop_of_a_reduced_photo_has_twice_the_pixels_of_the_result(area, monkeypatch):
    augment = make_augmentation("photo", replace(PLAIN, decoding="reduced"), area=[area, 1])
    assert augment.least_side is not None
    assert make_augmentation("photo", PLAIN, area=[area, 1]).least_side is None
    crop = augment.pipeline.transforms[0]
    monkeypatch.setattr(crop, "scale", (area, area))  # the smallest
    random = np.random.default_rng(0)
    smallest = np.inf
    for shape in ((augment.least_side, augment.least_side, 3), (augment.least_side, 2 * augment.least_side, 3)):
        for _ in range(200):
            augment.pipeline.set_random_state(random, Random(int(random.integers(2**63))))
            left, top, right, bottom = crop.get_params_dependent_on_data({"shape": shape}, {"image": np.zeros(shape)})[
                "crop_coords"
            ]
            smallest = min(smallest, right - left, bottom - top)
    assert 2 * PLAIN.size - 1 <= smallest < 2.3 * PLAIN.size


@pytest.mark.parametrize("name", ["none", "character", "crop"])
def test_where_the_image_is_resized_first_training_reduces_it_like_the_evaluation(name):
    assert make_augmentation(name, replace(PLAIN, decoding="reduced")).least_side == 64
    assert make_augmentation(name, PLAIN).least_side is None
