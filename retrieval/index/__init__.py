"""Index bundles: vectors, labels, paths and the model that made them, in one folder."""

from retrieval.index.bundle import Bundle, read_bundle
from retrieval.index.writing import write_bundle

__all__ = ["Bundle", "read_bundle", "write_bundle"]
