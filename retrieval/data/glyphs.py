"""Characters of the fonts in matplotlib: a data set that needs no download.

    root/train/<U+XXXX>/00.png .. 11.png    720 classes
    root/test/<U+XXXX>/00.png .. 11.png     480 classes

A class is a character. Its 12 views are 40 x 40 grey images, dark on light, in different faces (upright, bold, italic, sans,
serif, monospaced), slightly rotated, scaled, sheared, shifted, blurred and with noise. The size of a character is kept,
since only the size distinguishes "c" from "C". Characters that look like another one in some face ("A" and the Greek alpha)
are left out. The images depend only on the fonts and on Pillow. There is no seed, and every run writes the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from retrieval.data import folder as folder_reader
from retrieval.data.image_set import ImageSet
from retrieval.data.typeface import OVERSAMPLING, SIZE, choose_characters, draw, load_faces
from retrieval.errors import DatasetError, RetrievalError
from retrieval.files import folder_in_one_piece, is_claimed

CLASSES = 1_200
VIEWS = 12
TRAIN_SHARE = 0.6


def view(sheets: Sequence[Image.Image], character: str, number: int) -> Image.Image:
    """View `number` of a character: one of its drawings, distorted as a function of the character and the number."""
    order = np.random.default_rng(ord(character)).permutation(len(sheets))
    sheet = sheets[order[number % len(sheets)]]
    rng = np.random.default_rng([ord(character), number])
    angle, shear = math.radians(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15)
    scale = rng.uniform(0.9, 1.1)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # Pillow expects the map from positions in the result to positions in the drawing.
    a, b, c, d = cos, cos * shear + sin, -sin, cos - sin * shear
    middle = sheet.width / 2
    x, y = middle + OVERSAMPLING * rng.uniform(-2, 2, size=2)
    coefficients = (a, b, middle - a * x - b * y, c, d, middle - c * x - d * y)
    turned = sheet.transform(sheet.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    small = turned.filter(ImageFilter.GaussianBlur(OVERSAMPLING * rng.uniform(0, 0.8))).reduce(OVERSAMPLING)
    paper, ink, grain = rng.uniform(200, 255), rng.uniform(0, 90), rng.uniform(0, 16)
    grey = paper + (ink - paper) * (np.asarray(small) / 255) + grain * rng.standard_normal((SIZE, SIZE))
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def split_of(characters: Iterable[str]) -> dict[str, str]:
    """The split of each character: in a fixed random order, the first `TRAIN_SHARE` of them are "train", the others "test"."""
    shuffled = sorted(characters, key=lambda character: hashlib.sha256(character.encode()).digest())
    num_train = round(TRAIN_SHARE * len(shuffled))
    return {character: "train" if position < num_train else "test" for position, character in enumerate(shuffled)}


def generate(folder: str | Path, *, candidates: Iterable[str] | None = None) -> None:
    """Writes the data set to a new folder, which appears only when it is complete. Takes about 20 seconds on one core.

    Args:
        folder: The folder, which must not exist.
        candidates: The characters to choose the classes from; by default all characters of the fonts.

    Raises:
        RetrievalError: The folder exists or cannot be written.
    """
    with folder_in_one_piece(folder) as root:
        faces = load_faces()
        for character, split in split_of(choose_characters(faces, count=CLASSES, candidates=candidates)).items():
            sheets = [sheet for face in faces if (sheet := draw(face, character))]
            class_folder = root / split / f"U+{ord(character):04X}"
            class_folder.mkdir(parents=True)
            for number in range(VIEWS):
                view(sheets, character, number).save(class_folder / f"{number:02}.png")


def read(root: str | Path | None = None) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images; without a root, they are generated once in the cache folder.

    The cache is `$RETRIEVAL_CACHE`, else `$XDG_CACHE_HOME/retrieval`, else `~/.cache/retrieval`.

    Args:
        root: A folder that `generate` wrote.

    Raises:
        DatasetError: `root` does not contain the images, or the cache cannot be written.
    """
    if root is not None:
        return _read_folders(root)
    root = cache_folder() / "glyphs-v1"
    _generate_once(root)
    splits = _read_folders(root)
    found = sum(len(images) for images in splits.values())
    if found != CLASSES * VIEWS:
        raise DatasetError(
            f"{root}: has {found} images, expected {CLASSES * VIEWS}; delete the folder to have it generated again"
        )
    return splits


def _read_folders(root: str | Path) -> dict[str, ImageSet]:
    splits = folder_reader.read(root)
    if isinstance(splits, ImageSet) or list(splits) != ["train", "test"]:
        raise DatasetError(
            f"{root}: expected the folders train and test of glyphs; read your own images with data.name=folder"
        )
    return splits


def cache_folder() -> Path:
    """The folder for files that can be generated again at any time; it may not exist yet."""
    if os.environ.get("RETRIEVAL_CACHE"):
        return Path(os.environ["RETRIEVAL_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrieval"


def _generate_once(root: Path) -> None:
    while not root.is_dir():
        try:
            generate(root)
        except RetrievalError as error:
            # Another process writes the same images, or has written them in the meantime.
            # The claim is asked first: it ends after the images have appeared.
            if not is_claimed(root) and not root.is_dir():
                raise DatasetError(f"{error}; or set RETRIEVAL_CACHE to a folder that can be written") from error
            time.sleep(0.1)
