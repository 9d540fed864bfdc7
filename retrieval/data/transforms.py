"""From an RGB image to the network's input: prepared the same way every time, or augmented by lot for training."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from retrieval.errors import did_you_mean

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_LONGEST = 16  # times its width that an image is looked at

AUGMENTATIONS = ("none", "character", "photo")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input where nothing is left to chance.

    Args:
        resize: pixels of the shorter side after resizing.
        size: side of the square cut out of the middle, at most `resize`.
        mean: of red, green and blue on a scale from 0 to 1; subtracted.
        std: of red, green and blue on the same scale; divided by.
        interpolation: "bilinear" or "bicubic", with antialiasing.

    Raises:
        ValueError: a value cannot be used; the message begins with its name.
    """

    resize: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("resize", "size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number of pixels, at least 1")
        if self.size > self.resize:
            raise ValueError(f"size is {self.size}, more than resize {self.resize}; the crop must lie inside the image")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; give three numbers above 0")
        if not isinstance(self.interpolation, str) or self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation is {self.interpolation!r}; choose {' or '.join(_FILTERS)}")

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them; `from_dict` reads them back."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """Reads what `to_dict` returned.

        Raises:
            ValueError: a key is missing, unknown or of an unusable value; the message names it.
        """
        if not isinstance(values, dict):
            raise ValueError(f"preprocessing is a {type(values).__name__}; give an object of {_keys(cls)}")
        for key in values.keys() - set(_keys(cls)):
            raise ValueError(f"preprocessing has an unknown key {key!r}{did_you_mean(str(key), _keys(cls))}")
        for key in _keys(cls):
            if key not in values:
                raise ValueError(f"preprocessing lacks the key {key!r}")
        return cls(**values)


def prepare(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes the shorter side, cuts out the middle and normalises.

    The result equals, bit for bit, that of torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize` on a PIL image. Only of
    an image more than 16 times as long as wide is the middle cut out first, since the memory to resize it whole has no bound.

    Args:
        image: an RGB image.
        preprocessing: sizes and statistics.

    Returns:
        (3, size, size) float32.
    """
    return _normalise(_resize_and_crop(image, preprocessing), preprocessing)


@dataclass(frozen=True)
class Augmentation:
    """A random view of an image, decided by the image and a seed alone. Made by `make_augmentation`."""

    preprocessing: Preprocessing
    pipeline: Any  # an albumentations.Compose, or None
    crops: bool  # whether the pipeline itself brings the image to its size

    def __call__(self, image: Image.Image, seed: int | Sequence[int]) -> np.ndarray:
        """Draws the view that belongs to the seed.

        Args:
            image: an RGB image.
            seed: a whole number or several, none negative. The same gives the same pixels in any process and in any order.

        Returns:
            (3, size, size) float32.
        """
        if self.pipeline is None:
            return prepare(image, self.preprocessing)
        pixels = np.array(image) if self.crops else _resize_and_crop(image, self.preprocessing)
        _require_rgb(pixels)
        # Seeding Compose by a number would start every transform on the same draws, and build two generators for each: twice
        # the time. Generators that all transforms share do neither.
        generator = np.random.default_rng(seed)
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        return _normalise(self.pipeline(image=pixels)["image"], self.preprocessing)


def make_augmentation(name: str, preprocessing: Preprocessing) -> Augmentation:
    """Builds an augmentation; the result can be sent to other processes.

    "none" prepares as in evaluation. "character" prepares, then turns, scales, shears and shifts a little; what comes into view
    continues the edge. "photo" cuts out 16 % to 100 % of the area, at an aspect ratio from 3:4 to 4:3, and flips left to right
    half of the time.

    Args:
        name: one of `AUGMENTATIONS`.
        preprocessing: size, statistics and interpolation of the result.

    Raises:
        ValueError: no augmentation has this name.
    """
    if name not in AUGMENTATIONS:
        hint = did_you_mean(name, AUGMENTATIONS) or f"; choose one of {', '.join(AUGMENTATIONS)}"
        raise ValueError(f"no augmentation is called {name!r}{hint}")
    if name == "none":
        return Augmentation(preprocessing, None, crops=False)
    # Imported here since it takes seconds, which evaluation and search need not spend; unless told, it would call its maker.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    interpolation = cv2.INTER_CUBIC if preprocessing.interpolation == "bicubic" else cv2.INTER_LINEAR
    if name == "character":
        transforms = [
            albumentations.Affine(
                rotate=(-10, 10),
                scale=(0.85, 1.15),
                shear=(-8, 8),
                translate_percent=(-0.08, 0.08),
                interpolation=interpolation,
                border_mode=cv2.BORDER_REPLICATE,
                p=1,
            )
        ]
    else:
        size = (preprocessing.size, preprocessing.size)
        transforms = [
            albumentations.RandomResizedCrop(
                size,
                scale=(0.16, 1),
                ratio=(3 / 4, 4 / 3),
                interpolation=interpolation,
                area_for_downscale="image",
                p=1,
            ),
            albumentations.HorizontalFlip(p=0.5),
        ]
    return Augmentation(preprocessing, albumentations.Compose(transforms, strict=True), crops=name == "photo")


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """(size, size, 3) uint8."""
    if image.mode != "RGB":
        raise ValueError(f"the image is of mode {image.mode}; read it by load_image, or convert it to RGB")
    short = min(image.size)
    if max(image.size) > _LONGEST * short:
        image = _middle(image, min(image.width, _LONGEST * short), min(image.height, _LONGEST * short))
    width, height = (int(preprocessing.resize * length / short) for length in image.size)
    resized = image.resize((width, height), _FILTERS[preprocessing.interpolation])
    return np.array(_middle(resized, preprocessing.size, preprocessing.size))


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(size, size, 3) uint8 to (3, size, size) float32, in the arithmetic of torchvision's `ToTensor` and `Normalize`."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    planes /= 255
    planes -= np.array(preprocessing.mean, dtype=np.float32)[:, None, None]
    planes /= np.array(preprocessing.std, dtype=np.float32)[:, None, None]
    return planes


def _require_rgb(pixels: np.ndarray) -> None:
    # albumentations takes floats, greyscale and alpha without a word, and returns something else.
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; give an 8-bit RGB image, e.g. from load_image")


def _three_numbers(name: str, values: Any) -> tuple[float, float, float]:
    numbers = values if isinstance(values, (list, tuple)) else ()
    fits = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)
    if len(numbers) != 3 or not fits or not all(math.isfinite(value) for value in numbers):
        raise ValueError(f"{name} is {values!r}; give three finite numbers, of red, green and blue")
    red, green, blue = map(float, numbers)
    return red, green, blue


def _keys(cls: type[Preprocessing]) -> list[str]:
    return [field.name for field in fields(cls)]
