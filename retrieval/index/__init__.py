"""The index: a bundle of vectors, classes, paths and a model, which is searched, measured and edited."""

from retrieval.index.calibration import Calibration
from retrieval.index.embedding import embed_part
from retrieval.index.index import Index
from retrieval.index.search import Hit

__all__ = ["Calibration", "Hit", "Index", "embed_part"]
