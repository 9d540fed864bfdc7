"""`retrieval embed`."""

from __future__ import annotations

import click

from .output import paste, print_json


@click.command(
    "embed",
    epilog="""\b
Examples:
  retrieval embed runs/glyphs photos --out photos-vectors
  retrieval embed runs/glyphs/index-test a.png b.png --out two""",
)
@click.argument("model", type=click.Path(file_okay=False))
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE|FOLDER...")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="New folder for the files.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@click.option("--overwrite", is_flag=True, help="Replace the files in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, images: tuple[str, ...], out: str, device: str, overwrite: bool, as_json: bool) -> None:
    """Embed IMAGES with the model of MODEL (a run, or an index) into plain files.

    They are vectors.npy, float32 of unit length, and paths.csv, a line for each.
    """
    from retrieval import recipes

    count = recipes.embed_to_files(model, images, out, device=device, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "count": count})
    else:
        click.echo(f"embedded  {count:,} images: {paste(out)}/vectors.npy, paths.csv")
