"""`retrieval index`."""

from __future__ import annotations

import click


@click.command(
    "index",
    epilog="""\b
Examples:
  retrieval index runs/glyphs
  retrieval index runs/glyphs --split train --checkpoint best --out glyphs-train""",
)
@click.argument("run", type=click.Path(file_okay=False))
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test", "query", "gallery"]),
    help="What to embed.  [default: test, or gallery]",
)
@click.option("--checkpoint", type=click.Choice(["last", "best"]), default="last", show_default=True)
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the index.  [default: RUN/index-<split>]")
@click.option("--overwrite", is_flag=True, help="Replace the index in that folder.")
def command(run: str, split: str | None, checkpoint: str, out: str | None, overwrite: bool) -> None:
    """Embed a split with the model of RUN and write an index."""
    from retrieval import recipes

    folder = recipes.build_index(run, out, split=split, checkpoint=checkpoint, overwrite=overwrite)
    click.echo(f"index     {folder}\nnext      retrieval recall {folder}")
