"""The place of class proxies in a loss of pytorch-metric-learning: the parameter, its start, its weight."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity, LpDistance
from torch import Tensor, nn

from retrieval.losses.class_proxies import Weight, proxy_losses, proxy_losses_of_inner_products
from retrieval.losses.score_matrix import ScoreMatrixLoss, at_least_float32


class ProxyListLoss(ScoreMatrixLoss):
    """A loss that may rank each query against class proxies too, see `retrieval.losses.class_proxies`.

    The second list is the sub-loss "proxy_loss" with an element for every query, whether or not it has a relevant reference.
    A subclass defines `weight_of_ranks` and adds `against_proxies` to what it computes.

    Args:
        num_classes: number of proxies; None: no second list and no parameter.
        embedding_size: dimension of embeddings and proxies.
        proxy_weight: factor of the second list. "auto": the classes in the batch over `num_classes`, measured in each batch.
        proxy_temperature: of the soft maximum over the proxies, in units of the scores.
        **kwargs: what `ScoreMatrixLoss` takes.

    Attributes:
        proxies: (num_classes, embedding_size), a parameter that starts with random normal numbers, or None.
        proxy_intruders: with `collect_stats`, the mean over queries of the other proxies that score as high as the own one.

    Raises:
        ValueError: numbers out of range, or one of `num_classes` and `embedding_size` without the other.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        embedding_size: int | None = None,
        proxy_weight: float | Literal["auto"] = "auto",
        proxy_temperature: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.num_classes = num_classes  # the host asks for the names of the sub-losses at once
        super().__init__(**kwargs)
        _check(num_classes, embedding_size, proxy_weight, proxy_temperature)
        self.embedding_size, self.proxy_weight, self.proxy_temperature = embedding_size, proxy_weight, proxy_temperature
        self.register_parameter("proxies", None)
        if num_classes is not None and embedding_size is not None:
            self.proxies = nn.Parameter(torch.randn(num_classes, embedding_size))
            self.add_to_recordable_attributes(list_of_names=["num_classes", "embedding_size"], is_stat=False)
            self.add_to_recordable_attributes(name="proxy_intruders", is_stat=True)

    def _sub_loss_names(self) -> list[str]:
        return ["loss"] if self.num_classes is None else ["loss", "proxy_loss"]

    def weight_of_ranks(self) -> Weight:
        """The function w(r) of intruders r."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """The parameters without weight decay, as timm's models name theirs: only the directions of proxies matter."""
        return set() if self.proxies is None else {"proxies"}

    @torch.no_grad()
    def init_proxies(self, embeddings: Tensor, labels: Tensor) -> None:
        """Sets the proxy of every class that has an embedding to the mean of its embeddings.

        A distance that normalises makes embeddings and means unit vectors first. The means then get the length
        sqrt(embedding_size), which is about that of random proxies, so that they learn as fast.

        Args:
            embeddings: (num_embeddings, embedding_size).
            labels: (num_embeddings,).

        Raises:
            ValueError: the loss has no proxies, or labels or embeddings do not fit them.
        """
        labels = self._check_fit(embeddings, labels).to(self.proxies.device)
        rows = self.distance.maybe_normalize(embeddings.to(self.proxies))
        sums = torch.zeros_like(self.proxies).index_add_(0, labels, rows)
        counts = labels.bincount(minlength=len(sums))[:, None]
        means = self.distance.maybe_normalize(sums / counts.clamp(min=1))
        length = sums.shape[1] ** 0.5 if self.distance.normalize_embeddings else 1.0
        self.proxies.copy_(torch.where(counts > 0, length * means, self.proxies))

    def against_proxies(self, embeddings: Tensor, labels: Tensor | None) -> dict[str, dict[str, Any]]:
        """The sub-loss of the second list; nothing without proxies."""
        if self.proxies is None:
            return {}
        labels = self._check_fit(embeddings, labels)
        if len(embeddings) == 0:
            return {"proxy_loss": self.zero_loss()}
        if self.proxies.device != embeddings.device:
            with torch.inference_mode(False):
                self.proxies.data = self.proxies.data.to(embeddings.device)  # as the host moves those of its losses
        with torch.autocast(embeddings.device.type, enabled=False):
            queries = at_least_float32(embeddings)
            losses, intruders = self._losses_and_intruders(queries, self.proxies.to(queries.dtype), labels)
        if self.collect_stats:
            self.proxy_intruders = intruders.mean().item()
        if self.proxy_weight == "auto":
            classes = 1 + (labels.sort().values.diff() != 0).sum()
            losses = losses * classes.to(losses.dtype) / len(self.proxies)
        else:
            losses = losses * self.proxy_weight
        indices = torch.arange(len(losses), device=losses.device)
        return {"proxy_loss": {"losses": losses, "indices": indices, "reduction_type": "element"}}

    def _losses_and_intruders(self, queries: Tensor, proxies: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weight, temperature = self.weight_of_ranks(), self.proxy_temperature
        if self.has_inner_products() or self.is_squared_distance():
            queries, proxies = self.distance.maybe_normalize(queries), self.distance.maybe_normalize(proxies)
            return proxy_losses_of_inner_products(queries, proxies, labels, weight, temperature, self.slope())
        matrix = self.distance(queries, proxies)
        return proxy_losses(matrix if self.distance.is_inverted else -matrix, labels, weight, temperature)

    def has_inner_products(self) -> bool:
        """Whether a score is an inner product, of unit vectors or not."""
        distance = self.distance
        return type(distance) in (CosineSimilarity, DotProductSimilarity) and distance.power == 1 and distance.p == 2

    def is_squared_distance(self) -> bool:
        """Whether a score is -|q - r|^2 = 2 <q, r> - 2 of unit vectors."""
        distance = self.distance
        unit = type(distance) is LpDistance and distance.normalize_embeddings
        return unit and distance.power == 2 and distance.p == 2

    def slope(self) -> float:
        """Of a score by the inner product."""
        return 2.0 if type(self.distance) is LpDistance else 1.0

    def _check_fit(self, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        """The labels as int64."""
        if self.proxies is None:
            raise ValueError("the loss has no proxies; give it num_classes and embedding_size")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_size:
            found = f"embeddings have shape {tuple(embeddings.shape)}"
            raise ValueError(f"{found}, expected (batch, {self.embedding_size}), as the class proxies have")
        if labels is None:
            raise ValueError("class proxies need labels, also beside an indices_tuple; give labels")
        numbers, last = labels.long(), len(self.proxies) - 1
        wrong = (numbers != labels) | (numbers < 0) | (numbers > last)
        if wrong.any():
            label = labels[wrong][0].item()
            raise ValueError(f"a label is {label}, expected 0 .. {last}, the numbers of the class proxies")
        return numbers


def _check(num_classes: int | None, embedding_size: int | None, weight: float | str, temperature: float) -> None:
    if (num_classes is None) != (embedding_size is None):
        found = f"num_classes is {num_classes} and embedding_size is {embedding_size}"
        raise ValueError(f"{found}; give both for class proxies, or neither")
    for name, count, least in (("num_classes", num_classes, 2), ("embedding_size", embedding_size, 1)):
        if count is not None and count < least:
            raise ValueError(f"{name} is {count}, expected at least {least}")
    if weight != "auto" and (isinstance(weight, str) or not 0 <= weight < float("inf")):
        raise ValueError(f"proxy_weight is {weight!r}, expected 'auto' or a finite number of at least 0")
    if not 1e-6 <= temperature < float("inf"):
        raise ValueError(f"proxy_temperature is {temperature}, expected a finite number of at least 1e-06")
