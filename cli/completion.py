"""`retrieval completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    "completion",
    epilog="""\b
Examples:
  retrieval completion bash >> ~/.bashrc
  retrieval completion zsh >> ~/.zshrc
  retrieval completion fish > ~/.config/fish/completions/retrieval.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script for a shell.

    With it, the shell completes commands, options and names.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "retrieval", "_RETRIEVAL_COMPLETE").source())
