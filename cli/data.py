"""`retrieval data`."""

from __future__ import annotations

import contextlib
import json
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.errors import plural

from .output import paste, print_json
from .parameters import DATASET, FILE, PLACE, Count, json_option

if TYPE_CHECKING:
    from retrieval.data.catalogue import Source
    from retrieval.data.verify import Report


@click.group(
    "data",
    epilog="""\b
Examples:
  retrieval data list
  retrieval data describe cub200
  retrieval data prepare cub200 CUB_200_2011.tgz --root data/cub200
  retrieval data verify cub200 --root data/cub200""",
)
def group() -> None:
    """List, describe, check and unpack data sets. Nothing is downloaded."""


@group.command(
    "list",
    epilog="""\b
Examples:
  retrieval data list
  retrieval data list --json""",
)
@json_option("Print JSON: title and published counts by name.")
def list_datasets(as_json: bool) -> None:
    """List the data sets that can be read."""
    from retrieval.data.catalogue import CATALOGUE

    if as_json:
        print_json({name: {"title": it.title, "published": _by_split(it.published)} for name, it in CATALOGUE.items()})
        return
    for name, source in CATALOGUE.items():
        click.echo(f"{name:9} {source.title}")


@group.command(
    "describe",
    short_help="Describe a data set and where to get it.",
    epilog="""\b
Examples:
  retrieval data describe cub200
  retrieval data describe folder""",
)
@click.argument("name", type=DATASET)
@json_option()
def describe(name: str, as_json: bool) -> None:
    """Describe the data set NAME: its files, where to get it, and its terms of use."""
    with _mistakes():
        from retrieval.data.catalogue import find_source, read_description, read_options

        source, description, options = find_source(name), read_description(name), read_options(name)
    if as_json:
        about = {"name": name, "description": description, "source": source.origin, "terms": source.terms}
        files = {"archives": source.archives, "md5": source.md5, "published": _by_split(source.published)}
        print_json({**about, **files, "options": options})
        return
    _print_description(name, source, description, options)


@group.command(
    "verify",
    short_help="Check a data set, every image of it.",
    epilog="""\b
Examples:
  retrieval data verify cub200 --root CUB_200_2011
  retrieval data verify cub200 --root CUB_200_2011 "train_classes=[1, 25]" \\
      "test_classes=[26, 50]"
  retrieval data verify csv --root photos file=list.csv --faults faults.txt""",
)
@click.argument("name", type=DATASET)
@click.argument("options", nargs=-1, metavar="[OPTION=VALUE]...")
@click.option("--root", type=PLACE, help="Folder of the data set.")
@click.option(
    "--faults",
    "file",
    type=FILE,
    help="Write the faults into this file, one per line.  [default: NAME-faults.txt]",
)
@click.option("--processes", type=Count(1), metavar="N", help="Processes that open images.  [default: one per core]")
@json_option("Print the counts and the faults as JSON.")
def verify(
    name: str, options: tuple[str, ...], root: str | None, file: str | None, processes: int | None, as_json: bool
) -> None:
    """Check the data set NAME: its lists, the published counts, and every image. Exits with 1 if there are faults.

    OPTION=VALUE sets an option of its reader, like data.options.OPTION=VALUE in training; see `retrieval data describe NAME`.
    """
    from retrieval.config import load
    from retrieval.errors import DatasetError

    if root and not Path(root).exists():
        raise DatasetError(f"{root}: does not exist; give the folder of the data set")
    values = load("glyphs", [f"data.options.{option}" for option in options]).data.options
    with _mistakes():
        from retrieval.data.faults import fault_file, write_faults
        from retrieval.data.verify import verify as check

        path = fault_file(name, file)
        report = check(name, root, values, processes=processes, watch=_progress("opening images"))
    if as_json:
        values = {"faults": report.faults, "not_read": report.left_out}
        print_json({"name": name, "splits": _by_split(report.splits), **values})
    else:
        _print_report(report)
    write_faults(path, name, report.faults)
    if report.faults:
        raise DatasetError(f"{name}: faults: {len(report.faults)}, listed in {paste(path)}")


@group.command(
    "prepare",
    short_help="Unpack the archives of a data set.",
    epilog="""\b
Examples:
  retrieval data prepare cub200 CUB_200_2011.tgz --root data/cub200
  retrieval data prepare cars196 car_ims.tgz cars_annos.mat --root cars196""",
)
@click.argument("name", type=DATASET)
@click.argument("archives", nargs=-1, required=True, type=PLACE, metavar="ARCHIVE...")
@click.option("--root", required=True, type=PLACE, help="New folder for the data set.")
@json_option()
def prepare(name: str, archives: tuple[str, ...], root: str, as_json: bool) -> None:
    """Unpack the archives of the data set NAME, which you have downloaded, into a new folder.

    An ARCHIVE is a .tar, .tgz or .zip file, or a list (.csv, .mat, .txt), which is copied. Published md5 sums are checked.
    """
    with _mistakes():
        from retrieval.data.preparation import prepare as unpack

        unpacked = unpack(name, archives, root, watch=_progress("unpacking"))
    if as_json:
        print_json({"root": root, "files": unpacked.files, "bytes": unpacked.bytes, "md5_checked": unpacked.md5})
        return
    click.echo(f"unpacked  {plural(unpacked.files, 'file')}, {unpacked.bytes / 1e6:,.1f} MB: {paste(root)}")
    for archive, checked in unpacked.md5.items():
        click.echo(f"md5       {paste(archive)}: {'as published' if checked else 'none published, not checked'}")
    click.echo(f"next      retrieval data verify {name} --root {paste(root)}")


def _print_description(name: str, source: Source, description: str, options: Mapping[str, Any]) -> None:
    for part in description.split("\n\n"):  # indented lists of files are not wrapped
        click.echo(f"{part if part.startswith(' ') else _wrap(part)}\n")
    click.echo(_wrap(f"source     {source.origin}", indent=11))
    click.echo(_wrap(f"terms      {source.terms}", indent=11))
    for split, (classes, images) in source.published.items():
        click.echo(f"published  {split:9}{classes:7,} classes {images:7,} images")
    for archive, md5 in source.md5.items():
        click.echo(f"md5        {md5}  {archive}")
    for option, default in options.items():
        click.echo(f"option     {paste(f'{option}={json.dumps(default)}')}")
    if source.archives:
        click.echo(f"unpack     retrieval data prepare {name} {' '.join(source.archives)} --root DIR")
    click.echo(f"check      retrieval data verify {name} --root DIR")


def _wrap(text: str, indent: int = 0) -> str:
    """A paragraph wrapped at 80 columns; the lines after the first are indented."""
    return textwrap.fill(text, 80, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _by_split(counts: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    return {split: {"classes": classes, "images": images} for split, (classes, images) in counts.items()}


def _print_report(report: Report) -> None:
    for split, (classes, images) in report.splits.items():
        click.echo(f"{split:9}{classes:7,} classes {images:7,} images")
    for line in report.left_out:
        click.echo(f"not read {line}")
    for fault in report.faults:
        click.echo(fault)
    if not report.faults:
        compared = "as published" if report.as_published else "not compared with published ones"
        click.echo(f"no faults: every image was opened; counts {compared}")


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    """Turns a wrong argument of the library into an error of the command line."""
    from retrieval.errors import ConfigError

    try:
        yield
    except (ValueError, TypeError) as error:  # a TypeError: an option of another type than the reader expects
        raise ConfigError(str(error)) from error


def _progress(what: str) -> Callable[..., Iterable[Any]]:
    """Passes on what it is given and counts it on stderr, on a terminal only."""
    from tqdm import tqdm

    quiet = not logging.getLogger("retrieval").isEnabledFor(logging.INFO)

    def watch(items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        return tqdm(items, what, total, leave=False, disable=quiet or None, dynamic_ncols=True)

    return watch
