"""Arrays of other programs are read only if header and file fit together."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from retrieval.files.arrays import read_array


def header(text: str, *, version: bytes = b"\x01\x00") -> bytes:
    """The beginning of a .npy file with any text as its header."""
    content = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(content).to_bytes(2 if version == b"\x01\x00" else 4, "little") + content


def declare(kind: str, shape: Any) -> bytes:
    return header(f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize(
    "array",
    [
        np.eye(3, dtype=np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(5, dtype=">i2"),
        np.array(["a", "bc"]),
        np.asfortranarray(np.array([["a", "\U0010ffff"], ["", "d"]], dtype=">U3")),
        np.zeros((0, 4)),
        np.array(3.0),
    ],
)
def test_what_numpy_saves_is_read_as_it_was(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy")
    assert_array_equal(found, array)
    assert found.dtype == array.dtype
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(2, 0))
    (tmp_path / "a.npy").write_bytes(content.getvalue())
    assert_array_equal(read_array(tmp_path / "a.npy"), array)


def test_a_header_of_python_2_is_read_without_a_warning(tmp_path):
    (tmp_path / "a.npy").write_bytes(declare("<f4", "(2L, 1L)") + bytes(8))
    with warnings.catch_warnings(action="error"):
        assert_array_equal(read_array(tmp_path / "a.npy"), [[0], [0]])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header is damaged, or it is not a .npy file"),
        (b"\x93NUMPY\x09\x00", "its header is damaged"),
        (header("{"), "its header is damaged"),
        (header("(" * 5000), "its header is damaged"),
        (header("-" * 9000 + "1"), "its header is damaged"),
        (header("{" * 20_000, version=b"\x02\x00"), "its header is damaged"),
        (header("__import__('os').system('ls')"), "its header is damaged"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "its header is damaged"),
        (declare("<f4", (10**12, 128)) + bytes(100), r"it holds 100 bytes of numbers, but float32 .* are 512,000,"),
        (declare("<f4", (2**62, 4)), r"it holds 0 bytes of numbers"),
        (declare("<f4", (2, 3)) + bytes(23), "it holds 23 bytes of numbers, but .* are 24"),
        (declare("<f4", (2, 3)) + bytes(25), "it holds 25 bytes of numbers, but .* are 24"),
        (declare("<f4", (-1, -1)) + bytes(4), "its header is damaged"),
        (declare("<f4", (True, 1)) + bytes(4), "its header is damaged"),
        (declare("<U0", (10**12,)), "it holds values of type <U0"),
        (declare(">U1", (2,)) + bytes(4) + b"\0\x11\0\0", "it holds texts that are no Unicode"),
        (declare("|O", (1,)) + bytes(8), "it holds values of type object"),
        (header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}") + bytes(4), "holds values of type"),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused_before_memory_is_taken(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match=message):
        read_array(tmp_path / "a.npy")


def test_several_arrays_and_missing_files_are_told_apart(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.eye(2))
    with pytest.raises(ValueError, match=r"several arrays \(.npz\)"):
        read_array(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        read_array(Path(tmp_path / "none.npy"))
