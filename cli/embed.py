"""`retrieval embed`."""

from __future__ import annotations

import click

from retrieval.errors import plural

from .output import paste, print_json, print_weights
from .parameters import (
    FOLDER,
    PLACE,
    checkpoint_option,
    device_option,
    json_option,
    overwrite_option,
    skip_unreadable_option,
)


@click.command(
    "embed",
    short_help="Embed images into plain files.",
    epilog="""\b
Examples:
  retrieval embed runs/glyphs photos --out photos-vectors
  retrieval embed runs/glyphs/index-test a.png b.png --out two""",
)
@click.argument("model", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=PLACE, metavar="IMAGE|FOLDER...")
@click.option("--out", required=True, type=FOLDER, help="New folder for the files.")
@checkpoint_option()
@skip_unreadable_option()
@device_option()
@overwrite_option("the files in that folder")
@json_option()
def command(
    model: str,
    images: tuple[str, ...],
    out: str,
    checkpoint: str | None,
    skip_unreadable: bool,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Embed IMAGES with the model of MODEL (a run, an index or a saved model) into plain files.

    The files are vectors.npy, float32 unit vectors, and paths.csv, with a line for each vector.
    """
    from retrieval.model import Model

    source = Model.load(model, checkpoint=checkpoint, device=device)
    files = source.embed_files(images, out, skip_unreadable=skip_unreadable, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "count": files.count, "source": source.source})
    else:
        print_weights(source.source)
        click.echo(f"embedded  {plural(files.count, 'image')}: {paste(files.vectors)}, {files.table.name}")
