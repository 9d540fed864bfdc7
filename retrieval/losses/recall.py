"""The recall loss: how many wrong items stand above each right one, through the ranking solver.

For query i with relevant items P_i, an item p in P_i has r_p intruders: the irrelevant items that score higher. With the
ranking solver rk, r_p = rk(all scores)_p - rk(relevant scores)_p, and the loss of the query is the mean of w(r_p) over P_i
(Rolinek et al., CVPR 2020). Its gradient is taken by identity with projection (Sahoo et al., ICLR 2023).

An irrelevant item with the score of a relevant one is an intruder. Several rankings are then consistent with the scores; the loss
is that of the worst, which is also the limit of the loss with a margin when the margin goes to 0. So it is 0 only if every relevant
item is strictly above every irrelevant one, and embeddings that are all equal have the largest loss that there is. Were ties left
out, these would have a perfect score; counted half, they would have that of random embeddings, at the price of a second comparison.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm

from retrieval.defaults import NOISE
from retrieval.losses.class_proxies import Weight
from retrieval.losses.closed_form import Settings, closed_form
from retrieval.losses.local_projection import LocalProjection
from retrieval.losses.mean_gradient import MeanGradient
from retrieval.losses.proxy_list import ProxyListLoss
from retrieval.losses.score_matrix import (
    STATISTICS,
    AllButOwn,
    at_least_float32,
    check_masks,
    in_one_dtype,
    rank_as_scores,
    record_statistics,
    reduce_queries,
)
from retrieval.losses.weightings import WEIGHTINGS, soft_cut_offs
from retrieval.solvers import Blackbox, Identity, center, normalize, solve, standardize, two_point
from retrieval.solvers.layer import GradientRule
from retrieval.solvers.projections import rounding_floor

log = logging.getLogger("retrieval")

PROJECTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda scores, candidates: scores,
    "mean": center,
    "norm": normalize,
    "std": standardize,
    "local": standardize,  # and `LocalProjection` behind it, as for "softmax"
    "softmax": standardize,
}

IDENTITY = ("identity", Identity())  # the word and the rule


def recall_loss(
    scores: Tensor,
    relevant: Tensor,
    irrelevant: Tensor | None = None,
    *,
    projection: str = "std",
    weighting: str = "sqrt",
    ks: Sequence[int] | None = None,
    tau: float = 1.0,
    noise: float = NOISE,
    margin: float = 0.0,
    local_margin: float = 1.0,
    temperature: float = 0.5,
    relevant_temperature: float | None = None,
    spreading: float = 0.0,
    gradient: str | GradientRule = "identity",
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The recall loss of a matrix of scores: the definition, which holds the whole matrix.

    Args:
        scores: (num_queries, num_references), higher is closer.
        relevant: boolean mask of the same shape.
        irrelevant: boolean mask of the same shape; everything that is not relevant if left out. Items in neither mask (the
            query itself, above all) are no candidates: they are not ranked and receive no gradient.
        projection: "none", "mean", "norm" or "std", see `retrieval.solvers.projections`; over the candidates of each query.
            "local": "std", and then the mean is taken off in blocks: what raises a relevant item lowers those items only that
            compete with it, the irrelevant ones that are above it or at most `local_margin` below. "softmax": "std", and then
            what raises a relevant item lowers the irrelevant ones by their shares in softmax(scores / temperature) of it and
            them; its own share is what it does not get. These two leave the division by the norm of the scores out of the
            gradient, which with them does not grow when the scores collapse. See `retrieval.losses.local_projection`.
        weighting: w(r) for r intruders: "loglog" log(1 + log(1 + r)), "log" log(1 + r), "sqrt" sqrt(1 + r) - 1, "linear" r.
        ks: explicit cut-offs in place of a weighting: w(r) is the mean over k of sigmoid((1 + r - k) / tau), a soft 1 - recall@k
            (Patel et al., CVPR 2022).
        tau: softness of the cut-offs, in ranks.
        noise: against the collapse of the scores, alpha of the two-point noise, in standard deviations of the query's scores. It
            is added after the projection, so that the value has it too, but never to scores that are all equal. 0: none. See
            `retrieval.solvers.noise`.
        margin: how far, in projected scores, a relevant item must be above an irrelevant one not to count it (Rolinek et al.,
            CVPR 2020, equation 14). Of projected scores, one standard deviation is 1 / sqrt(number of candidates) with "std",
            "local" and "softmax", and that of the scores with "none" and "mean".
        local_margin: reach of the local projection below a relevant item, in standard deviations of the query's scores.
        temperature: of the softmax, in the same units; the higher, the more alike are the shares, as with "std".
        relevant_temperature: of the softmax over the scores of the relevant items, in standard deviations of the query's scores.
            Its shares weigh the relevant items in the loss of the query. The lower, the more the nearest one counts, which
            alone makes a hit of recall@k. None: all alike. The gradient takes the shares for constants.
        spreading: with "std", "local" and "softmax", the share of the gradient along the centred scores that is kept, from 0 to 1.
            It does not change the ranking, only the spread of the scores; see `retrieval.solvers.standardize`.
        gradient: "identity", "blackbox" (lambda 4), or a rule such as `retrieval.solvers.Blackbox(lambda_=0.2)`. A rule sees the
            gradient of the mean over the queries; what multiplies the losses multiplies its result.
        generator: source of the noise.
        reduction: "mean" over the queries that have a relevant item (0 if none has), or "none": one loss a query (num_queries,),
            0 for those without a relevant item.

    Returns:
        The loss in the dtype of the scores, at least float32. An irrelevant item that ties with a relevant one counts as above it.
        NaN among the candidates' scores gives NaN.

    Raises:
        ValueError: shapes that differ, masks that are not boolean or overlap, unknown words, negative numbers, bad cut-offs.

    Examples:
        >>> import torch, retrieval
        >>> scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]])
        >>> relevant = torch.tensor([[False, True, False], [False, False, True]])
        >>> retrieval.recall_loss(scores, relevant, weighting="linear", noise=0)  # one intruder for each query
        tensor(1.)
    """
    widths = {"local_margin": local_margin, "temperature": temperature, "tau": tau}
    _check(projection, weighting, ks, gradient, relevant_temperature, spreading, noise=noise, margin=margin, **widths)
    scores, relevant, irrelevant = check_masks(scores, relevant, irrelevant)
    candidates = relevant | irrelevant
    projected = (
        standardize(scores, candidates, spreading=spreading)
        if spreading
        else PROJECTIONS[projection](scores, candidates)
    )
    deviation = candidates.sum(dim=1, keepdim=True).clamp(min=1).to(scores.dtype).rsqrt()  # of projected scores
    if projection in ("local", "softmax"):
        reach = local_margin * deviation if projection == "local" else None
        soft = temperature * deviation if projection == "softmax" else None
        norm = vector_norm(center(scores.detach(), candidates), dim=1, keepdim=True)
        projected = LocalProjection.apply(projected, relevant, irrelevant, reach, soft, norm)
    if noise:
        signs = two_point(projected, 1.0, generator=generator)
        projected = projected + signs * (noise * _spread(projected.detach(), candidates))
    if margin:
        projected = projected - margin * relevant
    rule = Blackbox(lambda_=4.0) if gradient == "blackbox" else gradient
    mean_gradient = MeanGradient()
    projected = mean_gradient.before_solver(projected)
    rank_among_all = solve(projected.masked_fill(~candidates, -torch.inf), rank_as_scores, gradient=rule)
    rank_among_relevant = rank_as_scores(projected.detach().masked_fill(~relevant, -torch.inf))
    intruders = (rank_among_all - rank_among_relevant).masked_fill(~relevant, 0)
    weigh = WEIGHTINGS[weighting] if ks is None else soft_cut_offs(ks, tau)
    weights = weigh(intruders).masked_fill(~relevant, 0)
    losses = (weights * _shares(scores.detach(), relevant, candidates, relevant_temperature)).sum(dim=1)
    losses = mean_gradient.after_solver(losses, relevant.any(dim=1))
    return reduce_queries(losses, relevant, reduction)


OPTIONS = set(inspect.signature(recall_loss).parameters) - {"scores", "relevant", "irrelevant", "reduction"}


class RecallLoss(ProxyListLoss):
    """`recall_loss` as a loss of pytorch-metric-learning: embeddings and labels in, a scalar out.

    Relevant are references with the query's label, except the query itself; with `indices_tuple` (a miner's pairs or triplets)
    exactly the mined pairs, and what is in neither list is no candidate. Queries without a relevant reference do not count.
    Scores and ranks are computed in float32, or float64 for such embeddings, whatever autocast says.

    From labels, and with inner products for scores, value and gradient come in closed form (`retrieval.losses.closed_form`) and the
    matrix of scores never exists. Mined pairs, other distances and other gradients than the identity take the definition.

    For candidates from earlier batches, wrap it in `retrieval.losses.CrossBatchMemory`; the class of that name in
    pytorch-metric-learning takes its own losses only, as does its `SelfSupervisedLoss`. Two views of the same images need no
    wrapper: an image is its own class. For embeddings `first` and `second` of the views, (batch, dim) each:

        labels = torch.arange(len(first), device=first.device)
        loss = loss_function(torch.cat([first, second]), labels.repeat(2))

    With `num_classes` and `embedding_size`, each query is also ranked against a proxy of every class, a learnable vector. The proxy
    of its own class is the relevant one (`retrieval.losses.class_proxies`). To a reducer, this second list is the sub-loss
    "proxy_loss", which all queries are part of. Labels are then in 0 .. num_classes - 1. The weighting is that of the first list;
    noise, margin and gradient are not. A memory holds no proxies. Give the parameters of the loss to an optimizer: with Adam, ten
    times the learning rate of the network and no weight decay. `DistributedLossWrapper` of pytorch-metric-learning multiplies
    gradients of any loss's own parameters by the number of processes; divide them by it again.

    Args:
        projection: "none", "mean", "norm", "std", "local" or "softmax".
        weighting: "loglog", "log", "sqrt" or "linear".
        ks: explicit cut-offs in place of a weighting.
        tau: softness of the cut-offs.
        noise: alpha of the two-point noise, in standard deviations of the query's scores. In training mode the loss has it, value
            and gradient; in evaluation mode (`loss.eval()`) it has none.
        margin: margin between relevant and irrelevant items, in units of the projected scores.
        local_margin: reach of the local projection.
        temperature: of the softmax projection.
        relevant_temperature: of the shares of relevant items; None: all alike.
        spreading: share that is kept of the gradient that only spreads the scores.
        gradient: "identity", "blackbox" or a rule.
        generator: source of the noise.
        num_classes: number of classes, for proxies; None: no proxies, and no parameter.
        embedding_size: dimension of embeddings and proxies.
        proxy_weight: factor of the second list; "auto": the classes in the batch over `num_classes`, measured in each batch.
        proxy_temperature: of the soft maximum over the proxies, in units of the scores.
        **kwargs: `distance` (cosine similarity by default; any other of pytorch-metric-learning), `reducer`,
            `embedding_regularizer`, `collect_stats` and what else its losses take. With `collect_stats`, `perfect_queries`
            is the share of queries without an intruder, `mean_intruders` their mean over relevant items, and `score_spread`
            the mean over queries of the standard deviation of their scores: near 0, the scores have collapsed. Of a batch
            without a relevant item the first two are 0. `proxy_intruders` is the mean over queries of the other proxies that
            score as high as the own one.

    Raises:
        ValueError: unknown words, or numbers out of range; when called, labels or embeddings that do not fit the proxies.

    Examples:
        >>> import torch, retrieval
        >>> loss_function = retrieval.RecallLoss()
        >>> embeddings = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        >>> loss = loss_function(embeddings, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
        >>> loss.backward()
        >>> embeddings.grad.shape
        torch.Size([8, 16])
    """

    def __init__(
        self,
        projection: str = "std",
        weighting: str = "sqrt",
        noise: float = NOISE,
        *,
        ks: Sequence[int] | None = None,
        tau: float = 1.0,
        margin: float = 0.0,
        local_margin: float = 1.0,
        temperature: float = 0.5,
        relevant_temperature: float | None = None,
        spreading: float = 0.0,
        gradient: str | GradientRule = "identity",
        generator: torch.Generator | None = None,
        num_classes: int | None = None,
        embedding_size: int | None = None,
        proxy_weight: float | Literal["auto"] = "auto",
        proxy_temperature: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            embedding_size=embedding_size,
            proxy_weight=proxy_weight,
            proxy_temperature=proxy_temperature,
            **kwargs,
        )
        widths = {"local_margin": local_margin, "temperature": temperature, "tau": tau}
        _check(
            projection, weighting, ks, gradient, relevant_temperature, spreading, noise=noise, margin=margin, **widths
        )
        self.relevant_temperature, self.spreading = relevant_temperature, spreading
        self.projection, self.weighting, self.gradient = projection, weighting, gradient
        self.noise, self.margin, self.tau = noise, margin, tau
        self.local_margin, self.temperature = local_margin, temperature
        self.ks, self.generator, self._said = ks, generator, False
        self.add_to_recordable_attributes(list_of_names=["noise", "margin"], is_stat=False)
        self.add_to_recordable_attributes(list_of_names=STATISTICS, is_stat=True)

    def losses_of_queries(self, scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
        if self.collect_stats:
            plain, candidates = scores.detach(), relevant | irrelevant
            intruders = recall_loss(
                plain, relevant, irrelevant, projection="none", weighting="linear", noise=0, reduction="none"
            )
            spread = _spread(plain, candidates)[:, 0]
            num_relevant = relevant.sum(dim=1)
            record_statistics(self, (intruders * num_relevant)[:, None], num_relevant, spread)
        options = {name: getattr(self, name) for name in OPTIONS}
        options["noise"] = self.noise if self.training else 0.0
        return recall_loss(scores, relevant, irrelevant, **options, reduction="none")

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> dict[str, dict[str, Any]]:
        of_proxies = self.against_proxies(embeddings, labels)
        return self._against_references(embeddings, labels, indices_tuple, ref_emb, ref_labels) | of_proxies

    def weight_of_ranks(self) -> Weight:
        return WEIGHTINGS[self.weighting] if self.ks is None else soft_cut_offs(self.ks, self.tau)

    def _against_references(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> dict[str, dict[str, Any]]:
        if len(embeddings) == 0 or len(ref_emb) == 0:
            return self.zero_losses()
        mined = indices_tuple is not None and not isinstance(indices_tuple, AllButOwn)
        if mined or labels is None or ref_labels is None or not self._has_closed_form():
            return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        self.distance.check_shapes(embeddings, ref_emb)
        labels, ref_labels = in_one_dtype(labels, ref_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            queries = at_least_float32(embeddings)
            references = None if ref_emb is embeddings else at_least_float32(ref_emb)
            own = indices_tuple.own if isinstance(indices_tuple, AllButOwn) else None
            settings = self._settings()
            found = closed_form(queries, references, labels, ref_labels, settings, own)
            if self.collect_stats:  # without noise and margins, and with the spread, which "std" measures
                plain = Settings(centered=True, scaled=True, weight=WEIGHTINGS["linear"], unit=settings.unit)
                with torch.no_grad():
                    seen = closed_form(queries, references, labels, ref_labels, plain, own)
                record_statistics(self, seen.intruders[:, None], seen.num_relevant, settings.slope * seen.spread)
            if self.distance.collect_stats:  # the norms, which a distance records when it is called
                rows = [at_least_float32(part.detach()) for part in (embeddings, ref_emb)]
                self.distance.set_default_stats(*rows, *map(self.distance.maybe_normalize, rows))
        return self.as_elements(found.losses, found.num_relevant > 0)

    def _settings(self) -> Settings:
        return Settings(
            centered=self.projection not in ("none", "norm"),
            scaled=self.projection not in ("none", "mean"),
            weight=self.weight_of_ranks(),
            noise=self.noise if self.training else 0.0,
            margin=self.margin,
            local_margin=self.local_margin if self.projection == "local" else None,
            temperature=self.temperature if self.projection == "softmax" else None,
            relevant_temperature=self.relevant_temperature,
            spreading=self.spreading,
            slope=self.slope(),
            generator=self.generator,
            unit=self.distance.normalize_embeddings,
        )

    def _has_closed_form(self) -> bool:
        """Whether scores are inner products, or a linear function of them that the projection undoes, and the gradient identity."""
        squared = self.is_squared_distance() and PROJECTIONS[self.projection] is standardize
        if (squared or self.has_inner_products()) and self.gradient in IDENTITY:
            return True
        if not self._said:
            what = (
                f"distance {type(self.distance).__name__}"
                if self.gradient in IDENTITY
                else f"gradient {self.gradient!r}"
            )
            log.warning("RecallLoss: no closed form with %s; computing the whole matrix of scores", what)
            self._said = True
        return False


def _spread(scores: Tensor, candidates: Tensor) -> Tensor:
    """The standard deviations (num_queries, 1) of the candidates' scores; 0 where these are all equal."""
    norm = vector_norm(center(scores, candidates), dim=1, keepdim=True)
    flat = norm <= rounding_floor(scores.masked_fill(~candidates, 0))
    return norm.masked_fill(flat, 0) / candidates.sum(dim=1, keepdim=True).clamp(min=1).to(scores.dtype).sqrt()


def _shares(scores: Tensor, relevant: Tensor, candidates: Tensor, temperature: float | None) -> Tensor:
    """The shares (num_queries, num_references) of the relevant items in the loss of their query."""
    if temperature is None:
        return relevant.to(scores.dtype) / relevant.sum(dim=1, keepdim=True).clamp(min=1)
    spread = _spread(scores, candidates)
    logits = (scores / (temperature * spread)).masked_fill(spread == 0, 0)
    return logits.masked_fill(~relevant, torch.finfo(logits.dtype).min).softmax(dim=1) * relevant


def _check(
    projection: str,
    weighting: str,
    ks: Sequence[int] | None,
    gradient: str | GradientRule,
    relevant_temperature: float | None,
    spreading: float,
    **numbers: float,
) -> None:
    for name, word, known in (("projection", projection, PROJECTIONS), ("weighting", weighting, WEIGHTINGS)):
        if word not in known:
            raise ValueError(f"{name} is {word!r}, expected one of {', '.join(known)}")
    if ks is not None:
        soft_cut_offs(ks, tau=1.0)
    if isinstance(gradient, str) and gradient not in ("identity", "blackbox"):
        expected = "identity, blackbox or a rule such as Blackbox(lambda_=0.2)"
        raise ValueError(f"gradient is {gradient!r}, expected {expected}")
    if projection in ("local", "softmax") and gradient not in IDENTITY:
        what = f"projection {projection!r} is a projection for the gradient 'identity'"
        raise ValueError(f"{what}; choose 'std' for another one")
    if not 0 <= spreading <= 1:
        raise ValueError(f"spreading is {spreading}, expected 0 to 1")
    if spreading and PROJECTIONS[projection] is not standardize:
        raise ValueError(f"projection {projection!r} has no spreading; choose 'std', 'local' or 'softmax'")
    if relevant_temperature is not None:
        numbers["relevant_temperature"] = relevant_temperature
    for name, value in numbers.items():
        least = 1e-6 if name.endswith(("tau", "temperature")) else 0
        if not value >= least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
