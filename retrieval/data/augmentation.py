"""Random views of an image, for training."""

from __future__ import annotations

import inspect
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from retrieval.data.transforms import OVERSAMPLING, Preprocessing, normalise, prepare, resize, resize_and_crop
from retrieval.errors import did_you_mean

_NARROWEST = 3 / 4  # the smallest aspect ratio of a random crop


@dataclass(frozen=True)
class Augmentation:
    """A random view of an image, as a function of the image and a seed. Made by `make_augmentation`.

    Args:
        preprocessing: Size, statistics and interpolation of the result.
        pixels: Returns the input of the pipeline, (height, width, 3) uint8.
        pipeline: An `albumentations.Compose` whose result is (size, size, 3); None for no augmentation.
        smallest_crop: The smallest crop that the pipeline enlarges or shrinks to the result: its shorter side as a fraction of that
            of the image. None where the image is resized first, as in the evaluation.
    """

    preprocessing: Preprocessing
    pixels: Callable[[Image.Image, Preprocessing], np.ndarray]
    pipeline: Any
    smallest_crop: float | None = None

    @property
    def max_pixels(self) -> int | None:
        """The limit on the number of pixels of an image file."""
        return self.preprocessing.max_pixels

    @property
    def least_side(self) -> int | None:
        """The shorter side that a JPEG file keeps when it is decoded; None for its full size. See `retrieval.data.load_image`.

        The smallest crop keeps at least twice the pixels of the result, so that no view is made of a small image.
        """
        if self.preprocessing.least_side is None or self.smallest_crop is None:
            return self.preprocessing.least_side
        return math.ceil(OVERSAMPLING * self.preprocessing.size / self.smallest_crop)

    def __call__(self, image: Image.Image, seed: int | Sequence[int]) -> np.ndarray:
        """Returns the view for a seed.

        Args:
            image: An RGB image.
            seed: One or several integers, none negative. Equal seeds give equal pixels in any process and in any order.

        Returns:
            (3, size, size) float32.
        """
        if self.pipeline is None:
            return prepare(image, self.preprocessing)
        pixels = self.pixels(image, self.preprocessing)
        _require_rgb(pixels)
        # Compose seeded by a number would give all transforms the same random numbers, and create two generators for each,
        # which doubles the time. Shared generators avoid both.
        generator = np.random.default_rng(seed)
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        return normalise(self.pipeline(image=pixels)["image"], self.preprocessing)


def make_augmentation(name: str, preprocessing: Preprocessing, **options: Any) -> Augmentation:
    """Makes an augmentation, which can be sent to other processes.

    - "none": the preprocessing of the evaluation.
    - "character": the preprocessing, followed by a small rotation, scaling, shear and shift. Edge pixels are repeated.
    - "photo": a random crop of 16 % to 100 % of the area with an aspect ratio from 3:4 to 4:3, and a horizontal flip with
      probability 0.5.
    - "crop": the resizing of the evaluation, a crop at a random position, and a horizontal flip with probability 0.5.

    Args:
        name: One of `AUGMENTATIONS`.
        preprocessing: Size, statistics and interpolation of the result.
        options: For "photo", `area`, the smallest and the largest fraction of the area. For "photo" and "crop", `flip`, the
            probability of a flip.

    Raises:
        ValueError: There is no augmentation of this name, or it has no such option, or a value is not allowed.
    """
    if name not in AUGMENTATIONS:
        hint = did_you_mean(name, AUGMENTATIONS) or f"; choose one of {', '.join(AUGMENTATIONS)}"
        raise ValueError(f"no augmentation is called {name!r}{hint}")
    known = list(inspect.signature(AUGMENTATIONS[name]).parameters)[1:]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"{name} has no option {option!r}; known are {listed}{did_you_mean(option, known)}")
    return AUGMENTATIONS[name](preprocessing, **options)


def _none(preprocessing: Preprocessing) -> Augmentation:
    return Augmentation(preprocessing, resize_and_crop, None)


def _character(preprocessing: Preprocessing) -> Augmentation:
    albumentations, cv2 = _import()
    transform = albumentations.Affine(
        rotate=(-10, 10),
        scale=(0.85, 1.15),
        shear=(-8, 8),
        translate_percent=(-0.08, 0.08),
        interpolation=_filter(preprocessing),
        border_mode=cv2.BORDER_REPLICATE,
        p=1,
    )
    return Augmentation(preprocessing, resize_and_crop, albumentations.Compose([transform], strict=True))


def _photo(preprocessing: Preprocessing, area: Sequence[float] = (0.16, 1), flip: float = 0.5) -> Augmentation:
    if not (isinstance(area, (list, tuple)) and len(area) == 2 and 0 < area[0] <= area[1] <= 1):
        raise ValueError(f"area is {area!r}; give the smallest and the largest fraction, above 0 and at most 1")
    albumentations, _ = _import()
    crop = albumentations.RandomResizedCrop(
        (preprocessing.size, preprocessing.size),
        scale=tuple(area),
        ratio=(_NARROWEST, 1 / _NARROWEST),
        interpolation=_filter(preprocessing),
        area_for_downscale="image",
        p=1,
    )
    pipeline = albumentations.Compose([crop, _flip(flip)], strict=True)
    # Of a square image. A crop of a longer one has longer sides.
    smallest = math.sqrt(area[0] * max(area[0], _NARROWEST))
    return Augmentation(preprocessing, _whole, pipeline, smallest_crop=smallest)


def _crop(preprocessing: Preprocessing, flip: float = 0.5) -> Augmentation:
    albumentations, _ = _import()
    crop = albumentations.RandomCrop(preprocessing.size, preprocessing.size, p=1)
    return Augmentation(preprocessing, _resized, albumentations.Compose([crop, _flip(flip)], strict=True))


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "none": _none,
    "character": _character,
    "photo": _photo,
    "crop": _crop,
}


def _import() -> tuple[Any, Any]:
    """Imports albumentations and OpenCV only when they are needed, since that takes seconds."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks its server for the latest version
    import albumentations
    import cv2

    return albumentations, cv2


def _flip(probability: float) -> Any:
    if not 0 <= probability <= 1:
        raise ValueError(f"flip is {probability}; give a probability from 0 to 1")
    return _import()[0].HorizontalFlip(p=probability)


def _filter(preprocessing: Preprocessing) -> int:
    _, cv2 = _import()
    return int(cv2.INTER_CUBIC if preprocessing.interpolation == "bicubic" else cv2.INTER_LINEAR)


def _whole(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    return np.array(image)


def _resized(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    return np.array(resize(image, preprocessing))


def _require_rgb(pixels: np.ndarray) -> None:
    # albumentations accepts floats, greyscale and alpha without an error, and returns another shape or range.
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; give an 8-bit RGB image, e.g. from load_image")
