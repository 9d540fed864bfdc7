"""What hostile and careless clients are answered."""

from __future__ import annotations

import io
import logging
import socket
import struct
import threading
import time
import zlib

import pytest
from PIL import Image
from serving.service import form, png, running

import retrieval
from retrieval import serving


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it has many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def hostile_images(photo: bytes) -> dict[str, bytes]:
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(jpeg, "JPEG")
    return {
        "empty": b"",
        "text": b"no image at all",
        "html": b"<html><script>alert(1)</script></html>",
        "truncated PNG": photo[: len(photo) // 2],
        "truncated JPEG": jpeg.getvalue()[:300],
        "bomb": bomb(60_000, 60_000),
        "bomb of one row": bomb(2**31 - 1, 1),
        "GIF of nothing": b"GIF89a" + b"\xff" * 30,
        "TIFF of nothing": b"II*\0" + b"\xff" * 60,
        "WEBP of nothing": b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\0" * 30,
        "zeros": b"\0" * 5000,
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }


def test_what_is_no_image_is_refused_with_the_line_of_the_loader(client, images):
    for name, content in hostile_images((images / "ant" / "0.png").read_bytes()).items():
        answer = client.search((f"{name}.png", content))
        assert answer.status == 422, name
        assert answer.error.startswith(f"{name}.png: "), name
        assert answer.error.endswith("; send another image"), name
        assert "\n" not in answer.error
    assert client.search(("a.png", png())).status == 200


def test_a_bomb_is_refused_for_its_pixels(client):
    answer = client.search(("bomb.png", bomb(60_000, 60_000)))
    assert "3,600,000,000 pixels, more than 1,000,000" in answer.error


def test_one_bad_image_of_several_fails_the_request_by_its_name(client):
    answer = client.search(("good.png", png()), ("bad.png", b"bad"))
    assert answer.status == 422
    assert answer.error.startswith("bad.png: ")


def test_a_name_is_shown_without_its_folder_and_its_control_characters(client):
    answer = client.search(("../../etc/a\x1b[31m\x07.png", b"bad"))
    assert answer.error.startswith(r"a\u001b[31m\u0007.png: ")
    assert len(client.search(("x" * 4000, b"bad")).error) < 250


@pytest.mark.parametrize("size", [200_001, 2_000_000])
def test_a_body_above_the_limit_is_refused_with_its_length_and_without(client, size):
    body = b"\0" * size
    answer = client.ask("POST", "/v1/search", body, {"Content-Type": "image/png"})
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert answer.error == "the request is larger than 200,000 bytes; send a smaller image"
    pieces = (body[i : i + 50_000] for i in range(0, size, 50_000))
    headers = {"Content-Type": "image/png", "Transfer-Encoding": "chunked"}
    assert client.ask("POST", "/v1/search", pieces, headers, chunked=True).status == 413


def test_a_body_of_exactly_the_limit_is_read(client):
    answer = client.ask("POST", "/v1/search", b"\0" * 200_000, {"Content-Type": "image/png"})
    assert answer.status == 422


def test_a_body_above_the_limit_is_not_kept_where_nothing_reads_it(client):
    for path in ("/", "/healthz", "/nothing"):
        assert client.ask("POST", path, b"\0" * 300_000).status == 413


def test_a_form_of_many_parts_is_refused(client):
    many = client.search(*[("a.png", png())] * 5)
    assert (many.status, "Maximum number of files is 4" in many.error) == (400, True)
    fields = form(fields={f"field{i}": "x" for i in range(2000)})
    assert client.ask("POST", "/v1/search", *fields).status == 400


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=edge", 400),
        (b"--edge\r\n\r\n", "multipart/form-data; boundary=edge", 400),
        (b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n--edge--", "multipart/form-data; boundary=edge", 400),
        (b"--edge--\r\n", "multipart/form-data; boundary=" + "e" * 500, 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b'{"a": 1}', "application/json", 415),
        (b"x", "", 415),
    ],
)
def test_a_body_of_another_type_or_form_is_refused(client, body, kind, status):
    answer = client.ask("POST", "/v1/search", body, {"Content-Type": kind})
    assert answer.status == status
    assert "multipart/form-data" in answer.error


def test_a_token_is_asked_for_where_it_protects_something(index):
    with running(index, token="secret-token") as client:
        stranger = type(client)(client.port)
        for path in ("/v1/index", "/v1/items/0", "/v1/items/0/thumbnail", "/metrics"):
            answer = stranger.get(path)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "secret-token" not in answer.error
            assert client.get(path).status == 200
        for given in ("Bearer", "Bearer secret", "Basic secret-token", "Bearer secret-tokenx", "Bearer \xe9"):
            assert stranger.get("/v1/index", {"Authorization": given}).status == 401
        assert stranger.search(("a.png", png())).status == 401
        assert client.search(("a.png", png())).status == 200
        for path in ("/", "/docs", "/healthz", "/readyz", "/page.js"):
            assert stranger.get(path).status == 200


class Gate:
    """Stands in front of a network, and holds it up."""

    def __init__(self, network) -> None:
        self._network = network
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []

    def __call__(self, images):
        self.sizes.append(len(images))
        self.entered.release()
        assert self.open.wait(30)
        return self._network(images)


def flat(images):
    import numpy as np

    return np.stack([np.asarray(it.resize((4, 4)), dtype=np.float32).ravel() + 1 for it in images])


@pytest.fixture
def gate(images):
    """A gate, and an index whose model stands behind it."""
    gate = Gate(flat)
    gate.open.set()
    index = retrieval.Index.build(retrieval.Model(gate), images)
    gate.open.clear()
    gate.sizes.clear()
    while gate.entered.acquire(blocking=False):
        pass
    return gate, index


def together(client, count: int, answers: list) -> list[threading.Thread]:
    threads = [threading.Thread(target=lambda: answers.append(client.search(("a.png", png())))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def wait_for(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def test_requests_that_come_together_pass_the_network_together(gate):
    gate, index = gate
    with running(index, batch_size=4) as client:
        answers: list = []
        threads = together(client, 1, answers)
        assert gate.entered.acquire(timeout=30)
        threads += together(client, 6, answers)
        wait_for(lambda: client.metric("retrieval_queue_images") == 7)
        time.sleep(0.1)
        gate.open.set()
        for thread in threads:
            thread.join()
    assert [answer.status for answer in answers] == [200] * 7
    assert gate.sizes == [1, 4, 2]
    assert len({answer.content for answer in answers}) == 1


def test_a_full_queue_answers_503_and_takes_images_again_after_it(gate):
    gate, index = gate
    with running(index, queue=3, max_images=2) as client:
        answers: list = []
        threads = together(client, 3, answers)
        wait_for(lambda: client.metric("retrieval_queue_images") == 3)
        refused = client.search(("a.png", png()))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/readyz").status == 503
        assert client.get("/healthz").status == 200
        gate.open.set()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 3
        assert client.search(("a.png", png())).status == 200
        assert client.get("/readyz").status == 200


def test_a_request_that_takes_too_long_is_answered_504_and_keeps_its_place_until_it_is_done(gate):
    gate, index = gate
    with running(index, timeout=0.3) as client:
        assert client.search(("a.png", png())).status == 504
        assert client.metric("retrieval_queue_images") == 1
        gate.open.set()
        wait_for(lambda: client.metric("retrieval_queue_images") == 0)
        assert client.search(("a.png", png())).status == 200


def test_an_image_that_the_network_fails_on_fails_alone(images, caplog):
    def network(pictures):
        if any(it.getpixel((0, 0)) == (255, 0, 0) for it in pictures):
            raise RuntimeError("red")
        return flat(pictures)

    index = retrieval.Index.build(retrieval.Model(network), images)
    with running(index, batch_wait=0.2, batch_size=2) as client, caplog.at_level(logging.ERROR):
        answers: dict = {}

        def ask(colour: str) -> None:
            answers[colour] = client.search(("a.png", png(colour)))

        threads = [threading.Thread(target=ask, args=(colour,)) for colour in ("red", "green")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers["green"].status == 200
    assert (answers["red"].status, answers["red"].error) == (500, "the service has failed; its log says more")
    assert "RuntimeError" in caplog.text


def receive_all(connection: socket.socket) -> bytes:
    content = b""
    while piece := connection.recv(65536):
        content += piece
    return content


@pytest.mark.slow
def test_slow_senders_are_cut_off_and_others_are_answered_meanwhile(index, monkeypatch):
    monkeypatch.setattr("retrieval.serving.server._KEEP_ALIVE", 1)
    with running(index, timeout=0.5) as client:
        beginnings = {
            "nothing": b"",
            "half a line": b"POST /v1/se",
            "half of the headers": b"POST /v1/search HTTP/1.1\r\nHost: x\r\n",
            "half of the body": b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nabc",
            "half of a second request": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
        }
        connections = {}
        for name, beginning in beginnings.items():
            connections[name] = socket.create_connection(("127.0.0.1", client.port), timeout=20)
            connections[name].sendall(beginning)
        assert client.search(("a.png", png())).status == 200
        answers = {name: receive_all(connection) for name, connection in connections.items()}
        for connection in connections.values():
            connection.close()
        assert answers["nothing"] == answers["half a line"] == answers["half of the headers"] == b""
        assert answers["half of the body"].startswith(b"HTTP/1.1 408 ")
        assert b"the request did not arrive within 0.5 s" in answers["half of the body"]
        assert answers["half of a second request"].endswith(b"ok\n")
        assert client.metric("retrieval_queue_images") == 0


def test_a_connection_that_is_cut_in_the_middle_is_no_error_of_the_service(client, caplog):
    with caplog.at_level(logging.WARNING):
        for beginning in (b"", b"GET", b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nabc"):
            with socket.create_connection(("127.0.0.1", client.port)) as connection:
                connection.sendall(beginning)
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            body, headers = form(("a.png", png()))
            head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body)
        wait_for(lambda: client.metric("retrieval_queue_images") == 0)
        assert client.get("/healthz").status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_requests_that_are_no_http_are_refused(client):
    for content in (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 50 + b"\r\n\r\n", b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
            connection.sendall(content)
            assert receive_all(connection).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000)
        assert receive_all(connection).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; give a whole number, at least 1"),
        ({"queue": 4}, "queue is 4, less than the 16 images"),
        ({"timeout": float("nan")}, "timeout is nan; give a finite number of seconds"),
        ({"timeout": 0}, "timeout is 0"),
        ({"batch_wait": -1}, "batch_wait is -1"),
        ({"reload": 0}, "reload is 0"),
        ({"token": ""}, "token is empty"),
        ({"token": "a b"}, "token is empty or holds"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(values, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        serving.Settings(**values)


def test_an_address_that_is_taken_is_named():
    with serving.bind(port=0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(retrieval.RetrievalError, match=f"127.0.0.1:{port}: cannot be served at"):
            serving.bind(port=port)
    with pytest.raises(retrieval.RetrievalError, match="cannot be served at"):
        serving.bind("no such host.invalid")
