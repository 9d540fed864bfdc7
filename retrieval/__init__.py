"""Train image-retrieval embeddings on recall@k, index images, search and evaluate.

The names are loaded when they are first used, so that `import retrieval` is fast and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from retrieval.data import ImageSet
    from retrieval.errors import RetrievalError
    from retrieval.evaluation import evaluate
    from retrieval.index import Hit, Index
    from retrieval.losses import RecallLoss, recall_loss
    from retrieval.model import Model
    from retrieval.runs import Run, list_runs
    from retrieval.runs.train import train

_MODULES = {
    "Hit": "index",
    "ImageSet": "data",
    "Index": "index",
    "Model": "model",
    "RecallLoss": "losses",
    "RetrievalError": "errors",
    "Run": "runs",
    "evaluate": "evaluation",
    "list_runs": "runs",
    "recall_loss": "losses",
    "train": "runs",
}

__all__ = [
    "Hit",
    "ImageSet",
    "Index",
    "Model",
    "RecallLoss",
    "RetrievalError",
    "Run",
    "__version__",
    "evaluate",
    "list_runs",
    "recall_loss",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    value = getattr(import_module(f"retrieval.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
