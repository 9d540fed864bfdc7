"""Promises of `retrieval.files.cells` and `retrieval.files.control`."""

from __future__ import annotations

import doctest
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.files import cells, control
from retrieval.files.cells import guard, unguard
from retrieval.files.control import LineFormatter, escape


@pytest.mark.parametrize("module", [cells, control])
def test_the_examples_are_right(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "'=1", "--1", "-0.5.1", "-", "+1=2"]
)
def test_what_a_spreadsheet_takes_for_a_formula_begins_with_an_apostrophe(text):
    assert guard(text) == f"'{text}"
    assert unguard(guard(text)) == text


@pytest.mark.parametrize("text", ["-0.5", "+1", "-1e-5", "-.5", "-7.", "a", "'a'", "a=b", "", "'-0.5", "1-2"])
def test_numbers_and_other_texts_stay_as_they_are(text):
    assert guard(text) == text
    assert unguard(text) == text


@given(st.text(alphabet="'=+-@\t\r.1ea", max_size=6))
def test_every_text_is_read_back(text):
    assert unguard(guard(text)) == text


def test_values_that_are_no_texts_are_kept():
    assert [guard(value) for value in (-1, -0.5, None)] == [-1, -0.5, None]


HOSTILE = "a\x1b[2J\n\r\a\x9b31m\u202etxt\u2066\u2028\x7f\udce9z"


def test_control_characters_are_escaped_so_that_json_reads_them_back():
    shown = escape(HOSTILE)
    assert shown.isascii()
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == HOSTILE
    assert escape("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\u001b"
    assert escape("ordinary: äöü 日本 ±…") == "ordinary: äöü 日本 ±…"


def test_a_line_of_the_log_stays_one_line_whatever_a_name_holds():
    class Plan:
        def __str__(self):
            return "two\nlines"

    def line(*args):
        return LineFormatter("%(message)s").format(logging.LogRecord("a", 20, "", 0, "%s: %s", args, None))

    assert line(Path("a\nerror: b\x1b"), HOSTILE) == f"a\\u000aerror: b\\u001b: {escape(HOSTILE)}"
    assert line(3, Plan()) == "3: two\nlines"
    assert line(ValueError("a\nb"), "c") == "a\\u000ab: c"
