"""Promises of `retrieval.data.list_file`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.data.image_set import stays_below_root
from retrieval.data.list_file import Line, image_path, parse_integer, read_lines, shorten, split_commas, split_line
from retrieval.errors import DatasetError


def read(folder: Path, content: bytes) -> list[Line]:
    (folder / "list.txt").write_bytes(content)
    return read_lines(folder / "list.txt", remedy="bring one")


def test_lines_keep_their_numbers_while_marks_windows_line_ends_and_blank_lines_go(tmp_path: Path) -> None:
    lines = read(tmp_path, "\ufeff 1 é.jpg\t\r\n\r\n   \n2 b.jpg".encode())
    assert lines == [(f"{tmp_path}/list.txt, line 1", "1 é.jpg"), (f"{tmp_path}/list.txt, line 4", "2 b.jpg")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 a\n2 b\0.jpg\n", r"list.txt, line 2: a NUL character at character 4"),
        (b"1 a\n2 b\r3 c\n", r"list.txt, line 2: a carriage return at character 4"),
        (b"1 a\n2 \x1b[31m\n", r"list.txt, line 2: the control character '\\x1b' at character 3"),
        (b"1 a\n2 \xe9.jpg\n", r"list.txt, line 2: is not UTF-8 text"),
        ("1 a\n".encode("utf-16"), r"list.txt, line 1: is not UTF-8 text"),
        (b"1 a\n2 " + b"b" * 4998, r"list.txt, line 2: 5,000 characters, expected at most 4,096"),
        (b"", r"list.txt: is empty; bring one"),
        (b"\xef\xbb\xbf\r\n \n", r"list.txt: is empty; bring one"),
    ],
)
def test_what_is_no_line_of_text_is_named_by_its_number(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_list_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.txt", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DatasetError, match=rf"{path}: cannot be read \({reason}.*\); bring one"):
            read_lines(path, remedy="bring one")


def test_the_last_column_may_have_white_space_inside() -> None:
    assert split_line(Line("here", "1\t2   a b.jpg"), ("id", "class", "path")) == ["1", "2", "a b.jpg"]
    with pytest.raises(DatasetError, match="here: '1 2' is not '<id> <class> <path>'; correct the line"):
        split_line(Line("here", "1 2"), ("id", "class", "path"))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=1))
def test_comma_separated_values_come_back_from_quotes(values: list[str]) -> None:
    quoted = ", ".join(f'"{value.replace(chr(34), chr(34) * 2)}"' for value in values)
    assert split_commas(Line("here", quoted), len(values)) == [value.strip() for value in values]


@pytest.mark.parametrize("text", ["", "-1", "1.0", "1e3", "١", "0x1", "1_000", "1234567890", " 1", "one"])  # noqa: RUF001
def test_only_plain_digits_are_an_integer(text: str) -> None:
    assert parse_integer("here", "007", "id") == 7
    with pytest.raises(DatasetError, match=r"here: id '.*' is not an integer"):
        parse_integer("here", text, "id")


def test_paths_come_without_dots() -> None:
    assert image_path("here", "./a//b/./c d.jpg") == "a/b/c d.jpg"


@given(st.text() | st.text("./\\a:C\0"))
def test_any_text_is_a_path_below_the_root_or_refused(text: str) -> None:
    path, error = None, None
    try:
        path = image_path("here", text)
    except DatasetError as refusal:
        error = str(refusal)
    if path is not None:
        assert stays_below_root(path)
        assert not {"", ".", ".."} & set(path.split("/"))
    else:
        assert error is not None
        assert error.startswith("here: ")
        assert "\n" not in error


def test_long_texts_are_cut_and_stay_on_one_line() -> None:
    assert shorten("a\nb") == r"'a\nb'"
    assert shorten("x" * 5000) == f"'{'x' * 79}…'"
