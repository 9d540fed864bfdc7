"""Ranking losses for metric learning, as functions of a score matrix and as losses of pytorch-metric-learning."""

from retrieval.losses.gauge import Collapse, Gauge, measure_batch
from retrieval.losses.memory import CrossBatchMemory
from retrieval.losses.rambo import RamboLoss, rambo_loss
from retrieval.losses.recall import RecallLoss, recall_loss
from retrieval.losses.recall_surrogate import RecallSurrogateLoss, recall_surrogate_loss
from retrieval.losses.smooth_ap import SmoothAPLoss, smooth_ap_loss
from retrieval.solvers import Blackbox

__all__ = [
    "Blackbox",
    "Collapse",
    "CrossBatchMemory",
    "Gauge",
    "RamboLoss",
    "RecallLoss",
    "RecallSurrogateLoss",
    "SmoothAPLoss",
    "measure_batch",
    "rambo_loss",
    "recall_loss",
    "recall_surrogate_loss",
    "smooth_ap_loss",
]
