"""Embeddings and labels of any type become float32 unit vectors and int64 labels, or one clear line of error."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from retrieval.evaluation import inputs, number_labels, unit_vectors
from retrieval.evaluation.exact import is_on_disk

VALUES = np.random.default_rng(0).standard_normal((11, 7))
PLAIN = (VALUES / np.sqrt((VALUES**2).sum(axis=1, keepdims=True))).astype(np.float32)


class Frame:
    """Like a pandas Series or DataFrame: NumPy converts it, and its index is no part of it."""

    def __init__(self, values, index=None):
        self.values, self.index = values, index

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)

    def __getitem__(self, key):
        raise KeyError(key)


class TestUnitVectors:
    @pytest.mark.parametrize(
        "values",
        [
            VALUES,
            VALUES.astype(np.longdouble),
            VALUES.astype(">f8"),
            VALUES.tolist(),
            tuple(map(tuple, VALUES)),
            list(VALUES),
            torch.from_numpy(VALUES),
            torch.nn.Parameter(torch.from_numpy(VALUES)),
            torch.from_numpy(VALUES).T.contiguous().T,
            list(torch.from_numpy(VALUES)),
            [list(row) for row in torch.from_numpy(VALUES)],
            Frame(VALUES),
            np.ma.masked_array(VALUES),
        ],
    )
    def test_rows_are_divided_by_their_length(self, values):
        found = unit_vectors("x", values)
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert_array_equal(found, PLAIN)

    @pytest.mark.parametrize("scale", [2.0**-1060, 2.0**-600, 2.0**-100, 1, 2.0**100, 2.0**600, 2.0**1020])
    def test_powers_of_two_do_not_change_the_direction(self, scale):
        values = np.round(VALUES * 64) / 64 + 1 / 64  # exact also where they are subnormal
        values = np.where(values == 0, 1, values)
        np.testing.assert_allclose(unit_vectors("x", values * scale), unit_vectors("x", values), rtol=2e-7)

    def test_huge_and_tiny_float32_values_lose_nothing(self):
        values = VALUES.astype(np.float32)
        expected = unit_vectors("x", values)
        for exponent in (-100, 100):
            assert_array_equal(unit_vectors("x", values * np.float32(2.0**exponent)), expected)
        subnormal = np.full((1, 4), 1e-45, dtype=np.float32)
        assert_array_equal(unit_vectors("x", subnormal), np.full((1, 4), 0.5))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
    def test_narrow_floats_are_divided_by_the_length_of_their_values(self, dtype):
        values = torch.from_numpy(VALUES).to(getattr(torch, dtype))
        exact = values.double().numpy()
        expected = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)
        np.testing.assert_allclose(unit_vectors("x", values), expected, rtol=1e-7)
        ml_dtypes = pytest.importorskip("ml_dtypes")
        if dtype != "float16":
            np.testing.assert_allclose(unit_vectors("x", exact.astype(getattr(ml_dtypes, dtype))), expected, rtol=1e-7)

    def test_unit_vectors_of_a_narrow_type_are_normalised_too(self):
        values = torch.from_numpy(PLAIN).bfloat16()
        assert np.abs(np.linalg.norm(unit_vectors("x", values).astype(np.float64), axis=1) - 1).max() < 1e-7

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
    def test_integers_are_taken(self, dtype):
        values = np.array([[3, 4], [5, 12], [np.iinfo(dtype).max, 0]], dtype=dtype)
        assert_array_equal(unit_vectors("x", values), np.float32([[0.6, 0.8], [5 / 13, 12 / 13], [1, 0]]))
        assert_array_equal(unit_vectors("x", np.array([[-128, 0]], dtype=np.int8)), [[-1, 0]])

    def test_float32_unit_vectors_pass_unchanged_and_uncopied(self, tmp_path):
        nearly = PLAIN * np.float32(1.0005)
        assert unit_vectors("x", PLAIN) is PLAIN
        assert unit_vectors("x", nearly) is nearly
        tensor = torch.from_numpy(PLAIN.copy())
        assert np.shares_memory(unit_vectors("x", tensor), tensor.numpy())
        np.save(tmp_path / "x.npy", PLAIN)
        assert is_on_disk(unit_vectors("x", np.load(tmp_path / "x.npy", mmap_mode="r")))
        assert_array_equal(unit_vectors("x", np.asfortranarray(PLAIN)), PLAIN)

    def test_unit_rows_among_raw_rows_are_unchanged(self):
        mixed = PLAIN.copy()
        mixed[3] *= 5
        found = unit_vectors("x", mixed)
        assert_array_equal(np.delete(found, 3, axis=0), np.delete(PLAIN, 3, axis=0))
        np.testing.assert_allclose(found[3], PLAIN[3], rtol=1e-6)

    def test_a_row_depends_on_neither_its_position_nor_the_blocks(self, monkeypatch):
        whole = unit_vectors("x", VALUES)
        assert_array_equal(np.concatenate([unit_vectors("x", row[None]) for row in VALUES]), whole)
        monkeypatch.setattr(inputs, "BLOCK_NUMBERS", 20)
        assert_array_equal(unit_vectors("x", VALUES), whole)
        assert_array_equal(unit_vectors("x", VALUES[::-1])[::-1], whole)

    def test_the_values_are_left_as_they_are(self):
        values = 3 * VALUES
        copy = values.copy()
        values.setflags(write=False)
        unit_vectors("x", values)
        assert_array_equal(values, copy)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                VALUES[0],
                r"x: shape \(7,\), expected \(number, dimension\); reshape a single vector to \(1, dimension\)",
            ),
            (VALUES[None], r"x: shape \(1, 11, 7\), expected \(number, dimension\); flatten"),
            (np.float32(1), r"x: shape \(\)"),
            (VALUES[:0], r"x: shape \(0, 7\) is empty"),
            (VALUES[:, :0], r"x: shape \(11, 0\) is empty"),
            ([], r"x: shape \(0,\)"),
            (VALUES + 1j, "x: complex128 values, expected an array of floats or integers"),
            (torch.ones(2, 2, dtype=torch.complex64), "x: complex64 values"),
            (VALUES > 0, "x: bool values"),
            (VALUES.astype(object), "x: object values"),
            (VALUES.astype(str), "x: <U[0-9]+ values"),
            ([["a", "b"]], "x: <U1 values"),
            ([[None, 1.0]], "x: object values"),
            ("vectors.npy", "x: str, expected an array"),
            (None, "x: NoneType, expected an array"),
            ({"a": [1, 2]}, "x: dict, expected an array"),
            (np.zeros((2, 2), dtype="M8[s]"), r"x: datetime64\[s\] values"),
            ([[1.0, 2.0], [3.0]], "x: lists of unequal lengths"),
            ([torch.ones(2), torch.ones(3)], "x: lists of unequal lengths"),
            (torch.eye(3).to_sparse(), r"x: a sparse tensor, expected a dense one; call \.to_dense\(\)"),
            (torch.ones(2, 2, device="meta"), "x: NumPy cannot convert this Tensor: "),
            (np.ma.masked_array(VALUES, VALUES > 1), "x: an array with masked values"),
        ],
    )
    def test_other_values_are_refused(self, values, message):
        with pytest.raises(ValueError, match=message) as caught:
            unit_vectors("x", values)
        assert "\n" not in str(caught.value)

    def test_a_sparse_matrix_is_refused(self):
        sparse = pytest.importorskip("scipy.sparse").eye(3, format="csr")
        with pytest.raises(ValueError, match=r"x: a sparse csr_matrix, expected a dense array; call \.toarray\(\)"):
            unit_vectors("x", sparse)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.nan, r"x: row 6 holds NaN or infinity \(2 of 11 rows\)"),
            (np.inf, r"x: row 6 holds NaN or infinity \(2 of 11 rows\)"),
            (0, r"x: row 6 is zero and has no direction \(2 of 11 rows\)"),
        ],
    )
    def test_rows_without_a_direction_are_named(self, dtype, value, message, monkeypatch):
        values = VALUES.astype(dtype)
        values[[6, 9]] = 0
        values[[6, 9], 2] = value
        for numbers in (inputs.BLOCK_NUMBERS, 20):
            monkeypatch.setattr(inputs, "BLOCK_NUMBERS", numbers)
            with pytest.raises(ValueError, match=message):
                unit_vectors("x", values)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_tensors_on_a_gpu_are_moved_to_memory(self):
        assert_array_equal(unit_vectors("x", torch.from_numpy(VALUES).cuda()), PLAIN)


class TestNumberLabels:
    def test_integer_arrays_keep_their_values(self):
        for dtype in (np.int64, np.int32, np.uint8):
            labels = np.array([3, 1, 3, 7], dtype=dtype)
            (found,) = number_labels(labels)
            assert found.dtype == np.int64
            assert_array_equal(found, labels)
        for labels in ([3, -1, 2**62], torch.tensor([3, -1, 2**62]), np.array([3, -1, 2**62], dtype=object)):
            assert_array_equal(number_labels(labels)[0], [3, -1, 2**62])

    @pytest.mark.parametrize(
        ("labels", "numbers"),
        [
            (["b", "a", "b"], [1, 0, 1]),
            (np.array(["b", "a", "b"]), [1, 0, 1]),
            (np.array([b"b", b"a"]), [1, 0]),
            ([0.5, -0.0, 0.0], [1, 0, 0]),
            (np.array([0.5, 0.25, 0.5], dtype=np.float16), [1, 0, 1]),
            ([1.0, 1, True, 2.5], [0, 0, 0, 1]),
            ([True, False], [1, 0]),
            (np.array([True, False]), [1, 0]),
            ([(1, "a"), (1, "b"), (1, "a")], [0, 1, 0]),
            (["b", 1, ("x",), "b"], [0, 1, 2, 0]),
            ([2**60, 2**60 + 1, 0.5], [1, 2, 0]),
            ([2**64, 2**64 + 1], [0, 1]),
            (np.array([2**63, 5], dtype=np.uint64), [1, 0]),
            (np.array(["2020-01-02", "2020-01-01"], dtype="M8[D]"), [1, 0]),
            (np.array([7, 7, 6], dtype="m8[s]"), [1, 1, 0]),
            (torch.tensor([0.5, 0.25, 0.5], dtype=torch.bfloat16), [1, 0, 1]),
            (list(torch.tensor([5, 4, 5])), [5, 4, 5]),
            ([np.array(5), np.int8(4), 5], [5, 4, 5]),
            (Frame(np.array(["b", "a"]), index=[7, 9]), [1, 0]),
            (range(3), [0, 1, 2]),
            ([], []),
            ([frozenset({1}), frozenset({2}), frozenset({1})], None),
        ],
    )
    def test_equal_labels_get_equal_numbers(self, labels, numbers):
        (found,) = number_labels(labels)
        assert found.dtype == np.int64
        if numbers is None:
            assert found[0] == found[2] != found[1]
        else:
            assert_array_equal(found, numbers)

    def test_any_number_of_arguments_is_numbered_together_if_named(self):
        found = number_labels(["b"], ["a"], ["c", "b"], names=("x", "y", "z"))
        assert [numbers.tolist() for numbers in found] == [[1], [0], [2, 1]]
        with pytest.raises(ValueError, match="z: the label at position 0 is missing"):
            number_labels(["b"], ["a"], [None], names=("x", "y", "z"))

    def test_numbers_do_not_depend_on_the_order_of_the_rows(self):
        labels = np.array(["d", "a", "c", "a", "b"])
        assert_array_equal(number_labels(labels[::-1])[0][::-1], number_labels(labels)[0])

    def test_labels_of_several_arguments_are_numbered_together(self):
        first, second = number_labels(np.array([2.0, 1.0]), [1, 3, 2])
        assert_array_equal(first, second[[2, 0]])
        first, second = number_labels(np.array([1, 2]), np.array(["1", "2"]))
        assert not set(first) & set(second)
        first, second = number_labels(np.array(["2020-01-01"], dtype="M8[D]"), np.array(["2020-01-01"], dtype="M8[ns]"))
        assert_array_equal(first, second)
        first, second = number_labels(np.array([1, 2]), np.array([0, 1], dtype="M8[ns]"))
        assert not set(first) & set(second)

    @pytest.mark.parametrize(
        "missing", [None, float("nan"), np.float32("nan"), np.datetime64("NaT"), ("a", float("nan"))]
    )
    def test_missing_labels_are_refused_with_their_position(self, missing):
        with pytest.raises(
            ValueError, match=r"labels: the label at position 2 is missing .*; remove that row or label it"
        ):
            number_labels(["a", "a", missing, missing])
        with pytest.raises(ValueError, match="gallery_labels: the label at position 1 is missing"):
            number_labels(["a", "a"], ["b", missing])

    def test_missing_values_of_arrays_are_refused_with_their_position(self):
        for labels in (
            np.array([1, 2, np.nan]),
            torch.tensor([1, 2, torch.nan]),
            np.array(["2020", "2021", "NaT"], dtype="M8[Y]"),
            np.array(["a", "b", None], dtype=object),
        ):
            with pytest.raises(ValueError, match="position 2 is missing"):
                number_labels(labels)

    def test_a_value_whose_comparison_has_no_truth_is_missing(self):
        class NA:  # like pandas.NA
            __hash__ = object.__hash__

            def __ne__(self, other):
                return self

            def __bool__(self):
                raise TypeError("boolean value of NA is ambiguous")

        with pytest.raises(ValueError, match="position 1 is missing"):
            number_labels(np.array(["a", NA()], dtype=object))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([1, [2]], r"labels: the label at position 1 is not hashable \(list\); pass a string, a number or a tuple"),
            ([(1, [2])], "position 0 is not hashable"),
            ([np.zeros(2), np.zeros(2)], r"position 0 is an array of shape \(2,\)"),
            ([torch.zeros(2)], r"position 0 is an array of shape \(2,\)"),
            (np.zeros((3, 1), dtype=int), r"labels: shape \(3, 1\), expected one label for each row"),
            (torch.tensor(3), r"labels: shape \(\)"),
            (torch.eye(3).to_sparse(), "labels: a sparse tensor"),
            ("abc", "labels: str, expected a list"),
            ({"a": 1}, "labels: dict, expected a list"),
            ({1, 2}, "labels: set, expected a list"),
            (3, "labels: int, expected a list"),
            (None, "labels: NoneType, expected a list"),
            ((i for i in range(3)), "labels: generator, expected a list"),
            (np.ma.masked_array([1, 2], [0, 1]), "labels: an array with masked values"),
        ],
    )
    def test_other_labels_are_refused(self, labels, message):
        with pytest.raises(ValueError, match=message):
            number_labels(labels)

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.one_of(st.integers(-2, 2), st.sampled_from(["a", "b", 1.0, 0.5, True, (1,), (2, "x")])), max_size=20
        )
    )
    def test_numbers_are_equal_exactly_if_the_labels_are(self, labels):
        numbers = np.concatenate(number_labels(labels[::2], labels[1::2]))
        labels = labels[::2] + labels[1::2]
        for i, j in np.ndindex(len(labels), len(labels)):
            assert (numbers[i] == numbers[j]) == (labels[i] == labels[j])


def test_without_torch_nothing_is_a_tensor(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert_array_equal(unit_vectors("x", VALUES), PLAIN)
    assert_array_equal(number_labels(["b", "a"])[0], [1, 0])
    assert not inputs._is_tensor(SimpleNamespace(detach=None))
