"""Types of arguments and options, and their completion in a shell."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class Place(click.Path):
    """A path. An empty path is refused: it is usually an unset variable of the shell, and would mean the current folder.

    Args:
        suffix: The suffix that the name of a file must have.
        options: Arguments of `click.Path`.
    """

    def __init__(self, suffix: str = "", **options: Any) -> None:
        super().__init__(**options, readable=False)
        self.suffix = suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Checks the path."""
        if not value:
            self.fail("the path is empty", param, ctx)
        if not self.file_okay and Path(value).is_file():
            self.fail(f"{value!r} is a file, expected a folder", param, ctx)
        if not self.dir_okay and Path(value).is_dir():
            self.fail(f"{value!r} is a folder, expected the name of a file", param, ctx)
        if not str(value).endswith(self.suffix):
            self.fail(f"{value!r} does not end in {self.suffix}", param, ctx)
        if Path(value).exists() and not os.access(value, os.R_OK):
            raise click.ClickException(f"{value}: cannot be read (Permission denied)")  # exit code 1, not 2
        return super().convert(value, param, ctx)


class IndexOrVectors(Place):
    """The folder of an index, or a .npy file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Checks the path."""
        if Path(value).is_file() and not is_vectors(value):
            self.fail(f"{value!r} is a file, expected a folder or a .npy file", param, ctx)
        return super().convert(value, param, ctx)


def is_vectors(path: str) -> bool:
    """Whether a path is that of a .npy file; a folder may have such a name, too."""
    return path.endswith(".npy") and not Path(path).is_dir()


class Count(click.IntRange):
    """An integer in a range."""

    name = "whole number"


class Number(click.FloatRange):
    """A finite number in a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses NaN and infinity, which the check of the range accepts."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite", param, ctx)
        return number


class Score(click.ParamType):
    """A finite number, or "auto"."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Keeps "auto" as it is, and reads a number."""
        try:
            number = value if value == "auto" else float(value)
        except ValueError:
            number = math.nan
        if number != "auto" and not math.isfinite(number):
            self.fail(f"{value!r} is neither a finite number nor auto", param, ctx)
        return number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The word "auto"."""
        return [CompletionItem("auto")] if "auto".startswith(incomplete) else []


class PartOf(click.ParamType):
    """A part of several: "3/128" is the third of 128."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads the two numbers."""
        number, _, count = str(value).partition("/")
        if not (number.isascii() and count.isascii() and number.isdecimal() and count.isdecimal()):
            self.fail(f"{value!r}: expected two whole numbers, e.g. 3/128", param, ctx)
        if not 1 <= int(number) <= int(count) < 100_000:
            self.fail(f"{value!r}: parts are numbered from 1 to their count, which is below 100,000", param, ctx)
        return int(number), int(count)


class Word(click.ParamType):
    """Any text, with completion of known values.

    Args:
        words: Returns the known values; called for completion only.
        is_place: Whether file names are completed too.
    """

    name = "text"

    def __init__(self, words: Callable[[], Iterable[str]], *, is_place: bool = False) -> None:
        self.words = words
        self.is_place = is_place

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The known values with this beginning."""
        known = [CompletionItem(word) for word in self.words() if word.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *known] if self.is_place else known


def _configs() -> Iterable[str]:
    from retrieval.config import config_names

    return config_names()


FOLDER, FILE, PLACE = Place(file_okay=False), Place(dir_okay=False), Place()
CONFIG = Word(_configs, is_place=True)
DEVICE = Word(lambda: ("auto", "cpu", "cuda", "mps"))
INDEX_TYPE = Word(lambda: ("exact", "ivf", "hnsw", "pq"))
# Not from retrieval.data, whose import takes seconds.
DATASET = Word(lambda: ("cars196", "csv", "cub200", "folder", "glyphs", "inshop", "omniglot", "sop"))


def parse_ks(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Reads "1,2,4,8"."""
    try:
        ks = tuple(dict.fromkeys(int(word) for word in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected whole numbers with commas, e.g. 1,2,4,8") from None
    if min(ks) < 1:
        raise click.BadParameter(f"{value!r}: every k is at least 1")
    return ks


def device_option(default: str | None = "auto", what: str = "auto, cpu, cuda, ...") -> Callable[[Any], Any]:
    """--device of a model."""
    return click.option("--device", type=DEVICE, default=default, show_default=default is not None, help=what)


def precision_option(default: str) -> Callable[[Any], Any]:
    """--precision of a network that embeds."""
    kinds = click.Choice(["float32", "bfloat16"])
    return click.option("--precision", type=kinds, help=f"Of the network.  [default: {default}]")


def seed_option(of: str) -> Callable[[Any], Any]:
    """--seed of everything that is sampled at random."""
    return click.option("--seed", type=Count(0), default=0, show_default=True, metavar="N", help=f"Of {of}.")


def k_option(default: str) -> Callable[[Any], Any]:
    """--k of several cut-offs."""
    return click.option(
        "--k",
        "ks",
        default=default,
        show_default=True,
        callback=parse_ks,
        metavar="K,K,...",
        help="Cut-offs of recall@k.",
    )


def skip_unreadable_option() -> Callable[[Any], Any]:
    """--skip-unreadable of images that are embedded."""
    return click.option("--skip-unreadable", is_flag=True, help="Skip images that cannot be read, and name them.")


def json_option(what: str = "Print JSON.") -> Callable[[Any], Any]:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help=what)


def overwrite_option(what: str) -> Callable[[Any], Any]:
    """--overwrite."""
    return click.option("--overwrite", is_flag=True, help=f"Replace {what}.")


def checkpoint_option() -> Callable[[Any], Any]:
    """--checkpoint of a run."""
    kinds = click.Choice(["last", "best"])
    return click.option("--checkpoint", type=kinds, help="Weights of a run.  [default: best, where the run has one]")
