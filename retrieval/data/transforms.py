"""The deterministic preprocessing from an RGB image to the input of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retrieval.errors import did_you_mean

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

MOST_PIXELS = 2**30  # 3 GB
DECODINGS = ("full", "reduced")
OVERSAMPLING = 2  # pixels of a reduced JPEG file for each pixel of the resized image, at least

_LARGEST = float(np.finfo(np.float32).max)
_OPTIONAL = {"max_pixels": None, "decoding": "full"}  # the keys that `from_dict` does without, and their values
_LONGEST = 16  # the largest ratio of the sides of an image that is resized whole


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic preprocessing: resize, centre crop, normalisation.

    A `Preprocessing` is a function from an RGB image to a tensor (3, size, size), and so a transform for `ImageSet`.

    Args:
        resize: The shorter side after resizing, in pixels.
        size: The side of the square centre crop, at most `resize`.
        mean: The mean of red, green and blue on a scale from 0 to 1, which is subtracted.
        std: The standard deviation on the same scale, by which the result is divided.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        max_pixels: The limit on the number of pixels of an image file that is read for it, at most 2**30; see
            `retrieval.data.load_image`. None is Pillow's limit.
        decoding: "full", or "reduced": a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, as long as its shorter side keeps
            twice the pixels of `resize`. This is 3 to 5 times as fast for large photographs, and changes the resized image by less
            than a grey level on average. Images in memory are not affected.

    Raises:
        ValueError: A value cannot be used. The message begins with its name.

    Examples:
        >>> import retrieval
        >>> from PIL import Image
        >>> preprocessing = retrieval.Preprocessing(resize=36, size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> preprocessing(Image.new("RGB", (64, 48), "white")).shape
        torch.Size([3, 32, 32])
    """

    resize: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    max_pixels: int | None = None
    decoding: str = "full"

    def __post_init__(self) -> None:
        for name in ("resize", "size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give an integer number of pixels, at least 1")
        if self.size > self.resize:
            raise ValueError(f"size is {self.size}, more than resize {self.resize}; the crop must lie inside the image")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; give three numbers above 0")
        limit = self.max_pixels
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_PIXELS
        ):
            raise ValueError(
                f"max_pixels is {limit!r}; give an integer number of pixels, from 1 to {MOST_PIXELS}, or None"
            )
        if not isinstance(self.interpolation, str) or self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation is {self.interpolation!r}; choose {' or '.join(_FILTERS)}")
        if not isinstance(self.decoding, str) or self.decoding not in DECODINGS:
            raise ValueError(f"decoding is {self.decoding!r}; choose {' or '.join(DECODINGS)}")

    @property
    def least_side(self) -> int | None:
        """The shorter side that a JPEG file keeps when it is decoded; None for its full size. See `retrieval.data.load_image`."""
        return OVERSAMPLING * self.resize if self.decoding == "reduced" else None

    def __call__(self, image: Image.Image) -> Tensor:
        """Applies the preprocessing to an RGB image; see `prepare`. Returns (3, size, size) float32."""
        return torch.from_numpy(prepare(image, self))

    def to_dict(self) -> dict[str, Any]:
        """The values in types of JSON; `from_dict` is the inverse.

        `max_pixels` and `decoding` are left out at their defaults, because earlier versions do not know these keys.
        """
        values = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        return {key: value for key, value in values.items() if key not in _OPTIONAL or value != _OPTIONAL[key]}

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """Makes the preprocessing from the result of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or its value cannot be used. The message names it.
        """
        if not isinstance(values, dict):
            raise ValueError(f"preprocessing is a {type(values).__name__}; give an object of {_keys(cls)}")
        for key in values.keys() - set(_keys(cls)):
            raise ValueError(f"preprocessing has an unknown key {key!r}{did_you_mean(str(key), _keys(cls))}")
        for key in _keys(cls):
            if key not in values and key not in _OPTIONAL:
                raise ValueError(f"preprocessing lacks the key {key!r}")
        return cls(**values)


def prepare(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes the shorter side, crops the centre and normalises.

    The result is bit-for-bit that of torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize` on a PIL image. The only
    exception are images more than 16 times as long as wide. Their centre is cropped before resizing to bound the memory.

    Args:
        image: An RGB image.
        preprocessing: Sizes and statistics.

    Returns:
        (3, size, size) float32.
    """
    return normalise(resize_and_crop(image, preprocessing), preprocessing)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The centre of the resized image: (size, size, 3) uint8."""
    return np.array(_centre(resize(image, preprocessing), preprocessing.size, preprocessing.size))


def resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The image with its shorter side resized; a very long image is cropped to its centre first."""
    if image.mode != "RGB":
        raise ValueError(f"the image is of mode {image.mode}; read it with load_image, or convert it to RGB")
    short = min(image.size)
    if max(image.size) > _LONGEST * short:
        width, height = (min(length, _LONGEST * short) for length in image.size)
        left, top = _corner(image, width, height)
        # Not `crop`, which has Pillow's limit on the number of pixels.
        image = Image.fromarray(np.asarray(image)[top : top + height, left : left + width])
    width, height = (int(preprocessing.resize * length / short) for length in image.size)
    return image.resize((width, height), _FILTERS[preprocessing.interpolation])


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = _corner(image, width, height)
    return image.crop((left, top, left + width, top + height))


def _corner(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Left and top of the centre of that size."""
    return round((image.width - width) / 2), round((image.height - height) / 2)


def normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(size, size, 3) uint8 to (3, size, size) float32, in the arithmetic of torchvision's `ToTensor` and `Normalize`."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    planes /= 255
    planes -= np.array(preprocessing.mean, dtype=np.float32)[:, None, None]
    planes /= np.array(preprocessing.std, dtype=np.float32)[:, None, None]
    return planes


def _three_numbers(name: str, values: Any) -> tuple[float, float, float]:
    numbers = values if isinstance(values, (list, tuple)) else ()
    fits = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)
    if len(numbers) != 3 or not fits or not all(abs(value) <= _LARGEST for value in numbers):  # False for NaN
        raise ValueError(f"{name} is {values!r}; give three finite numbers, for red, green and blue")
    red, green, blue = map(float, numbers)
    return red, green, blue


def _keys(cls: type[Preprocessing]) -> list[str]:
    return [field.name for field in fields(cls)]
