"""Ranking losses for metric learning, as functions and as losses of pytorch-metric-learning."""

from retrieval.losses.recall import RecallLoss, recall_loss

__all__ = ["RecallLoss", "recall_loss"]
