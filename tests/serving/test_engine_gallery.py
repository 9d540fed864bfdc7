"""An index whose search is done by a server of vectors."""

from __future__ import annotations

import numpy as np
import pytest
from index import memory_engine
from index.memory_engine import Server
from serving.service import png, running

import retrieval
from retrieval import serving
from retrieval.errors import EngineError
from retrieval.index import engines

URL = "memory://here/served"


@pytest.fixture
def server(monkeypatch) -> Server:
    server = Server()
    monkeypatch.setitem(memory_engine.SERVERS, "here", server)
    monkeypatch.setitem(engines.MODULES, "memory", "index.memory_engine")
    return server


def test_the_service_answers_what_the_index_answers_by_the_server(index, images, server):
    index.push(URL)
    file = images / "dove" / "4.png"
    with engines.open(URL) as engine, running(serving.EngineGallery(index, engine)) as client:
        before = server.calls.count("serving")
        for options in ("?k=7", "?k=3&class=crab"):
            answer = client.search((file.name, file.read_bytes()), options=options).json["results"][0]["neighbours"]
            with running(index) as other:
                expected = other.search((file.name, file.read_bytes()), options=options).json["results"][0][
                    "neighbours"
                ]
            assert [hit["id"] for hit in answer] == [hit["id"] for hit in expected]
            np.testing.assert_allclose([hit["score"] for hit in answer], [hit["score"] for hit in expected], atol=1e-6)
        assert server.calls.count("serving") > before
        assert client.search(("a.png", png()), options="?class=wolf").status == 422


def test_a_server_with_another_index_is_refused_before_anything_is_served(index, server):
    generator = np.random.default_rng(0)
    other = retrieval.Index.from_vectors(generator.normal(size=(24, 16)), [f"{i % 4}" for i in range(24)])
    other.push(URL)
    with engines.open(URL) as engine, pytest.raises(EngineError):
        serving.EngineGallery(index, engine)


def test_a_server_that_fails_is_a_fault_of_the_service_which_names_no_address(index, server, monkeypatch, caplog):
    index.push(URL)
    with engines.open(URL) as engine:
        gallery = serving.EngineGallery(index, engine)
        with running(gallery) as client:
            monkeypatch.setattr(
                engine, "search", lambda *_, **__: (_ for _ in ()).throw(EngineError(f"{URL}: is down"))
            )
            answer = client.search(("a.png", png()))
    assert (answer.status, "memory" in answer.error) == (503, False)
    assert f"{URL}: is down" in caplog.text
