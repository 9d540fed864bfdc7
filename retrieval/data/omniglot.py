"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al., Science 2015).

    root/images_background/<alphabet>/<character>/*.png    train: 964 classes, 19,280 images
    root/images_evaluation/<alphabet>/<character>/*.png    test: 659 classes, 13,180 images

The two archives are the authors' division by alphabet. The super-class of a character is its alphabet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.data.image_set import ImageSet
from retrieval.errors import DatasetError


def read(root: str | Path) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images of the official folders. The name of a class is "<alphabet>/<character>".

    Args:
        root: The folder in which `images_background.zip` and `images_evaluation.zip` were unpacked.

    Raises:
        DatasetError: One of the folders is missing or has no images.
    """
    root = Path(root)
    return {"train": _read_part(root, "images_background"), "test": _read_part(root, "images_evaluation")}


def _read_part(root: Path, part: str) -> ImageSet:
    pairs = []
    for path in sorted((root / part).glob("*/*/*.png")):
        alphabet, character, name = path.parts[-3:]
        if not any(word.startswith(".") for word in (alphabet, character, name)):
            pairs.append((f"{part}/{alphabet}/{character}/{name}", f"{alphabet}/{character}"))
    if not pairs:
        raise DatasetError(
            f"{root / part}: no images; expected {part}/<alphabet>/<character>/*.png: unpack {part}.zip in {root}"
        )
    alphabets = [name.partition("/")[0] for _, name in pairs]
    return ImageSet.from_pairs(root, pairs, np.unique(alphabets, return_inverse=True)[1])
