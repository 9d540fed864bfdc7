"""An index that is replaced while it is served."""

from __future__ import annotations

import logging
import shutil
import threading

import numpy as np
import pytest
from serving.service import draw, make_model, png, running
from serving.test_limits import wait_for

import retrieval


@pytest.fixture
def own(folder, tmp_path):
    """A copy of the index that a test may replace."""
    shutil.copytree(folder, tmp_path / "index")
    return tmp_path / "index"


def test_a_replaced_index_is_taken_up(own, tmp_path):
    model = make_model()
    with running(retrieval.Index.open(own), reload=0.05) as client:
        assert client.get("/v1/index").json["count"] == 24
        smaller = draw(tmp_path / "smaller", 2)
        retrieval.Index.build(model, smaller, own, overwrite=True)
        wait_for(lambda: client.get("/v1/index").json["count"] == 8)
        assert client.get("/v1/index").json["generation"] == 2
        assert client.get("/v1/items/9").status == 404
        assert client.metric("retrieval_index_reloads_total") == 1
        retrieval.Index.open(own).remove(ids=[0])
        wait_for(lambda: client.get("/v1/index").json["count"] == 7)


def test_without_reload_the_index_stays(own, tmp_path):
    with running(retrieval.Index.open(own)) as client:
        retrieval.Index.build(make_model(), draw(tmp_path / "smaller", 2), own, overwrite=True)
        assert client.search(("a.png", png()), options="?k=24").json["results"][0]["neighbours"][23]["id"] >= 0
        assert client.get("/v1/index").json["count"] == 24


def test_editing_the_index_that_was_given_changes_nothing_of_the_service(images):
    index = retrieval.Index.build(make_model(), images)
    with running(index) as client:
        index.remove(ids=range(20))
        assert client.get("/v1/index").json["count"] == 24


def test_another_model_is_taken_up_with_its_index(own, images):
    with running(retrieval.Index.open(own), reload=0.05) as client:
        file = images / "dove" / "4.png"
        retrieval.Index.build(make_model(seed=1), images, own, overwrite=True)
        wait_for(lambda: client.get("/v1/index").json["generation"] == 2)
        vector = client.search((file.name, file.read_bytes()), to="embed").json["vectors"][0]
        np.testing.assert_allclose(vector, make_model(seed=1).encode(file), atol=1e-5)
        hit = client.search((file.name, file.read_bytes()), options="?k=1").json["results"][0]["neighbours"][0]
        assert (hit["path"], hit["score"]) == ("dove/4.png", pytest.approx(1, abs=1e-5))


def test_a_damaged_index_is_not_taken_up_and_said_once(own, images, caplog):
    with caplog.at_level(logging.WARNING), running(retrieval.Index.open(own), reload=0.02) as client:
        manifest, other = own / "manifest.json", own.parent / "other.json"
        good = manifest.read_bytes()
        other.write_bytes(good[:-20])
        other.replace(manifest)  # at once: half of it would be another damage
        wait_for(lambda: client.metric("retrieval_index_reload_errors_total") >= 3)
        assert client.search(("a.png", png())).status == 200
        other.write_bytes(good)
        other.replace(manifest)
        retrieval.Index.build(make_model(), images / "ant", own, overwrite=True)
        wait_for(lambda: client.get("/v1/index").json["count"] == 6)
    said = [record.message for record in caplog.records if "still served" in record.message]
    assert len(said) == 1
    assert str(manifest) in said[0]


def test_every_answer_is_whole_while_the_index_is_replaced_under_load(own, tmp_path, images):
    """One index has the paths a/..., the other b/...; an answer with both, or of a wrong count, would be half of each."""
    model = make_model()
    kinds = {}
    for name, count in (("a", 3), ("b", 5)):
        root = tmp_path / name
        shutil.copytree(draw(tmp_path / f"{name}-drawn", count), root / name)
        kinds[name] = retrieval.Index.build(model, root / name, tmp_path / f"index-{name}")
    indexes = {name: (own.parent / f"index-{name}") for name in kinds}
    photo = (images / "ant" / "0.png").read_bytes()
    seen: list[tuple[int, int]] = []
    faults: list[str] = []
    done = threading.Event()
    retrieval.Index.open(indexes["a"]).save(own, overwrite=True)
    with running(retrieval.Index.open(own), reload=0.01) as client:

        def ask() -> None:
            while not done.is_set():
                answer = client.search(("a.png", photo), options="?k=100")
                if answer.status != 200:
                    faults.append(answer.content.decode())
                    continue
                hits = answer.json["results"][0]["neighbours"]
                seen.append((answer.json["generation"], len(hits)))
                if len({hit["path"].rpartition("/")[2] for hit in hits}) * 4 != len(hits):
                    faults.append(f"{len(hits)} hits")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(6):
            before = client.get("/v1/index").json["generation"]
            retrieval.Index.open(indexes["ba"[i % 2]]).save(own, overwrite=True)
            wait_for(lambda before=before: client.get("/v1/index").json["generation"] > before)
        done.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert {count for _, count in seen} == {12, 20}
    sizes = {}
    for generation, count in seen:
        assert sizes.setdefault(generation, count) == count
