"""`retrieval train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import figures_table, paste, print_json, print_places
from .parameters import CONFIG, FOLDER, Count, Word, device_option, json_option, overwrite_option

if TYPE_CHECKING:
    from retrieval.runs import Run


@click.command(
    "train",
    short_help="Train a model.",
    epilog="""\b
Examples:
  retrieval train my_photos
  retrieval train my_photos --out runs/all data.split=all training.epochs=4
  retrieval train my_photos --dry-run
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
    help="A name from `retrieval config list`, or a YAML file.  [default: photos for PHOTOS, otherwise glyphs; or that "
    "of the run to --resume]",
)
@click.option(
    "--out",
    type=FOLDER,
    help="Folder of the run.  [default: runs/<name of PHOTOS>; runs/<config>, or runs/<folder> of a <folder>/config.yaml]",
)
@click.option("--seed", type=Count(0), metavar="N", help="The same as seed=N.")
@device_option(None, "The same as device=...: auto, cpu, cuda, ...")
@overwrite_option("the run in that folder")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@click.option("--dry-run", is_flag=True, help="Print what would be trained, and stop: nothing is trained or written.")
@json_option("Print the results as JSON.")
@click.argument("words", nargs=-1, metavar="[PHOTOS] [KEY=VALUE]...", type=Word(lambda: (), is_place=True))
def command(
    source: str | None,
    out: str | None,
    seed: int | None,
    device: str | None,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Train a model, and measure it on images that it was not trained on.

    PHOTOS is a folder with a folder of images for each class, or a .csv list of paths and labels; see `retrieval data describe
    folder` and `csv`. Without --config, it is trained with the configuration photos: a pretrained network and a recipe for few
    images. Half of the classes are trained on and half are tested, unless data.split or the folder itself says otherwise.

    Every value of `retrieval config show` can be set as KEY=VALUE. SIGTERM or Ctrl-C ends the current step, saves and exits with
    143 or 130; --resume continues from there.
    """
    if overwrite and resume:
        raise click.UsageError("--overwrite and --resume exclude each other")
    from retrieval.config import load

    given = {"seed": seed, "device": device}
    photos, overrides = parse_words(words)
    overrides += [f"{key}={value}" for key, value in given.items() if value is not None]
    source, folder = choose(source, photos, out, resume)
    config = load(source, overrides, photos)  # before the import of the rest, which takes seconds
    from retrieval.runs import train

    run = train(config, out=folder, overwrite=overwrite, resume=resume, dry_run=dry_run)
    if os.environ.get("RANK", "0") == "0":  # only rank 0 has results
        (_print_plan if dry_run else _print_results)(run, as_json)


def _print_plan(run: Run, as_json: bool) -> None:
    assert run.plan is not None
    if as_json:
        print_json({"run": str(run.path), **run.plan.to_dict()})
    else:
        click.echo(f"{run.plan}\nrun        {paste(run.path)} (dry run: nothing was trained or written)")


def _print_results(run: Run, as_json: bool) -> None:
    if as_json:
        print_json({"run": str(run.path), **run.results})
        return
    tested = {name: figures for name, figures in run.results.items() if not name.endswith("(validation)")}
    if run.results:
        validated = {name.removesuffix(" (validation)"): figures for name, figures in run.results.items()}
        click.echo(figures_table(tested or validated, heading=run.measured_on))
        click.echo()
    chosen = {"model": _chosen(run)} if run.summary.headline else {}
    print_places(run=run.path, **chosen, pictures=run.pictures, next=f"retrieval index {paste(run.path)}")


def _chosen(run: Run) -> str:
    """The epoch whose weights the model of the run has, and its figures."""
    name = "the last epoch" if run.best_epoch is None else f"epoch {run.best_epoch}, the best by validation"
    figures = run.summary.headline
    shown = [f"{title} {100 * figures[key]:.2f}" for key, title in (("recall@1", "recall@1"), ("map@r", "MAP@R"))]
    return f"{name if run.best_epoch != 0 else 'the start, the best by validation'}: {', '.join(shown)}"


def parse_words(words: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """The folder or list of images, if one is given, and the overrides. Points out a configuration without --config."""
    from retrieval.config import config_names

    places = [word for word in words if "=" not in word]
    for word in places:
        if not word:
            raise click.UsageError("the path is empty")
        if not Path(word).expanduser().exists():
            hint = f"; or do you mean --config {word}?" if word in config_names() else ""
            raise click.UsageError(f"{word!r}: expected a folder of images, a .csv list, or KEY=VALUE{hint}")
    if len(places) > 1:
        raise click.UsageError(f"{places[1]!r}: images are given already ({places[0]!r}); give one folder or list")
    return places[0] if places else None, [word for word in words if "=" in word]


def choose(source: str | None, photos: str | None, out: str | None, resume: bool) -> tuple[str, str]:
    """The configuration and the folder of the run, from the options that were given."""
    from retrieval.config.folders import config_of, default_folder

    default = "photos" if photos else "glyphs"
    if source is None and resume:
        source = config_of(out or str(default_folder(default, photos)))
    source = source or default
    return source, out or str(default_folder(source, photos, resume=resume))
