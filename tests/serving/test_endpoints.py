from __future__ import annotations

import base64
import io
import json
import logging
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from serving.service import CLASSES, draw, form, make_model, make_torch_model, png, running

import retrieval
from retrieval import serving


@pytest.fixture
def photo(images) -> bytes:
    return (images / "crab" / "3.png").read_bytes()


def test_a_search_finds_what_the_index_finds(client, index, images):
    files = sorted(images.glob("*/*.png"))[::5]
    for file in files:
        answer = client.search((file.name, file.read_bytes()), options="?k=4")
        assert answer.status == 200
        (result,) = answer.json["results"]
        assert result["query"] == file.name
        expected = [hit.to_dict() for hit in index.search(file, k=4)]
        assert [hit["id"] for hit in result["neighbours"]] == [hit["id"] for hit in expected]
        for ours, theirs in zip(result["neighbours"], expected, strict=True):
            assert ours == {**theirs, "score": pytest.approx(theirs["score"], abs=1e-5)}


def test_several_images_are_searched_in_their_order(client, index, images):
    files = sorted(images.glob("*/0.png"))
    answer = client.search(*((file.parent.name, file.read_bytes()) for file in files), options="?k=1")
    assert [result["neighbours"][0]["path"] for result in answer.json["results"]] == [
        f"{file.parent.name}/0.png" for file in files
    ]


def test_an_image_can_be_the_whole_body(client, photo):
    answer = client.ask("POST", "/v1/search?k=1", photo, {"Content-Type": "image/png"})
    assert answer.json["results"][0]["neighbours"][0]["path"] == "crab/3.png"


def test_an_item_is_searched_by_its_id_and_left_out(client, index):
    answer = client.ask("POST", "/v1/search?id=7&k=5")
    (result,) = answer.json["results"]
    assert result["query"] == {"id": 7, "label": 1, "class": CLASSES[1], "path": f"{CLASSES[1]}/1.png"}
    expected = [hit for hit in index.search(index.vectors[7], k=6) if hit.id != 7]
    assert [(hit["rank"], hit["id"]) for hit in result["neighbours"]] == [
        (rank, hit.id) for rank, hit in enumerate(expected, 1)
    ]


def test_neighbours_of_one_class_are_those_of_the_whole_ranking(client, index, photo):
    everything = client.ask("POST", "/v1/search?k=24", photo, {"Content-Type": "image/png"}).json["results"][0]
    for name in CLASSES:
        path = f"/v1/search?k=3&class={name.replace(' ', '%20').replace('&', '%26').replace('<', '%3C')}"
        answer = client.ask("POST", path, photo, {"Content-Type": "image/png"})
        expected = [hit for hit in everything["neighbours"] if hit["class"] == name][:3]
        found = answer.json["results"][0]["neighbours"]
        assert [(hit["id"], hit["path"], hit["label"]) for hit in found] == [
            (hit["id"], hit["path"], hit["label"]) for hit in expected
        ]
        assert [hit["rank"] for hit in found] == [1, 2, 3]


def test_min_score_leaves_out_what_is_below_it(client, index, photo):
    threshold = index.calibration.threshold
    for text, least in (("auto", threshold), ("0.999", 0.999)):
        answer = client.ask("POST", f"/v1/search?k=24&min_score={text}", photo, {"Content-Type": "image/png"})
        (result,) = answer.json["results"]
        assert result["min_score"] == least
        assert 0 < len(result["neighbours"]) < 24
        assert all(hit["score"] >= least for hit in result["neighbours"])
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    answer = client.search(("noise.png", content.getvalue()), options="?min_score=auto")
    assert answer.json["results"][0]["neighbours"] == []


def test_an_index_of_one_class_has_no_threshold(images):
    index = retrieval.Index.build(make_model(), images / "ant")
    with running(index) as client:
        answer = client.search(("a.png", png()), options="?min_score=auto")
    assert answer.status == 422
    assert "no calibrated threshold; give a number" in answer.error


def test_the_crop_is_what_the_network_sees(client):
    image = Image.new("RGB", (80, 40), "red")
    image.paste("blue", (20, 0, 60, 40))
    content = io.BytesIO()
    image.save(content, "PNG")
    result = client.search(("wide.png", content.getvalue()), options="?crop=true").json["results"][0]
    kind, _, data = result["crop"].partition(",")
    assert kind.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(data))) as crop:
        assert crop.size == (32, 32)
        colour = crop.convert("RGB").getpixel((16, 16))
    assert colour[2] > 240
    assert colour[0] < 15
    assert "crop" not in client.search(("wide.png", content.getvalue())).json["results"][0]


def test_vectors_are_those_of_the_model(client, index, images):
    files = sorted(images.glob("*/2.png"))
    answer = client.search(*((file.name, file.read_bytes()) for file in files), to="embed")
    assert answer.json["dimension"] == 16
    assert answer.json["images"] == ["2.png"] * 4
    np.testing.assert_allclose(answer.json["vectors"], index.model.encode(files), atol=1e-5)


def test_an_item_has_its_facts_and_a_thumbnail(client, index):
    assert client.get("/v1/items/20").json == {
        **{"generation": 1, "id": 20, "label": 3},
        **{"class": "dove", "path": "dove/2.png"},
    }
    answer = client.get("/v1/items/20/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= 96
    again = client.get("/v1/items/20/thumbnail", {"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.content) == (304, b"")


def test_an_item_without_a_picture_has_no_thumbnail(index, tmp_path):
    bare = retrieval.Index.from_vectors(
        index.vectors, index.classes, paths=index.paths, root=tmp_path / "moved", model=make_model()
    )
    with running(bare) as client:
        answer = client.get("/v1/items/0/thumbnail")
        assert (answer.status, answer.content) == (204, b"")
        assert client.get("/v1/items/99/thumbnail").status == 404


def test_a_stored_thumbnail_is_shown_where_the_image_is_missing(images, tmp_path):
    moved = draw(tmp_path / "images", 2)
    index = retrieval.Index.build(make_model(), moved, thumbnails=True)
    shutil.rmtree(moved)
    with running(index) as client:
        for side in ("", "?side=300"):
            answer = client.get(f"/v1/items/3/thumbnail{side}")
            assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")


def test_a_file_that_is_no_image_is_never_sent(index, tmp_path):
    (tmp_path / "secret.png").write_text("the secret")
    (tmp_path / "page.png").write_text("<script>alert(1)</script>")
    paths = ["secret.png", "page.png"]
    vectors = index.vectors[:2]
    with running(
        retrieval.Index.from_vectors(vectors, ["a", "b"], paths=paths, root=tmp_path, model=make_model())
    ) as it:
        for item in (0, 1):
            assert it.get(f"/v1/items/{item}/thumbnail?side=200").status == 204
        for path in ("/secret.png", "/../secret.png", "/v1/items/..%2f..%2fsecret.png", "/page.css/../secret.png"):
            assert it.get(path).status in (404, 422)


BAD = [
    ("?k=0", 422, "k is '0'"),
    ("?k=1001", 422, "k is '1001'"),
    ("?k=many", 422, "k is 'many'"),
    ("?kk=3", 422, "there is no parameter 'kk'; did you mean k?"),
    ("?min-score=3", 422, "there is no parameter 'min-score'; did you mean min_score?"),
    ("?min_score=nan", 422, "min_score is 'nan'; give a finite number, or auto"),
    ("?min_score=high", 422, "min_score is 'high'"),
    ("?class=dov", 422, "class is 'dov', which no item has; did you mean dove?"),
    ("?id=3", 422, "give either images in the body or an id"),
    ("?crop=perhaps", 422, "crop is 'perhaps'"),
]


@pytest.mark.parametrize(("options", "status", "text"), BAD, ids=[options for options, *_ in BAD])
def test_a_wrong_option_is_named(client, photo, options, status, text):
    answer = client.search(("a.png", photo), options=options)
    assert answer.status == status
    assert text in answer.error
    assert "\n" not in answer.error


def test_what_is_missing_or_unknown_is_named(client):
    assert client.ask("POST", "/v1/search").error == "give an image, or an id"
    assert client.ask("POST", "/v1/embed").error == "give an image"
    unknown = client.ask("POST", "/v1/search?id=24")
    assert (unknown.status, unknown.error) == (404, "the index has no item of id 24")
    for item in ("24", "-1", str(2**63), str(10**40)):
        assert client.get(f"/v1/items/{item}").status in (404, 422)
    assert client.get("/v1/items/seven").status == 422
    assert client.get("/nothing").status == 404
    assert client.get("/v1/search").status == 405


def test_an_option_in_the_form_is_not_silently_ignored(client, photo):
    answer = client.ask("POST", "/v1/search", *form(("a.png", photo), fields={"k": "3"}))
    assert answer.status == 422
    assert answer.error == "the form has the field 'k'; options such as k belong to the address: ?k=5"


def test_the_facts_of_the_index_and_the_limits_are_told(client, index):
    facts = client.get("/v1/index").json
    assert facts["count"] == 24
    assert facts["class_names"] == list(CLASSES)
    assert facts["calibration"]["threshold"] == index.calibration.threshold
    assert facts["runtime"] == "onnxruntime"
    assert str(index.folder) not in json.dumps(facts)
    assert facts["limits"] == {
        "max_images": 4,
        "max_bytes": 200_000,
        "max_pixels": 1_000_000,
        "timeout": 30.0,
        "k": 1000,
    }


def test_health_and_metrics_are_told(client, photo):
    assert client.get("/healthz").content == b"ok\n"
    assert client.get("/readyz").content == b"ready\n"
    before = client.metric('retrieval_requests_total{endpoint="/v1/search",status="200"}')
    client.search(("a.png", photo))
    client.search(("a.png", b"no image"))
    assert client.metric('retrieval_requests_total{endpoint="/v1/search",status="200"}') == before + 1
    assert client.metric('retrieval_errors_total{status="422"}') >= 1
    assert client.metric("retrieval_index_items") == 24
    assert client.metric("retrieval_queue_images") == 0
    text = client.get("/metrics").content.decode()
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [0-9.e+-]+', line), line
    buckets = [
        int(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith('retrieval_request_seconds_bucket{endpoint="/v1/search"')
    ]
    assert buckets == sorted(buckets)
    count = client.metric('retrieval_request_seconds_count{endpoint="/v1/search"}')
    assert buckets[-1] == count


def test_the_documentation_names_every_endpoint_and_nothing_from_elsewhere(client):
    described = client.get("/openapi.json").json["paths"]
    assert set(described) == {
        *("/v1/search", "/v1/embed", "/v1/index", "/v1/items/{id}", "/v1/items/{id}/thumbnail"),
        *("/healthz", "/readyz", "/metrics"),
    }
    page = client.get("/docs").content.decode()
    assert all(path in page for path in described)
    for path in ("/docs", "/", "/page.css", "/page.js"):
        assert not re.search(r"(https?:)?//[a-z]", client.get(path).content.decode().replace("// ", ""))


def test_every_answer_has_a_strict_policy(client):
    for path in ("/", "/docs", "/v1/index", "/nothing", "/page.js"):
        policy = client.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_a_model_that_is_a_function_is_served_by_torch(images):
    def network(pictures):
        return np.stack([np.asarray(it.resize((4, 4)), dtype=np.float32).ravel() for it in pictures])

    index = retrieval.Index.build(retrieval.Model(network), images)
    with running(index) as client:
        assert client.get("/v1/index").json["runtime"] == "torch"
        answer = client.search(("a.png", (images / "ant" / "1.png").read_bytes()), options="?k=1&crop=true")
        assert answer.json["results"][0]["neighbours"][0]["path"] == "ant/1.png"
        assert answer.json["results"][0]["crop"].startswith("data:image/")


def test_an_index_without_a_model_is_refused(index):
    bare = retrieval.Index.from_vectors(index.vectors, index.classes)
    with pytest.raises(retrieval.RetrievalError, match="model"):
        serving.create_app(bare)


def test_json_is_strict(client, photo):
    answer = client.search(("a.png", photo))
    json.loads(answer.content, parse_constant=lambda word: pytest.fail(word))


def test_a_network_that_onnxruntime_does_not_repeat_runs_on_torch(images, monkeypatch, caplog):
    def differ(model, file, **options):
        raise retrieval.RetrievalError("onnxruntime's vectors differ from torch's by 0.5")

    monkeypatch.setattr(retrieval.Model, "export_onnx", differ)
    index = retrieval.Index.build(make_torch_model(), images)
    with caplog.at_level(logging.INFO), running(index) as client:
        assert client.get("/v1/index").json["runtime"] == "torch"
        answer = client.search(("a.png", (images / "ant" / "1.png").read_bytes()), options="?k=1")
        assert answer.json["results"][0]["neighbours"][0]["path"] == "ant/1.png"
    assert "the network runs on torch: onnxruntime's vectors differ" in caplog.text


@pytest.mark.slow
def test_a_network_of_torch_is_exported_and_runs_on_onnxruntime(images):
    index = retrieval.Index.build(make_torch_model(), images)
    files = sorted(images.glob("*/1.png"))
    with running(index) as client:
        assert client.get("/v1/index").json["runtime"] == "onnxruntime"
        answer = client.search(*((file.name, file.read_bytes()) for file in files), to="embed")
    np.testing.assert_allclose(answer.json["vectors"], index.model.encode(files), atol=1e-5)
