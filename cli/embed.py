"""`retrieval embed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from retrieval.errors import plural

from .output import paste, print_json, print_weights
from .parameters import (
    FOLDER,
    PLACE,
    PartOf,
    checkpoint_option,
    device_option,
    json_option,
    overwrite_option,
    precision_option,
    skip_unreadable_option,
)

if TYPE_CHECKING:
    from retrieval.model import Model


@click.command(
    "embed",
    short_help="Embed images into plain files.",
    epilog="""\b
Examples:
  retrieval embed runs/glyphs photos --out photos-vectors
  retrieval embed runs/glyphs/index-test a.png b.png --out two
  retrieval embed runs/glyphs photos --part 3/16 --out parts
  retrieval embed runs/glyphs "shards/{000..127}.tar" --part 3/16 --out parts""",
)
@click.argument("model", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=PLACE, metavar="IMAGE|FOLDER...")
@click.option("--out", required=True, type=FOLDER, help="New folder for the files; for the parts, with --part.")
@click.option(
    "--part", type=PartOf(), metavar="I/N", help="Embed part I of N into a file of its own, for `index --from-parts`."
)
@checkpoint_option()
@skip_unreadable_option()
@precision_option("that of the run")
@device_option()
@overwrite_option("the files in that folder")
@json_option()
def command(
    model: str,
    images: tuple[str, ...],
    out: str,
    part: tuple[int, int] | None,
    checkpoint: str | None,
    skip_unreadable: bool,
    precision: str | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Embed IMAGES with the model of MODEL (a run, an index or a saved model) into plain files.

    The files are vectors.npy, float32 unit vectors, and paths.csv, with a line for each vector.

    With --part, IMAGES may also be a CSV list, or tar shards. A finished part is skipped, so the command can be run again.
    """
    from retrieval.model import Model

    source = Model.load(model, checkpoint=checkpoint, device=device).at(precision)
    if part is not None:
        _embed_part(source, images, out, part, as_json, skip_unreadable=skip_unreadable, overwrite=overwrite)
        return
    files = source.embed_files(images, out, skip_unreadable=skip_unreadable, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "count": files.count, "source": source.source})
    else:
        print_weights(source.source)
        click.echo(f"embedded  {plural(files.count, 'image')}: {paste(files.vectors)}, {files.table.name}")


def _embed_part(
    source: Model, images: Sequence[str], out: str, part: tuple[int, int], as_json: bool, **options: bool
) -> None:
    from retrieval.index import embed_part

    file, count = embed_part(source, images, out, part, **options)
    if as_json:
        print_json({"out": str(file), "count": count, "source": source.source})
    else:
        print_weights(source.source)
        click.echo(f"embedded  {plural(count, 'image')}: {paste(file)}")
