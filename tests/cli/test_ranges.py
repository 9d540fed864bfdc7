"""A number outside the range of an option is one line that names the option, for every option of every command."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from small_run import call

from retrieval import cli


def ranges(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, click.ParamType]]:
    """The words of a command, an option of it, and the type of the option, if that is a range of numbers."""
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from ranges(inner, (*words, name))
    for parameter in command.params:
        if isinstance(parameter.type, (click.IntRange, click.FloatRange)):
            yield words, parameter.opts[0], parameter.type


CASES = [
    pytest.param([*words, option, str(limit + step)], option, id=f"{' '.join(words)} {option} {limit + step}")
    for words, option, kind in ranges(cli.retrieval)
    for limit, step in ((kind.min, -1), (kind.max, 1))
    if limit is not None
]


def test_there_are_such_options():
    assert {option for case in CASES for option in [case.values[1]]} >= {"--k", "--seed", "--qe", "--alpha"}


@pytest.mark.parametrize(("words", "option"), CASES)
def test_a_number_outside_its_range_is_one_line_that_names_the_option(capsys, words, option):
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: Invalid value for '{option}': {words[-1]}")
    assert err.count("\n") == 1
