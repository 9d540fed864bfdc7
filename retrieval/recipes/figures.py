"""What a model is worth on the classes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from retrieval import evaluation
from retrieval.building import embed_images, measured_splits
from retrieval.config import Config
from retrieval.data import ImageSet, Preprocessing
from retrieval.errors import ConfigError
from retrieval.training import StopSignals, distributed
from retrieval.training.record import Figures


@dataclass(frozen=True)
class Measuring:
    """Measures models on the splits of a run; several processes share the work, and all have the figures.

    Args:
        config: of the run.
        splits: see `retrieval.building.read_splits`.
        preprocessing: how an image becomes a model's input.
        signals: stop a measurement after a batch; with several processes after its last one, where all stop together.
    """

    config: Config
    splits: Mapping[str, ImageSet]
    preprocessing: Preprocessing
    signals: StopSignals

    def measure(self, split: str, model: nn.Module) -> Figures:
        """The figures of a model on the "validation" or the "test" classes; see `retrieval.evaluation.evaluate`."""
        return self.figures(self.embed(split, model), split)

    def embed(self, split: str, model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the queries and of the gallery: twice the same, if each image is a query against the others."""
        queries, gallery = self._parts(split)
        several = (
            distributed.world_size() > 1
        )  # who left before the vectors are gathered would leave the others waiting
        watch = (lambda batches: batches) if several else self.signals.each
        vectors = {
            name: embed_images(self.config, model, self.preprocessing, self.splits[name], watch=watch)
            for name in dict.fromkeys((queries, gallery))
        }
        self.signals.check(together=True)
        return vectors[queries], vectors[gallery]

    def figures(self, vectors: tuple[np.ndarray, np.ndarray], split: str) -> Figures:
        """The figures of what `embed` returned."""
        return distributed.on_main(lambda: self._evaluate(vectors, split))

    def _evaluate(self, vectors: tuple[np.ndarray, np.ndarray], split: str) -> Figures:
        queries, gallery = self._parts(split)
        own = queries == gallery
        try:
            return evaluation.evaluate(
                vectors[0],
                self.splits[queries].labels,
                ks=sorted({1, *self.config.evaluation.ks}),
                gallery=None if own else vectors[1],
                gallery_labels=None if own else self.splits[gallery].labels,
            )
        except ValueError as error:
            raise ConfigError(f"these embeddings cannot be measured: {error}") from error

    def _parts(self, split: str) -> tuple[str, str]:
        return measured_splits(self.splits) if split == "test" else (split, split)


def describe(figures: Mapping[str, float]) -> str:
    """recall@1 and MAP@R in one line, in percent."""
    return "  ".join(
        f"{name} {100 * value:.2f}" for name, value in figures.items() if name.endswith(("recall@1", "map@r"))
    )
