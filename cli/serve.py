"""`retrieval serve`."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from retrieval.errors import plural

from .output import print_json
from .parameters import FOLDER, Count, Number, device_option, json_option

MEGABYTE = 2**20
SECONDS = 2.0  # between two looks whether the index was replaced


@click.command(
    "serve",
    short_help="Serve an index over HTTP, with a page to search by.",
    epilog="""\b
Examples:
  retrieval serve photos-index
  retrieval serve runs/glyphs --port 8080 --reload
  retrieval serve photos-index --host 0.0.0.0 --token-env SEARCH_TOKEN
  retrieval serve photos-index --at milvus://localhost:19530/photos""",
)
@click.argument("index", type=FOLDER, metavar="INDEX|RUN")
@click.option("--at", metavar="URL", help="Search the server that INDEX was pushed to.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=Count(0, 65535), help="Port; 0 is a free one.")
@click.option("--token-env", metavar="NAME", help="Ask for the bearer token in this environment variable.")
@click.option("--reload", is_flag=True, help="Take up the index when it is replaced or edited.")
@click.option("--batch-size", default=16, show_default=True, type=Count(1), help="Images of a batch, at most.")
@click.option(
    "--batch-wait", default=2.0, show_default=True, type=Number(0), help="Milliseconds a batch waits for more."
)
@click.option("--queue", default=256, show_default=True, type=Count(1), help="Images under way, at most.")
@click.option("--max-images", default=16, show_default=True, type=Count(1), help="Images of a request, at most.")
@click.option("--max-mb", default=20.0, show_default=True, type=Number(0.001), help="Megabytes of a request, at most.")
@click.option("--max-pixels", default=50_000_000, show_default=True, type=Count(1), help="Pixels of an image, at most.")
@click.option("--timeout", default=30.0, show_default=True, type=Number(0.001), help="Seconds for a request.")
@device_option()
@json_option("Print the address and the facts of the service as JSON.")
def command(
    index: str,
    at: str | None,
    host: str,
    port: int,
    token_env: str | None,
    reload: bool,
    batch_size: int,
    batch_wait: float,
    queue: int,
    max_images: int,
    max_mb: float,
    max_pixels: int,
    timeout: float,
    device: str,
    as_json: bool,
) -> None:
    """Serve INDEX over HTTP until SIGTERM or Ctrl-C: endpoints for programs, and a page for people.

    A RUN stands for its index. The page is at /, the list of endpoints at /docs. Requests that are under way are answered
    before the service ends.
    """
    from retrieval import serving
    from retrieval.index import Index
    from retrieval.index.bundle import index_to_search

    if queue < max_images:
        raise click.UsageError(f"--queue is {queue}, less than --max-images {max_images}")
    limits: dict[str, Any] = {
        "batch_size": batch_size,
        "queue": queue,
        "max_images": max_images,
        "max_pixels": max_pixels,
    }
    limits |= {"batch_wait": batch_wait / 1000, "max_bytes": int(max_mb * MEGABYTE), "timeout": timeout}
    token = None if token_env is None else serving.read_token(token_env)
    settings = serving.Settings(**limits, reload=SECONDS if reload else None, token=token)
    with serving.bind(host, port) as listening, _engine(at) as engine:  # before the model is built, which takes a while
        opened = Index.open(index_to_search(index), device=device)
        app = serving.create_app(opened if engine is None else serving.EngineGallery(opened, engine), settings)
        _print(serving.describe(app, listening), as_json)
        serving.serve(app, listening)


def _engine(at: str | None) -> contextlib.AbstractContextManager[Any]:
    """The server of vectors, if there is one."""
    if at is None:
        return contextlib.nullcontext()
    from retrieval.index import engines

    return engines.open(at)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        click.echo(f"serving   {facts['address']} ({plural(facts['items'], 'image')}, {facts['runtime']})")
