"""Unpacks the shared test data into the layout in which the data sets are published.

    python scripts/unpack_test_data.py SHARED_DATA OUT [cars196|cub200|emoji|omniglot]

SHARED_DATA holds `omniglot/omniglot_bits105.npz`, or `cub200/`, `cars196/` or `emoji/` with their lists and images. OUT
gets a folder per data set, of the same name, which appears only when it is complete; one that is there already is kept.
"""

from __future__ import annotations

import argparse
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 105  # pixels, of an Omniglot drawing


def unpack_omniglot(shared: Path, folder: Path) -> None:
    """Writes the 32,460 drawings as 1-bit PNG files, ink black: <folder>/images_{background,evaluation}/<alphabet>/<character>/.

    Args:
        shared: the folder with `omniglot/omniglot_bits105.npz`: bits (images, bytes), label (images,), names (classes,).
        folder: must exist.
    """
    with np.load(shared / "omniglot" / "omniglot_bits105.npz") as arrays:
        bits, labels, names = arrays["bits"], arrays["label"], arrays["names"]
    drawers: Counter[int] = Counter()
    for name in names:
        (folder / name).mkdir(parents=True)
    for row, label in zip(bits, labels.tolist(), strict=True):
        drawers[label] += 1
        ink = np.unpackbits(row)[: SIDE * SIDE].reshape(SIDE, SIDE)
        Image.fromarray(ink == 0).save(folder / names[label] / f"{label + 1:04}_{drawers[label]:02}.png")


def unpack_cub200(shared: Path, folder: Path) -> None:
    """Writes the lists and the images of the classes 1-50: <folder>/CUB_200_2011/{*.txt,images/}.

    Args:
        shared: the folder with `cub200/*.txt` and `cub200/images_classes_1_to_50.tar`.
        folder: must exist.
    """
    with tarfile.open(shared / "cub200" / "images_classes_1_to_50.tar") as archive:
        archive.extractall(folder, filter="data")
    for path in sorted((shared / "cub200").glob("*.txt")):
        shutil.copyfile(path, folder / "CUB_200_2011" / path.name)


def unpack_cars196(shared: Path, folder: Path) -> None:
    """Writes the lists and the images of the train half: <folder>/{devkit/*.mat,cars_train/}; read it with halves=["train"].

    Args:
        shared: the folder with `cars196/devkit/*.mat`, `cars196/cars_test_annos_withlabels.mat` and
            `cars196/images_train_long160.tar`.
        folder: must exist.
    """
    with tarfile.open(shared / "cars196" / "images_train_long160.tar") as archive:
        archive.extractall(folder, filter="data")
    (folder / "devkit").mkdir()
    for path in [*(shared / "cars196" / "devkit").glob("*.mat"), shared / "cars196" / "cars_test_annos_withlabels.mat"]:
        shutil.copyfile(path, folder / "devkit" / path.name)


def unpack_emoji(shared: Path, folder: Path) -> None:
    """Writes the lists and the images in the layout of Stanford Online Products: <folder>/{Ebay_*.txt,images/}.

    Args:
        shared: the folder with `emoji/Ebay_*.txt` and `emoji/emoji_images_64.tar`.
        folder: must exist.
    """
    with tarfile.open(shared / "emoji" / "emoji_images_64.tar") as archive:
        archive.extractall(folder, filter="data")
    for path in sorted((shared / "emoji").glob("*.txt")):
        shutil.copyfile(path, folder / path.name)


UNPACK: dict[str, Callable[[Path, Path], None]] = {
    "cars196": unpack_cars196,
    "cub200": unpack_cub200,
    "emoji": unpack_emoji,
    "omniglot": unpack_omniglot,
}


def unpack(name: str, shared: Path, out: Path) -> Path:
    """The folder `out`/`name` with a data set in it, unpacked if it is not there yet."""
    folder = out / name
    if folder.is_dir():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        new = Path(temporary) / name
        new.mkdir()
        UNPACK[name](shared, new)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared_data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name", nargs="?", choices=sorted(UNPACK), help="one data set; all by default")
    arguments = parser.parse_args()
    for name in [arguments.name] if arguments.name else sorted(UNPACK):
        print(unpack(name, arguments.shared_data, arguments.out))


if __name__ == "__main__":
    main()
