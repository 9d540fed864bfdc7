"""`retrieval hub`."""

from __future__ import annotations

import click

from retrieval.errors import plural

from .output import paste, print_json
from .parameters import FOLDER, checkpoint_option, json_option, overwrite_option


@click.group(
    "hub",
    short_help="Share models and indexes on the Hugging Face Hub.",
    epilog="""\b
Examples:
  retrieval hub push runs/glyphs user/glyphs
  retrieval hub push photos-index datasets/user/photos
  retrieval hub pull user/glyphs --out model""",
)
def group() -> None:
    """Share models and indexes on the Hugging Face Hub.

    The token comes from the environment variable HF_TOKEN. A command that takes a run for its model takes hf-hub:user/name, too.
    """


@group.command(
    "push",
    short_help="Upload a model or an index.",
    epilog="""\b
Examples:
  HF_TOKEN=... retrieval hub push runs/glyphs user/glyphs --private
  retrieval hub push model user/model
  retrieval hub push photos-index datasets/user/photos""",
)
@click.argument("place", type=FOLDER, metavar="RUN|MODEL|INDEX")
@click.argument("repository", metavar="REPO")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--no-gallery", is_flag=True, help="Leave out the picture of the run's queries and neighbours.")
@checkpoint_option()
@json_option()
def push(place: str, repository: str, private: bool, no_gallery: bool, checkpoint: str | None, as_json: bool) -> None:
    """Upload the model of a run or a saved model to REPO, user/name, or an index to datasets/user/name.

    The card of a run has its figures, command and configuration. timm alone loads a timm network, too.
    """
    from retrieval.runs import push

    page = push(place, repository, checkpoint=checkpoint, private=private, gallery=not no_gallery)
    if as_json:
        print_json({"page": page})
        return
    click.echo(f"pushed    {page}")
    click.echo("edit      the card, README.md: fill in the licence and the data set")
    click.echo(f"next      retrieval hub pull {paste(repository)} --out FOLDER")


@group.command(
    "pull",
    short_help="Download a model or an index.",
    epilog="""\b
Examples:
  retrieval hub pull user/glyphs --out model
  retrieval hub pull user/glyphs@v1 --out model
  retrieval hub pull datasets/user/photos --out photos-index""",
)
@click.argument("repository", metavar="REPO")
@click.option("--out", required=True, type=FOLDER, help="New folder for the model or the index.")
@overwrite_option("the model or the index in that folder")
@json_option()
def pull(repository: str, out: str, overwrite: bool, as_json: bool) -> None:
    """Download the model of REPO, user/name, or the index of datasets/user/name, after checking every file.

    A branch, a tag or a commit follows the name: user/name@v1.
    """
    from retrieval.model import Model
    from retrieval.runs import pull

    pulled = pull(repository, out, overwrite=overwrite)
    if as_json:
        print_json({"out": out, "kind": "model" if isinstance(pulled, Model) else "index"})
    elif isinstance(pulled, Model):
        click.echo(f"model     {paste(out)}: images to vectors of {plural(pulled.embedding_dim, 'number')}")
        click.echo(f"next      retrieval index {paste(out)} --images FOLDER --out INDEX")
    else:
        click.echo(f"index     {paste(out)}: {plural(len(pulled), 'vector')}")
        click.echo(f"next      retrieval search {paste(out)} IMAGE")
