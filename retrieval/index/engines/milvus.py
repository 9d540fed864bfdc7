"""Milvus as an engine. A token, if the server wants one, is read from the environment: RETRIEVAL_MILVUS_TOKEN."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from retrieval.errors import EngineError, RetrievalError, reason_of
from retrieval.index.engines.address import Address
from retrieval.index.engines.facts import Facts

TOKEN = "RETRIEVAL_MILVUS_TOKEN"
_PORT = 19530
_ANSWER = 5.0  # seconds for the first answer of a server
_PAUSE = 0.3  # seconds between two questions
_STALLED = 30  # time limits of a call without any progress of the index; a large segment shows none for minutes
_PROPERTY = "retrieval"  # of a collection: its facts; servers lose the description of a collection
_FIELD = "vector"
_LONGEST_TEXT = 65535  # bytes
_SMALL = 1024  # rows; a smaller part of a collection gets no index
_EXPLORED = 128  # candidates of a search in a graph
_INDEXES = {"exact": "FLAT", "hnsw": "HNSW", "ivf": "IVF_FLAT", "diskann": "DISKANN"}


def open(address: Address, timeout: float) -> Milvus:
    """Connects to a server; see `retrieval.index.engines.open`."""
    host, port = address.host, address.port or _PORT
    try:  # first, since the client takes a closed port for a refused token
        socket.create_connection((host, port), timeout=min(timeout, _ANSWER)).close()
    except OSError as error:
        raise EngineError(
            f"{address.url}: nothing answers on {host}:{port} ({reason_of(error)}); start the server or correct the URL"
        ) from error
    try:
        import pymilvus
    except ImportError as error:
        raise RetrievalError(
            f"the client of Milvus cannot be imported ({reason_of(error)}); install it with "
            "`python -m pip install 'image-retrieval-toolkit[milvus]'`"
        ) from error
    for name in ("pymilvus", "pymilvus.milvus_client"):  # they log a traceback for every error that they raise
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    uri, token = f"http://{f'[{host}]' if ':' in host else host}:{port}", os.environ.get(TOKEN, "")
    try:
        client = pymilvus.MilvusClient(uri=uri, token=token, timeout=min(timeout, _ANSWER))
    except (pymilvus.MilvusException, ValueError) as error:
        raise EngineError(
            f"{address.url}: {host}:{port} is open, but no Milvus server answers, or it refuses the token "
            f"of {TOKEN} ({_reason(error)})"
        ) from error
    return Milvus(address, client, timeout)


class Milvus:
    """A connection to a Milvus server; `retrieval.index.engines.engine.Engine` describes the methods."""

    largest_k = 16384
    kinds = tuple(_INDEXES)

    def __init__(self, address: Address, client: Any, timeout: float) -> None:
        self.url = address.url
        self.name = address.name
        self._client = client
        self._timeout = timeout
        self._efforts: dict[str, Callable[[int], dict[str, int]]] = {}  # options of a search, by the collection

    def serving(self) -> str | None:
        found = self._describe(self.name)
        return None if found is None else str(found["collection_name"])

    def collections(self) -> list[str]:
        with self._calls():
            return list(self._client.list_collections(timeout=self._timeout))

    def facts(self, collection: str) -> Facts | None:
        found = self._describe(collection)
        return None if found is None else Facts.from_json(found.get("properties", {}).get(_PROPERTY))

    def record(self, collection: str, facts: Facts) -> None:
        properties = {_PROPERTY: facts.to_json()}
        with self._calls():
            if self._describe(collection) is None:
                self._create(collection, facts.dimension, properties)
            else:
                self._client.alter_collection_properties(collection, properties, timeout=self._timeout)
            params = self._client.prepare_index_params()
            options = _options(facts)
            params.add_index(
                _FIELD, index_name=_FIELD, index_type=_INDEXES[facts.kind], metric_type="IP", params=options
            )
            self._client.create_index(collection, params, timeout=self._timeout, sync=False)
            self._client.load_collection(collection, timeout=self._timeout)
        self._patiently(lambda: self.count(collection))

    def add(self, collection: str, rows: list[dict[str, Any]]) -> None:
        with self._calls():
            self._client.upsert(collection, rows, timeout=self._timeout)

    def delete(self, collection: str, ids: list[int]) -> None:
        with self._calls():
            self._client.delete(collection, ids=ids, timeout=self._timeout)

    def count(self, collection: str) -> int:
        return int(self._query(collection, "", ["count(*)"])[0]["count(*)"])

    def ids(self, collection: str, first: int, last: int) -> np.ndarray:
        rows = self._query(collection, f"id >= {first} and id <= {last}", ["id"], limit=self.largest_k)
        return np.array([row["id"] for row in rows], dtype=np.int64)

    def fetch(self, collection: str, ids: list[int]) -> np.ndarray:
        rows = self._query(collection, f"id in {json.dumps(ids)}", ["id", _FIELD], limit=self.largest_k)
        vectors = {row["id"]: row[_FIELD] for row in rows}
        if missing := [id_ for id_ in ids if id_ not in vectors]:
            raise EngineError(f"{self.url}: {collection} has no item of id {missing[0]}")
        return np.array([vectors[id_] for id_ in ids], dtype=np.float32)

    def seal(self, collection: str) -> None:
        self._patiently(lambda: self._flush(collection))
        least, end = math.inf, 0.0
        while left := self._rows_without_index(collection):
            if left < least:
                least, end = left, time.monotonic() + _STALLED * self._timeout
            if time.monotonic() > end:
                raise EngineError(f"{self.url}: the server does not index {collection}; {left:,} items are left")
            time.sleep(_PAUSE)
        end = time.monotonic() + self._timeout
        while not self._serves_indexes(collection) and time.monotonic() < end:
            time.sleep(_PAUSE)

    def serve(self, collection: str) -> None:
        with self._calls():
            switch = self._client.create_alias if self.serving() is None else self._client.alter_alias
            switch(collection, self.name, timeout=self._timeout)

    def drop(self, collection: str) -> None:
        with self._calls():
            self._client.drop_collection(collection, timeout=self._timeout)

    def search(self, collection: str, queries: np.ndarray, k: int, label: int | None) -> np.ndarray:
        effort = self._effort(collection)(k)
        with self._calls():
            found = self._client.search(
                collection,
                data=list(queries),
                limit=k,
                filter="" if label is None else f"label == {label}",
                anns_field=_FIELD,
                search_params={"metric_type": "IP", "params": effort},
                consistency_level="Bounded",  # a strong one waits for up to half a second
                timeout=self._timeout,
            )
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, hits in zip(ids, found, strict=True):
            row[: len(hits)] = [hit["id"] for hit in hits]
        return ids

    def close(self) -> None:
        self._client.close()

    def _create(self, collection: str, dimension: int, properties: dict[str, str]) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("label", DataType.INT64)
        schema.add_field("class", DataType.VARCHAR, max_length=_LONGEST_TEXT)
        schema.add_field("path", DataType.VARCHAR, max_length=_LONGEST_TEXT)
        schema.add_field(_FIELD, DataType.FLOAT_VECTOR, dim=dimension)
        self._client.create_collection(collection, schema=schema, properties=properties, timeout=self._timeout)

    def _describe(self, collection: str) -> dict[str, Any] | None:
        """What the server says of a collection, or of the one that an alias stands for; None if there is none."""
        with self._calls():
            if not self._client.has_collection(collection, timeout=self._timeout):
                return None
            return dict(self._client.describe_collection(collection, timeout=self._timeout))

    def _query(self, collection: str, expression: str, fields: list[str], **options: Any) -> list[dict[str, Any]]:
        """Rows, after everything that was written before."""
        options |= {"consistency_level": "Strong", "timeout": self._timeout}
        with self._calls():
            return list(self._client.query(collection, filter=expression, output_fields=fields, **options))

    def _flush(self, collection: str) -> None:
        with self._calls():
            self._client.flush(collection, timeout=self._timeout)

    def _rows_without_index(self, collection: str) -> int:
        with self._calls():
            return int(self._client.describe_index(collection, _FIELD, timeout=self._timeout)["pending_index_rows"])

    def _serves_indexes(self, collection: str) -> bool:
        """Whether searches use the index. For some seconds after it is built, they use a coarser one of the newest rows."""
        with self._calls():
            segments = self._client.list_loaded_segments(collection, timeout=self._timeout)
        return all(it.state == "Sealed" and (it.index_name or it.num_rows < _SMALL) for it in segments)

    def _patiently(self, call: Callable[[], Any]) -> None:
        """Repeats a call until the time limit: a server that has just started answers, and refuses it for some seconds."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                call()
                return
            except EngineError:
                if time.monotonic() > end or not self._is_alive():
                    raise
                time.sleep(_PAUSE)

    def _is_alive(self) -> bool:
        try:
            self.collections()
        except EngineError:
            return False
        return True

    def _effort(self, collection: str) -> Callable[[int], dict[str, int]]:
        """The options of a search for k items: how many candidates are explored."""
        if collection not in self._efforts:
            facts = self.facts(collection)
            kind, lists = ("exact", 1) if facts is None else (facts.kind, _lists(facts.count))
            self._efforts[collection] = {
                "exact": lambda k: {},
                "hnsw": lambda k: {"ef": max(_EXPLORED, k)},
                "ivf": lambda k: {"nprobe": max(min(lists, 8), lists // 8)},
                "diskann": lambda k: {"search_list": max(_EXPLORED, k)},
            }[kind]
        return self._efforts[collection]

    @contextlib.contextmanager
    def _calls(self) -> Iterator[None]:
        """A block of calls, whose errors become one line."""
        import grpc
        from pymilvus import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError, OSError, ValueError) as error:
            raise EngineError(f"{self.url}: {_reason(error)}") from error


def _options(facts: Facts) -> dict[str, int]:
    """The options of an index: those of faiss in `retrieval.index.approximate`, as far as both have them."""
    return {
        "exact": {},
        "hnsw": {"M": 32, "efConstruction": 200},
        "ivf": {"nlist": _lists(facts.count)},
        "diskann": {},
    }[facts.kind]


def _lists(count: int) -> int:
    """The lists of an inverted file of so many items."""
    return max(1, min(int(4 * math.sqrt(count)), count // 39, 65536))


def _reason(error: Exception) -> str:
    """What an error of the client says, without the stack of the server."""
    message = str(getattr(error, "message", "") or error)
    return reason_of(RuntimeError(message.split("\n")[-1] if "stack trace" in message else message))
