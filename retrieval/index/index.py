"""The index: a gallery of images that is opened once and searched many times."""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.data import load_image, pixel_limit
from retrieval.errors import ConfigError, DatasetError, IndexFormatError, brief, did_you_mean, plural
from retrieval.evaluation.arrays import check_k
from retrieval.files import (
    claim_file,
    claim_folder,
    claimed,
    require_elsewhere,
    require_free_file,
    require_free_folder,
)
from retrieval.files.arrays import LABELS, ArrayFiles, claim_for_arrays, write_arrays
from retrieval.files.repository import is_hub_place
from retrieval.index import approximate, building, comparison, drawing, editing, embedding, hub, recall, reporting
from retrieval.index.bundle import Bundle, read_bundle, require_unchanged
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import INDEX_FOLDER, REMEDY
from retrieval.index.recall import METRICS, Figures, Ranking
from retrieval.index.search import Generation, Hit, query_vectors
from retrieval.index.writing import require_replaceable, write_bundle
from retrieval.model import Model
from retrieval.report import caution_of

log = logging.getLogger("retrieval")

Place = str | Path

_PROBES = 3  # stored images that a model given by the caller is checked by
_MANY = 10**6  # items: no similar name is looked for among more
_ALIKE = 0.99  # the least cosine similarity of their vectors


class Index:
    """A gallery of images: their vectors, classes and paths, and the model that embeds queries for it.

    `Index.build` and `Index.from_vectors` make an index, `Index.open` opens one. An index is read once and may be searched from
    several threads. If another program replaces its folder, the index stays as it was read until `reload`.

    Examples:
        >>> import numpy as np, retrieval
        >>> vectors = np.random.default_rng(0).normal(size=(6, 4))
        >>> index = retrieval.Index.from_vectors(vectors, ["cat", "cat", "dog", "dog", "owl", "owl"])
        >>> hit = index.search(vectors[2], k=1)[0]
        >>> hit.class_name, hit.id, round(hit.score, 4)
        ('dog', 2, 1.0)
    """

    def __init__(self, bundle: Bundle, model: Model | None = None, *, device: str = "auto") -> None:
        self._generation = Generation(bundle, model, device=device)
        self._given = model if bundle.model is None else None  # a model that the bundle does not hold
        self._lock = threading.RLock()

    @classmethod
    def build(
        cls,
        model: Model | Place,
        images: Any,
        out: Place | None = None,
        *,
        kind: str = approximate.EXACT,
        thumbnails: bool = False,
        split: str = "images",
        unseen: range | None = None,
        overwrite: bool = False,
    ) -> Index:
        """Embeds images and makes an index of them.

        A call with `out` that was killed is continued by the same call, and the processes of torchrun share the work. Neither holds
        for a model that no file can hold, or for images that are not files.

        Args:
            model: The model, or the folder of a run, an index or a saved model.
            images: A folder, whose subfolders (or those of `train`, `test`, ...) are the classes; a CSV list with the columns path
                and label; a list of image files and folders, see `add`; an `ImageSet`; or a `torch.utils.data.Dataset` of (image,
                label). `retrieval.data.readable` leaves out the images that cannot be read.
            out: The folder of the index; without it, the index is in memory only.
            kind: "exact", "ivf", "hnsw", "pq", or an allowed faiss factory string such as "IVF256,Flat".
            thumbnails: Whether to keep a small picture of every image.
            split: The name of the split, for information.
            unseen: The positions of the images that the model was not trained on, if it was trained on the others. The threshold of
                `min_score="auto"` is then calibrated on these images; see `calibration`.
            overwrite: Replace an index in that folder.

        Raises:
            RetrievalError: The images cannot be read, or the folder cannot be written.
        """
        if out is not None:
            require_free_folder(out, overwrite, require_replaceable)
        model = model if isinstance(model, Model) else Model.load(model)
        options: dict[str, Any] = {"kind": kind, "thumbnails": thumbnails, "split": split}
        options |= {"unseen": None if unseen is None else (unseen.start, unseen.stop), "overwrite": overwrite}
        image_set = building.image_set_of(images)
        return cls(building.build(model, image_set, None if out is None else Path(out), **options), model)

    @classmethod
    def from_vectors(
        cls,
        vectors: Any,
        labels: Iterable[Hashable],
        out: Place | None = None,
        *,
        ids: Sequence[int] | None = None,
        paths: Sequence[str] | None = None,
        root: Place = ".",
        model: Model | None = None,
        kind: str = approximate.EXACT,
        overwrite: bool = False,
    ) -> Index:
        """Makes an index of vectors.

        Args:
            vectors: (count, dim) NumPy array or tensor of any float type. The vectors are divided by their length.
            labels: (count,) The class of every vector: values of any hashable type.
            out: The folder of the index; without it, the index is in memory only.
            ids: (count,) Whole numbers from 0, none twice; by default the positions.
            paths: (count,) The path of every image, relative to `root`; by default the ids.
            root: The folder of the images.
            model: The model that made the vectors; it is stored with them, so that images can be searched.
            kind: See `build`.
            overwrite: Replace an index in that folder.

        Raises:
            ValueError: The arguments do not fit together, or a vector is zero or not finite.
            RetrievalError: The folder cannot be written.
        """
        place = None if out is None else Path(out)
        options: dict[str, Any] = {"ids": ids, "paths": paths, "root": Path(root), "model": model, "kind": kind}
        with (
            claim_folder(out, overwrite, require_replaceable),
            building.from_vectors(vectors, labels, out=place, **options) as bundle,
        ):
            return cls(bundle if out is None else write_bundle(bundle, out, overwrite=overwrite), model)

    @classmethod
    def from_files(
        cls, vectors: Place, labels: Place, out: Place | None = None, *, kind: str = "exact", overwrite: bool = False
    ) -> Index:
        """Makes an index of the vectors of another program; see `from_vectors`.

        Args:
            vectors: A .npy file (count, dim).
            labels: A .csv table with a line for each vector: the column "label", and optionally "id" and "path"; or the labels
                alone, as a .txt file with a label in each line, a .json list or a .npy array.
            out: The folder of the index; without it, the index is in memory only.
            kind: See `build`.
            overwrite: Replace an index in that folder.

        Raises:
            RetrievalError: A file cannot be read, or the two do not fit together.
        """
        place = None if out is None else Path(out)
        with (
            claim_folder(out, overwrite, require_replaceable),
            building.from_files(Path(vectors), Path(labels), kind=kind, out=place) as bundle,
        ):
            return cls(bundle if out is None else write_bundle(bundle, out, overwrite=overwrite))

    @classmethod
    def from_parts(
        cls, folder: Place, out: Place | None = None, *, kind: str = approximate.EXACT, overwrite: bool = False
    ) -> Index:
        """Makes an index of the parts that `retrieval.index.embed_part` has written into a folder.

        Args:
            folder: The folder of the parts.
            out: The folder of the index; without it, the index is in memory only.
            kind: See `build`.
            overwrite: Replace an index in that folder.

        Raises:
            IndexFormatError: A part is missing, damaged, of other images or by another model, or there twice.
            RetrievalError: The folder of the index cannot be written.
        """
        with claim_folder(out, overwrite, require_replaceable):
            with building.usage_errors():
                bundle = embedding.from_parts(Path(folder), kind=kind, where=out or "index")
            return cls(bundle if out is None else write_bundle(bundle, out, overwrite=overwrite))

    @classmethod
    def open(cls, place: Place, *, model: Model | None = None, device: str = "auto") -> Index:
        """Opens an index.

        The manifest, the sizes of all files and the content of small files are checked. Files of more than 8 MiB are mapped into
        memory, and each block of them is checked when it is first used; `verify` checks all at once.

        Args:
            place: The folder of the index.
            model: The model that embeds queries, for an index that holds none. It is checked by its dimension, and by embedding
                some of the stored images again.
            device: The device of the index's own model; "auto" is a GPU if there is one.

        Raises:
            IndexFormatError: The folder does not hold a complete and unaltered index, or the model did not make its vectors.
        """
        if is_hub_place(place):
            raise IndexFormatError(f"{place}: download it first, with `retrieval hub pull {place} --out FOLDER`")
        bundle = read_bundle(place)
        if model is not None:
            _check_model(bundle, model)
        index = cls(bundle, model, device=device)
        index._given = model
        return index

    def __len__(self) -> int:
        return int(self._bundle.manifest["count"])

    def __repr__(self) -> str:
        facts = self._bundle.manifest
        vectors, numbers = plural(facts["count"], "vector"), plural(facts["dimension"], "number")
        return f"Index({str(self._bundle)!r}, {vectors} of {numbers})"

    @property
    def folder(self) -> Path | None:
        """The folder of the index; None for an index in memory."""
        return self._bundle.folder

    @property
    def vectors(self) -> np.ndarray:
        """(count, dim) float32 unit vectors. Those of a large index are checked and stay in their file, if no item is removed."""
        return self._bundle.vectors

    def vectors_at(self, positions: Any) -> np.ndarray:
        """(number, dim) The vectors of some items by their positions. Of a large index, only their blocks are read."""
        bundle, wanted = self._bundle, np.asarray(positions, dtype=np.int64)
        return bundle.stored.rows(wanted if bundle.rows is None else bundle.rows[wanted])

    @property
    def ids(self) -> np.ndarray:
        """(count,) int64 ids, which stay the same when other items are removed."""
        return self._bundle.ids

    @property
    def labels(self) -> np.ndarray:
        """(count,) int64 labels of the classes."""
        return self._bundle.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """(count,) The class name of every item."""
        return self._bundle.class_names

    @property
    def paths(self) -> tuple[str, ...]:
        """(count,) The path of every image, relative to `root`; absolute for an image that was added from elsewhere."""
        return self._bundle.paths

    @property
    def root(self) -> Path:
        """The folder of the images when the index was made."""
        return self._bundle.root

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The facts that the index records: when, of what and how it was made."""
        return self._bundle.manifest

    @property
    def calibration(self) -> Calibration | None:
        """The threshold of `min_score="auto"`, and how it was found. An index of one class, or of an earlier version, has none.

        It is found again when items are added, removed or merged.
        """
        return self._bundle.calibration

    @property
    def caution(self) -> str:
        """Why figures with these images as queries may be too good: the model was trained on them, or its epoch chosen on them.

        "" where no reason is known, as for the test images of a run, and for images of which the index does not know whether they
        were trained on.
        """
        return caution_of(self.manifest["split"])

    @property
    def model(self) -> Model:
        """The model of the index; built when it is first used.

        Raises:
            IndexFormatError: The index holds no model, or one that this version cannot build.
        """
        return self._generation.model

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        exact: bool = False,
        qe: int = 0,
        alpha: float = 3.0,
        dba: int = 0,
        rerank: int = 0,
        min_score: float | str | None = None,
    ) -> Any:
        """Finds the nearest items of queries.

        Args:
            queries: One query or several: paths, PIL images, uint8 arrays, and everything else that `Model.encode` takes; or
                vectors, as a float array (dim,) or (num_queries, dim).
            k: Number of items for each query.
            exact: Whether to score every vector, also where the index is approximate.
            qe: Neighbours of alpha query expansion (Radenovic et al., TPAMI 2019); 0 leaves it out.
            alpha: The exponent of its weights.
            dba: Neighbours of database-side augmentation (Arandjelovic and Zisserman, CVPR 2012); 0 leaves it out.
            rerank: Neighbours of k-reciprocal re-ranking (Zhong et al., CVPR 2017); 0 leaves it out. These three are always exact.
            min_score: Items with a lower score are left out, so that a query that nothing is similar to has fewer hits, or none.
                "auto" is the threshold of `calibration`: at most 1 % of the queries whose class is not in the index have a hit.

        Returns:
            A list of `Hit` for one query, best first; a list of such lists for several.

        Raises:
            ValueError: The queries or `min_score` are of the wrong shape or type.
            ConfigError: `min_score` is "auto", and the index has no calibration, or the scores are not the plain ones.
            RetrievalError: A query cannot be read as an image, or the index has no model to embed it.
        """
        with building.usage_errors():
            k = check_k(k)
        queries = list(queries) if isinstance(queries, Iterator) else queries
        if isinstance(queries, Sequence) and not len(queries):
            raise ValueError("there is no query to search for; give at least one")
        generation = self._generation  # one state for the whole search: another thread may replace it
        ranking = Ranking(qe, alpha, dba, rerank)
        least = _least_score(generation.bundle, min_score, ranking)
        given = query_vectors(queries)
        vectors = generation.model.encode(queries) if given is None else given
        single = vectors.ndim == 1
        rows = vectors[None] if single else vectors
        if given is not None:
            rows = evaluation.unit_vectors("queries", rows)
        hits = generation.search(rows, k, exact=exact, ranking=ranking)
        if least is not None:
            hits = [[hit for hit in row if hit.score >= least] for row in hits]
        return hits[0] if single else hits

    def evaluate(
        self,
        ks: Sequence[int] | None = None,
        *,
        queries: Index | Place | None = None,
        metrics: Sequence[str] = METRICS,
        macro: bool = False,
        interval_seed: int | None = None,
        sample: int | None = None,
        seed: int = 0,
    ) -> Figures:
        """Measures how well the index retrieves: every item is a query against all others.

        Args:
            ks: Cut-offs of recall@k; by default those of 1, 2, 4, 8 that the index is large enough for.
            queries: Another index, whose items are the queries instead. Classes of the same name are the same class.
            metrics: Some of "recall", "precision", "map@r", "r_precision" and "mrr".
            macro: Whether to add the means over classes.
            interval_seed: Seed of the bootstrap; adds 95 % intervals.
            sample: Number of queries, sampled at random, for an index that is too large to rank all others for every item.
            seed: Seed of the sample.

        Returns:
            A figure by its name, such as "recall@1"; see `retrieval.evaluate`.
        """
        return recall.evaluate(
            self._bundle,
            ks,
            _bundle_of(queries),
            metrics=metrics,
            macro=macro,
            interval_seed=interval_seed,
            sample=sample,
            seed=seed,
        )

    def evaluate_classes(
        self,
        ks: Sequence[int] | None = None,
        *,
        queries: Index | Place | None = None,
        metrics: Sequence[str] = METRICS,
    ) -> list[dict[str, Any]]:
        """The figures of every class, the worst first: {"class", "queries", "recall@1", ...}; see `evaluate`."""
        return recall.evaluate_classes(self._bundle, ks, _bundle_of(queries), metrics)

    def evaluate_rankings(
        self,
        ks: Sequence[int] | None = None,
        *,
        queries: Index | Place | None = None,
        qe: int = 0,
        alpha: float = 3.0,
        dba: int = 0,
        rerank: int = 0,
    ) -> dict[str, Figures]:
        """The figures of the index ("plain"), and with each of query expansion, augmentation and re-ranking; see `search`."""
        ranking = Ranking(qe, alpha, dba, rerank)
        return recall.evaluate_rankings(self._bundle, ks, ranking, _bundle_of(queries))

    def compare(self, *others: Index | Place, ks: Sequence[int] = (1,), seed: int = 0) -> dict[str, Any]:
        """Compares other indices of the same images with this one, over the queries that all have.

        Args:
            others: The other indices.
            ks: Cut-offs of recall@k.
            seed: Seed of the bootstrap and the permutations.

        Returns:
            {"queries": number, "first": {"index", figure: value}, "others": [{"index", figure: {"value", "difference", "low",
            "high", "p"}}]}: intervals by the paired bootstrap, p by the paired permutation test.

        Raises:
            IndexFormatError: The indices have no query in common.
        """
        return comparison.compare([self._bundle, *map(_opened, others)], ks, seed=seed)

    def add(
        self,
        images: Any,
        *,
        class_name: str | None = None,
        root: Place | None = None,
        skip_unreadable: bool = False,
    ) -> int:
        """Embeds images and adds them to the index, and to its folder at once.

        The class of an image is the folder that it was given by: that of a file is the folder that it is in; that of an image in a
        given folder is the subfolder below the given one, or the given folder itself where the image is directly in it.

        Args:
            images: Image files and folders, anywhere, or an `ImageSet`. The path of an image below `root` is relative to it, that
                of another is absolute. The paths of the earlier items stay as they are.
            class_name: The class of all of them.
            root: The folder of the images, if all of them have moved.
            skip_unreadable: Leave out the images that cannot be read, which are logged.

        Returns:
            The number of images that were added. Images that the index holds already, with the same path, class and content, are
            counted in the log and not added again.

        Raises:
            RetrievalError: The index holds an image of the same path with another class or content, an earlier image is not below
                the new root, or a class looks like one of the index and is written with other characters.
        """
        if class_name is not None and not class_name.strip():
            raise ConfigError("the name of the class is empty; give one, or leave it out")
        options: dict[str, Any] = {"class_name": class_name, "root": root, "skip_unreadable": skip_unreadable}
        with self._editing() as bundle:
            added, bundle = building.add(bundle, self.model, images, **options)
            self._generation = self._generation.followed_by(bundle)
        return added

    def remove(self, paths: Sequence[str] = (), *, ids: int | Sequence[int] = (), classes: Sequence[str] = ()) -> int:
        """Removes items from the index, and from its folder at once. The images stay.

        Args:
            paths: One or several paths, as the index has them.
            ids: One or several ids.
            classes: One or several names of classes.

        Returns:
            The number of items that were removed.

        Raises:
            IndexFormatError: The index does not have one of them, or nothing would be left.
            ValueError: An argument is of another type, such as a mask.
        """
        with self._editing() as bundle:
            wanted = (("path", paths), ("id", ids), ("class", classes))
            positions = np.unique(np.concatenate([_positions(bundle, kind, values) for kind, values in wanted]))
            if not len(positions):
                raise ConfigError("nothing to remove; give a path, --id or --class")
            try:
                bundle = editing.remove(bundle, positions)
            except ValueError as error:  # the type of the index needs more items
                raise IndexFormatError(f"{bundle}: {error}; {REMEDY}") from error
            self._generation = self._generation.followed_by(bundle)
        return len(positions)

    def merge(self, *others: Index | Place, out: Place | None = None, overwrite: bool = False) -> Index:
        """A new index of the items of this one and others, all made with the same model.

        Args:
            others: The other indices.
            out: The folder of the new index; without it, it is in memory only.
            overwrite: Replace an index in that folder.

        Raises:
            IndexFormatError: The indices are of different models, or two hold the same path.
        """
        with claim_folder(out, overwrite, require_replaceable):
            bundles = [self._bundle, *map(_opened, others)]
            bundle = editing.merge(bundles, where=out or "index")
            return Index(bundle if out is None else write_bundle(bundle, out, overwrite=overwrite), self._given)

    def verify(self) -> None:
        """Checks every byte of the index: what opening has not checked, and what was checked but may have changed since.

        Raises:
            IndexFormatError: A file of the index is damaged; the message names it.
        """
        with self._lock:
            bundle = self._bundle
            (bundle if bundle.folder is None else read_bundle(bundle.folder)).check()

    def compact(self) -> None:
        """Writes the files of the index anew: without removed items, with added ones in the approximate index.

        Only an index of more than 8 MiB of vectors needs it: smaller ones are written anew by every change.

        Raises:
            RetrievalError: The folder cannot be written, or another program has changed it.
        """
        with self._editing() as bundle:
            try:
                bundle = editing.compact(bundle)
            except ValueError as error:  # the type of the index needs more items
                raise IndexFormatError(f"{bundle}: {error}; {REMEDY}") from error
            self._generation = self._generation.followed_by(bundle)

    def convert(self) -> bool:
        """Writes an index of an earlier version in the format of this one; returns whether it was of an earlier one.

        Raises:
            RetrievalError: See `compact`.
        """
        bundle = self._bundle
        if bundle.folder is None or INDEX_FOLDER.parse(bundle.folder, bundle.text)["version"] == INDEX_FOLDER.version:
            return False
        self.compact()
        return True

    def save(self, folder: Place, *, overwrite: bool = False) -> None:
        """Writes the index into a folder, which becomes its folder.

        Raises:
            RetrievalError: The folder cannot be written.
        """
        with self._lock, claim_folder(folder, overwrite, require_replaceable):
            bundle = editing.whole(self._bundle)
            if self._given is not None and bundle.model is None:
                bundle = replace(bundle, model=building.stored_model(self._given, Path(folder)))
            bundle = write_bundle(bundle, folder, overwrite=overwrite)
            self._generation = Generation(bundle, self._generation.built_model)

    def reload(self) -> bool:
        """Reads the index again if its folder has been replaced; returns whether it was.

        Raises:
            IndexFormatError: See `open`; the index then stays as it is.
        """
        with self._lock:
            bundle = self._bundle
            if bundle.is_current() or bundle.folder is None:
                return False
            new = read_bundle(bundle.folder)
            if self._given is not None:
                _check_model(new, self._given)
                self._generation = Generation(new, self._given)
            else:
                self._generation = self._generation.followed_by(new)
        return True

    def picture(self, item: int) -> Path | bytes:
        """The thumbnail of the item of an id, as a JPEG, or the file of its image where the index has no thumbnails.

        Raises:
            IndexFormatError: The index has no such id.
        """
        bundle = self._bundle
        found = np.flatnonzero(np.asarray(bundle.ids) == item)
        if not len(found):
            raise IndexFormatError(f"{bundle}: has no item of id {item}")
        return bundle.picture(int(found[0]))

    def describe(self) -> dict[str, Any]:
        """The facts of the index: its place, counts, type, model, the source of its vectors, and its calibration."""
        facts = self._bundle.manifest
        return {
            "index": str(self._bundle),
            "count": facts["count"],
            "dimension": facts["dimension"],
            "classes": facts["num_classes"],
            "split": facts["split"],
            "type": facts["type"],
            "approximate": facts["approximate"],
            "model": self._bundle.model_hash,
            "source": dict(facts["source"]),
            "calibration": None
            if self.calibration is None
            else {**self.calibration.to_dict(), "cautions": self.calibration.cautions},
        }

    def export(self, folder: Place, *, overwrite: bool = False) -> ArrayFiles:
        """Writes vectors.npy and labels.csv (id, label, path) into a new folder; `from_files` reads them.

        Raises:
            RetrievalError: The folder cannot be written.
        """
        bundle = self._bundle
        table = {"id": bundle.ids.tolist(), "label": list(bundle.class_names), "path": list(bundle.paths)}
        with claim_for_arrays(folder, overwrite):
            return write_arrays(folder, bundle.vectors, table, LABELS, overwrite=overwrite)

    def push(self, url: str, *, kind: str = approximate.EXACT, replace: bool = False) -> dict[str, Any]:
        """Pushes the index to a server of vectors; a push that was stopped is continued by the same call.

        Args:
            url: "milvus://host:port/name". `retrieval.index.engines` searches and measures the index there.
            kind: "exact", "hnsw", "ivf" or "diskann".
            replace: Replace another index of that name.

        Returns:
            What was sent, and the share of the exact neighbours that the server finds; see `retrieval.index.engines.push`.

        Raises:
            EngineError: The server fails or serves another index; what it served before stays.
        """
        from retrieval.index import engines

        with engines.open(url) as engine:
            return engines.push(engine, self, kind=kind, replace=replace)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Writes the files of the index into a data set of the Hugging Face Hub, as one commit; see `retrieval.Model.push_to_hub`.

        Args:
            repository: "datasets/user/name". It is made where it does not exist.
            private: Whether a new repository is private.

        Returns:
            The page of the repository.

        Raises:
            RetrievalError: The index is in memory only, the token may not write, or the hub cannot be reached.
        """
        return hub.push(self, repository, private=private)

    def draw(
        self,
        queries: Any,
        hits: Any,
        file: Place,
        *,
        min_score: float | str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Draws queries and their hits as a PNG.

        Args:
            queries: The queries that were given to `search`.
            hits: What `search` returned for them.
            file: The PNG file.
            min_score: The score that was given to `search`, to be shown.
            overwrite: Replace the file if it exists and is such a picture or page.

        Raises:
            RetrievalError: The file exists and is not replaced, or it cannot be written.
        """
        least = _least_score(self._bundle, min_score, Ranking())
        with claim_file(file, overwrite, drawing.require_drawn):
            drawing.draw(self._bundle, *_rows(queries, hits), Path(file), least=least)

    def write_page(
        self,
        queries: Any,
        hits: Any,
        file: Place,
        *,
        min_score: float | str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes queries and their hits as a web page of one file; see `draw`."""
        least = _least_score(self._bundle, min_score, Ranking())
        with claim_file(file, overwrite, drawing.require_drawn):
            drawing.write_page(
                self._bundle, *_rows(queries, hits), Path(file), least=least, is_auto=min_score == "auto"
            )

    @staticmethod
    def require_drawable(file: Place, *, overwrite: bool = False) -> None:
        """Checks before a search that `draw` or `write_page` can write a file.

        Raises:
            RetrievalError: The file exists and is not replaced, or it cannot be made.
        """
        require_free_file(Path(file), overwrite, drawing.require_drawn)

    def report(
        self,
        out: Place | None = None,
        *,
        queries: Index | Place | None = None,
        images: Place | None = None,
        ks: Sequence[int] = (1, 2, 4, 8),
        seed: int = 0,
        title: str | None = None,
        **record: Any,
    ) -> tuple[Path, Path]:
        """Writes a report as one HTML page, and its pictures as PNGs.

        Args:
            out: The page; by default `<folder>-report.html` beside the index. An earlier report is replaced, other files are not.
            queries: Another index, whose items are the queries instead.
            images: The folder of the images, if they have moved. It is not used for an index with thumbnails.
            ks: Cut-offs of recall@k; those beyond the gallery are left out.
            seed: Seed of everything that is sampled at random.
            title: The heading of the page.
            record: `results`, `rows`, `lines` and `chosen` of a run; see `retrieval.report.Facts`.

        Returns:
            The page, and the folder of its pictures.

        Raises:
            RetrievalError: Nothing can be measured, or the page cannot be written.
        """
        folder = self.folder or Path("index")
        named = folder if folder.name not in ("", "..") else folder.resolve()
        page = Path(out) if out is not None else named.with_name(f"{named.name}-report.html")
        title = title or f"Retrieval report: {folder.resolve().name}"
        options = {"title": title, "images": images, "ks": ks, "seed": seed, **record}
        return reporting.report(page, self._bundle, _bundle_of(queries), **options)

    @property
    def _bundle(self) -> Bundle:
        return self._generation.bundle

    @contextlib.contextmanager
    def _editing(self) -> Iterator[Bundle]:
        """The bundle, which no other thread and no other process changes during the block.

        Raises:
            RetrievalError: Another process is changing its folder, or has changed it since it was read.
        """
        with self._lock, contextlib.ExitStack() as stack:
            bundle = self._bundle
            if bundle.folder is not None:
                require_elsewhere(bundle.folder)
                stack.enter_context(claimed(bundle.folder))
                require_unchanged(bundle)
            yield bundle


def _bundle_of(index: Index | Place | None) -> Bundle | None:
    return None if index is None else _opened(index)


def _opened(index: Index | Place) -> Bundle:
    if isinstance(index, Index):
        return index._bundle
    if not isinstance(index, (str, Path)):
        raise ValueError(f"an index is given as {brief(index)}; give an Index or the folder of one")
    return read_bundle(index)


def _rows(queries: Any, hits: Any) -> tuple[Sequence[Any], Sequence[Sequence[Hit]]]:
    """Queries and hits as sequences, also of a single query."""
    return ([queries], [hits]) if not hits or isinstance(hits[0], Hit) else (queries, hits)


def _positions(bundle: Bundle, kind: str, wanted: Any) -> np.ndarray:
    """The positions of the items that have one of the wanted values, or the wanted value; every one must occur."""
    wanted = [wanted] if isinstance(wanted, (str, int)) else list(wanted) if isinstance(wanted, Iterable) else None
    # A mask is no list of ids, although Python takes its values for 0 and 1.
    if wanted is None or any(
        isinstance(value, (bool, np.bool_)) or not isinstance(value, Hashable) for value in wanted
    ):
        raise ValueError(f"{kind} is {brief(wanted)}, expected one {kind} of the index or a list of several")
    items = bundle.items
    texts = [value for value in wanted if isinstance(value, str)]
    if kind == "id":
        numbers = [int(value) for value in wanted if isinstance(value, (int, float, np.number)) and value == int(value)]
        positions = np.flatnonzero(np.isin(items.ids, [number for number in numbers if abs(number) < 2**63]))
        known: set[Any] = set(items.ids[positions].tolist())
    elif kind == "path":
        positions = items.rows_of_paths(texts)
        known = set(items.paths_at(positions))
    else:
        positions = items.rows_of_classes(texts)
        known = set(items.numbered_classes[1])
    for value in wanted:
        if value not in known:
            hint = did_you_mean(str(value), _values(bundle, kind))
            raise IndexFormatError(f"{bundle}: has no {kind} {value!r}{hint}")
    return positions


def _values(bundle: Bundle, kind: str) -> Iterable[str]:
    """All values that an item of a bundle can be found by; none where there are too many to look for a similar one."""
    if kind == "class":
        return bundle.items.numbered_classes[1]
    if len(bundle.ids) > _MANY:
        return ()
    return bundle.paths if kind == "path" else map(str, bundle.ids.tolist())


def _least_score(bundle: Bundle, min_score: float | str | None, ranking: Ranking) -> float | None:
    """The score that hits must have; None without a limit."""
    if min_score is None:
        return None
    if min_score != "auto":
        is_number = isinstance(min_score, (int, float, np.floating)) and not isinstance(min_score, bool)
        if not is_number or not math.isfinite(float(min_score)):
            raise ValueError(f"min_score is {min_score!r}, expected a finite number or 'auto'")
        return float(min_score)
    if ranking:
        raise ConfigError("min_score auto is for plain scores; give a number with qe, dba and rerank")
    if bundle.calibration is None:
        message = f"{bundle}: has no threshold for min_score auto, because"
        if bundle.manifest["num_classes"] < 2:
            raise ConfigError(f"{message} it has a single class; give a number")
        copy = f"retrieval index merge {shlex.quote(str(bundle))} --out NEW"
        raise ConfigError(
            f"{message} an earlier version made it; give a number, or make a copy that has one with `{copy}`"
        )
    return bundle.calibration.threshold


def _check_model(bundle: Bundle, model: Model) -> None:
    """Checks that a model makes the vectors of a bundle, by its dimension and by some images that can still be read."""
    dimension = bundle.manifest["dimension"]
    if model.embedding_dim != dimension:
        raise IndexFormatError(
            f"{bundle}: holds vectors of {dimension} numbers, the model makes {model.embedding_dim}; give the model that made them"
        )
    checked = 0
    positions = np.linspace(0, bundle.manifest["count"] - 1, 4 * _PROBES).astype(int)
    rows = positions if bundle.rows is None else bundle.rows[positions]
    for path, vector in zip(bundle.all_items.paths_at(rows), bundle.stored.rows(rows), strict=True):
        try:
            image = load_image(bundle.root / path, max_pixels=pixel_limit(model.preprocessing))
        except DatasetError:
            continue
        score = float(model.encode(image) @ vector)
        if score < _ALIKE:
            raise IndexFormatError(
                f"{bundle}: {path!r} has another vector by the given model (cosine similarity {score:.3f}); "
                "give the model that made the index"
            )
        checked += 1
        if checked == _PROBES:
            return
    if not checked:
        log.warning("%s: none of its images can be read in %s, so the model was not checked", bundle, bundle.root)
