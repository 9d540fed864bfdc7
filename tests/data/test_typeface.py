"""Promises of `retrieval.data.typeface`."""

from __future__ import annotations

import string

import numpy as np
import pytest

from retrieval.data.typeface import OVERSAMPLING, SIZE, Face, choose_characters, draw, load_faces


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return load_faces()


def test_faces_list_printed_characters_only(faces: list[Face]) -> None:
    listed = {character for face in faces for character in face.characters}
    assert set(string.ascii_letters + string.digits + "&?€Ωж→") <= listed
    # space, soft hyphen, combining acute accent, modifier letter, no-break space, line separator
    assert not set(" \u00ad\u0301\u02b0\u00a0\u2028") & listed


def test_the_tex_faces_list_letters_and_digits_only() -> None:
    (face,) = load_faces(["cmr10"])
    assert face.characters == set(string.ascii_letters + string.digits)


def test_a_drawing_has_its_ink_in_the_middle_and_keeps_its_size(faces: list[Face]) -> None:
    heights = {}
    for character in "cC":
        sheet = draw(faces[0], character)
        assert sheet is not None
        left, top, right, bottom = sheet.getbbox() or (0, 0, 0, 0)
        assert sheet.size == (SIZE * OVERSAMPLING,) * 2
        assert abs(left + right - sheet.width) <= 1
        assert abs(top + bottom - sheet.height) <= 1
        heights[character] = bottom - top
    assert heights["C"] > 1.2 * heights["c"]


def test_what_a_face_lacks_or_cannot_draw_legibly_is_not_drawn(faces: list[Face]) -> None:
    assert draw(faces[0], "\u4e00") is None  # no Chinese in DejaVu
    assert draw(faces[0], ".") is None  # a speck
    for character, why in (("\u2030", "too wide"), ("\u2800", "blank")):
        assert character in faces[0].characters
        assert draw(faces[0], character) is None, why


def test_of_characters_that_look_alike_the_first_is_chosen(faces: list[Face]) -> None:
    latin, greek, cyrillic = "AHOXc", "\u0391\u0397\u039f\u03a7\u03f2", "\u0410\u041d\u041e\u0425\u0441"
    assert set(choose_characters(faces, count=99, candidates=cyrillic + greek + latin)) == set(latin)
    # These quotation marks and the comma differ in their place on the line alone, which no view shows.
    assert choose_characters(faces, count=99, candidates="'\u2019,\u201a") == ["'", ","]
    assert set(choose_characters(faces, count=99, candidates="cCsSzZ")) == set("cCsSzZ")


def test_choice_depends_neither_on_order_nor_on_repetition_and_is_cut_at_the_count(faces: list[Face]) -> None:
    chosen = choose_characters(faces, count=99, candidates="XYZABC")
    assert choose_characters(faces, count=99, candidates="CBAZYXXX") == chosen == sorted("XYZABC")
    assert choose_characters(faces, count=2, candidates="XYZABC") == ["A", "B"]


def test_a_character_of_few_faces_is_not_chosen(faces: list[Face]) -> None:
    assert choose_characters(faces[:7], count=99, candidates="ABC") == []
    assert choose_characters(faces[:8], count=99, candidates="ABC") == ["A", "B", "C"]


def test_chosen_characters_differ_in_every_face(faces: list[Face]) -> None:
    """A plain comparison, pair by pair, of what the choice computes in blocks."""
    chosen = choose_characters(faces, count=99, candidates=string.ascii_letters + string.digits)
    assert len(chosen) > 50
    for face in faces:
        sheets = [sheet for character in chosen if (sheet := draw(face, character))]
        inks = np.stack([np.asarray(sheet.reduce(OVERSAMPLING), dtype=np.float64).ravel() for sheet in sheets])
        inks /= np.linalg.norm(inks, axis=1, keepdims=True)
        assert np.triu(inks @ inks.T, 1).max() < 0.97
