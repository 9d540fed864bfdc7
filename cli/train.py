"""`retrieval train`."""

from __future__ import annotations

import os

import click

from .output import figures_table, paste, print_json, print_places
from .parameters import CONFIG, FOLDER, Count, device_option, json_option, overwrite_option


@click.command(
    "train",
    epilog="""\b
Examples:
  retrieval train --config glyphs
  retrieval train --config omniglot --out runs/none data.root=omniglot \\
      loss.projection=none
  retrieval train --out runs/none --resume
  torchrun --nproc_per_node 4 -m retrieval.cli train data.root=DIR""",
)
@click.option(
    "--config",
    "source",
    type=CONFIG,
    help="A name from `retrieval config list`, or a YAML file.  [default: glyphs, or that of the run to --resume]",
)
@click.option(
    "--out",
    type=FOLDER,
    help="Folder of the run.  [default: runs/<config>, or runs/<folder> of a <folder>/config.yaml]",
)
@click.option("--seed", type=Count(0), metavar="N", help="The same as seed=N.")
@device_option(None, "The same as device=...: auto, cpu, cuda, ...")
@overwrite_option("the run in that folder")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@json_option("Print the results as JSON.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", callback=lambda *given: _parse_overrides(*given))
def command(
    source: str | None,
    out: str | None,
    seed: int | None,
    device: str | None,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train a model, and measure it on the test classes.

    Every value of `retrieval config show` can be set as KEY=VALUE. SIGTERM or Ctrl-C ends the current step, saves and exits with
    143 or 130; --resume continues from there.
    """
    if overwrite and resume:
        raise click.UsageError("--overwrite and --resume exclude each other")
    from retrieval.config import load

    given = {"seed": seed, "device": device}
    options = [*overrides, *(f"{key}={value}" for key, value in given.items() if value is not None)]
    source, folder = _choose(source, out, resume)
    config = load(source, options)  # before the import of the rest, which takes seconds
    from retrieval.runs import train

    run = train(config, out=folder, overwrite=overwrite, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # only rank 0 has results
    if as_json:
        print_json({"run": str(run.path), **run.results})
    else:
        click.echo(figures_table(run.results, heading="test classes"))
        click.echo()
        print_places(run=run.path, pictures=run.pictures, next=f"retrieval index {paste(run.path)}")


def _parse_overrides(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Points out a configuration that is named without --config."""
    from retrieval.config import config_names

    for override in value:
        if override in config_names():
            raise click.UsageError(f"{override!r}: expected KEY=VALUE; or do you mean --config {override}?")
    return value


def _choose(source: str | None, out: str | None, resume: bool) -> tuple[str, str]:
    """The configuration and the folder of the run, from the options that were given."""
    from retrieval.config.folders import config_of, default_folder

    if source is None:
        source = (config_of(out or str(default_folder("glyphs"))) if resume else None) or "glyphs"
    return source, out or str(default_folder(source, resume=resume))
