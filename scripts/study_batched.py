"""The losses of the study for many runs at once, each on a batch of its own.

Every function takes unit embeddings (runs, batch, dim) of batches in which `m` images of a class follow one another, and returns
the losses (runs,). Those with proxies also take unit proxies (runs, num_classes, dim) and the classes (runs, batch // m) of the
batches. Values and gradients are those of `retrieval.losses` and of pytorch-metric-learning, up to rounding: see
tests/scripts/test_study_batched.py. They take a fraction of the time, since a run of the study is too small to fill a processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.defaults import NOISE

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {  # w'(r)
    "sqrt": lambda r: 0.5 * (1 + r).rsqrt(),
    "linear": torch.ones_like,
    "loglog": lambda r: 1 / ((1 + torch.log1p(r)) * (1 + r)),
}


class Pairs:
    """The scores of every batch against itself.

    Args:
        embeddings: (runs, batch, dim) unit vectors.
        m: Images of a class.
    """

    def __init__(self, embeddings: Tensor, m: int) -> None:
        batch = embeddings.shape[1]
        self.m, self.batch = m, batch
        self.scores = embeddings @ embeddings.mT  # (runs, batch, batch)
        block = torch.arange(batch) // m
        self.same = block[:, None] == block  # with the image itself
        self.relevant = self.same & ~torch.eye(batch, dtype=torch.bool)
        self._places = self.relevant.flatten().nonzero()[:, 0]

    @property
    def positives(self) -> Tensor:
        """The scores (runs, batch, m - 1) of the other images of a query's class."""
        return self.scores.flatten(1).index_select(1, self._places).unflatten(1, (self.batch, self.m - 1))

    def negatives(self, fill: float = -torch.inf) -> Tensor:
        """The scores (runs, batch, batch) of images of other classes; `fill` elsewhere."""
        return self.scores.masked_fill(self.same, fill)

    def place(self, values: Tensor) -> Tensor:
        """Values (runs, batch, m - 1) at the relevant places of zeros (runs, batch, batch)."""
        zeros = values.new_zeros(len(values), self.batch * self.batch)
        return zeros.index_copy_(1, self._places, values.flatten(1)).unflatten(1, (self.batch, self.batch))


def recall(
    embeddings: Tensor,
    m: int,
    *,
    projection: str = "softmax",
    weighting: str = "sqrt",
    temperature: float = 0.5,
    relevant_temperature: float | None = None,
    spreading: float = 0.0,
    noise: float = NOISE,
    proxies: Tensor | None = None,
    classes: Tensor | None = None,
    proxy_weight: float | None = None,
    proxy_temperature: float = 0.1,
) -> Tensor:
    """`RecallLoss`; its value is not that of the loss, only its gradient is."""
    pairs = Pairs(embeddings, m)
    gradient = _recall_gradient(pairs, projection, weighting, temperature, relevant_temperature, spreading, noise)
    value = (gradient * pairs.scores).sum((1, 2)) / pairs.batch
    if proxies is None or classes is None:
        return value
    scores = embeddings @ proxies.mT
    with torch.no_grad():
        own = classes.repeat_interleave(m, dim=1)[..., None]
        intruders = (scores >= scores.gather(2, own)).sum(2, keepdim=True) - 1
        shares = (scores / proxy_temperature).softmax(2)
        shares.scatter_add_(2, own, -torch.ones_like(shares[..., :1]))
        gradient = SLOPES[weighting](intruders.float()) * shares
    weight = classes.shape[1] / proxies.shape[1] if proxy_weight is None else proxy_weight
    return value + weight * (gradient * scores).sum((1, 2)) / pairs.batch


@torch.no_grad()
def _recall_gradient(
    pairs: Pairs,
    projection: str,
    weighting: str,
    temperature: float,
    relevant_temperature: float | None,
    spreading: float,
    noise: float,
) -> Tensor:
    """The gradient (runs, batch, batch) of the loss of each query by identity with projection."""
    scores, candidates = pairs.scores, ~torch.eye(pairs.batch, dtype=torch.bool)
    count = pairs.batch - 1
    mean = (scores * candidates).sum(2, keepdim=True) / count
    centered = (scores - mean) * candidates
    norm = centered.norm(dim=2, keepdim=True)
    spread = norm / math.sqrt(count)
    ranked = scores
    if noise:
        ranked = scores + noise * spread * (torch.randint(0, 2, scores.shape) - 0.5)
    relevant = ranked.flatten(1).index_select(1, pairs._places).unflatten(1, (pairs.batch, pairs.m - 1))
    others = ranked.masked_fill(pairs.same, -torch.inf)
    intruders = torch.stack([(others >= item[..., None]).sum(2) for item in relevant.unbind(2)], dim=2)
    pulls = SLOPES[weighting](intruders.float())
    if relevant_temperature is None:
        pulls = pulls / (pairs.m - 1)
    else:
        pulls = pulls * (pairs.positives / (relevant_temperature * spread)).softmax(2)
    if projection == "none":
        return -pairs.place(pulls)
    unit = centered / norm
    if projection == "softmax":
        soft = temperature * spread
        # Shares of the block of an irrelevant items and p: exp(s_n) / (sum of exp(s_n) + exp(s_p)).
        top = pairs.scores.masked_fill(~candidates, -torch.inf).amax(2, keepdim=True)
        exponents = ((pairs.negatives() - top) / soft).exp()
        items = ((pairs.positives - top) / soft).exp()
        rest = pulls / (exponents.sum(2, keepdim=True) + items)
        gradient = exponents * rest.sum(2, keepdim=True) - pairs.place(pulls - rest * items)
        across = gradient - candidates * gradient.sum(2, keepdim=True) / count
        return across - (1 - spreading) * unit * (unit * across).sum(2, keepdim=True)
    gradient = -pairs.place(pulls)
    across = gradient - candidates * gradient.sum(2, keepdim=True) / count
    return (across - (1 - spreading) * unit * (unit * across).sum(2, keepdim=True)) / norm


def smooth_ap(embeddings: Tensor, m: int, *, tau: float) -> Tensor:
    """`SmoothAPLoss`."""
    ranks, among = _soft_ranks(Pairs(embeddings, m), tau)
    return 1 - (among / ranks).mean((1, 2))


def recall_surrogate(embeddings: Tensor, m: int, *, tau_rank: float) -> Tensor:
    """`RecallSurrogateLoss`."""
    ranks, _ = _soft_ranks(Pairs(embeddings, m), tau_rank)
    ks = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    hits = torch.sigmoid(ks - ranks[..., None]).sum(2)
    return 1 - (hits.minimum(ks) / ks.clamp(max=m - 1)).mean((1, 2))


def _soft_ranks(pairs: Pairs, tau: float) -> tuple[Tensor, Tensor]:
    """The soft ranks (runs, batch, m - 1) of the relevant items among all and among the relevant ones."""
    positives, others = pairs.positives, pairs.negatives()
    # An item is compared with itself, too, which counts 1/2.
    among = 0.5 + torch.sigmoid((positives[..., None, :] - positives[..., None]) / tau).sum(3)
    above = [torch.sigmoid((others - item[..., None]) / tau).sum(2) for item in positives.unbind(2)]
    return among + torch.stack(above, dim=2), among


def multi_similarity(embeddings: Tensor, m: int, *, base: float, epsilon: float = 0.1) -> Tensor:
    """`MultiSimilarityLoss` with `MultiSimilarityMiner`."""
    pairs = Pairs(embeddings, m)
    positives, others = pairs.positives, pairs.negatives()
    pulled = positives < others.amax(2, keepdim=True) + epsilon
    pushed = others > positives.amin(2, keepdim=True) - epsilon
    pull = _log_one_plus((2 * (base - positives)).masked_fill(~pulled, -torch.inf)) / 2
    push = _log_one_plus((50 * (others - base)).masked_fill(~pushed, -torch.inf)) / 50
    return (pull + push).mean(1)


def _log_one_plus(exponents: Tensor) -> Tensor:
    """log(1 + sum of exp) over the last dimension."""
    return functional.pad(exponents, (0, 1)).logsumexp(-1)


def _distances(scores: Tensor) -> Tensor:
    return (2 - 2 * scores).clamp(min=1e-12).sqrt()


def _mean_of_positive(values: Tensor) -> Tensor:
    """The mean of what is above 0 of values (runs, ...); 0 if nothing is."""
    values = values.flatten(1)
    return values.sum(1) / (values > 0).sum(1).clamp(min=1)


def triplet(embeddings: Tensor, m: int, *, margin: float) -> Tensor:
    """`TripletMarginLoss` with semi-hard triplets."""
    pairs = Pairs(embeddings, m)
    near, far = _distances(pairs.positives), _distances(pairs.negatives(fill=-1))
    gaps = torch.stack([far - item[..., None] for item in near.unbind(2)], dim=2)
    mined = (gaps > 0) & (gaps <= margin) & ~pairs.same[:, None]
    return _mean_of_positive((margin - gaps).relu().masked_fill(~mined, 0))


def contrastive(embeddings: Tensor, m: int, *, neg_margin: float) -> Tensor:
    """`ContrastiveLoss`."""
    pairs = Pairs(embeddings, m)
    near, far = _distances(pairs.positives), _distances(pairs.negatives(fill=-1))
    pushes = (neg_margin - far).relu().masked_fill(pairs.same, 0)
    return _mean_of_positive(near) + _mean_of_positive(pushes)


def nt_xent(embeddings: Tensor, m: int, *, temperature: float) -> Tensor:
    """`NTXentLoss`."""
    pairs = Pairs(embeddings, m)
    positives = pairs.positives / temperature
    rest = (pairs.negatives() / temperature).logsumexp(2, keepdim=True)
    return (torch.logaddexp(positives, rest) - positives).mean((1, 2))


def sup_con(embeddings: Tensor, m: int, *, temperature: float) -> Tensor:
    """`SupConLoss`."""
    pairs = Pairs(embeddings, m)
    own = torch.eye(pairs.batch, dtype=torch.bool)
    rest = (pairs.scores / temperature).masked_fill(own, -torch.inf).logsumexp(2)
    return (rest - pairs.positives.mean(2) / temperature).mean(1)


def circle(embeddings: Tensor, m: int, *, gamma: float, margin: float = 0.4) -> Tensor:
    """`CircleLoss`."""
    pairs = Pairs(embeddings, m)
    positives, others = pairs.positives, pairs.negatives(fill=-1)
    pull = -gamma * (1 + margin - positives.detach()).relu() * (positives - (1 - margin))
    push = gamma * (others.detach() + margin).relu() * (others - margin)
    values = functional.softplus(pull.logsumexp(2) + push.masked_fill(pairs.same, -torch.inf).logsumexp(2))
    return _mean_of_positive(values)


def fast_ap(embeddings: Tensor, m: int, *, num_bins: int) -> Tensor:
    """`FastAPLoss`."""
    pairs = Pairs(embeddings, m)
    middles = torch.linspace(0, 4, num_bins + 1)[:, None, None]
    squares = 2 - 2 * pairs.scores
    pulses = (1 - (squares[:, None] - middles).abs() * num_bins / 4).relu()  # (runs, edges, batch, batch)
    positives = (pulses * pairs.relevant).sum(3)
    both = positives + (pulses * ~pairs.same).sum(3)
    hits = positives * positives.cumsum(1)
    counts = both.cumsum(1)
    safe = (hits > 0) & (counts > 0)
    shares = torch.where(safe, hits / counts.masked_fill(~safe, 1), 0)
    return 1 - shares.sum(1).mean(1) / (m - 1)


def _of_own_class(scores: Tensor, classes: Tensor, m: int) -> Tensor:
    """A mask (runs, batch, num_classes) of each image's class."""
    return functional.one_hot(classes.repeat_interleave(m, dim=1), scores.shape[2]).bool()


def proxy_anchor(embeddings: Tensor, m: int, *, proxies: Tensor, classes: Tensor, alpha: float) -> Tensor:
    """`ProxyAnchorLoss`."""
    scores = embeddings @ proxies.mT
    own = _of_own_class(scores, classes, m)
    pull = _log_one_plus((alpha * (0.1 - scores)).masked_fill(~own, -torch.inf).mT)
    push = _log_one_plus((alpha * (scores + 0.1)).masked_fill(own, -torch.inf).mT)
    return pull.sum(1) / own.any(1).sum(1) + push.mean(1)


def normalised_softmax(embeddings: Tensor, m: int, *, proxies: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """`NormalizedSoftmaxLoss`."""
    return _cross_entropy(embeddings @ proxies.mT / temperature, classes, m)


def arc_face(
    embeddings: Tensor, m: int, *, proxies: Tensor, classes: Tensor, margin: float, scale: float = 16
) -> Tensor:
    """`ArcFaceLoss`."""
    scores = embeddings @ proxies.mT
    own, margin = _of_own_class(scores, classes, m), math.radians(margin)
    angles = scores.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    shifted = torch.where(angles <= math.pi - margin, (angles + margin).cos(), scores - margin * math.sin(margin))
    return _cross_entropy(scale * torch.where(own, shifted, scores), classes, m)


def _cross_entropy(logits: Tensor, classes: Tensor, m: int) -> Tensor:
    own = classes.repeat_interleave(m, dim=1)[..., None]
    return (logits.logsumexp(2) - logits.gather(2, own)[..., 0]).mean(1)
