"""`retrieval export`."""

from __future__ import annotations

import click

from .output import paste, print_json


@click.group("export", epilog="Example: retrieval export onnx runs/glyphs --out model.onnx")
def group() -> None:
    """Write vectors or models for other programs."""


@group.command("npy", epilog="Example: retrieval export npy runs/glyphs/index-test --out vectors")
@click.argument("index", type=click.Path(file_okay=False))
@click.option("--out", required=True, type=click.Path(file_okay=False), help="New folder for the files.")
@click.option("--overwrite", is_flag=True, help="Replace the files in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def npy(index: str, out: str, overwrite: bool, as_json: bool) -> None:
    """Write the vectors of INDEX as vectors.npy, and labels.csv: id, label and path of each.

    `retrieval index --from-npy` reads them back.
    """
    from retrieval import recipes

    count = recipes.export_vectors(index, out, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "count": count})
    else:
        click.echo(f"exported  {count:,} vectors: {paste(out)}/vectors.npy, labels.csv")


@group.command(
    "onnx",
    epilog="""\b
Examples:
  retrieval export onnx runs/glyphs --out model.onnx
  retrieval export onnx runs/glyphs/index-test --out model.onnx --images photos""",
)
@click.argument("model", type=click.Path(file_okay=False))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="The file.")
@click.option("--images", multiple=True, type=click.Path(), help="Compare by these, not by noise; can be repeated.")
@click.option("--checkpoint", type=click.Choice(["last", "best"]), default="last", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def onnx(model: str, out: str, images: tuple[str, ...], checkpoint: str, as_json: bool) -> None:
    """Write the model of MODEL (a run, or an index) as ONNX, if onnxruntime makes the same of images as torch.

    The same is: vectors to 1e-4, and the same nearest neighbours.
    """
    from retrieval import recipes

    report = recipes.export_onnx(model, out, images=images, checkpoint=checkpoint)
    if as_json:
        print_json({"out": out, **report})
        return
    click.echo(f"exported  {paste(out)}: images to vectors, opset {report['opset']}")
    click.echo(f"checked   {report['images']} images: differ by {report['largest_difference']:.1e}, same neighbours")
