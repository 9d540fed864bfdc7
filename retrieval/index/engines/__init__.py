"""Servers of vectors, for an index that outgrows a machine: push an index to one, search and measure it there.

    with engines.open("milvus://localhost:19530/photos") as engine:
        engines.push(engine, index, kind="hnsw")
        hits = engines.search(engine, index, ["query.jpg"], k=10)

A new kind of server is a module with a function `open(address, timeout)` that returns an `Engine`, and a line in `MODULES`.
"""

from __future__ import annotations

import contextlib
import importlib

from retrieval.index.engines.address import parse
from retrieval.index.engines.asking import evaluate, search
from retrieval.index.engines.engine import Engine
from retrieval.index.engines.facts import Facts
from retrieval.index.engines.pushing import push

__all__ = ["MODULES", "Engine", "Facts", "evaluate", "open", "push", "search"]

MODULES = {"milvus": "retrieval.index.engines.milvus"}
TIMEOUT = 60.0


def open(url: str, *, timeout: float = TIMEOUT) -> contextlib.closing[Engine]:
    """Connects to a server; used in a `with` statement, which closes the connection.

    Args:
        url: "milvus://host:port/name". A token is read from the environment: RETRIEVAL_MILVUS_TOKEN for Milvus.
        timeout: The time limit of a call in seconds.

    Raises:
        ConfigError: The URL cannot be understood.
        EngineError: Nothing answers, or it is no such server.
        RetrievalError: The package of its client is not installed.
    """
    address = parse(url, MODULES)
    module = importlib.import_module(MODULES[address.scheme])
    return contextlib.closing(module.open(address, timeout))
