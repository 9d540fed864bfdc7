"""The report on a run or an index."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import CheckpointError, ConfigError, IndexFormatError, RetrievalError
from retrieval.files import require_place, write_bytes, write_text
from retrieval.index import Bundle, read_bundle
from retrieval.index.manifest import WEIGHTS
from retrieval.recipes.index import build_index
from retrieval.recipes.sources import weights_of
from retrieval.report import MARK, Facts, Images, analyse, make_report
from retrieval.training import RunFolder

log = logging.getLogger("retrieval")


def write_report(
    source: str | Path,
    out: str | Path | None = None,
    *,
    queries: str | Path | None = None,
    images: str | Path | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    seed: int = 0,
    device: str | None = None,
) -> tuple[Path, Path]:
    """Writes a report as one HTML page, and its pictures as PNGs.

    Args:
        source: folder of an index bundle, or of a training run: then of its index, which is made where it is missing.
        out: the page; `report.html` in the run, or `<index>-report.html` beside the index if left out. A report that is there is
            replaced, any other file is left alone, and so is a folder of other pictures.
        queries: folder of another bundle, whose items are the queries; else those of a run that has queries of its own, or
            every item against all others.
        images: folder of the images; where they were when the index was made if left out. Nothing is read there of a bundle
            that has small pictures itself.
        ks: cut-offs of recall@k; those beyond the gallery are left out.
        seed: of what is drawn by lot.
        device: where to embed for an index that is missing; as the run has it if left out.

    Returns:
        The page, and the folder of the pictures: its name with "-pictures" in place of ".html".

    Raises:
        RetrievalError: `source` is neither, nothing can be measured, the index of a run is of other weights than those it has now,
            or `out` cannot be written.
    """
    source = Path(source)
    named = source if source.name not in ("", "..") else source.resolve()
    is_run = not (source / "manifest.json").is_file() and (source / "config.yaml").is_file()
    page = Path(out) if out else (source / "report.html" if is_run else named.with_name(f"{named.name}-report.html"))
    _check_replaceable(page)
    if images is not None and not Path(images).is_dir():
        raise RetrievalError(f"{images}: does not exist; give the folder of the images")
    index, own_queries = _indices(source, device) if is_run else (source, None)
    queries = queries or own_queries
    gallery = read_bundle(index)
    asked = None if queries is None else read_bundle(queries)
    for bundle in (gallery, asked) if is_run else ():
        if bundle is not None and bundle.folder in (index, own_queries):
            _require_present_weights(bundle, source)
    facts = Facts(
        f"Retrieval report: {source.resolve().name}", _lines(gallery, asked), *(_record(source) if is_run else ())
    )
    number = {
        name: i for i, name in enumerate(dict.fromkeys((*gallery.class_names, *(asked.class_names if asked else ()))))
    }
    parts = [_images(bundle, number, images) for bundle in (asked, gallery) if bundle is not None]
    log.info("ranking %d images for %d queries", len(parts[-1].labels), len(parts[0].labels))
    try:
        analysis = analyse(parts[0], *parts[1:], ks=ks, seed=seed)
    except ValueError as error:
        raise ConfigError(f"{index}: cannot be measured: {error}") from error
    log.info("drawing")
    made = make_report(analysis, facts, seed=seed)
    if made.unreadable:
        log.warning(
            "%d images cannot be read, the first: %s; give the folder they are in now with --images",
            len(made.unreadable),
            parts[0].root / made.unreadable[0],
        )
    folder = _pictures_of(page)
    _check_replaceable(page)  # once more, since the work has taken a while
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetrievalError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    write_text(page, made.html)  # first, since it marks the pictures as ours
    for name, content in made.pictures.items():
        write_bytes(folder / name, content)
    return page, folder


def _indices(run: Path, device: str | None) -> tuple[Path, Path | None]:
    """Of a run the index that is searched, and that of its queries if they are others; what is missing is made."""
    found = [run / name for name in ("index-gallery", "index-test") if (run / name).is_dir()]
    if not found:
        log.info("no index yet: embedding the test images")
    index = found[0] if found else build_index(run, device=device)
    if index.name != "index-gallery":
        return index, None
    queries = run / "index-query"
    return index, queries if queries.is_dir() else build_index(run, split="query", device=device)


def _require_present_weights(bundle: Bundle, run: Path) -> None:
    """Checks that the index of a run is of the weights that the run has now, as far as it has kept them.

    Raises:
        IndexFormatError: it is of others.
    """
    checkpoint = "best" if bundle.manifest["source"].get("checkpoint") == "best" else "last"
    weights = weights_of(RunFolder(run), checkpoint)
    recorded = bundle.manifest["files"].get(WEIGHTS, {}).get("sha256")
    if weights is not None and hashlib.sha256(weights).hexdigest() != recorded:
        words = f"--split {bundle.folder.name.removeprefix('index-')} --checkpoint {checkpoint} --overwrite"
        raise IndexFormatError(
            f"{bundle.folder}: was made with other weights than the run's {checkpoint} ones now; make it again with "
            f"`retrieval index {shlex.quote(str(run))} {words}`, or report the index itself"
        )


def _lines(gallery: Bundle, asked: Bundle | None) -> dict[str, Any]:
    """What the page says about the bundle."""
    manifest = gallery.manifest
    lines = {"images": f"{manifest['count']:,}", "classes": f"{manifest['num_classes']:,}"}
    if asked is not None:
        lines |= {"queries": f"{asked.manifest['count']:,}"}
    lines |= {"dimension": manifest["dimension"], "split": manifest["split"]}
    lines |= {key: value for key, value in manifest["source"].items() if isinstance(value, str | int | float)}
    return lines | {"index of": manifest["created"]}


def _images(bundle: Bundle, number: dict[str, int], root: str | Path | None) -> Images:
    """The bundle in the order of its ids, which is how ties are ordered."""
    order = np.argsort(bundle.ids)
    pictures = bundle.thumbnails() if root is None else None
    names = [bundle.class_names[i] for i in order]
    return Images(
        vectors=bundle.vectors[order],
        labels=np.array([number[name] for name in names]),
        class_names=names,
        paths=[bundle.paths[i] for i in order],
        root=Path(root if root is not None else bundle.manifest["images_root"]),
        pictures=pictures and [pictures[i] for i in order],
    )


def _record(run: Path) -> tuple[dict[str, dict[str, float]], list[dict[str, float]]]:
    """The results of a run and the rows of its epochs, as far as it has got."""
    folder = RunFolder(run)
    try:
        results = json.loads(folder.results.read_text(encoding="utf-8")) if folder.results.is_file() else {}
        lines = folder.metrics_lines.read_text(encoding="utf-8") if folder.metrics_lines.is_file() else ""
        return results, [json.loads(line) for line in lines.splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run}: {folder.results.name} or {folder.metrics_lines.name} is damaged ({error})"
        ) from error


def _pictures_of(page: Path) -> Path:
    return page.with_name(f"{page.stem}-pictures")


def _check_replaceable(page: Path) -> None:
    """Checks that nothing but an earlier report is replaced by a page and its pictures."""
    require_place(page)
    if page.is_dir():
        inside = shlex.quote(str(page / "report.html"))
        raise RetrievalError(f"{page}: is a folder, expected the name of a page; give --out {inside}")
    if not page.exists():
        folder = _pictures_of(page)
        if folder.is_dir() and any(folder.iterdir()):
            raise RetrievalError(
                f"{folder}: exists and is of no report, so it is left alone; move it away, or choose another --out"
            )
        return
    try:
        with page.open("rb") as file:
            if MARK.encode() in file.read(1000):
                return
    except OSError as error:
        raise RetrievalError(f"{page}: cannot be read ({error.strerror}); choose another --out") from error
    raise RetrievalError(f"{page}: exists and is no report, so it is left alone; choose another --out")
