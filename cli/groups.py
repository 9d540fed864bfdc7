"""A group of commands with a default command."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from retrieval.errors import did_you_mean


class DefaultGroup(click.Group):
    """`retrieval index runs/x` is `retrieval index build runs/x`; `default` names the default command.

    A folder with the name of a command can be given as ./add.
    """

    default = "build"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Inserts the default command after the group's own flags, unless a command or --help is given."""
        flags = {name for parameter in self.params for name in parameter.opts}
        start = next((position for position, word in enumerate(args) if word not in flags), len(args))
        first = args[start] if start < len(args) else None
        if first is not None and first not in self.commands and first not in ctx.help_option_names:
            hint = "" if first.startswith("-") else did_you_mean(first, self.commands)
            if hint and not Path(first).exists() and not ctx.resilient_parsing:
                ctx.fail(f"{first!r} is neither a command nor a folder{hint}")
            args = [*args[:start], self.default, *args[start:]]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands of the group, and the completions of its default command."""
        command = self.commands[self.default]
        with command.make_context(self.default, [], parent=ctx, resilient_parsing=True) as inner:
            first = next(it for it in command.params if isinstance(it, click.Argument))
            words = [] if incomplete.startswith("-") else first.shell_complete(inner, incomplete)
        # Paths come first: click's script for bash drops the completions before a path.
        return [*words, *super().shell_complete(ctx, incomplete)]
