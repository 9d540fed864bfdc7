"""A training run: its folder, figures, model, index and report."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from retrieval.config import Config
from retrieval.config.reading import load_of_run
from retrieval.config.splits import measured_splits, read_splits
from retrieval.data import ImageSet, is_published, union
from retrieval.errors import CheckpointError, IndexFormatError, RetrievalError, reason_of
from retrieval.files import read_text
from retrieval.files.blocks import entry_of
from retrieval.files.manifest import MANIFEST
from retrieval.index import Index
from retrieval.index.reporting import check_replaceable
from retrieval.model import Model
from retrieval.model.description import WEIGHTS
from retrieval.model.places import load_run, require_known
from retrieval.runs.card import describe_training
from retrieval.runs.images import indexing_remedy, require_same_images
from retrieval.runs.record import LARGEST_RECORD, Figures, Record, parse_results, parse_rows
from retrieval.runs.resume import known_unreadable
from retrieval.runs.run_list import RunSummary, summarize
from retrieval.runs.summary import TrainingSummary
from retrieval.training import RunFolder
from retrieval.training.device import pick_device

log = logging.getLogger("retrieval")

ALL = "all"  # the split of an index of every image of a run


class Run:
    """A training run, as its folder holds it. `retrieval.train` returns one, `Run.open` opens one.

    Args:
        path: The folder of the run.
        splits: The images of the run; by default, those of its configuration are read on first use.
        network: The network of a run that was trained with an own network.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import retrieval
        >>> pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 40, 3), dtype=np.uint8)
        >>> images = retrieval.ImageSet.from_dataset(pixels, labels=[i // 4 for i in range(48)])
        >>> options = {"data.validation_share": 0.0, "data.workers": 0, "batch.size": 16, "training.max_steps": 1}
        >>> trained = retrieval.train("glyphs", images, tempfile.mkdtemp(), **options)
        >>> run = retrieval.Run.open(trained.path)
        >>> run.metrics[0]["step"], sorted(run.results)
        (1, ['last', 'untrained'])
        >>> trained.model().encode(pixels[:2]).shape
        (2, 128)
    """

    def __init__(
        self, path: str | Path, *, splits: Mapping[str, ImageSet] | None = None, network: nn.Module | None = None
    ) -> None:
        self.folder = RunFolder(path)
        self._splits = None if splits is None else dict(splits)
        self._network = network
        self.plan: TrainingSummary | None = None  # of a run that was trained, or only planned, in this process

    @classmethod
    def open(cls, path: str | Path, *, network: nn.Module | None = None, data: Any = None) -> Run:
        """Opens a run.

        Args:
            path: The folder of the run.
            network: The network, for a run that was trained with an own network given in Python.
            data: The images, for a run that was trained with images given in Python.

        Raises:
            CheckpointError: It is not the folder of a run, or `data` are not the images that it was started with.
        """
        run = cls(path, network=network)
        run.folder.require()
        if data is not None:
            run._splits = run._read_splits(data)
        return run

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.folder.path

    @property
    def pictures(self) -> list[Path]:
        """The pictures of a finished run: training curves, and queries with their neighbours."""
        return [file for file in (self.folder.curves, self.folder.gallery) if file.is_file()]

    @cached_property
    def config(self) -> Config:
        """The configuration that the run was started with."""
        return load_of_run(self.folder.config)

    @property
    def metrics(self) -> list[Figures]:
        """A row for every epoch: "epoch", "step", "loss", and figures such as "validation recall@1"."""
        return self._parse(self.folder.metrics_lines, parse_rows, [])

    @property
    def results(self) -> dict[str, Figures]:
        """Figures of the test images by what was measured. Names that end in " (validation)" are of the validation images.

        "frozen features" are those of a pretrained backbone without a head, "untrained" those of the model before training, "last"
        those of the last epoch, "best by validation" those of the epoch that is best on the validation images, which `model` and
        `index` take. "best on test" was chosen by the test figures themselves and is therefore too good; it is measured only if
        `evaluation.test_every` is set. Empty as long as the run is not finished.
        """
        return self._parse(self.folder.results, parse_results, {})

    @property
    def best_epoch(self) -> int | None:
        """The epoch that is best by validation, whose weights `model` and `index` take; 0 is the start.

        None: there was no validation, so they take the last epoch.
        """
        best = Record(self.metrics).best("validation")
        return None if best is None else int(best["epoch"])

    @property
    def measured_on(self) -> str:
        """What the figures of `results` are of: "test classes", "query images", or "validation images" where nothing is tested."""
        names = {"test": "test classes", "query": "query images", "validation": "validation images"}
        queries, _ = measured_splits(self.splits) or ("", "")
        return names.get(queries, "")

    @property
    def summary(self) -> RunSummary:
        """State, epochs and best figures of the run."""
        return summarize(self.folder)

    @property
    def splits(self) -> dict[str, ImageSet]:
        """The images of the run by split: "train", "validation", and "test" or "query" and "gallery".

        Raises:
            RetrievalError: The images cannot be read, or are no longer those that the run was started with.
        """
        if self._splits is None:
            require_known([self.config.data.name], self.path)
            self._splits = self._read_splits()
        return self._splits

    def model(self, checkpoint: str | None = None, *, device: str | None = None) -> Model:
        """The trained model.

        Args:
            checkpoint: "last", or "best" by the validation classes; by default "best" where the run has one.
            device: The device; by default that of the run's configuration.

        Raises:
            CheckpointError: The checkpoint is missing or damaged.
        """
        loaded = load_run(self.path, checkpoint, self._network)
        return Model.of(loaded).to(pick_device(self.config.device if device is None else device))

    def index(self, split: str | None = None, *, checkpoint: str | None = None, device: str | None = None) -> Index:
        """The index of a split; built where the run has none.

        Args:
            split: "train", "validation", "test", "query" or "gallery"; or "all", every image of the run once. By default "all" for
                images of the user, and the split that is searched, "test" or "gallery", for a published data set.
            checkpoint: The weights of an index that is built; see `model`. An index that exists is opened with its own weights.
            device: The device that embeds the images of an index that is built.

        Raises:
            IndexFormatError: The run has an index of other weights than its present ones.
        """
        split = split or self._default_split()
        folder = self._index_folder(split)
        if not folder.is_dir():
            log.info("%s does not exist: embedding the images", folder)
            return self.build_index(split, checkpoint=checkpoint, device=device)
        index = Index.open(folder)
        self._require_present_weights(index)
        return index

    def build_index(
        self,
        split: str | None = None,
        out: str | Path | None = None,
        *,
        checkpoint: str | None = None,
        device: str | None = None,
        precision: str | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> Index:
        """Embeds a split and writes an index of it.

        Args:
            split: See `index`.
            out: The folder of the index; by default `index-<split>` in the run.
            checkpoint: See `model`.
            device: See `model`.
            precision: "float32" or "bfloat16"; by default that of the run's configuration. See `retrieval.Model.at`.
            overwrite: Replace an index in that folder.
            options: `kind` and `thumbnails`; see `retrieval.Index.build`.

        Raises:
            RetrievalError: The run has no such split, its images cannot be read, or the folder cannot be written.
        """
        split = split or self._default_split()
        images, unseen = self._images(split)
        model = self.model(checkpoint, device=device).at(precision)
        out = Path(out) if out else self._index_folder(split)
        return Index.build(model, images, out, split=split, unseen=unseen, overwrite=overwrite, **options)

    def report(
        self,
        out: str | Path | None = None,
        *,
        queries: Index | str | Path | None = None,
        images: str | Path | None = None,
        ks: Sequence[int] = (1, 2, 4, 8),
        seed: int = 0,
        device: str | None = None,
    ) -> tuple[Path, Path]:
        """Writes a report on the run and the index of its test images, which is built where it is missing.

        Where nothing was tested, the index is that in which the validation images are searched, or else of the training images.

        Args:
            out: The page; by default `report.html` in the run. An earlier report is replaced, other files are not.
            queries: An index of other queries.
            images: The folder of the images, if they have moved.
            ks: Cut-offs of recall@k.
            seed: Seed of everything that is sampled at random.
            device: The device that embeds the images of an index that is built.

        Returns:
            The page, and the folder of its pictures.

        Raises:
            IndexFormatError: The index was made with other weights than the run has now.
        """
        page = Path(out) if out else self.path / "report.html"
        check_replaceable(page)
        if images is not None and not Path(images).is_dir():
            raise RetrievalError(f"{images}: does not exist; give the folder of the images")
        query_split, gallery = self.measured_splits()
        index = self.index(gallery, device=device)
        if queries is None and query_split != gallery:
            queries = self.index(query_split, device=device)
        title = f"Retrieval report: {self.path.resolve().name}"
        rows, summary, best = self.metrics, self.summary, self.best_epoch
        epochs = max((row["epoch"] for row in rows), default=None)
        described = {"backbone": summary.backbone, "pixels": summary.pixels, "loss": summary.loss, "epochs": epochs}
        described["chosen epoch"] = best if best is None else f"{best or 'the start, 0'}, best by validation"
        record: dict[str, Any] = {
            "results": self.results,
            "rows": rows,
            "title": title,
            "lines": described,
            "chosen": best,
        }
        return index.report(page, queries=queries, images=images, ks=ks, seed=seed, **record)

    def push_to_hub(
        self, repository: str, *, checkpoint: str | None = None, private: bool = False, gallery: bool = True
    ) -> str:
        """Writes the model into a repository of the Hugging Face Hub, with a card of the run; see `retrieval.Model.push_to_hub`.

        The card has the figures of the run. They have 95 % intervals if the run has an index of the images that were measured.

        Args:
            repository: "user/name".
            checkpoint: See `model`.
            private: Whether a new repository is private.
            gallery: Whether the card shows the picture of queries and their neighbours, which are images of the data set.

        Returns:
            The page of the repository.

        Raises:
            RetrievalError: The token may not write, or the hub cannot be reached.
        """
        model = self.model(checkpoint, device="cpu")
        training = describe_training(self, model.source["checkpoint"], gallery=gallery)
        return model.push_to_hub(repository, private=private, training=training)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.summary.state})"

    def _read_splits(self, data: Any = None) -> dict[str, ImageSet]:
        """The images of the run, after checking that they are those that it was started with."""
        splits = read_splits(self.config, data, known_unreadable(self.folder))
        require_same_images(splits, self.folder, indexing_remedy(self.config, self.folder))
        return splits

    def _index_folder(self, split: str) -> Path:
        return self.path / f"index-{split}"

    def _default_split(self) -> str:
        """The split of an index that is not given."""
        return self.measured_splits()[1] if is_published(self.config.data.name) else ALL

    def measured_splits(self) -> tuple[str, str]:
        """The splits of the queries and of the gallery that are measured, without reading the images where an index tells."""
        for queries, gallery in (("query", "gallery"), ("test", "test")):
            if self._index_folder(gallery).is_dir():
                return queries, gallery
        return measured_splits(self.splits) or ("train", "train")

    def _images(self, split: str) -> tuple[ImageSet, range | None]:
        """The images of a split, and for "all" the positions of those that were not trained on.

        Raises:
            RetrievalError: The run has no such split.
        """
        if split != ALL:
            if split not in self.splits:
                raise RetrievalError(f"{self.path}: has no split {split!r}; it has {', '.join(self.splits)}")
            return self.splits[split], None
        queries, _ = measured_splits(self.splits) or (None, None)
        seen = [images for name, images in self.splits.items() if name != queries]
        images = union([*seen, self.splits[queries]] if queries else seen)
        log.info(
            "indexing all %s images, of which %s were trained on: recall@k of this index is not a test figure%s",
            f"{len(images):,}",
            f"{len(self.splits['train']):,}",
            {
                "test": "; --split test gives that index",
                "query": "; recall of --split gallery, with the queries of --split query, is one",
            }.get(queries or "", ""),
        )
        return images, range(len(union(seen)), len(images)) if queries else None

    def _require_present_weights(self, index: Index) -> None:
        """Checks that an index is of the weights that the run has now, if the run still has them.

        Raises:
            IndexFormatError: It is of other weights.
        """
        assert index.folder is not None
        source, files = index.manifest["source"], index.manifest["files"]
        checkpoint = "best" if source.get("checkpoint") == "best" else "last"
        kept = (self.folder.best,) if checkpoint == "best" else (self.folder.last, self.folder.previous)
        if WEIGHTS not in files or not any(file.exists() for file in kept):
            return
        weights = self.model(checkpoint, device="cpu").stored().weights
        if entry_of(weights, files[WEIGHTS].get("block")) != files[WEIGHTS]:
            split = index.folder.name.removeprefix("index-")
            options = f"--split {split} --checkpoint {checkpoint} --overwrite"
            raise IndexFormatError(
                f"{index.folder}: was made with other weights than the run's {checkpoint} ones now; make it again with "
                f"`retrieval index {shlex.quote(str(self.path))} {options}`, or report the index itself"
            )

    def _parse(self, file: Path, parse: Callable[[str], Any], default: Any) -> Any:
        """The parsed text of a file of the run; the default where there is no file."""
        try:
            return parse(read_text(file, LARGEST_RECORD)) if file.exists() else default
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise CheckpointError(
                f"{self.path}: {file.name} is damaged ({reason_of(error)}); restore it, or train again"
            ) from error


def report(
    source: str | Path, out: str | Path | None = None, *, device: str | None = None, **options: Any
) -> tuple[Path, Path]:
    """Writes a report on a run or an index.

    Args:
        source: The folder of either.
        out: The page.
        device: See `Run.report`.
        options: `queries`, `images`, `ks` and `seed`; see `Run.report` and `retrieval.Index.report`.

    Returns:
        The page, and the folder of its pictures.
    """
    if RunFolder(source).config.exists() and not (Path(source) / MANIFEST).exists():
        return Run.open(source).report(out, device=device, **options)
    return Index.open(source).report(out, **options)
