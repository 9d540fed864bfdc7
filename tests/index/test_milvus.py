"""Milvus: pushes to a real server, which is killed on the way, and figures against the exact index.

RETRIEVAL_TEST_MILVUS names the folder that `scripts/milvus_server.py install` made; one server is started for all tests.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index.memory_engine import assert_alike
from milvus_server import Server
from model.networks import DIMENSION, draw_folder, timm_model
from small_run import call

from retrieval import Index
from retrieval.errors import ConfigError, EngineError
from retrieval.index import engines
from retrieval.index.engines import milvus, pushing

COUNT, WIDTH = 3000, 24
TOKEN = "root:Milvus"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server that asks for the token, which is in the environment."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed (the extra milvus)")
    folder = os.environ.get("RETRIEVAL_TEST_MILVUS")
    if not folder:
        pytest.skip("no Milvus server; install one with scripts/milvus_server.py and set RETRIEVAL_TEST_MILVUS")
    server = Server(Path(folder), tmp_path_factory.mktemp("milvus"), authorized=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRIEVAL_MILVUS_TOKEN", TOKEN)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def url(server, request) -> str:
    """A name of its own for every test."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    return f"milvus://127.0.0.1:{server.port}/{name}"


@pytest.fixture(scope="module")
def index() -> Index:
    return make_index()


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return np.random.default_rng(9).normal(size=(20, WIDTH))


@pytest.fixture
def small_batches(monkeypatch) -> None:
    monkeypatch.setattr(pushing, "_MOST_ROWS", 500)


def make_index(count: int = COUNT, *, seed: int = 0) -> Index:
    generator = np.random.default_rng(seed)
    centers, of = generator.normal(size=(60, WIDTH)), np.arange(count) % 60
    vectors = centers[of] + 0.7 * generator.normal(size=(count, WIDTH))
    return Index.from_vectors(
        vectors, [f'it\'s "{i}"' for i in of], ids=generator.permutation(2 * count)[:count].tolist()
    )


def search(url: str, index: Index, *arguments, **options):
    with engines.open(url) as engine:
        return engines.search(engine, index, *arguments, **options)


def evaluate(url: str, index: Index, ks) -> dict[str, float]:
    with engines.open(url) as engine:
        return engines.evaluate(engine, index, ks)


def rows(url: str, index: Index) -> dict[int, np.ndarray]:
    """The stored vectors by their id, after everything that was written."""
    with engines.open(url) as engine:
        collection = engine.serving()
        ids = np.sort(np.concatenate([engine.ids(collection, 0, 999), engine.ids(collection, 1000, 2**63 - 1)]))
        assert engine.count(collection) == len(ids)
        return dict(zip(ids.tolist(), engine.fetch(collection, ids.tolist()), strict=True))


def assert_served(url: str, index: Index) -> None:
    """The server holds exactly the items of an index, under its vectors."""
    found = rows(url, index)
    assert sorted(found) == sorted(index.ids.tolist())
    np.testing.assert_array_equal([found[id_] for id_ in index.ids.tolist()], index.vectors)


def test_an_exact_push_finds_what_the_exact_index_finds(url, index, queries):
    result = index.push(url)
    assert (result["sent"], result["found@1"], result["found@10"]) == (COUNT, 1, 1)
    assert_served(url, index)
    assert_alike(search(url, index, queries, k=10), index.search(queries, k=10))
    assert_alike(search(url, index, queries, k=COUNT), index.search(queries, k=COUNT))
    assert_alike(search(url, index, queries, k=10, min_score="auto"), index.search(queries, k=10, min_score="auto"))
    assert search(url, index, queries[0], min_score=2) == []
    figures = evaluate(url, index, (1, 10))
    assert [figures[f"recall@{k}"] for k in (1, 10)] == [figures[f"exact recall@{k}"] for k in (1, 10)]
    assert [figures[f"found@{k}"] for k in (1, 10)] == [1, 1]
    assert index.push(url)["sent"] == 0


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_push_finds_most_and_its_scores_are_exact(url, index, queries, kind):
    result = index.push(url, kind=kind)
    assert result["found@10"] > 0.9
    exact = index.search(queries, k=COUNT)
    scores = [{hit.id: hit.score for hit in row} for row in exact]
    for row, expected in zip(search(url, index, queries, k=10), scores, strict=True):
        np.testing.assert_allclose([hit.score for hit in row], [expected[hit.id] for hit in row], atol=1e-6)
    figures = evaluate(url, index, (1, 10))
    assert abs(figures["recall@1"] - figures["exact recall@1"]) < 0.05
    assert figures["found@10"] > 0.9


def test_every_figure_is_that_of_the_exact_index(url):
    index = make_index(600)
    index.push(url)
    figures, exact = evaluate(url, index, (1, 2, 8)), index.evaluate((1, 2, 8), metrics=["recall"])
    for k in (1, 2, 8):
        assert figures[f"recall@{k}"] == figures[f"exact recall@{k}"] == exact[f"recall@{k}"]
    assert figures["queries"] == exact["queries"] == 600


def test_a_class_filter_gives_the_nearest_of_the_class_whatever_its_name(url, index, queries):
    for kind in ("exact", "hnsw"):
        index.push(url, kind=kind, replace=True)
        for name in ('it\'s "3"', 'it\'s "59"'):
            expected = [[hit for hit in row if hit.class_name == name] for row in index.search(queries, k=COUNT)]
            expected = [[replace(hit, rank=rank) for rank, hit in enumerate(row, start=1)] for row in expected]
            assert_alike(search(url, index, queries, k=5, class_name=name), [row[:5] for row in expected])
            assert_alike(search(url, index, queries[0], k=COUNT, class_name=name), expected[0])


def test_a_push_that_is_killed_is_continued_by_the_same_command(url, index, tmp_path, capsys, caplog):
    index.save(tmp_path / "index")
    program = (
        "import os, sys\n"
        "from retrieval import cli\n"
        "from retrieval.index.engines import milvus, pushing\n"
        "pushing._MOST_ROWS, add, calls = 500, milvus.Milvus.add, []\n"
        "def killed(*arguments):\n"
        "    calls.append(os.kill(os.getpid(), 9) if len(calls) == 3 else add(*arguments))\n"
        "milvus.Milvus.add = killed\n"
        "cli.run(sys.argv[1:])\n"
    )
    words = ["index", "push", str(tmp_path / "index"), url]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    code, out, _ = call(capsys, "search", "no.png", "--model", str(tmp_path / "index"), "--at", url)
    assert (code, out) == (1, "")
    code, out, _ = call(capsys, *words, "--json")
    assert code == 0
    assert f"{url}: 1500 of 3000 items are stored already" in caplog.messages
    assert json.loads(out)["sent"] == 1500
    assert_served(url, index)
    assert json.loads(call(capsys, *words, "--json", "--quiet")[1])["sent"] == 0


@pytest.mark.usefixtures("small_batches")
def test_a_server_that_is_killed_in_the_middle_loses_nothing_that_it_had_taken(
    url, server, index, queries, monkeypatch
):
    old = make_index(seed=1)
    old.push(url)
    add, calls = milvus.Milvus.add, []

    def dies(*arguments):
        add(*arguments)
        calls.append(arguments)
        if len(calls) == 4:
            server.kill()

    monkeypatch.setattr(milvus.Milvus, "add", dies)
    with pytest.raises(
        EngineError, match=r"2,000 of 3,000 items are stored, test_\w+ stays as it was; run the same again to go on"
    ):
        index.push(url, replace=True)
    with pytest.raises(EngineError, match=r"nothing answers on 127\.0\.0\.1:"):
        index.push(url, replace=True)
    server.start()
    assert index.push(url, replace=True)["sent"] == 1000
    assert_served(url, index)
    assert_alike(search(url, index, queries), index.search(queries))


def test_a_changed_index_replaces_the_old_one(url, index, queries):
    changed = make_index()
    first = changed.push(url, kind="hnsw")["collection"]
    changed.remove(ids=changed.ids[:500].tolist())
    more = make_index(700, seed=3)
    more = Index.from_vectors(more.vectors, more.classes, ids=(more.ids + 10**6).tolist())
    together = changed.merge(Index.from_vectors(more.vectors, more.classes, paths=[f"new/{i}" for i in range(700)]))
    with pytest.raises(EngineError, match=r"holds another count \(3000\) than the index \(3200\); .*replace=True"):
        together.push(url)
    assert search(url, index, queries[0])
    result = together.push(url, kind="hnsw", replace=True)
    assert (result["sent"], result["removed"]) == (3200, [first])
    assert_served(url, together)
    removed = set(index.ids[:500].tolist())
    assert not removed & {
        hit.id for row in search(url, together, queries, k=100) for hit in row if hit.path == str(hit.id)
    }
    with pytest.raises(EngineError, match="holds another count"):
        search(url, index, queries[0])


def test_an_index_of_another_model_is_refused(url, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, DIMENSION))
    mine, other = (Index.from_vectors(vectors, list(range(40)), model=model) for model in (timm_model(), timm_model(1)))
    mine.push(url)
    for ask in (lambda: other.push(url), lambda: search(url, other, vectors[0]), lambda: evaluate(url, other, (1,))):
        with pytest.raises(EngineError, match=r"holds another model \([0-9a-f]{12}\) than the index \([0-9a-f]{12}\)"):
            ask()
    photo = next(draw_folder(tmp_path / "photos", 1, 1).glob("*/*.png"))
    assert_alike(search(url, mine, [photo], k=3), mine.search([photo], k=3))


def test_a_stranger_in_the_collection_is_refused_and_deleted_if_asked(url, index, queries):
    index.push(url)
    row = {"id": 10**9, "label": 0, "class": "", "path": "", "vector": index.vectors[0]}
    with engines.open(url) as engine:
        engine.add(engine.serving(), [row])
    with pytest.raises(
        EngineError, match="holds 1 item that the index does not have, the first of id 1000000000; give replace=True"
    ):
        index.push(url)
    assert index.push(url, replace=True)["sent"] == 0
    assert_served(url, index)
    assert_alike(search(url, index, queries), index.search(queries))


def test_a_collection_of_another_program_is_left_alone(url, index):
    from pymilvus import MilvusClient

    name = url.rpartition("/")[2]
    client = MilvusClient(url.removesuffix(name).replace("milvus:", "http:"), token=TOKEN)
    client.create_collection(name, dimension=WIDTH)
    for replaced in (False, True):
        with pytest.raises(EngineError, match="retrieval did not push; choose another name"):
            index.push(url, replace=replaced)
    assert client.has_collection(name)
    client.drop_collection(name)
    client.close()


def test_a_type_that_the_server_does_not_build_ends_with_one_line(url, index, monkeypatch):
    monkeypatch.setattr(milvus, "_STALLED", 0.05)
    with pytest.raises(
        EngineError, match=r"does not index test_\w+; 3,000 items are left; 3,000 of 3,000 items are stored"
    ):
        index.push(url, kind="diskann")
    with pytest.raises(EngineError, match="serves no index"):
        search(url, index, index.vectors[0])


def test_a_refused_token_is_one_line(url, monkeypatch):
    index = make_index(200)
    for token in ("", "root:wrong"):
        monkeypatch.setenv("RETRIEVAL_MILVUS_TOKEN", token)
        with pytest.raises(EngineError, match="or it refuses the token of RETRIEVAL_MILVUS_TOKEN") as caught:
            index.push(url)
        assert "wrong" not in str(caught.value)


def test_the_command_line_pushes_measures_and_searches(url, tmp_path, capsys):
    photos = draw_folder(tmp_path / "photos", 3, 4)
    index = Index.build(timm_model(), photos, tmp_path / "index")
    folder, photo = str(tmp_path / "index"), str(photos / index.paths[5])
    code, out, err = call(capsys, "index", "push", folder, url)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"url       {url}",
        "holds     12 items, 12 sent now",
        "type      exact",
        "finds     100.00 % of the first 1, 100.00 % of the first 10 (12 queries)",
        f"next      retrieval search photo.jpg --model {folder} --at {url}",
    ]
    local = json.loads(call(capsys, "search", folder, photo, "--k", "3", "--json")[1])
    words = ("search", photo, "--model", folder, "--at", url, "--k", "3")
    (found,) = json.loads(call(capsys, *words, "--json")[1])
    assert [hit["path"] for hit in found["neighbours"]] == [hit["path"] for hit in local[0]["neighbours"]]
    class_name = index.classes[0]
    (found,) = json.loads(call(capsys, *words, "--class", class_name, "--min-score", "-1", "--json")[1])
    assert [hit["class"] for hit in found["neighbours"]] == [class_name] * 3
    measured = json.loads(call(capsys, "recall", folder, "--at", url, "--k", "1,2", "--json")[1])
    plain = json.loads(call(capsys, "recall", folder, "--k", "1,2", "--json")[1])
    assert [measured[f"recall@{k}"] for k in (1, 2)] == [plain[f"recall@{k}"] for k in (1, 2)]
    code, out, err = call(capsys, "recall", folder, "--at", url)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["server", "exact", "found"]


def test_a_k_beyond_the_limit_of_the_server_is_one_line(url, index):
    with pytest.raises(ConfigError, match=r"k is 16,385, and .* returns at most 16,384; give a smaller one"):
        search(url, index, index.vectors[0], k=16385)


def test_a_port_where_nothing_or_something_else_listens_is_one_line(server, index, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(milvus, "_ANSWER", 1.0)
    index.save(tmp_path / "index")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        url = f"milvus://127.0.0.1:{other.getsockname()[1]}/photos"
        code, out, err = call(capsys, "index", "push", str(tmp_path / "index"), url)
        assert (code, out) == (1, "")
        assert "nothing answers on 127.0.0.1:" in err
        assert err.count("\n") == 1
        other.listen()
        code, out, err = call(capsys, "index", "push", str(tmp_path / "index"), url)
        assert (code, out) == (1, "")
        assert "is open, but no Milvus server answers" in err
        assert err.count("\n") == 1
