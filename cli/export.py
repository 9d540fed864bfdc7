"""`retrieval export`."""

from __future__ import annotations

import click

from retrieval.errors import plural

from .output import paste, print_json, print_weights
from .parameters import FILE, FOLDER, PLACE, checkpoint_option, json_option, overwrite_option


@click.group(
    "export",
    epilog="""\b
Examples:
  retrieval export npy runs/glyphs/index-test --out vectors
  retrieval export model runs/glyphs --out model
  retrieval export onnx runs/glyphs --out model.onnx""",
)
def group() -> None:
    """Write vectors or models for other programs."""


@group.command(
    "npy",
    short_help="Write the vectors of an index.",
    epilog="""\b
Examples:
  retrieval export npy runs/glyphs/index-test --out vectors""",
)
@click.argument("index", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="New folder for the files.")
@overwrite_option("the files in that folder")
@json_option()
def npy(index: str, out: str, overwrite: bool, as_json: bool) -> None:
    """Write the vectors of INDEX as vectors.npy, and labels.csv: id, label and path of each.

    `retrieval index --from-npy` reads them back.
    """
    from retrieval.index import Index

    files = Index.open(index).export(out, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "count": files.count})
    else:
        click.echo(f"exported  {plural(files.count, 'vector')}: {paste(files.vectors)}, {files.table.name}")


@group.command(
    "model",
    short_help="Save a model without its run.",
    epilog="""\b
Examples:
  retrieval export model runs/glyphs --out model
  retrieval index model --images photos --out photos-index""",
)
@click.argument("model", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="New folder for the model.")
@checkpoint_option()
@overwrite_option("the model in that folder")
@json_option()
def save(model: str, out: str, checkpoint: str | None, overwrite: bool, as_json: bool) -> None:
    """Save the model of MODEL (a run, an index or a saved model) as a folder of its own.

    Every command that takes a run for its model takes this folder, too.
    """
    from retrieval.model import Model

    source = Model.load(model, checkpoint=checkpoint, device="cpu")
    source.save(out, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "dimension": source.embedding_dim, "source": source.source})
    else:
        print_weights(source.source)
        click.echo(f"saved     {paste(out)}: images to vectors of {source.embedding_dim} numbers")


@group.command(
    "onnx",
    short_help="Write a model as ONNX.",
    epilog="""\b
Examples:
  retrieval export onnx runs/glyphs --out model.onnx
  retrieval export onnx photos-index --out model.onnx --images photos""",
)
@click.argument("model", type=FOLDER)
@click.option("--out", required=True, type=FILE, help="The file.")
@click.option("--images", multiple=True, type=PLACE, help="Compare on these instead of noise; can be repeated.")
@checkpoint_option()
@overwrite_option("that file")
@json_option()
def onnx(model: str, out: str, images: tuple[str, ...], checkpoint: str | None, overwrite: bool, as_json: bool) -> None:
    """Write the model of MODEL (a run, an index or a saved model) as ONNX, if onnxruntime and torch agree.

    They agree if the vectors of some images are equal to 1e-4, with the same nearest neighbours.
    """
    from retrieval.model import Model

    source = Model.load(model, checkpoint=checkpoint, device="cpu")
    report = source.export_onnx(out, images=images, overwrite=overwrite)
    if as_json:
        print_json({"out": out, **report, "source": source.source})
        return
    print_weights(source.source)
    click.echo(f"exported  {paste(out)}: images to vectors, opset {report['opset']}")
    click.echo(
        f"checked   {plural(report['images'], 'image')}: differ by {report['largest_difference']:.1e}, same neighbours"
    )
