"""`index push`, and `recall` and `search` with --at, with an engine in memory."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from index import memory_engine
from index.memory_engine import Server
from model.networks import draw_folder, timm_model
from small_run import call

from retrieval import Index
from retrieval.index import engines
from retrieval.index.engines import pushing

URL = "memory://here/photos"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An index of 24 drawings of 4 classes."""
    root = tmp_path_factory.mktemp("photos")
    Index.build(timm_model(), draw_folder(root / "photos", 4, 6), root / "index")
    return root / "index"


@pytest.fixture(scope="module")
def photo(folder) -> str:
    return str(folder.parent / "photos" / Index.open(folder).paths[7])


@pytest.fixture
def server(monkeypatch) -> Server:
    server = Server()
    monkeypatch.setitem(memory_engine.SERVERS, "here", server)
    monkeypatch.setitem(engines.MODULES, "memory", "index.memory_engine")
    monkeypatch.setattr(pushing, "_MOST_ROWS", 10)
    return server


@pytest.fixture
def pushed(server, folder) -> Server:
    Index.open(folder).push(URL)
    return server


def refused(capsys, code: int, message: str, *words: str) -> None:
    got, out, err = call(capsys, *words)
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


def test_push_says_what_it_sent_and_what_the_server_finds(server, folder, capsys):
    code, out, err = call(capsys, "index", "push", str(folder), URL)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"url       {URL}",
        "holds     24 items, 24 sent now",
        "type      exact",
        "finds     100.00 % of the first 1, 100.00 % of the first 10 (24 queries)",
        f"next      retrieval search photo.jpg --model {folder} --at {URL}",
    ]
    result = json.loads(call(capsys, "index", "push", str(folder), URL, "--json")[1])
    assert (result["sent"], result["collection"]) == (0, server.aliases["photos"])


def test_a_push_that_fails_says_how_to_go_on(server, folder, capsys, caplog):
    words = ("index", "push", str(folder), URL)
    server.fails_at = ("add", 2)
    message = "20 of 24 items are stored, photos is not served yet; run the same again to go on"
    refused(capsys, 1, message, *words)
    server.fails_at = None
    code, out, _ = call(capsys, *words)
    assert code == 0
    assert "24 items, 4 sent now" in out
    assert f"{URL}: 20 of 24 items are stored already" in caplog.messages


def test_another_index_is_replaced_with_replace_only(pushed, folder, capsys):
    words = ("index", "push", str(folder), URL, "--type", "hnsw")
    refused(capsys, 1, "is of type exact, not hnsw; choose another name, or give --replace", *words)
    code, out, _ = call(capsys, *words, "--replace")
    assert code == 0
    assert "type      hnsw" in out
    assert len(pushed.facts) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("index", "push", "INDEX", "nowhere"), 2, "expected milvus://host:port/name"),
        (("index", "push", "INDEX", "memory://there/photos"), 1, "memory://there/photos: nothing answers"),
        (("index", "push", "INDEX", URL, "--type", "pq"), 2, "'--type'"),
        (("index", "push", "nowhere", URL), 1, "nowhere: does not exist"),
        (("recall", "INDEX", "--at", "nowhere"), 2, "expected milvus://host:port/name"),
        (("recall", "INDEX", "--at", URL, "--k", "24"), 2, "k is 24 and the index has 23 other items"),
        (("recall", "INDEX", "--at", URL, "--k", "65"), 2, "returns at most 63"),
        (("recall", "INDEX", "--at", URL, "--macro"), 2, "--macro does not go with --at"),
        (("recall", "INDEX", "--at", URL, "--per-class"), 2, "--per-class does not go with --at"),
        (("recall", "INDEX", "--at", URL, "--queries", "INDEX"), 2, "--queries does not go with --at"),
        (("recall", "INDEX", "--at", URL, "--rerank", "2"), 2, "--rerank does not go with --at"),
        (("search", "PHOTO", "--model", "INDEX", "--at", URL, "--qe", "2"), 2, "--qe does not go with --at"),
        (("search", "PHOTO", "--model", "INDEX", "--at", URL, "--exact"), 2, "--exact does not go with --at"),
        (("search", "PHOTO", "--model", "INDEX", "--at", URL, "--k", "65"), 2, "returns at most 64"),
        (("search", "PHOTO", "--model", "INDEX", "--at", URL, "--class", "class7"), 1, "has no class 'class7'"),
        (("search", "PHOTO", "--at", URL), 2, "--at and --model belong together"),
        (("search", "INDEX", "PHOTO", "--model", "INDEX"), 2, "--at and --model belong together"),
        (("search", "INDEX", "PHOTO", "--class", "class 1"), 2, "--class goes with --at only"),
        (("search", "--model", "INDEX", "--at", URL), 2, "Missing argument 'IMAGE|FOLDER...'"),
        (("search", "INDEX"), 2, "Missing argument 'IMAGE|FOLDER...'"),
        (("search",), 2, "Missing argument 'INDEX|RUN'"),
        (("search", "PHOTO", "PHOTO"), 2, "is a file, expected a folder"),
    ],
)
@pytest.mark.usefixtures("pushed")
def test_wrong_arguments_are_one_line(folder, photo, capsys, words, code, message):
    refused(capsys, code, message, *[{"INDEX": str(folder), "PHOTO": photo}.get(word, word) for word in words])


@pytest.mark.usefixtures("pushed")
def test_recall_at_shows_the_server_beside_the_exact_search(folder, capsys):
    code, out, err = call(capsys, "recall", str(folder), "--at", URL, "--k", "1,3")
    assert (code, err) == (0, "")
    plain = json.loads(call(capsys, "recall", str(folder), "--k", "1,3", "--json")[1])
    heading, *rows, counts = out.splitlines()
    assert heading.split() == ["server", "exact", "found"]
    for row, k in zip(rows, (1, 3), strict=True):
        value = f"{100 * plain[f'recall@{k}']:.2f}"
        assert row.split() == [f"recall@{k}", value, value, "100.00"]
    assert counts == "in percent, over 24 queries"
    figures = json.loads(call(capsys, "recall", str(folder), "--at", URL, "--json")[1])
    assert figures["recall@8"] == json.loads(call(capsys, "recall", str(folder), "--json")[1])["recall@8"]
    (row,) = csv.DictReader(io.StringIO(call(capsys, "recall", str(folder), "--at", URL, "--csv")[1]))
    assert {name: float(value) for name, value in row.items()} == figures


@pytest.mark.usefixtures("pushed")
def test_search_at_a_server_prints_what_the_index_would(folder, photo, capsys, tmp_path):
    words = ("search", photo, "--model", str(folder), "--at", URL, "--k", "4")
    assert call(capsys, *words) == call(capsys, "search", str(folder), photo, "--k", "4")
    page = str(tmp_path / "found.html")
    assert call(capsys, *words, "--html", page, "--min-score", "auto")[0] == 0
    assert Path(page).is_file()
    (found,) = json.loads(call(capsys, *words, "--class", "class 2", "--json")[1])
    assert [hit["class"] for hit in found["neighbours"]] == ["class 2"] * 4
    two = json.loads(call(capsys, "search", photo, photo, "--model", str(folder), "--at", URL, "--json")[1])
    assert [result["query"] for result in two] == [photo, photo]


def test_fewer_hits_are_said(pushed, folder, photo, capsys, caplog):
    pushed.lost = 20
    code, out, _ = call(capsys, "search", photo, "--model", str(folder), "--at", URL)
    assert code == 0
    assert out.count("\n") == 2 + 4
    assert caplog.messages == [f"{URL}: found fewer than 10 neighbours for 1 query, 4 at least"]
