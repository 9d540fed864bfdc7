"""The files of an index bundle and their manifest."""

from __future__ import annotations

from retrieval.files.manifest import MANIFEST
from retrieval.model.places import INDEX_FOLDER

VECTORS_OF_VERSION_1 = "vectors.faiss"
ITEMS_OF_VERSION_2, THUMBNAILS_OF_VERSION_2 = "items.csv", "thumbnails.zip"
VECTORS, ITEMS, APPROXIMATE, THUMBNAILS = "vectors.npy", "items.arrows", "approximate.faiss", "thumbnails.arrows"
REMOVED = ("removed-0.bits", "removed-1.bits")  # in turn: the one that the manifest lists stays until the next manifest
CALIBRATION = "calibration"  # a key that the manifest of an earlier version lacks
ROWS = "rows"  # a key of a manifest with removed rows: the number of all rows
METRIC = "inner_product"
REMEDY = INDEX_FOLDER.remedy

__all__ = [
    "APPROXIMATE",
    "CALIBRATION",
    "INDEX_FOLDER",
    "ITEMS",
    "ITEMS_OF_VERSION_2",
    "MANIFEST",
    "METRIC",
    "REMEDY",
    "REMOVED",
    "ROWS",
    "THUMBNAILS",
    "THUMBNAILS_OF_VERSION_2",
    "VECTORS",
    "VECTORS_OF_VERSION_1",
]
