from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from retrieval.data import (
    ImageSet,
    Preprocessing,
    evaluation_loader,
    load_image,
    make_augmentation,
    prepare,
    training_loader,
)
from retrieval.errors import DatasetError
from retrieval.model import Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Preprocessing(32, 24, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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
        with pytest.raises(ValueError, match=f"mode {mode}; read it with load_image"):
            prepare(Image.new(mode, (30, 30)), PLAIN)


def test_a_preprocessing_is_a_transform_of_images():
    tensor = PLAIN(noise(40, 50))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), prepare(noise(40, 50), PLAIN))
    images = ImageSet.from_dataset([(noise(40, 50), 0), (noise(60, 30), 1)]).with_transform(PLAIN)
    ((pixels, labels),) = DataLoader(images, batch_size=2)
    assert (pixels.shape, labels.tolist()) == ((2, 3, 24, 24), [0, 1])


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


def test_a_limit_on_pixels_is_kept_in_the_dictionary_only_if_there_is_one():
    assert "max_pixels" not in PLAIN.to_dict()
    large = replace(PLAIN, max_pixels=10**9)
    assert large.to_dict()["max_pixels"] == 10**9
    assert Preprocessing.from_dict(large.to_dict()) == large
    assert Preprocessing.from_dict(PLAIN.to_dict()) == PLAIN
    for limit in (0, -1, 2**30 + 1, 1.5, True, "many"):
        with pytest.raises(ValueError, match=r"max_pixels is .*; give an integer number of pixels"):
            replace(PLAIN, max_pixels=limit)


@pytest.mark.parametrize("limit", [1200, None])
def test_training_evaluation_and_queries_read_an_image_by_the_limit_of_the_preprocessing(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    noise(40, 30).save(tmp_path / "a.png")
    images = ImageSet.from_pairs(tmp_path, [("a.png", "a")])
    preprocessing = replace(PLAIN, max_pixels=limit)
    model, augmentation = Model(nn.Flatten(), preprocessing), make_augmentation("none", preprocessing)
    batch = [(0, np.array([0]))]
    for read in (
        lambda: next(iter(training_loader(images, batch, augmentation, seed=0, workers=0)))[0],
        lambda: next(iter(evaluation_loader(images, preprocessing, batch_size=1, workers=0))),
        lambda: images.with_transform(preprocessing)[0][0],
        lambda: model.encode(images),
        lambda: model.encode([tmp_path / "a.png"]),
    ):
        if limit is None:
            with pytest.raises(DatasetError, match=r"raise image\.max_pixels"):
                read()
        else:
            pixels = np.asarray(read()).ravel()
            expected = prepare(noise(40, 30), preprocessing).ravel()
            np.testing.assert_allclose(
                pixels, expected * (np.linalg.norm(pixels) / np.linalg.norm(expected)), rtol=1e-5
            )


def test_a_very_long_image_above_the_limit_of_pillow_is_cropped(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert prepare(Image.new("RGB", (2000, 10), "white"), PLAIN).shape == (3, 24, 24)


def test_the_decoding_is_kept_in_the_dictionary_only_if_it_is_reduced():
    assert "decoding" not in PLAIN.to_dict()
    assert PLAIN.least_side is None
    reduced = replace(PLAIN, decoding="reduced")
    assert reduced.to_dict()["decoding"] == "reduced"
    assert reduced.least_side == 64
    assert Preprocessing.from_dict(reduced.to_dict()) == reduced
    for decoding in ("half", None, 1, ["full"]):
        with pytest.raises(ValueError, match=r"decoding is .*; choose full or reduced"):
            replace(PLAIN, decoding=decoding)


@pytest.mark.parametrize("decoding", ["full", "reduced"])
def test_training_evaluation_and_queries_decode_an_image_alike(tmp_path, decoding):
    noise(20, 15).resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg")
    images = ImageSet.from_pairs(tmp_path, [("a.jpg", "a")])
    preprocessing = replace(PLAIN, decoding=decoding)
    model, augmentation = Model(nn.Flatten(), preprocessing), make_augmentation("none", preprocessing)
    decoded = load_image(tmp_path / "a.jpg", least_side=preprocessing.least_side)
    assert decoded.size == ((400, 300) if decoding == "full" else (100, 75))
    expected = prepare(decoded, preprocessing)
    unit = expected.ravel() / np.linalg.norm(expected)
    batch = [(0, np.array([0]))]
    np.testing.assert_array_equal(
        next(iter(training_loader(images, batch, augmentation, seed=0, workers=0)))[0][0], expected
    )
    np.testing.assert_array_equal(
        next(iter(evaluation_loader(images, preprocessing, batch_size=1, workers=0)))[0], expected
    )
    np.testing.assert_array_equal(images.with_transform(preprocessing)[0][0], expected)
    np.testing.assert_allclose(model.encode(images)[0], unit, rtol=1e-5)
    np.testing.assert_allclose(model.encode(tmp_path / "a.jpg"), unit, rtol=1e-5)
