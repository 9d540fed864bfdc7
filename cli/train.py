"""`retrieval train`."""

from __future__ import annotations

import click

from .output import figures_table, paste, print_json
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
@click.option("--resume", is_flag=True, help="Go on with the run in that folder.")
@json_option("Print the results as JSON.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
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

    Every value of `retrieval config show` can be set as KEY=VALUE. SIGTERM or Ctrl-C ends the step under way, saves and exits with
    143 or 130; --resume goes on from there.
    """
    from pathlib import Path

    from retrieval.config import config_names, load

    if overwrite and resume:
        raise click.UsageError("--overwrite and --resume exclude each other")
    for word in overrides:
        if word in config_names():
            raise click.UsageError(f"{word!r}: expected KEY=VALUE; or do you mean --config {word}?")
    if source is None:
        of_run = Path(out or "runs/glyphs") / "config.yaml"
        source = str(of_run) if resume and of_run.is_file() else "glyphs"
    given = {"seed": seed, "device": device}
    words = [*overrides, *(f"{key}={value}" for key, value in given.items() if value is not None)]
    config = load(source, words)
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
    pictures = "  ".join(paste(Path(folder) / f"{name}.png") for name in ("curves", "gallery"))
    click.echo(f"\nrun       {paste(folder)}\npictures  {pictures}")
    click.echo(f"next      retrieval index {paste(folder)}")
