"""`retrieval config`."""

from __future__ import annotations

import click


@click.group("config")
def group() -> None:
    """List, show and check configurations."""


@group.command("list")
def list_configs() -> None:
    """The configurations that ship with the project."""
    from retrieval.config import config_names

    names = config_names()
    width = max(map(len, names))
    for name, what in names.items():
        click.echo(f"{name:{width}} {what}")


@group.command("show", epilog="Example: retrieval config show glyphs loss.projection=norm")
@click.argument("source")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def show(source: str, overrides: tuple[str, ...]) -> None:
    """Print a configuration with all its defaults."""
    from retrieval.config import load, to_yaml

    click.echo(to_yaml(load(source, overrides)), nl=False)


@group.command("check", epilog="Example: retrieval config check my.yaml training.epochs=3")
@click.argument("source")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def check(source: str, overrides: tuple[str, ...]) -> None:
    """Check a configuration: every mistake in a line of its own."""
    from retrieval.config import load

    load(source, overrides)
    click.echo(f"{source}: no mistakes")
