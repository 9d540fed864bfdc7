"""`retrieval tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .output import cautions_lines, paste, print_json, print_places, text_table
from .parameters import CONFIG, FILE, FOLDER, Count, Word, device_option, json_option, overwrite_option
from .train import parse_words

if TYPE_CHECKING:
    from retrieval.runs import Trial, Tuning

FIGURES = {"recall@1": "recall@1", "map@r": "MAP@R", "sum": "sum"}


@click.command(
    "tune",
    short_help="Search the options of a training on folds.",
    epilog="""\b
Examples:
  retrieval tune my_photos
  retrieval tune my_photos --trials 40 --folds 4 training.epochs=4
  retrieval tune --config glyphs --out tune/glyphs --space space.yaml
  retrieval train --config tune/my_photos/best.yaml --out runs/tuned

\b
A space file names options, each with a list of values or with a range:
  training.learning_rate: {low: 1e-5, high: 1e-3, log: true}
  loss.temperature: {low: 0.2, high: 2}
  model.head_init: [random, pca, whiten]""",
)
@click.option(
    "--config",
    "source",
    type=CONFIG,
    help="A name from `retrieval config list`, or a YAML file.  [default: photos for PHOTOS, otherwise glyphs]",
)
@click.option("--out", type=FOLDER, help="Folder of the search.  [default: tune/<name of PHOTOS>; tune/<config>]")
@click.option(
    "--trials", type=Count(1), default=20, show_default=True, metavar="N", help="Trials, with those of earlier calls."
)
@click.option("--folds", type=Count(2), default=3, show_default=True, metavar="N", help="Folds of the training images.")
@click.option(
    "--space",
    type=FILE,
    help="A YAML file of options and their values.  [default: learning rate, temperature, start of the head]",
)
@click.option(
    "--metric",
    type=click.Choice(["sum", "recall@1", "map@r"]),
    default="sum",
    show_default=True,
    help="What is maximised; sum is that of recall@1 and MAP@R.",
)
@click.option("--seed", type=Count(0), metavar="N", help="The same as seed=N; also the seed of the search.")
@device_option(None, "The same as device=...: auto, cpu, cuda, ...")
@overwrite_option("the search in that folder")
@json_option("Print JSON: all trials, figures as fractions of 1.")
@click.argument("words", nargs=-1, metavar="[PHOTOS] [KEY=VALUE]...", type=Word(lambda: (), is_place=True))
def command(
    source: str | None, out: str | None, seed: int | None, device: str | None, words: tuple[str, ...], **options: Any
) -> None:
    """Search options of a training, on folds of the training images.

    PHOTOS, --config and KEY=VALUE are those of `retrieval train`. Each trial trains once for each fold, without the fold, and is
    measured on the fold: on other classes than those trained on or, where every class trains, on other images. The test images are
    not used. Trial 0 is the configuration as it is. Optuna samples the others, and those that fall behind are pruned.

    The folder has every trial in trials.csv and the configuration of the best one in best.yaml. The same command goes on with a
    search that was stopped, also with more --trials. Needs `pip install 'image-retrieval-toolkit[tune]'`.
    """
    from retrieval.config import load
    from retrieval.config.folders import default_folder

    given = {"seed": seed, "device": device}
    photos, overrides = parse_words(words)
    overrides += [f"{key}={value}" for key, value in given.items() if value is not None]
    source, as_json = source or ("photos" if photos else "glyphs"), options.pop("as_json")
    config = load(source, overrides, photos)  # before the import of the rest, which takes seconds
    from retrieval.runs import tune

    tuning = tune(config, out=out or default_folder(source, photos, parent="tune"), **options)
    (_print_as_json if as_json else _print_tuning)(tuning)


def _print_as_json(tuning: Tuning) -> None:
    print_json(tuning.to_dict())


def _print_tuning(tuning: Tuning) -> None:
    best, start = tuning.best, tuning.start
    rows = [_row(f"best, trial {best.number}", best), _row("start, trial 0", start)]
    if best is start:
        del rows[1]
    if found := tuning.difference:
        halves = {name: found[f"{name} high"] - found[name] for name in FIGURES}
        cells = {title: f"{100 * found[name]:+.2f} ± {100 * halves[name]:.2f}" for name, title in FIGURES.items()}
        rows.append({"": "difference", **cells})
    click.echo(text_table(rows))
    interval = "; ± half the 95 % interval over the folds" if found else ""
    click.echo(f"in percent, means over {tuning.num_folds} folds of the training images{interval}\n")
    options = [
        {"": key, "best": _value(value), **({} if best is start else {"start": _value(start.values[key])})}
        for key, value in best.values.items()
    ]
    click.echo(f"{text_table(options)}\n")
    states = [trial.state for trial in tuning.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    print_places(trials=f"{paste(tuning.path / 'trials.csv')} ({counts})", config=tuning.path / "best.yaml")
    for line in cautions_lines(tuning.cautions):
        click.echo(line)
    print_places(next=f"retrieval train --config {paste(tuning.path / 'best.yaml')} --out {paste(_run_of(tuning))}")


def _row(name: str, trial: Trial) -> dict[str, str]:
    figures = trial.figures
    return {"": name, **{title: f"{100 * figures[key]:.2f}" if figures else "-" for key, title in FIGURES.items()}}


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run_of(tuning: Tuning) -> str:
    return f"runs/{tuning.path.name}"
