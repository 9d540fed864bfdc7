"""Pushing to a server, and asking it: the logic that is the same for every engine, with an engine in memory."""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
from index import memory_engine
from index.memory_engine import Memory, Server, assert_alike

from retrieval import Index
from retrieval.errors import ConfigError, EngineError, IndexFormatError, RetrievalError
from retrieval.index import engines
from retrieval.index.engines import asking, pushing
from retrieval.index.engines.address import parse
from retrieval.index.engines.local import local

URL = "memory://here/photos"


def make_index(count: int = 150, *, seed: int = 0, classes: int = 7, first_id: int = 0, **options) -> Index:
    generator = np.random.default_rng(seed)
    labels = [f"class {i % classes}" for i in range(count)]
    ids = generator.permutation(3 * count)[:count] + first_id
    return Index.from_vectors(generator.normal(size=(count, 8)), labels, ids=ids.tolist(), **options)


@pytest.fixture
def server(monkeypatch) -> Server:
    """A server at "here", with small batches."""
    server = Server()
    monkeypatch.setitem(memory_engine.SERVERS, "here", server)
    monkeypatch.setitem(engines.MODULES, "memory", "index.memory_engine")
    monkeypatch.setattr(pushing, "_MOST_ROWS", 20)
    return server


def stored(server: Server) -> dict[int, dict]:
    return server.rows[server.aliases["photos"]]


class TestPush:
    def test_every_item_is_stored_with_its_vector_class_and_path(self, server):
        index = make_index()
        result = index.push(URL)
        assert (result["sent"], result["count"], result["removed"]) == (150, 150, [])
        assert (result["found@1"], result["found@10"]) == (1, 1)
        rows = stored(server)
        assert sorted(rows) == sorted(index.ids.tolist())
        for position, id_ in enumerate(index.ids.tolist()):
            row = rows[id_]
            assert (row["class"], row["path"]) == (index.classes[position], index.paths[position])
            assert row["label"] == index.labels[position]
            np.testing.assert_array_equal(row["vector"], index.vectors[position])

    def test_the_facts_that_are_stored_are_those_of_the_index(self, server):
        index = make_index()
        collection = index.push(URL, kind="hnsw")["collection"]
        facts = server.facts[collection]
        assert facts == replace(local(index).facts("hnsw"), complete=True)
        assert (facts.count, facts.dimension, facts.metric, facts.normalised) == (150, 8, "inner_product", True)
        assert engines.Facts.from_json(facts.to_json()) == facts

    def test_a_second_push_sends_nothing(self, server):
        index = make_index()
        index.push(URL)
        server.calls.clear()
        assert index.push(URL)["sent"] == 0
        assert not {"add", "seal", "serve", "drop"} & set(server.calls)

    def test_a_push_that_was_stopped_sends_the_rest_only(self, server):
        index = make_index()
        server.fails_at = ("add", 3)
        with pytest.raises(
            EngineError, match=r"gone; 60 of 150 items are stored, photos is not served yet; run the same again"
        ):
            index.push(URL)
        assert server.aliases == {}
        server.fails_at = None
        assert index.push(URL)["sent"] == 90
        assert sorted(stored(server)) == sorted(index.ids.tolist())

    @pytest.mark.parametrize("verb", ["record", "add", "seal", "serve"])
    @pytest.mark.parametrize("before", [0, 1])
    def test_a_failure_anywhere_leaves_the_old_index_served_and_the_next_push_goes_on(self, server, verb, before):
        old, new = make_index(), make_index(seed=1)
        served = old.push(URL)["collection"]
        server.fails_at = (verb, server.calls.count(verb) + before)
        try:
            new.push(URL, replace=True)
        except EngineError as error:
            assert "photos stays as it was" in str(error)  # noqa: PT017 - not every verb is called twice
            assert server.aliases == {"photos": served}
            assert len(stored(server)) == 150
        server.fails_at = None
        new.push(URL, replace=True)
        assert sorted(stored(server)) == sorted(new.ids.tolist())
        assert list(server.facts) == list(server.aliases.values())

    def test_another_index_is_not_replaced_unless_asked(self, server):
        make_index().push(URL)
        with pytest.raises(EngineError, match=r"holds another vectors .*replace=True"):
            make_index(seed=1).push(URL)
        with pytest.raises(EngineError, match=r"is of type exact, not hnsw.*replace=True"):
            make_index().push(URL, kind="hnsw")

    def test_a_changed_index_replaces_the_old_one_and_its_collection_is_dropped(self, server):
        index = make_index()
        old = index.push(URL)["collection"]
        index.remove(ids=index.ids[:10].tolist())
        result = index.push(URL, replace=True)
        assert (result["sent"], result["removed"]) == (140, [old])
        assert list(server.facts) == [result["collection"]]
        assert len(stored(server)) == 140

    def test_what_an_unfinished_push_of_another_index_left_is_dropped(self, server):
        server.fails_at = ("add", 1)
        with pytest.raises(EngineError):
            make_index(seed=1).push(URL)
        server.fails_at = None
        server.facts["photos_of_others"] = None
        assert len(make_index().push(URL)["removed"]) == 1
        assert len(server.facts) == 2

    @pytest.mark.parametrize("complete", [False, True])
    def test_strangers_are_refused_and_deleted_if_asked(self, server, complete):
        index = make_index()
        if not complete:
            server.fails_at = ("add", 3)
            with pytest.raises(EngineError):
                index.push(URL)
            server.fails_at = None
        else:
            index.push(URL)
        (rows,) = server.rows.values()
        strange = range(10**6, 10**6 + 100)  # more than a call returns
        rows |= {id_: {"id": id_, "label": 0, "vector": index.vectors[0]} for id_ in strange}
        with pytest.raises(
            EngineError, match=r"items that the index does not have, the first of id 1000000; give replace=True"
        ):
            index.push(URL)
        assert bool(server.aliases) == complete
        index.push(URL, replace=True)
        assert sorted(stored(server)) == sorted(index.ids.tolist())

    def test_rows_that_were_deleted_behind_its_back_are_sent_again(self, server):
        index = make_index()
        index.push(URL)
        for id_ in index.ids[:30].tolist():
            del stored(server)[id_]
        assert index.push(URL)["sent"] == 30
        assert len(stored(server)) == 150

    def test_altered_vectors_are_noticed_before_the_index_is_served(self, server, monkeypatch):
        index = make_index()
        fetch = Memory.fetch
        monkeypatch.setattr(Memory, "fetch", lambda *arguments: fetch(*arguments) + 1)
        with pytest.raises(EngineError, match="holds other vectors than were sent"):
            index.push(URL)
        assert server.aliases == {}

    def test_a_collection_of_another_program_is_left_alone(self, server):
        server.facts["photos"] = None
        for replaced in (False, True):
            with pytest.raises(EngineError, match="retrieval did not push; choose another name"):
                make_index().push(URL, replace=replaced)
        assert server.facts == {"photos": None}

    def test_lost_neighbours_are_measured_and_ties_are_not_lost(self, server):
        copies = Index.from_vectors(np.repeat(np.eye(8), 12, axis=0), ["a"] * 96)
        assert copies.push(URL)["found@10"] == 1
        server.lost = 1
        index = make_index()
        result = index.push(URL, replace=True)
        assert result["found@1"] == 0
        assert result["found@10"] == pytest.approx(0.9)

    def test_an_unknown_type_is_refused_before_anything_is_sent(self, server):
        with pytest.raises(ConfigError, match=r"type 'hnws' is unknown .*did you mean hnsw\?"):
            make_index().push(URL, kind="hnws")
        assert server.facts == {}


class TestAsk:
    def test_hits_are_those_of_the_exact_search(self, server):
        index = make_index()
        index.push(URL)
        queries = np.random.default_rng(5).normal(size=(9, 8))
        with engines.open(URL) as engine:
            assert_alike(engines.search(engine, index, queries, k=5), index.search(queries, k=5))
            assert_alike(engines.search(engine, index, queries[0], k=64), index.search(queries[0], k=64))
            found = engines.search(engine, index, queries, k=5, min_score=0.5)
            assert_alike(found, index.search(queries, k=5, min_score=0.5))
            auto = engines.search(engine, index, queries, k=5, min_score="auto")
            assert_alike(auto, index.search(queries, k=5, min_score="auto"))

    def test_a_class_filter_gives_the_nearest_of_that_class(self, server):
        index = make_index()
        index.push(URL)
        query = np.random.default_rng(5).normal(size=8)
        with engines.open(URL) as engine:
            hits = engines.search(engine, index, query, k=5, class_name="class 3")
            expected = [hit for hit in index.search(query, k=150) if hit.class_name == "class 3"][:5]
            assert_alike(hits, [replace(hit, rank=rank) for rank, hit in enumerate(expected, start=1)])
            assert len(engines.search(engine, index, query, k=64, class_name="class 3")) == 21
            with pytest.raises(IndexFormatError, match=r"has no class 'class3'; did you mean"):
                engines.search(engine, index, query, class_name="class3")

    def test_figures_are_those_of_the_exact_index(self, server):
        index = make_index()
        index.push(URL)
        with engines.open(URL) as engine:
            figures = engines.evaluate(engine, index, (1, 5, 20))
        exact = index.evaluate((1, 5, 20), metrics=["recall"])
        for k in (1, 5, 20):
            assert figures[f"recall@{k}"] == figures[f"exact recall@{k}"] == exact[f"recall@{k}"]
            assert figures[f"found@{k}"] == 1
        assert (figures["queries"], figures["left_out"]) == (150, 0)

    def test_ties_are_decided_as_in_the_exact_index(self, server):
        index = Index.from_vectors(np.repeat(np.eye(8), 2, axis=0), [f"{i % 3}" for i in range(16)])
        index.push(URL)
        with engines.open(URL) as engine:
            figures = engines.evaluate(engine, index, (1, 2))
        exact = index.evaluate((1, 2), metrics=["recall"])
        assert [figures[f"exact recall@{k}"] for k in (1, 2)] == [exact[f"recall@{k}"] for k in (1, 2)]

    def test_what_the_server_does_not_find_lowers_its_figures_only(self, server):
        index = make_index(classes=75)
        index.push(URL)
        server.lost = 3
        with engines.open(URL) as engine:
            figures = engines.evaluate(engine, index, (1, 5))
        assert figures["found@5"] < 1
        assert figures["recall@5"] < figures["exact recall@5"] == index.evaluate((5,), metrics=["recall"])["recall@5"]

    def test_items_alone_in_their_class_are_left_out(self, server):
        index = Index.from_vectors(np.eye(8)[:5] + 0.1, ["a", "a", "b", "c", "c"])
        index.push(URL)
        with engines.open(URL) as engine:
            figures = engines.evaluate(engine, index, (1,))
            assert (figures["queries"], figures["left_out"]) == (4, 1)
        alone = Index.from_vectors(np.eye(8)[:5] + 0.1, list("abcde"))
        alone.push(URL, replace=True)
        with engines.open(URL) as engine, pytest.raises(ConfigError, match="no class of the index has two items"):
            engines.evaluate(engine, alone, (1,))

    def test_fewer_hits_than_asked_for_are_said(self, server, caplog):
        index = make_index(40)
        index.push(URL)
        server.lost = 35
        with engines.open(URL) as engine, caplog.at_level(logging.WARNING, "retrieval"):
            assert len(engines.search(engine, index, index.vectors[:2], k=10)[0]) == 5
        assert "found fewer than 10 neighbours for 2 queries, 5 at least" in caplog.text

    def test_another_index_is_refused(self, server):
        index = make_index()
        index.push(URL)
        for other, what in (
            (make_index(seed=1), "vectors"),
            (make_index(149), "count"),
            (make_index(classes=6), "ids, classes and paths"),
        ):
            with engines.open(URL) as engine, pytest.raises(EngineError, match=f"holds another {what} "):
                engines.search(engine, other, other.vectors[0])
        collection = server.aliases["photos"]
        server.facts[collection] = replace(server.facts[collection], model="f" * 64)
        with (
            engines.open(URL) as engine,
            pytest.raises(EngineError, match=r"another model \(ffffffffffff\) than .*\(None\)"),
        ):
            engines.evaluate(engine, index)

    def test_nothing_served_a_part_and_a_strangers_collection_are_refused(self, server):
        index = make_index()
        with engines.open(URL) as engine:
            with pytest.raises(EngineError, match="serves no index; push one"):
                engines.search(engine, index, index.vectors[0])
            collection = index.push(URL)["collection"]
            facts = server.facts[collection]
            server.facts[collection] = replace(facts, complete=False)
            with pytest.raises(EngineError, match="holds a part of the index"):
                engines.search(engine, index, index.vectors[0])
            server.facts[collection] = None
            with pytest.raises(EngineError, match="retrieval did not push"):
                engines.search(engine, index, index.vectors[0])

    def test_a_stranger_among_the_hits_is_an_error(self, server):
        index = make_index()
        index.push(URL)
        stored(server)[10**6] = {"id": 10**6, "label": 0, "vector": index.vectors[0]}
        with engines.open(URL) as engine, pytest.raises(EngineError, match="finds an item of id 1000000, which"):
            engines.search(engine, index, index.vectors[0])

    def test_a_k_beyond_the_limit_of_the_server_is_refused_before_it_is_asked(self, server):
        index = make_index()
        with engines.open(URL) as engine:
            for k, message in (
                (65, "k is 65, and memory://here/photos returns at most 64"),
                (0, "k is 0, expected at least 1"),
            ):
                with pytest.raises(ConfigError, match=message):
                    engines.search(engine, index, index.vectors[0], k=k)
            with pytest.raises(ConfigError, match=r"k is 64, and .* at most 63"):
                engines.evaluate(engine, index, (1, 64))
            with pytest.raises(ConfigError, match="k is 10 and the index has 9 other items"):
                engines.evaluate(engine, make_index(10), (1, 10))
        assert server.calls == []

    def test_queries_of_another_dimension_and_none_are_refused(self, server):
        index = make_index()
        index.push(URL)
        with engines.open(URL) as engine:
            with pytest.raises(ValueError, match="queries have 9 dimensions and the index 8; use one model for both"):
                engines.search(engine, index, np.ones(9))
            with pytest.raises(ValueError, match="there is no query to search for"):
                engines.search(engine, index, [])
            with pytest.raises(ValueError, match="min_score is nan, expected a finite number or 'auto'"):
                engines.search(engine, index, np.ones(8), min_score=float("nan"))

    def test_many_queries_are_asked_in_calls_of_bounded_size(self, server, monkeypatch):
        index = make_index()
        index.push(URL)
        sizes, search = [], Memory.search
        monkeypatch.setattr(asking, "_NUMBERS", 8 * 40)
        monkeypatch.setattr(
            Memory, "search", lambda self, c, rows, *rest: sizes.append(len(rows)) or search(self, c, rows, *rest)
        )
        with engines.open(URL) as engine:
            assert_alike(engines.search(engine, index, index.vectors[:100], 3), index.search(index.vectors[:100], 3))
        assert sizes == [40, 40, 20]


class TestMilvusWithoutAServer:
    def test_a_port_where_nothing_listens_is_one_line(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"milvus://127.0.0.1:{closed.getsockname()[1]}/photos"
            with pytest.raises(
                EngineError, match=r"nothing answers on 127\.0\.0\.1:\d+ \(.*\); start the server"
            ) as caught:
                make_index().push(url)
        assert len(caught.value.lines) == 1

    def test_a_client_that_is_not_installed_is_one_line(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pymilvus", None)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            url = f"milvus://127.0.0.1:{other.getsockname()[1]}/photos"
            with pytest.raises(
                RetrievalError, match=r"install it with `python -m pip install 'image-retrieval-toolkit\[milvus\]'`"
            ):
                make_index().push(url)


class TestAddress:
    def test_the_parts_of_a_url(self):
        address = parse("milvus://[::1]:19530/photos_2", ["milvus"])
        assert (address.scheme, address.host, address.port, address.name) == ("milvus", "::1", 19530, "photos_2")
        assert parse("milvus://host/a", ["milvus"]).port is None

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("milvsu://host/a", r"did you mean milvus\?"),
            ("host:19530/a", "expected milvus://host:port/name"),
            ("milvus:///a", "expected milvus://host:port/name"),
            ("milvus://host", "a name has letters, digits and _ only"),
            ("milvus://host/a-b", "a name has letters, digits and _ only"),
            ("milvus://host/a/b", "a name has letters, digits and _ only"),
            ("milvus://host/a?x=1", "a name has letters, digits and _ only"),
            ("milvus://host:0/a", "expected milvus://host:port/name"),
            ("milvus://host:99999/a", "expected milvus://host:port/name"),
            ("milvus://host:port/a", "expected milvus://host:port/name"),
            ("", "expected milvus://host:port/name"),
            (7, "expected milvus://host:port/name"),
        ],
    )
    def test_a_wrong_url_is_one_line_with_an_example(self, url, message):
        with pytest.raises(ConfigError, match=message):
            parse(url, ["milvus"])

    def test_a_token_in_a_url_is_refused_and_not_shown(self):
        with pytest.raises(ConfigError) as caught:
            parse("milvus://root:secret@host/a", ["milvus"])
        assert "secret" not in str(caught.value)
        assert "environment" in str(caught.value)
