"""Losses and miners by name: those of this package, of pytorch-metric-learning, and your own by import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from pytorch_metric_learning import losses, miners
from torch import nn

from retrieval.config.imports import call_object, import_object, is_import_path
from retrieval.config.mistakes import mistake, mistakes_in
from retrieval.config.schema import LossConfig, LossTerm, NamedLoss
from retrieval.errors import ConfigError, did_you_mean
from retrieval.losses import Blackbox, RamboLoss, RecallLoss, RecallSurrogateLoss, SmoothAPLoss
from retrieval.losses.memory import CrossBatchMemory

# Not listed: wrappers; losses that need more than embeddings and labels; pytorch-metric-learning's SmoothAPLoss, which is correct
# for sorted batches only; and losses that raise deprecation warnings in new versions of torch or NumPy (histogram, large margin
# softmax, sphereface).
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

# Parameters that take objects, which a configuration cannot express, and parameters that only make sense with those.
_OBJECTS = {
    *("distance", "reducer", "embedding_regularizer", "weight_regularizer", "weight_init_func", "mat_based_loss"),
    *("embedding_reg_weight", "weight_reg_weight", "collect_stats", "generator"),
}

# How training calls a loss: without the last one if it is a single loss without a miner.
_ARGUMENTS = ("embeddings", "labels", "indices_tuple")


def build_loss(config: LossConfig, *, num_classes: int, embedding_dim: int) -> nn.Module:
    """Builds the loss of a configuration.

    Args:
        config: The loss section.
        num_classes: Number of training classes, for losses with a proxy for each class.
        embedding_dim: Dimension of the embeddings, for the same losses.

    Returns:
        A module from embeddings (batch, dim) and labels (batch,) in 0 .. num_classes - 1 to a scalar.

    Raises:
        ConfigError: A name or option is unknown, a loss refuses a value, or a loss or miner cannot be called; one line each.
    """
    terms = config.terms or [config]
    keys = [f"loss.terms.{i}" for i in range(len(terms))] if config.terms else ["loss"]
    alone = len(terms) == 1 and terms[0].weight == 1 and terms[0].miner is None
    built, mistakes = [], []
    for key, term in zip(keys, terms, strict=True):
        try:
            built.append(_build_term(term, num_classes, embedding_dim, alone=alone))
        except ValueError as error:
            mistakes.append(mistake(key, error, LossTerm.model_fields, term.options))
    if mistakes:
        raise ConfigError(mistakes)
    modules, miners_, weights = [loss for loss, _ in built], [miner for _, miner in built], [t.weight for t in terms]
    if weights == [1.0] and miners_ == [None]:
        return modules[0]
    return losses.MultipleLosses(modules, miners_, weights)


def own_temperature(term: LossTerm) -> tuple[str, float] | None:
    """The key and the value of a loss's temperature; None for a loss that has none.

    Raises:
        ConfigError: There is no such loss.
    """
    if term.name == "recall":
        return ("loss.temperature", term.temperature) if term.projection == "softmax" else None
    with mistakes_in("loss"):
        default = _parameters(_find("loss", LOSSES, term.name)).get("temperature")
    value = term.options.get("temperature", default and default.default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        return None
    return "loss.options.temperature", float(value)


def _build_term(
    term: LossTerm, num_classes: int, embedding_dim: int, *, alone: bool
) -> tuple[nn.Module, nn.Module | None]:
    """A loss and its miner; `alone` means a single loss without weight and miner, which gets embeddings and labels only."""
    options = {**_recall_options(term), **term.options}
    sizes = {"num_classes": num_classes, "embedding_size": embedding_dim}
    loss = _create("loss", LOSSES, term.name, options, sizes, wanted=sizes if term.proxies else ())
    miner = _create("miner", MINERS, term.miner, term.miner_options, {}) if term.miner else None
    if is_import_path(term.name):
        _require_arguments(term.name, loss, _ARGUMENTS[:2] if alone else _ARGUMENTS)
    if term.miner and is_import_path(term.miner):
        _require_arguments(term.miner, miner, _ARGUMENTS[:2])
    if not term.memory:
        return loss, miner
    if type(loss).__name__ not in CrossBatchMemory.supported_losses():
        raise ValueError(
            f"{term.name} cannot use a memory: it compares embeddings with its own parameters, or in pairs"
        )
    return CrossBatchMemory(loss, embedding_dim, memory_size=term.memory, miner=miner), None


def _require_arguments(name: str, module: nn.Module | None, arguments: Sequence[str]) -> None:
    """Checks that the user's loss or miner can be called as training does.

    Raises:
        ValueError: It takes other arguments.
    """
    assert module is not None
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        why = " beside a miner, a weight or other terms" if len(arguments) == 3 else ""
        raise ValueError(
            f"{name} has forward{signature}, but is called with ({', '.join(arguments)}){why}; change its parameters"
        ) from error


def _recall_options(term: LossTerm) -> dict[str, Any]:
    """The options of the recall loss, which are keys of the loss section."""
    if term.name != "recall":
        return {}
    options = term.model_dump(include=set(LossTerm.model_fields) - set(NamedLoss.model_fields))
    lambda_, _ = options.pop("blackbox_lambda"), options.pop("proxies")
    return options | ({"gradient": Blackbox(lambda_)} if term.gradient == "blackbox" else {})


def _find(kind: str, table: Mapping[str, Callable[..., nn.Module]], name: str) -> Callable[..., nn.Module]:
    if is_import_path(name):
        return import_object(name)
    if name not in table:
        known = f"; known are {', '.join(table)}, and import paths such as my_losses:MyLoss"
        raise ValueError(f"there is no {kind} {name!r}{did_you_mean(name, table) or known}")
    return table[name]


def _create(
    kind: str,
    table: Mapping[str, Callable[..., nn.Module]],
    name: str,
    options: Mapping[str, Any],
    available: Mapping[str, Any],
    wanted: Collection[str] = (),
) -> nn.Module:
    """Builds the loss or miner of that name; of the `available` arguments it gets those that it requires, and the `wanted` ones.

    A loss given by an import path also gets optional parameters of these names, but not those that it has from the recall loss:
    they would give it class proxies.
    """
    factory = _find(kind, table, name)
    parameters = _parameters(factory)
    takes_any = _takes_any(factory) if is_import_path(name) else False
    own = [option for option in parameters if option not in available]
    for option in options:
        if option not in own and not takes_any:
            listed = ", ".join(own) or "none"
            raise ValueError(f"{name} has no option {option!r}; known are {listed}{did_you_mean(option, own)}")
    required = [option for option, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    missing = [option for option in required if option not in available and option not in options]
    if missing:
        raise ValueError(f"{name} needs the option {' and '.join(missing)}; set it under {_options_key(kind)}")
    if is_import_path(name):
        wanted = [option for option in parameters if not _is_of_recall(factory, option)]
    needed = {option: value for option, value in available.items() if option in required or option in wanted}
    try:
        module = (
            call_object(name, factory, **needed, **options) if is_import_path(name) else factory(**needed, **options)
        )
    except (AssertionError, TypeError) as error:  # how pytorch-metric-learning refuses some values
        raise ValueError(f"{name} refuses {dict(options)} ({error})") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} returned a value of type {type(module).__name__}, expected a torch.nn.Module")
    return module


def _options_key(kind: str) -> str:
    """The key that holds the options of a loss or a miner."""
    return "options" if kind == "loss" else "miner_options"


def _is_of_recall(factory: Callable[..., nn.Module], option: str) -> bool:
    """Whether a class has a parameter from the recall loss, and not from a constructor of its own."""
    classes = inspect.getmro(factory) if inspect.isclass(factory) else ()
    constructors = {class_: vars(class_)["__init__"] for class_ in classes if "__init__" in vars(class_)}
    naming = (class_ for class_, made in constructors.items() if option in inspect.signature(made).parameters)
    return next(naming, None) is RecallLoss


def _takes_any(factory: Callable[..., nn.Module]) -> bool:
    """Whether a function or constructor takes any keyword argument."""
    parameters = inspect.signature(factory).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _parameters(factory: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
    """The parameters that a configuration can set.

    Of a class these are the parameters of its constructor and, as long as constructors pass **kwargs on, of those of its bases.
    """
    if not inspect.isclass(factory):
        return _named(inspect.signature(factory).parameters.values())
    known: dict[str, inspect.Parameter] = {}
    for class_ in inspect.getmro(factory):
        if "__init__" not in vars(class_):
            continue
        parameters = list(inspect.signature(vars(class_)["__init__"]).parameters.values())[1:]
        known |= {name: item for name, item in _named(parameters).items() if name not in known}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return known


def _named(parameters: Iterable[inspect.Parameter]) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {item.name: item for item in parameters if item.kind in kinds and item.name not in _OBJECTS}
