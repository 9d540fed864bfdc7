"""Parses command lines without running them."""

from __future__ import annotations

from collections.abc import Sequence

import click
from retrieval.cli import retrieval
from retrieval.cli.groups import DefaultGroup


def check(words: Sequence[str]) -> None:
    """Parses the arguments of `retrieval`; raises click's error for an unknown command or option."""
    words, context = list(words), None
    command: click.Command = retrieval
    while isinstance(command, click.Group) and words != ["--help"]:
        context = click.Context(command, parent=context)
        if isinstance(command, DefaultGroup) and words[0] not in command.commands:
            words.insert(0, command.default)
        _, inner, words = command.resolve_command(context, words)
        assert inner is not None
        command = inner
    if "--help" not in words:
        command.make_context(command.name, words, parent=context)
