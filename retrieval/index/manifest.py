"""The files of an index bundle and their manifest."""

from __future__ import annotations

from retrieval.files.manifest import MANIFEST
from retrieval.model.places import INDEX_FOLDER

VECTORS_OF_VERSION_1 = "vectors.faiss"
VECTORS, ITEMS, APPROXIMATE, THUMBNAILS = "vectors.npy", "items.csv", "approximate.faiss", "thumbnails.zip"
METRIC = "inner_product"
REMEDY = INDEX_FOLDER.remedy

__all__ = ["APPROXIMATE", "INDEX_FOLDER", "ITEMS", "MANIFEST", "METRIC", "REMEDY", "THUMBNAILS", "VECTORS"]
