"""The fonts in matplotlib: the characters that they can draw, and which of them look different."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 40  # pixels, of an image
OVERSAMPLING = 3  # drawings are larger by this factor, so that rotation and shear do not blur them

_EM = 26  # pixels, the font size
_LONGEST_SIDE = (6, 31)  # pixels of ink; smaller ones are not legible, larger ones are cut off by rotation
_MIN_FACES = 8  # that can draw a character, so that the views of a class differ
_ALIKE_IN_ONE_FACE = 0.97  # cosine similarity; above it, two characters look identical
_ALIKE_ON_AVERAGE = 0.88  # above it, two characters differ only in the form of an accent

_FULL_FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
_TEX_FACES = (
    "cmb10",
    "cmr10",
    "cmss10",
    "cmti10",
    "cmtt10",
)  # their encoding is non-standard except for letters and digits


@dataclass(frozen=True, eq=False)
class Face:
    """A font and the characters that it contains."""

    font: ImageFont.FreeTypeFont
    characters: frozenset[str]


def load_faces(names: Sequence[str] = (*_FULL_FACES, *_TEX_FACES)) -> list[Face]:
    """Loads the faces with these names from matplotlib's font folder."""
    # Imported here, since it takes a third of a second and only generating the images needs it.
    import matplotlib
    from matplotlib.ft2font import FT2Font

    faces = []
    for name in names:
        path = str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"))
        characters = {chr(code) for code in FT2Font(path).get_charmap()}
        if name in _TEX_FACES:
            characters &= {*string.ascii_letters, *string.digits}
        # The basic layout engine is in every build of Pillow, so the pixels do not depend on other libraries.
        font = ImageFont.truetype(path, _EM * OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)
        faces.append(Face(font, frozenset(filter(_is_printed, characters))))
    return faces


def _is_printed(character: str) -> bool:
    """Letters, numbers, punctuation and symbols; no spaces, combining marks, modifiers or control characters."""
    category = unicodedata.category(character)
    return category[0] in "LNPS" and category not in {"Lm", "Sk"}


def draw(face: Face, character: str) -> Image.Image | None:
    """A character as white ink (255) in the centre of a large square; None if the face cannot draw it legibly."""
    if character not in face.characters:
        return None
    sheet = _draw_centred(face.font, character)
    box = sheet.getbbox()
    smallest, largest = (limit * OVERSAMPLING for limit in _LONGEST_SIDE)
    if box is None or not smallest <= max(box[2] - box[0], box[3] - box[1]) <= largest:
        return None
    return sheet


def _draw_centred(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    side = SIZE * OVERSAMPLING
    left, top, right, bottom = font.getbbox(character)
    sheet = Image.new("L", (side, side))
    position = ((side - right - left) // 2, (side - bottom - top) // 2)
    ImageDraw.Draw(sheet).text(position, character, fill=255, font=font)
    # The box above includes the white space next to a character; this one contains only its ink.
    left, top, right, bottom = sheet.getbbox() or (0, 0, side, side)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return sheet.crop((x, y, x + side, y + side))


def choose_characters(faces: Sequence[Face], *, count: int, candidates: Iterable[str] | None = None) -> list[str]:
    """Chooses the first `count` candidates that enough faces can draw and that do not look like an earlier one.

    Candidates are ordered by the number of faces that can draw them, then by code point: "A" comes before the Greek alpha.

    Args:
        faces: The faces.
        count: The number of characters; fewer are returned if fewer qualify.
        candidates: The candidates; by default all characters of the faces.
    """
    listed = Counter(character for face in faces for character in face.characters)
    ordered = sorted(listed if candidates is None else set(candidates))
    ordered = [character for character in ordered if listed[character] >= _MIN_FACES]
    alike, num_faces = _compare(faces, ordered)
    chosen: list[int] = []
    for index in np.argsort(-num_faces, kind="stable").tolist():
        if len(chosen) < count and num_faces[index] >= _MIN_FACES and not alike[index, chosen].any():
            chosen.append(index)
    return [ordered[index] for index in chosen]


def _compare(faces: Sequence[Face], characters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which characters look alike, (n, n) bool, and the number of faces that can draw each, (n,).

    Two characters are compared in each face that can draw both, by the cosine similarity of their slightly blurred ink.
    They look alike if it is high in a single face, or on average.
    """
    highest, total, shared = np.zeros((3, len(characters), len(characters)), dtype=np.float32)
    for face in faces:
        sheets = {index: sheet for index, character in enumerate(characters) if (sheet := draw(face, character))}
        if sheets:
            drawn = np.array(list(sheets))
            ink = np.stack([_blurred(sheet) for sheet in sheets.values()])
            block, similarity = np.ix_(drawn, drawn), ink @ ink.T
            highest[block] = np.maximum(highest[block], similarity)
            total[block] += similarity
            shared[block] += 1
    alike = (highest >= _ALIKE_IN_ONE_FACE) | (total >= _ALIKE_ON_AVERAGE * np.maximum(shared, 1))
    return alike, np.diagonal(shared).astype(np.int64)


def _blurred(sheet: Image.Image) -> np.ndarray:
    """The ink at the size of an image, as a unit vector."""
    image = sheet.reduce(OVERSAMPLING).filter(ImageFilter.GaussianBlur(0.7))
    ink = np.asarray(image, dtype=np.float32).ravel()
    return ink / np.linalg.norm(ink)
