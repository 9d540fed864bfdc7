"""Backbones: timm networks without their classifier, with pretrained or random weights."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from threading import Thread
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from timm.models import get_pretrained_cfg
from torch import nn

from retrieval.errors import CheckpointError, RetrievalError, did_you_mean, plural
from retrieval.files.hub import weights_file
from retrieval.files.repository import Repository, is_hub_place

log = logging.getLogger("retrieval")

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them
HUB_PATIENCE = 4.0  # seconds to wait for an answer of the hub


def create_backbone(name: str, pretrained: bool | str | Path, image_size: int) -> nn.Module:
    """Builds a timm network whose output is features (batch, width).

    Args:
        name: A name of `timm.list_models()`, with or without the tag of its weights ("resnet50", "resnet50.a1_in1k").
        pretrained: False for random weights, True for the pretrained weights of timm, a local weights file, or a repository with
            weights of this network, "hf-hub:user/name@revision". Pretrained weights are loaded from the local cache if they are
            there, and downloaded from the hub otherwise.
        image_size: Side of the input images in pixels, for networks with a fixed input size (vision transformers).

    Raises:
        ValueError: A name is unknown; the message lists similar names. Or the network cannot take images of this size.
        CheckpointError: The weights file is missing or damaged, or belongs to another network.
        RetrievalError: The hub cannot be reached.
    """
    check_name(name)
    options: dict[str, Any] = {"num_classes": 0}
    if get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size
    try:
        return _create(name, pretrained, options)
    except AssertionError as error:  # of timm, about the size
        raise ValueError(
            f"{name} cannot take images of {image_size} x {image_size} pixels ({_reason(error)}); "
            f"set image.size to {_nearest_sizes(name, image_size)}"
        ) from error


def _nearest_sizes(name: str, size: int, reach: int = 64) -> str:
    """The nearest smaller and larger sizes of images that a network can be built for, as a text."""

    def can_take(other: int) -> bool:
        try:
            with torch.device("meta"):  # takes no memory and draws no weights
                timm.create_model(name, num_classes=0, img_size=other)
        except Exception:  # noqa: BLE001 - timm raises several types
            return False
        return True

    ways = (range(size - 1, max(0, size - reach), -1), range(size + 1, size + reach))
    found = [next(filter(can_take, way), None) for way in ways]
    return " or ".join(str(other) for other in found if other) or "that of its pretraining"


def _create(name: str, pretrained: bool | str | Path, options: dict[str, Any]) -> nn.Module:
    config = get_pretrained_cfg(name)
    if pretrained is False:
        return timm.create_model(name, **options)
    if is_hub_place(pretrained):
        return _from_users_file(name, weights_file(Repository.parse(str(pretrained))), options, custom=False)
    if isinstance(pretrained, (str, Path)):
        return _from_users_file(name, Path(pretrained), options, custom=bool(config.custom_load))
    if config.hf_hub_id:
        cached = _cached_file(config.hf_hub_id)
        if cached is not None:
            return _from_file(name, cached, options)[0]
        _require_hub(name, config.hf_hub_id)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except AssertionError:
        raise
    except Exception as error:  # the exceptions of a download depend on the version of huggingface_hub
        raise RetrievalError(f"weights of {name} cannot be fetched ({_reason(error)}); {_remedy()}") from error


def check_name(name: str) -> None:
    """Checks that timm has a model of this name, and weights of its tag if the name has one.

    Raises:
        ValueError: The name or the tag is unknown. The message lists similar names.
    """
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise ValueError(f"backbone {name!r} is not a model of timm {timm.__version__}{hint}")
    network, dot, _ = name.partition(".")
    if dot and name not in timm.list_pretrained(f"{network}.*"):
        hint = did_you_mean(name, timm.list_pretrained(f"{network}.*"))
        raise ValueError(f"backbone {name!r}: timm {timm.__version__} has no weights of that tag{hint}")


def _from_file(
    name: str, path: Path, options: dict[str, Any], *, custom: bool = False, **more: Any
) -> tuple[nn.Module, list[str]]:
    """The network with the weights of a file, and the keys of the file that the network does not have."""
    overlay = {"file": str(path), "custom_load": custom, **more}
    try:
        with _unexpected_keys() as keys:
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options), keys
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: these weights do not fit {name} ({_difference(error)}); {_other_file(name)}"
        ) from error


def _from_users_file(name: str, path: Path, options: dict[str, Any], *, custom: bool) -> nn.Module:
    """Builds a network with the weights of a file, and checks that the file belongs to this network.

    timm only logs a warning for missing weights. A file of another network would therefore leave random weights. To find them,
    the network is built a second time with random weights.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weights file; set model.pretrained to true, false or the path of a file"
        )
    random_state = torch.get_rng_state()
    # Some networks have published weights in a custom .npz format. With custom_load, timm reads no other format.
    # timm leaves out the classifier of the file only if it expects one.
    classes = get_pretrained_cfg(name).num_classes or 1
    network, unexpected = _from_file(name, path, options, custom=custom and path.suffix == ".npz", num_classes=classes)
    torch.set_rng_state(random_state)
    fresh = dict(timm.create_model(name, **options).named_parameters())
    left = [key for key, value in network.named_parameters() if _is_random(value) and torch.equal(value, fresh[key])]
    if left:
        missing = f"{plural(len(left), 'weight matrix is', 'weight matrices are')} not in the file, e.g. {left[0]}"
        raise CheckpointError(f"{path}: these weights do not fit {name} ({missing}); {_other_file(name)}")
    if unexpected:
        count = plural(len(unexpected), "key")
        log.warning("%s: has weights for %s that %s does not have, e.g. %s", path, count, name, unexpected[0])
    return network


def _is_random(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix with random values. Constants, e.g. a class token of zeros, may equal trained values."""
    return parameter.ndim > 1 and bool((parameter != parameter.flatten()[0]).any())


def _cached_file(repository: str) -> Path | None:
    """The weights file of a hub repository in the local cache; None if it was not downloaded before."""
    for file in HUB_FILES:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def _require_hub(name: str, repository: str) -> None:
    """Checks that the hub answers. Without this check, huggingface_hub retries for most of a minute.

    Raises:
        RetrievalError: The hub does not answer, or answers with a server error.
    """
    url = hf_hub_url(repository, HUB_FILES[0])
    failures: list[str | None] = [f"no answer within {HUB_PATIENCE:.0f} s"]

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=HUB_PATIENCE)
            failures.append(None)
        except HfHubHTTPError as error:
            # 4xx is an answer: the file may have another name. 5xx comes from a proxy or a broken hub.
            failures.append(_reason(error) if getattr(error.response, "status_code", 0) >= 500 else None)
        except Exception as error:  # noqa: BLE001 - the exceptions depend on the version of huggingface_hub
            failures.append(_reason(error))

    # The check runs in a thread, because its time limit does not include the DNS lookup.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE)
    if failures[-1] is not None:
        hub = url.removesuffix(f"/{repository}/resolve/main/{HUB_FILES[0]}")
        raise RetrievalError(
            f"weights of {name} are not in the cache, and {hub} cannot be reached ({failures[-1]}); {_remedy()}"
        )


@contextlib.contextmanager
def _unexpected_keys() -> Iterator[list[str]]:
    """The keys that timm finds in a weights file and not in the network. timm only logs them, in one line that has all of them."""
    keys: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        found = re.match(r"Unexpected keys \((.*?)\)", record.getMessage())
        keys.extend(found[1].split(", ") if found else ())
        return not found

    logger = logging.getLogger("timm.models._builder")
    logger.addFilter(take)
    try:
        yield keys
    finally:
        logger.removeFilter(take)


def _difference(error: Exception) -> str:
    """Why weights do not fit, from the error of loading them."""
    if other := re.findall(r"size mismatch for ([^\s:]+)", str(error)):
        return f"{plural(len(other), 'weight has', 'weights have')} another shape in the file, e.g. {other[0]}"
    return f"its key {error} is of another network" if isinstance(error, KeyError) else _reason(error)


def _other_file(name: str) -> str:
    return f"give weights of {name}, or set model.backbone to the network of the file"


def _remedy() -> str:
    return "set model.pretrained to the path of a local file, or to false"


def _reason(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
