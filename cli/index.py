"""`retrieval index`."""

from __future__ import annotations

import os
from typing import Any

import click

from retrieval.errors import plural

from .groups import DefaultGroup
from .output import cautions_lines, paste, precision_line, print_json, print_weights, threshold_line
from .parameters import (
    FOLDER,
    INDEX_TYPE,
    PLACE,
    Count,
    checkpoint_option,
    device_option,
    json_option,
    overwrite_option,
    precision_option,
    skip_unreadable_option,
)

TYPES = "exact, ivf, hnsw, pq, or a faiss factory string such as IVF256,Flat"


@click.group(
    "index",
    cls=DefaultGroup,
    short_help="Make an index of images; add to it, remove, merge, verify.",
    epilog="""\b
Examples:
  retrieval index runs/glyphs
  retrieval index runs/glyphs --split train --checkpoint best --out train
  retrieval index runs/glyphs --images photos --out photos-index --thumbnails
  retrieval index --from-npy vectors.npy --labels labels.csv --out elsewhere
  retrieval index build --help""",
)
def group() -> None:
    """Embed images and write an index; add to one, remove from one, merge several; verify, compact or convert one.

    The default command is `build`.
    """


@group.command(
    "build",
    short_help="Embed images and write an index.",
    epilog="""\b
Examples:
  retrieval index runs/glyphs
  retrieval index runs/glyphs --images photos --out photos-index --thumbnails
  retrieval index runs/sop --type ivf --out sop-index
  retrieval index --from-npy vectors.npy --labels labels.csv --out elsewhere
  retrieval index --from-parts parts --out photos-index
  torchrun --nproc_per_node 2 -m retrieval.cli index runs/glyphs""",
)
@click.argument("run", required=False, type=FOLDER, metavar="RUN")
@click.option(
    "--split",
    type=click.Choice(["all", "train", "validation", "test", "query", "gallery"]),
    help="Split to embed.  [default: all of own images, test or gallery of a published data set]",
)
@click.option("--images", type=PLACE, help="Embed this folder; its subfolders are the classes.")
@click.option("--list", "listed", type=PLACE, help="Embed this CSV list: columns path, label.")
@click.option("--root", type=PLACE, help="Folder of the paths in the list.  [default: that of the list]")
@click.option("--from-npy", "vectors", type=PLACE, help="Use these vectors in place of images.")
@click.option(
    "--from-parts", "parts", type=FOLDER, help="Use the parts that `embed --part` has written to this folder."
)
@click.option("--labels", type=PLACE, help="Their labels: .csv (label, perhaps id, path), .txt, .json or .npy.")
@checkpoint_option()
@click.option(
    "--type", "kind", type=INDEX_TYPE, default="exact", show_default=True, help=f"{TYPES[0].upper()}{TYPES[1:]}."
)
@skip_unreadable_option()
@click.option("--thumbnails", is_flag=True, help="Keep a small picture of every image.")
@precision_option("that of the run")
@device_option(None, "auto, cpu, cuda, ...  [default: that of the run]")
@click.option("--out", type=FOLDER, help="Folder of the index.  [default: RUN/index-<split>]")
@overwrite_option("the index in that folder")
@json_option()
def build(
    run: str | None,
    split: str | None,
    images: str | None,
    listed: str | None,
    root: str | None,
    vectors: str | None,
    parts: str | None,
    labels: str | None,
    checkpoint: str | None,
    kind: str,
    skip_unreadable: bool,
    thumbnails: bool,
    precision: str | None,
    device: str | None,
    out: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Embed images with the model of RUN (a run, an index or a saved model) and write an index.

    Of a run on images of your own, every image is embedded, also those that it was trained on: recall@k of this index is no test
    figure. If the command is killed, the same command continues.
    """
    _check_sources({"--split": split, "--images": images, "--list": listed, "--root": root, "--checkpoint": checkpoint})
    options: dict[str, Any] = {"kind": kind, "overwrite": overwrite}
    if parts:
        from retrieval.index import Index

        index = Index.from_parts(parts, out, **options)
    elif vectors and labels:
        from retrieval.index import Index

        index = Index.from_files(vectors, labels, out, **options)
    else:
        from retrieval.runs import build_index

        options |= {"split": split, "images": images, "listed": listed, "root": root, "checkpoint": checkpoint}
        options |= {"skip_unreadable": skip_unreadable, "thumbnails": thumbnails, "precision": precision}
        index = build_index(str(run), out, device=device, **options)
    if os.environ.get("RANK", "0") == "0":
        _print(index.describe(), as_json)


def _check_sources(others: dict[str, str | None]) -> None:
    """Refuses options that exclude each other. `others` are those that go with a run only, beside flags."""
    given = click.get_current_context().params
    sources = {"RUN": given["run"], "--from-npy": given["vectors"], "--from-parts": given["parts"]}
    chosen = [name for name, value in sources.items() if value is not None]
    if len(chosen) != 1:
        raise click.UsageError("give one of RUN, --from-npy and --from-parts")
    (source,) = chosen
    if (source == "--from-npy") != (given["labels"] is not None):
        raise click.UsageError("--from-npy and --labels belong together")
    if source == "RUN":
        return
    unused = [name for name, value in others.items() if value is not None]
    unused += [f"--{name}" for name in ("device", "thumbnails", "precision") if given[name]]
    unused += ["--skip-unreadable"] if given["skip_unreadable"] else []
    if unused:
        raise click.UsageError(f"{unused[0]} does not go with {source}")
    if not given["out"]:
        raise click.UsageError(f"{source} needs --out")


@group.command(
    "add",
    short_help="Add images to an index.",
    epilog="""\b
Examples:
  retrieval index add photos-index photos/cats/9.jpg photos/dogs
  retrieval index add photos-index new_photos""",
)
@click.argument("index", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=PLACE, metavar="IMAGE|FOLDER...")
@click.option("--class", "class_name", help="Their class.  [default: the folder that they are given by]")
@click.option("--root", type=PLACE, help="Folder of all images, if it has moved.")
@skip_unreadable_option()
@device_option()
@json_option()
def add(
    index: str,
    images: tuple[str, ...],
    class_name: str | None,
    root: str | None,
    skip_unreadable: bool,
    device: str,
    as_json: bool,
) -> None:
    """Embed IMAGES with the model of INDEX and add them to it.

    The class of an image is the folder that it is given by: of a file, the folder that it is in; of a folder of class folders, the
    class folder; of a folder with images in it, that folder. The images may be anywhere.
    """
    from retrieval.index import Index

    opened = Index.open(index, device=device)
    count = opened.add(images, class_name=class_name, root=root, skip_unreadable=skip_unreadable)
    _print({"added": count, **opened.describe()}, as_json)


@group.command(
    "remove",
    short_help="Remove items from an index.",
    epilog="""\b
Examples:
  retrieval index remove photos-index cats/9.jpg --class dogs""",
)
@click.argument("index", type=FOLDER)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--id", "ids", multiple=True, type=Count(0), metavar="N", help="The item of this id; can be repeated.")
@click.option("--class", "class_names", multiple=True, help="All items of this class; can be repeated.")
@json_option()
def remove(
    index: str, paths: tuple[str, ...], ids: tuple[int, ...], class_names: tuple[str, ...], as_json: bool
) -> None:
    """Remove items from INDEX by their PATH in the index, by id or by class. The image files are kept."""
    from retrieval.index import Index

    opened = Index.open(index)
    count = opened.remove(paths, ids=ids, classes=class_names)
    _print({"removed": count, **opened.describe()}, as_json)


@group.command(
    "merge",
    short_help="Merge several indexes into a new one.",
    epilog="""\b
Examples:
  retrieval index merge monday tuesday --out both""",
)
@click.argument("indices", nargs=-1, required=True, type=FOLDER, metavar="INDEX INDEX...")
@click.option("--out", required=True, type=FOLDER, help="Folder of the new index.")
@overwrite_option("the index in that folder")
@json_option()
def merge(indices: tuple[str, ...], out: str, overwrite: bool, as_json: bool) -> None:
    """Write a new index of the items of several indexes. All must have been made with the same model."""
    from retrieval.index import Index

    first, *others = indices
    merged = Index.open(first).merge(*others, out=out, overwrite=overwrite)
    _print(merged.describe(), as_json)


@group.command(
    "verify",
    short_help="Check every byte of an index.",
    epilog="""\b
Examples:
  retrieval index verify photos-index""",
)
@click.argument("index", type=FOLDER)
@json_option()
def verify(index: str, as_json: bool) -> None:
    """Check every file of INDEX against its checksums.

    Opening an index checks files of up to 8 MiB, and every block of a larger one when it is first used.
    """
    from retrieval.index import Index

    opened = Index.open(index)
    opened.verify()
    _print({"verified": len(opened), **opened.describe()}, as_json)


@group.command(
    "compact",
    short_help="Write a large index anew, without removed items.",
    epilog="""\b
Examples:
  retrieval index compact photos-index""",
)
@click.argument("index", type=FOLDER)
@json_option()
def compact(index: str, as_json: bool) -> None:
    """Write the files of INDEX anew, without the items that were removed.

    An index of more than 8 MiB of vectors only marks removed items, and its approximate index lacks those that were added later. A
    smaller one needs no compacting.
    """
    from retrieval.index import Index

    opened = Index.open(index)
    opened.compact()
    _print(opened.describe(), as_json)


@group.command(
    "convert",
    short_help="Write an index of an earlier version in the present format.",
    epilog="""\b
Examples:
  retrieval index convert photos-index""",
)
@click.argument("index", type=FOLDER)
@json_option()
def convert(index: str, as_json: bool) -> None:
    """Write INDEX in the format of this version. An index that has it already stays as it is."""
    from retrieval.index import Index

    opened = Index.open(index)
    opened.convert()
    _print(opened.describe(), as_json)


@group.command(
    "push",
    short_help="Push an index to a server of vectors.",
    epilog="""\b
Examples:
  retrieval index push photos-index milvus://localhost:19530/photos
  retrieval index push photos-index milvus://db:19530/photos --type hnsw""",
)
@click.argument("index", type=FOLDER)
@click.argument("url", metavar="URL")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["exact", "hnsw", "ivf", "diskann"]),
    default="exact",
    show_default=True,
    help="Type of the index on the server.",
)
@click.option("--replace", is_flag=True, help="Replace another index of that name.")
@json_option()
def push(index: str, url: str, kind: str, replace: bool, as_json: bool) -> None:
    """Push INDEX to the Milvus server at URL, milvus://host:port/name.

    The items go into a collection of their own, which takes the name over when it is complete; until then, what the name served
    before is served. If the command is stopped, the same command continues. At the end, the share of the exact neighbours that the
    server finds is measured. A token is read from the environment, RETRIEVAL_MILVUS_TOKEN.
    """
    from retrieval.index import Index

    result = Index.open(index).push(url, kind=kind, replace=replace)
    if as_json:
        print_json(result)
        return
    found = ", ".join(f"{100 * result[key]:.2f} % of the first {key[6:]}" for key in result if key.startswith("found@"))
    click.echo(f"url       {result['url']}\nholds     {plural(result['count'], 'item')}, {result['sent']:,} sent now")
    click.echo(f"type      {kind}\nfinds     {found} ({plural(result['queries'], 'query', 'queries')})")
    click.echo(f"next      retrieval search photo.jpg --model {paste(index)} --at {paste(result['url'])}")


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    folder = paste(facts["index"])
    for what in ("added", "removed", "verified"):
        if what in facts:
            click.echo(f"{what:9} {plural(facts[what], 'image')}")
    click.echo(f"index     {folder}")
    vectors, classes = plural(facts["count"], "vector"), plural(facts["classes"], "class", "classes")
    click.echo(f"holds     {vectors} of {plural(facts['dimension'], 'number')}, {classes}")
    if measured := facts["approximate"]:
        shares = ", ".join(
            f"{100 * measured[name]:.2f} % of the first {name[7:]}" for name in measured if name != "queries"
        )
        click.echo(f"type      {facts['type']}\nfinds     {shares}")
    if cost := facts["source"].get("precision"):
        click.echo(precision_line(cost))
    print_weights(facts["source"])
    if calibration := facts["calibration"]:
        click.echo("\n".join([threshold_line(calibration), *cautions_lines(calibration["cautions"])]))
    # Most images of "all" were trained on, so its recall is no result. Queries are measured in their gallery.
    following = {
        "all": f"search {folder} photo.jpg",
        "gallery": f"recall {folder} --queries QUERY_INDEX",
        "query": f"recall GALLERY_INDEX --queries {folder}",
    }
    click.echo(f"next      retrieval {following.get(facts['split'], f'recall {folder}')}")
