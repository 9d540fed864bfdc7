"""`retrieval train`."""

from __future__ import annotations

import click

from .output import figures_table, print_json


@click.command(
    "train",
    epilog="""\b
Examples:
  retrieval train --config glyphs
  retrieval train --config omniglot --out runs/none data.root=omniglot loss.projection=none
  retrieval train --config runs/none/config.yaml --resume
  torchrun --nproc_per_node 4 -m retrieval.cli train --config sop data.root=DIR""",
)
@click.option(
    "--config",
    "source",
    default="glyphs",
    show_default=True,
    help="A name from `retrieval config list`, or a YAML file.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder of the run.  [default: runs/<config>, or runs/<folder> of a <folder>/config.yaml]",
)
@click.option("--overwrite", is_flag=True, help="Replace the run in that folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(
    source: str, out: str | None, overwrite: bool, resume: bool, as_json: bool, overrides: tuple[str, ...]
) -> None:
    """Train a model, and measure it on the test classes.

    SIGTERM or Ctrl-C ends the step under way, saves and exits with 143 or 130; --resume goes on from there.
    """
    from pathlib import Path

    from retrieval.config import load

    if overwrite and resume:
        raise click.UsageError("--overwrite and --resume exclude each other")
    config = load(source, overrides)
    file = Path(source)
    is_of_a_run = file.name == "config.yaml"  # the name says nothing, that of its folder does
    new = Path("runs") / (file.absolute().parent.name if is_of_a_run else file.stem)
    folder = out or str(file.parent if resume and is_of_a_run else new)
    from retrieval import recipes  # after the check of the configuration: it takes seconds

    results = recipes.train(config, folder, overwrite=overwrite, resume=resume)
    if not results:  # not the first of several processes
        return
    if as_json:
        print_json({"run": folder, **results})
        return
    click.echo(figures_table(results, heading="test classes"))
    click.echo(f"\nrun       {folder}\npictures  {folder}/curves.png  {folder}/gallery.png")
    click.echo(f"next      retrieval index {folder}")
