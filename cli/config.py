"""`retrieval config`."""

from __future__ import annotations

import click

from .output import paste, print_json
from .parameters import CONFIG, json_option


@click.group(
    "config",
    epilog="""\b
Examples:
  retrieval config list
  retrieval config show glyphs
  retrieval config check my.yaml""",
)
def group() -> None:
    """List, show and check configurations."""


@group.command(
    "list",
    epilog="""\b
Examples:
  retrieval config list""",
)
@json_option("Print JSON: descriptions by name.")
def list_configs(as_json: bool) -> None:
    """List the configurations that ship with the project."""
    from retrieval.config import config_names

    names = config_names()
    if as_json:
        print_json(names)
        return
    width = max(map(len, names))
    for name, description in names.items():
        click.echo(f"{name:{width}} {description}")


@group.command(
    "show",
    epilog="""\b
Examples:
  retrieval config show glyphs
  retrieval config show my.yaml loss.projection=norm
  retrieval config show cub200 > mine.yaml""",
)
@click.argument("source", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@json_option("Print it as JSON.")
def show(source: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a configuration with all its defaults.

    SOURCE is a name from `retrieval config list`, or a YAML file.
    """
    from retrieval.config import load, to_yaml

    config = load(source, overrides)
    if as_json:
        print_json(config.model_dump(mode="json"))
    else:
        click.echo(to_yaml(config), nl=False)


@group.command(
    "check",
    epilog="""\b
Examples:
  retrieval config check my.yaml
  retrieval config check my.yaml training.epochs=3""",
)
@click.argument("source", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@json_option("Print the mistakes as JSON.")
def check(source: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a configuration: its options, and every name in it. Each mistake is printed on a line of its own.

    SOURCE is a name from `retrieval config list`, or a YAML file. Data set, backbone, loss, miner, optimiser and callbacks are
    resolved as in a run; your own code is imported. The folder of the images must exist, but images and weights are not read.
    """
    from retrieval.config import load
    from retrieval.errors import ConfigError

    try:
        config = load(source, overrides)
        from retrieval.config.check import check as check_names  # after the options, since it takes seconds

        check_names(config)
    except ConfigError as error:
        if as_json:
            print_json({"source": source, "mistakes": error.mistakes})
        raise
    if as_json:
        print_json({"source": source, "mistakes": []})
    else:
        click.echo(f"{paste(source)}: no mistakes")
