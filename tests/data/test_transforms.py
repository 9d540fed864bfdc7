from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from retrieval.data import AUGMENTATIONS, Preprocessing, make_augmentation, prepare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Preprocessing(32, 24, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RANDOM = [name for name in AUGMENTATIONS if name != "none"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sizes() -> Iterator[tuple[int, int, int, int]]:
    generator = np.random.default_rng(1)
    for _ in range(25):
        width, height, resize = (int(value) for value in generator.integers(20, 120, 3))
        yield width, height, resize, int(generator.integers(1, resize + 1))
    yield 1, 16, 5, 5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preparing_equals_torchvision_bit_for_bit(interpolation):
    mode = transforms.InterpolationMode(interpolation)
    for width, height, resize, size in sizes():
        reference = transforms.Compose(
            [
                transforms.Resize(resize, mode),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        image = noise(width, height)
        prepared = prepare(image, Preprocessing(resize, size, MEAN, STD, interpolation))
        assert prepared.dtype == np.float32
        assert prepared.flags.c_contiguous
        np.testing.assert_array_equal(prepared, reference(image).numpy())


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1)])
def test_of_an_image_like_a_thread_only_the_middle_is_resized(monkeypatch, size):
    asked_for = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, *args: asked_for.append(max(size)) or resize(image, size, *args)
    )
    image = Image.new("RGB", size, "white")
    image.paste("black", (0, 0, max(size[0] // 3, 1), max(size[1] // 3, 1)))
    np.testing.assert_array_equal(prepare(image, PLAIN), np.ones((3, 24, 24)))
    assert asked_for == [16 * 32]


def test_an_image_that_is_not_rgb_is_refused():
    for mode in ("L", "RGBA", "F"):
        with pytest.raises(ValueError, match=f"mode {mode}; read it by load_image"):
            prepare(Image.new(mode, (30, 30)), PLAIN)
        for name in AUGMENTATIONS:
            with pytest.raises(ValueError, match="RGB"):
                make_augmentation(name, PLAIN)(Image.new(mode, (30, 30)), 0)


def test_preprocessing_survives_json():
    preprocessing = Preprocessing(256, 224, MEAN, STD, "bicubic")
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": None}, "lacks the key 'resize'"),
        ({"sise": 3}, "unknown key 'sise'; did you mean size"),
        ({"resize": 0}, "resize is 0"),
        ({"size": 2.5}, "size is 2.5"),
        ({"size": True}, "size is True"),
        ({"size": 33}, "size is 33, more than resize 32"),
        ({"mean": [0, 1]}, r"mean is \[0, 1\]"),
        ({"mean": "abc"}, "mean is 'abc'"),
        ({"mean": [0, float("nan"), 0]}, "mean is"),
        ({"std": [1, 1, 0]}, r"std is .* above 0"),
        ({"std": 1}, "std is 1"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'; choose bilinear or bicubic"),
        ({"interpolation": ["bilinear"]}, "interpolation is"),
    ],
)
def test_bad_preprocessing_is_refused_by_the_name_of_its_key(change, message):
    values = {key: value for key, value in (PLAIN.to_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(values)


def test_preprocessing_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="preprocessing is a list"):
        Preprocessing.from_dict([1])


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


@pytest.mark.parametrize("name", RANDOM)
def test_another_process_draws_the_same_view(name):
    image, augment = noise(40, 50), make_augmentation(name, PLAIN)
    augment(image, 1)  # what was drawn before does not matter
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
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
