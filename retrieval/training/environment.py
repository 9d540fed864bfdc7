"""The environment of a run: the command, versions and hardware."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from retrieval import __version__
from retrieval.training.distributed import world_size

PACKAGES = (
    *("torch", "torchvision", "timm", "faiss-cpu"),
    *("pytorch-metric-learning", "albumentations", "numpy"),
)


def describe_environment(**more: Any) -> dict[str, Any]:
    """Returns command, versions and hardware, to reproduce a run.

    Args:
        **more: Further entries, such as seed, device and fingerprints of the data.
    """
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "versions": {"retrieval": __version__} | {name: _version(name) for name in PACKAGES},
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # another distribution provides the module, such as faiss-gpu
        return None
