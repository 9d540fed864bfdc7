"""The model: a network, its preprocessing, and the folders that it is loaded from and saved to."""

from retrieval.model.model import Model

__all__ = ["Model"]
