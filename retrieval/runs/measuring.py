"""Measures the network of a run on its splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from retrieval import evaluation
from retrieval.config import Config
from retrieval.config.splits import gallery_of
from retrieval.data import ImageSet, Preprocessing
from retrieval.errors import ConfigError
from retrieval.model import Model
from retrieval.model.encoding import encode_shared
from retrieval.model.places import settings_of
from retrieval.runs.record import Figures
from retrieval.training import StopSignals, distributed


@dataclass(frozen=True)
class Measuring:
    """Measures networks on the splits of a run. Several processes share the work, and all have the figures.

    Args:
        config: The configuration of the run.
        splits: The splits; see `retrieval.config.splits.read_splits`.
        preprocessing: How an image becomes the input of a network.
        signals: They stop a measurement after a batch; with several processes after its last batch, so that all stop together.
    """

    config: Config
    splits: Mapping[str, ImageSet]
    preprocessing: Preprocessing
    signals: StopSignals

    @property
    def splits_measured(self) -> tuple[str, ...]:
        """ "validation" and "test", as far as there are such images."""
        found = {"validation": "validation" in self.splits, "test": "test" in self.splits or "query" in self.splits}
        return tuple(split for split, exists in found.items() if exists)

    def measure(self, split: str, network: nn.Module) -> Figures:
        """The figures of a network on the "validation" or the "test" images; see `retrieval.evaluate`."""
        return self.figures(self.embed(split, network), split)

    def embed(self, split: str, network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the queries and of the gallery: the same array twice if every image is a query against the others."""
        queries, gallery = self.names(split)
        vectors = {name: self.embed_images(self.splits[name], network) for name in dict.fromkeys((queries, gallery))}
        return vectors[queries], vectors[gallery]

    def embed_images(self, images: ImageSet, network: nn.Module) -> np.ndarray:
        """The vectors (len(images), dim) of a network."""
        model = Model(network, self.preprocessing, **settings_of(self.config))
        # A process that stopped before the vectors are gathered would leave the others waiting.
        several = distributed.world_size() > 1
        watch = (lambda batches: batches) if several else self.signals.each
        vectors = encode_shared(model, images, watch=watch)
        self.signals.check(together=True)
        return vectors

    def figures(self, vectors: tuple[np.ndarray, np.ndarray], split: str) -> Figures:
        """The figures of the vectors that `embed` returned."""
        return distributed.on_main(lambda: self._evaluate(vectors, split))

    def names(self, split: str) -> tuple[str, str]:
        """The splits of the queries and of their gallery."""
        queries = "query" if split == "test" and "query" in self.splits else split
        return queries, gallery_of(queries, self.splits)

    def _evaluate(self, vectors: tuple[np.ndarray, np.ndarray], split: str) -> Figures:
        queries, gallery = self.names(split)
        own = queries == gallery
        try:
            return evaluation.evaluate(
                vectors[0],
                self._classes(queries),
                ks=sorted({1, *self.config.evaluation.ks}),
                gallery=None if own else vectors[1],
                gallery_labels=None if own else self._classes(gallery),
            )
        except ValueError as error:
            raise ConfigError(f"these embeddings cannot be measured: {error}") from error

    def _classes(self, split: str) -> np.ndarray:
        """The name of the class of every image: labels of two splits do not mean the same classes."""
        return np.array(self.splits[split].class_names)[self.splits[split].labels]


def describe(figures: Mapping[str, float]) -> str:
    """recall@1 and MAP@R in one line, in percent."""
    return "  ".join(
        f"{name} {100 * value:.2f}" for name, value in figures.items() if name.endswith(("recall@1", "map@r"))
    )
