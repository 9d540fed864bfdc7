"""Configurations: their schema, how they are read, and the objects that they name."""

from retrieval.config.reading import config_names, load, to_yaml
from retrieval.config.schema import Config

__all__ = ["Config", "config_names", "load", "to_yaml"]
