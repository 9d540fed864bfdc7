"""The index: a bundle of vectors, classes, paths and a model, which is searched, measured and edited."""

from retrieval.index.hits import Hit
from retrieval.index.index import Index

__all__ = ["Hit", "Index"]
