"""Losses and miners by their names: this project's, and those of pytorch-metric-learning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_metric_learning import losses, miners
from torch import nn

from retrieval.errors import ConfigError, did_you_mean
from retrieval.losses import RamboLoss, RecallLoss, RecallSurrogateLoss, SmoothAPLoss
from retrieval.losses.memory import CrossBatchMemory
from retrieval.schema import LossConfig, LossTerm, NamedLoss
from retrieval.solvers import Blackbox

# Left out are wrappers; losses that want more than embeddings and labels; SmoothAPLoss, which is right for sorted batches only; and
# those that newer versions of torch or NumPy deprecate (histogram, large margin softmax, sphereface).
LOSSES: Mapping[str, Callable[..., nn.Module]] = {
    "recall": RecallLoss,
    "smooth_ap": SmoothAPLoss,
    "recall_surrogate": RecallSurrogateLoss,
    "rambo": RamboLoss,
    "angular": losses.AngularLoss,
    "arcface": losses.ArcFaceLoss,
    "circle": losses.CircleLoss,
    "contrastive": losses.ContrastiveLoss,
    "cosface": losses.CosFaceLoss,
    "dynamic_soft_margin": losses.DynamicSoftMarginLoss,
    "fast_ap": losses.FastAPLoss,
    "generalized_lifted_structure": losses.GeneralizedLiftedStructureLoss,
    "intra_pair_variance": losses.IntraPairVarianceLoss,
    "lifted_structure": losses.LiftedStructureLoss,
    "margin": losses.MarginLoss,
    "multi_similarity": losses.MultiSimilarityLoss,
    "n_pairs": losses.NPairsLoss,
    "nca": losses.NCALoss,
    "normalized_softmax": losses.NormalizedSoftmaxLoss,
    "nt_xent": losses.NTXentLoss,
    "pnp": losses.PNPLoss,
    "proxy_anchor": losses.ProxyAnchorLoss,
    "proxy_nca": losses.ProxyNCALoss,
    "ranked_list": losses.RankedListLoss,
    "signal_to_noise_contrastive": losses.SignalToNoiseRatioContrastiveLoss,
    "soft_triple": losses.SoftTripleLoss,
    "sub_center_arcface": losses.SubCenterArcFaceLoss,
    "sup_con": losses.SupConLoss,
    "triplet": losses.TripletMarginLoss,
    "tuplet_margin": losses.TupletMarginLoss,
}

MINERS: Mapping[str, Callable[..., nn.Module]] = {
    "angular": miners.AngularMiner,
    "batch_easy_hard": miners.BatchEasyHardMiner,
    "batch_hard": miners.BatchHardMiner,
    "distance_weighted": miners.DistanceWeightedMiner,
    "hdc": miners.HDCMiner,
    "multi_similarity": miners.MultiSimilarityMiner,
    "pair_margin": miners.PairMarginMiner,
    "triplet_margin": miners.TripletMarginMiner,
    "uniform_histogram": miners.UniformHistogramMiner,
}

# What no word can stand for, and what only makes sense beside it.
_OBJECTS = {
    *("distance", "reducer", "embedding_regularizer", "weight_regularizer", "weight_init_func", "mat_based_loss"),
    *("embedding_reg_weight", "weight_reg_weight", "collect_stats", "generator"),
}


def build_loss(config: LossConfig, *, num_classes: int, embedding_dim: int) -> nn.Module:
    """The loss of a configuration: a module from (embeddings, labels 0 .. num_classes - 1) to a scalar.

    Raises:
        ConfigError: an unknown name or option, or a value that a loss refuses; one line each.
    """
    terms = config.terms or [config]
    places = [f"loss.terms.{i}" for i in range(len(terms))] if config.terms else ["loss"]
    built, mistakes = [], []
    for place, term in zip(places, terms, strict=True):
        try:
            built.append(_build_term(term, num_classes, embedding_dim))
        except (ValueError, TypeError) as error:
            mistakes.append(f"{place}: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    modules, miners_, weights = [loss for loss, _ in built], [miner for _, miner in built], [t.weight for t in terms]
    if weights == [1.0] and miners_ == [None]:
        return modules[0]
    return losses.MultipleLosses(modules, miners_, weights)


def _build_term(term: LossTerm, num_classes: int, embedding_dim: int) -> tuple[nn.Module, nn.Module | None]:
    """A loss, and the miner that is called before it."""
    options = {**_recall_options(term), **term.options}
    loss = _create("loss", LOSSES, term.name, options, num_classes=num_classes, embedding_size=embedding_dim)
    miner = _create("miner", MINERS, term.miner, term.miner_options) if term.miner else None
    if not term.memory:
        return loss, miner
    if type(loss).__name__ not in CrossBatchMemory.supported_losses():
        raise ValueError(
            f"{term.name} cannot use a memory: it compares embeddings with its own parameters, or in pairs"
        )
    return CrossBatchMemory(loss, embedding_dim, memory_size=term.memory, miner=miner), None


def _recall_options(term: LossTerm) -> dict[str, Any]:
    """The words of the recall loss that stand beside its name."""
    if term.name != "recall":
        return {}
    words = term.model_dump(include=set(LossTerm.model_fields) - set(NamedLoss.model_fields))
    lambda_ = words.pop("blackbox_lambda")
    return words | ({"gradient": Blackbox(lambda_)} if term.gradient == "blackbox" else {})


def _create(
    what: str, table: Mapping[str, Callable[..., nn.Module]], name: str, options: Mapping[str, Any], **filled: Any
) -> nn.Module:
    """The loss or miner of that name; of `filled` it gets what it needs."""
    if name not in table:
        hint = did_you_mean(name, table) or f"; there are {', '.join(table)}"
        raise ValueError(f"there is no {what} {name!r}{hint}")
    parameters = _parameters(table[name])
    own = [word for word in parameters if word not in filled]
    for word in options:
        if word not in own:
            listed = ", ".join(own) or "none"
            raise ValueError(f"{name} has no option {word!r}; known are {listed}{did_you_mean(word, own)}")
    required = [word for word, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    missing = [word for word in required if word not in filled and word not in options]
    if missing:
        raise ValueError(f"{name} needs the option {' and '.join(missing)}; set it under options")
    needed = {word: value for word, value in filled.items() if word in required}
    try:
        return table[name](**needed, **options)
    except AssertionError as error:  # how pytorch-metric-learning refuses some values
        raise ValueError(f"{name} refuses {dict(options)} ({error})") from error


def _parameters(kind: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
    """What a class can be given as words: of its own constructor and, as long as these pass **kwargs on, those above it."""
    found: dict[str, inspect.Parameter] = {}
    for class_ in inspect.getmro(kind):  # type: ignore[arg-type]
        if "__init__" not in vars(class_):
            continue
        parameters = inspect.signature(vars(class_)["__init__"]).parameters
        for name, parameter in list(parameters.items())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in _OBJECTS:
                found.setdefault(name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found
