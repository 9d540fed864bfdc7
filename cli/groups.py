"""A group of commands of which one needs no name."""

from __future__ import annotations

import click


class DefaultGroup(click.Group):
    """`retrieval index runs/x` is `retrieval index build runs/x`; `default` names the command that is meant.

    A folder that is called as a command is can be given as ./add.
    """

    default = "build"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the name of the default command in front, unless another is named or help is asked for."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)
