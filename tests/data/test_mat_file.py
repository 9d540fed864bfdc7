"""Promises of `retrieval.data.mat_file`."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from retrieval.data.mat_file import read_structs, read_texts
from retrieval.errors import DatasetError


def structs(names: list[str]) -> np.ndarray:
    array = np.empty((1, len(names)), dtype=[("fname", object), ("class", object)])
    for place, name in enumerate(names):
        array[0, place] = (name, np.uint8(place + 1))
    return array


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("names", [["a.jpg", "é b.jpg"], ["a.jpg"]])
def test_values_come_with_the_place_they_stand_at(tmp_path: Path, names: list[str], compressed: bool) -> None:
    path = tmp_path / "list.mat"
    cells = np.empty(len(names), dtype=object)
    cells[:] = names
    content = {"other": np.eye(3), "class_names": cells, "annotations": structs(names)}
    savemat(path, content, do_compression=compressed)
    expected = [(f"{path}, entry {i} of annotations", (name, i)) for i, name in enumerate(names, start=1)]
    assert read_structs(path, "annotations", ("fname", "class")) == expected
    assert [line.text for line in read_texts(path, "class_names")] == names


TEXT = st.characters(codec="latin-1", exclude_characters="\0")  # SciPy removes NUL at the end


@given(st.lists(st.integers(-(2**40), 2**40) | st.text(TEXT), min_size=1))
@settings(deadline=None, max_examples=50)
def test_integers_and_texts_come_back(tmp_path_factory: pytest.TempPathFactory, values: list[int | str]) -> None:
    path = tmp_path_factory.getbasetemp() / "values.mat"
    array = np.empty((1, len(values)), dtype=[("value", object)])
    for place, value in enumerate(values):
        array[0, place] = (value,)
    savemat(path, {"array": array})
    assert [value for _, (value,) in read_structs(path, "array", ("value",))] == values


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_a_parse_integer_may_be_stored_in_any_type(tmp_path: Path, dtype: str) -> None:
    array = structs(["a.jpg"])
    array[0, 0]["class"] = np.array(14, dtype=dtype)
    savemat(tmp_path / "list.mat", {"annotations": array})
    ((_, (number,)),) = read_structs(tmp_path / "list.mat", "annotations", ("class",))
    assert (number, type(number)) == (14, int)


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, np.array([1, 2]), np.array([]), 1 + 2j, {"a": 1}])
def test_a_value_that_is_neither_text_nor_parse_integer_is_named(tmp_path: Path, value: object) -> None:
    array = structs(["a.jpg", "b.jpg"])
    array[0, 1]["class"] = value
    savemat(tmp_path / "list.mat", {"annotations": array})
    with pytest.raises(DatasetError, match=r"list.mat, entry 2 of annotations: is neither text nor an integer"):
        read_structs(tmp_path / "list.mat", "annotations", ("class",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file"),
        (b"", "is not a MATLAB file of level 5, or is damaged"),
        (b"1 a.jpg\n" * 100, "is not a MATLAB file of level 5, or is damaged"),
        (b" " * 124 + b"\0\1IM", "has no cell array 'class_names'"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "list.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"list.mat: {message}") as caught:
        read_texts(tmp_path / "list.mat", "class_names")
    assert "\n" not in str(caught.value)


def test_missing_arrays_and_fields_and_other_contents_are_named(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    numbers = np.empty(2, dtype=object)
    numbers[:] = [1, 2]
    savemat(path, {"annotations": structs(["a"]), "empty": np.empty((0, 0), dtype=object), "numbers": numbers})
    for variable in ("class_names", "empty", "annotations"):
        with pytest.raises(DatasetError, match=rf"list.mat: has no cell array '{variable}'"):
            read_texts(path, variable)
    with pytest.raises(DatasetError, match=r"list.mat, entry 1 of numbers: is not text"):
        read_texts(path, "numbers")
    with pytest.raises(DatasetError, match=r"list.mat: has no structure array 'numbers'"):
        read_structs(path, "numbers", ("fname",))
    with pytest.raises(DatasetError, match=r"list.mat: 'annotations' does not have the fields fname, test"):
        read_structs(path, "annotations", ("fname", "test"))


@pytest.mark.parametrize("error", [ValueError("two\nlines"), KeyError("x"), MemoryError(), zlib.error("bad data")])
def test_whatever_scipy_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "list.mat").touch()
    monkeypatch.setattr("scipy.io.loadmat", fail)
    with pytest.raises(
        DatasetError, match=r"list.mat: is not a MATLAB file of level 5, or is damaged \(.+\)"
    ) as caught:
        read_texts(tmp_path / "list.mat", "class_names")
    assert "\n" not in str(caught.value)


def test_flipped_bytes_are_refused_by_the_md5_sum_before_scipy_parses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.mat"
    savemat(path, {"annotations": structs(["a.jpg", "b.jpg"]), "class_names": np.array(["a", "b"], dtype=object)})
    whole = path.read_bytes()
    md5 = hashlib.md5(whole).hexdigest()
    assert len(read_structs(path, "annotations", ("fname",), md5=md5)) == 2
    assert len(read_texts(path, "class_names", md5=md5)) == 2
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("a damaged file is parsed"))
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        for read in (
            lambda: read_structs(path, "annotations", ("fname",), md5=md5),
            lambda: read_texts(path, "x", md5=md5),
        ):
            with pytest.raises(
                DatasetError, match=rf"list.mat: its md5 sum is \w+, .* published file is {md5}; get another"
            ):
                read()
