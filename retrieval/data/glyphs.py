"""Characters of the fonts that come with matplotlib: a data set that needs no download.

    root/train/<U+XXXX>/00.png .. 11.png    720 classes
    root/test/<U+XXXX>/00.png .. 11.png     480 classes

A class is a character; its 12 views are 40 x 40 grey images, dark on light, in different faces (upright, bold, italic,
sans, serif, monospaced), slightly turned, scaled, sheared, shifted, blurred and grained. The size of a character is kept,
since it alone tells "c" from "C". Characters that look like another one in some face ("A" and the Greek alpha) are left
out. The images are a function of the fonts alone: no seed, and the same bytes each time.
"""

from __future__ import annotations

import hashlib
import math
import os
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from retrieval.data import folder as folder_reader
from retrieval.data.image_set import ImageSet
from retrieval.errors import DatasetError, RetrievalError
from retrieval.files import folder_in_one_piece

SIZE = 40  # pixels, of an image
CLASSES = 1_200
VIEWS = 12
TRAIN_SHARE = 0.6

_OVERSAMPLING = 3  # drawn this much larger, so that turning and shearing cost no sharpness
_EM = 26  # pixels, the size of the type
_LONGEST_SIDE = (6, 31)  # pixels of ink; smaller is a speck, larger is cut off when turned
_MIN_FACES = 8
_MAX_SIMILARITY = 0.92  # by eye: above it, characters of one face differ in a speck or not at all

_NO_CHARACTER = "\uffff"

_FULL_FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
_TEX_FACES = ("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10")  # in an encoding of their own beyond letters and digits


@dataclass(frozen=True, eq=False)
class Face:
    """A font and the characters it can draw."""

    font: ImageFont.FreeTypeFont
    characters: frozenset[str]
    missing: bytes  # what the font draws for a character that it lacks


def load_faces(names: Sequence[str] = (*_FULL_FACES, *_TEX_FACES)) -> list[Face]:
    """The faces of these names from matplotlib's font folder."""
    # Not at the top: reading images that exist needs no matplotlib, which takes a third of a second to import.
    import matplotlib
    from matplotlib.ft2font import FT2Font

    faces = []
    for name in names:
        path = str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"))
        characters = {chr(code) for code in FT2Font(path).get_charmap()}
        if name in _TEX_FACES:
            characters &= {*string.ascii_letters, *string.digits}
        # The basic layout engine is in every build of Pillow, so the pixels do not depend on the machine's libraries.
        font = ImageFont.truetype(path, _EM * _OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)
        missing = _draw_centred(font, _NO_CHARACTER).tobytes()
        faces.append(Face(font, frozenset(filter(_is_printed, characters)), missing))
    return faces


def _is_printed(character: str) -> bool:
    """Letters, numbers, punctuation and symbols; no spaces, combining marks, modifiers or control characters."""
    category = unicodedata.category(character)
    return category[0] in "LNPS" and category not in {"Lm", "Sk"}


def draw(face: Face, character: str) -> Image.Image | None:
    """The ink (255) of a character in the middle of a large square; None if the face cannot draw it legibly."""
    if character not in face.characters:
        return None
    sheet = _draw_centred(face.font, character)
    box = sheet.getbbox()
    smallest, largest = (limit * _OVERSAMPLING for limit in _LONGEST_SIDE)
    if box is None or not smallest <= max(box[2] - box[0], box[3] - box[1]) <= largest:
        return None
    # Some fonts list characters that they then draw as the empty box of a missing one.
    return None if sheet.tobytes() == face.missing else sheet


def _draw_centred(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    side = SIZE * _OVERSAMPLING
    left, top, right, bottom = font.getbbox(character)
    sheet = Image.new("L", (side, side))
    position = ((side - right - left) // 2, (side - bottom - top) // 2)
    ImageDraw.Draw(sheet).text(position, character, fill=255, font=font)
    # The box above counts the white space beside a character, this one its ink.
    left, top, right, bottom = sheet.getbbox() or (0, 0, side, side)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return sheet.crop((x, y, x + side, y + side))


def choose_characters(
    faces: Sequence[Face], candidates: Iterable[str] | None = None, count: int = CLASSES
) -> list[str]:
    """The first `count` candidates that enough faces draw and that no chosen one before them looks like.

    Looking alike is the cosine similarity of the slightly blurred ink in the face where it is largest. Candidates that
    more faces draw come first, then those of smaller code point, so that "A" wins over the Greek alpha.

    Args:
        faces: what the characters are drawn in.
        candidates: by default all that `_MIN_FACES` faces list.
        count: fewer are returned where fewer qualify.
    """
    listed = Counter(character for face in faces for character in face.characters)
    ordered = sorted(listed if candidates is None else set(candidates), key=ord)
    ordered = [character for character in ordered if listed[character] >= _MIN_FACES]
    similarity = np.zeros((len(ordered), len(ordered)), dtype=np.float32)
    num_faces = np.zeros(len(ordered), dtype=np.int64)
    for face in faces:
        sheets = {index: sheet for index, character in enumerate(ordered) if (sheet := draw(face, character))}
        if sheets:
            drawn = np.array(list(sheets))
            ink = np.stack([_blurred(sheet) for sheet in sheets.values()])
            block = np.ix_(drawn, drawn)
            similarity[block] = np.maximum(similarity[block], ink @ ink.T)
            num_faces[drawn] += 1
    chosen: list[int] = []
    for index in np.argsort(-num_faces, kind="stable").tolist():
        if (
            len(chosen) < count
            and num_faces[index] >= _MIN_FACES
            and np.all(similarity[index, chosen] < _MAX_SIMILARITY)
        ):
            chosen.append(index)
    return [ordered[index] for index in chosen]


def _blurred(sheet: Image.Image) -> np.ndarray:
    """The ink at the size of an image, as a unit vector."""
    image = sheet.reduce(_OVERSAMPLING).filter(ImageFilter.GaussianBlur(0.7))
    ink = np.asarray(image, dtype=np.float32).ravel()
    return ink / np.linalg.norm(ink)


def view(sheets: Sequence[Image.Image], character: str, number: int) -> Image.Image:
    """View `number` of a character: one of its drawings, disturbed as a function of the two alone."""
    order = np.random.default_rng(ord(character)).permutation(len(sheets))
    sheet = sheets[order[number % len(sheets)]]
    rng = np.random.default_rng([ord(character), number])
    angle, shear = math.radians(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15)
    scale = rng.uniform(0.9, 1.1)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # Pillow asks for the map from the place in the result to the place in the drawing.
    a, b, c, d = cos, cos * shear + sin, -sin, cos - sin * shear
    middle = sheet.width / 2
    x, y = middle + _OVERSAMPLING * rng.uniform(-2, 2, size=2)
    coefficients = (a, b, middle - a * x - b * y, c, d, middle - c * x - d * y)
    turned = sheet.transform(sheet.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    small = turned.filter(ImageFilter.GaussianBlur(_OVERSAMPLING * rng.uniform(0, 0.8))).reduce(_OVERSAMPLING)
    paper, ink, grain = rng.uniform(200, 255), rng.uniform(0, 90), rng.uniform(0, 16)
    grey = paper + (ink - paper) * (np.asarray(small) / 255) + grain * rng.standard_normal((SIZE, SIZE))
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def split_of(characters: Iterable[str]) -> dict[str, str]:
    """The split, "train" or "test", of each character: a fixed shuffle, the first `TRAIN_SHARE` of it is "train"."""
    shuffled = sorted(characters, key=lambda character: hashlib.sha256(character.encode()).digest())
    num_train = round(TRAIN_SHARE * len(shuffled))
    return {character: "train" if place < num_train else "test" for place, character in enumerate(shuffled)}


def generate(folder: str | Path, *, candidates: Iterable[str] | None = None) -> None:
    """Writes the data set into a new folder, whole or not at all; takes about 20 seconds on one core.

    Args:
        folder: must not exist.
        candidates: the characters to choose classes from; all by default.

    Raises:
        RetrievalError: the folder exists or cannot be written.
    """
    with folder_in_one_piece(folder) as root:
        faces = load_faces()
        for character, split in split_of(choose_characters(faces, candidates)).items():
            sheets = [sheet for face in faces if (sheet := draw(face, character))]
            class_folder = root / split / f"U+{ord(character):04X}"
            class_folder.mkdir(parents=True)
            for number in range(VIEWS):
                view(sheets, character, number).save(class_folder / f"{number:02}.png")


def read(root: str | Path | None = None) -> dict[str, ImageSet]:
    """The "train" and "test" images; without a root they are generated once into the cache folder.

    The cache is `$RETRIEVAL_CACHE`, else `$XDG_CACHE_HOME/retrieval`, else `~/.cache/retrieval`.

    Args:
        root: a folder that `generate` wrote.

    Raises:
        DatasetError: `root` does not hold the images, or the cache cannot be written.
    """
    if root is None:
        root = cache_folder() / "glyphs-v1"
        _generate_once(root)
    return folder_reader.read(root)


def cache_folder() -> Path:
    """The folder for what can be made again at any time; it need not exist."""
    if os.environ.get("RETRIEVAL_CACHE"):
        return Path(os.environ["RETRIEVAL_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrieval"


def _generate_once(root: Path) -> None:
    if root.is_dir():
        return
    try:
        generate(root)
    except RetrievalError as error:
        # Another process may have been faster; it wrote the same images.
        if not root.is_dir():
            raise DatasetError(f"{error}; or set RETRIEVAL_CACHE to a folder that can be written") from error
