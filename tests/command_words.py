"""The words of a command line, read as the program would read them."""

from __future__ import annotations

from collections.abc import Sequence

import click
from retrieval.cli import retrieval
from retrieval.cli.groups import DefaultGroup


def check(words: Sequence[str]) -> None:
    """Parses what stands behind `retrieval` without doing it; what is not there is click's error."""
    words, context = list(words), None
    command: click.Command = retrieval
    while isinstance(command, click.Group) and words != ["--help"]:
        context = click.Context(command, parent=context)
        if isinstance(command, DefaultGroup) and words[0] not in command.commands:
            words.insert(0, command.default)
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    if "--help" not in words:
        command.make_context(command.name, words, parent=context)
