"""The files of an index bundle and their manifest."""

from __future__ import annotations

from retrieval.files.manifest import MANIFEST
from retrieval.model.places import INDEX_FOLDER

VECTORS_OF_VERSION_1 = "vectors.faiss"
VECTORS, ITEMS, APPROXIMATE, THUMBNAILS = "vectors.npy", "items.csv", "approximate.faiss", "thumbnails.zip"
CALIBRATION = "calibration"  # a key that the manifest of an earlier version lacks
METRIC = "inner_product"
REMEDY = INDEX_FOLDER.remedy

__all__ = [
    "APPROXIMATE",
    "CALIBRATION",
    "INDEX_FOLDER",
    "ITEMS",
    "MANIFEST",
    "METRIC",
    "REMEDY",
    "THUMBNAILS",
    "VECTORS",
]
