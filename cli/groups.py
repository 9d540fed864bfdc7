"""A group of commands of which one needs no name."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from retrieval.errors import did_you_mean


class DefaultGroup(click.Group):
    """`retrieval index runs/x` is `retrieval index build runs/x`; `default` names the command that is meant.

    A folder that is called as a command is can be given as ./add.
    """

    default = "build"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the name of the default command behind the group's own flags, unless another is named or help is asked for."""
        flags = {name for parameter in self.params for name in parameter.opts}
        start = next((place for place, word in enumerate(args) if word not in flags), len(args))
        first = args[start] if start < len(args) else None
        if first is not None and first not in self.commands and first not in ctx.help_option_names:
            hint = did_you_mean(first, self.commands)
            if hint and not Path(first).exists() and not ctx.resilient_parsing:
                ctx.fail(f"{first!r} is no command, and no folder either{hint}")
            args = [*args[:start], self.default, *args[start:]]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What the group and its default command begin with."""
        command = self.commands[self.default]
        with command.make_context(self.default, [], parent=ctx, resilient_parsing=True) as inner:
            first = next(it for it in command.params if isinstance(it, click.Argument))
            words = [] if incomplete.startswith("-") else first.shell_complete(inner, incomplete)
        # Places come first: click's script for bash forgets what stands before one.
        return [*words, *super().shell_complete(ctx, incomplete)]
