"""The page of the service in a real Chromium."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from PIL import Image
from serving.service import draw, make_model, running

import retrieval

pytestmark = pytest.mark.slow

SHOTS = os.environ.get("RETRIEVAL_SCREENSHOTS")  # a folder to keep the screenshots in


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.fixture(scope="module")
def service(index):
    with running(index, max_bytes=300_000) as client:
        yield client


def address(client) -> str:
    return f"http://127.0.0.1:{client.port}/"


def wait(page, expression: str) -> None:
    for _ in range(400):
        if page.value(expression):
            return
        time.sleep(0.025)
    raise AssertionError(f"never true: {expression}; {page.value('document.body.innerText')}")


def ready(page, client, **options) -> None:
    page.open(address(client), **options)
    wait(page, "document.getElementById('facts').textContent")


def upload(page, file: Path, field: str = "file") -> None:
    node = page.call("Runtime.evaluate", expression=f"document.getElementById('{field}')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=node)


def found(page) -> list[str]:
    return page.value("[...document.querySelectorAll('#found .tile')].map(tile => tile.title)")


def settled(page) -> None:
    wait(
        page,
        "!document.getElementById('result').hidden && !document.getElementById('result').ariaBusy"
        " && [...document.images].every(image => image.complete)",
    )


def keep(page, name: str, tmp_path: Path) -> None:
    page.screenshot(tmp_path / f"{name}.png")
    if SHOTS:
        shutil.copy(tmp_path / f"{name}.png", Path(SHOTS) / f"{name}.png")


def press(page, key: str, code: int, text: str = "") -> None:
    for kind in ("rawKeyDown", "char", "keyUp"):
        if kind != "char" or text:
            options = {"text": text} if kind == "char" else {}
            page.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **options)


def own_requests_only(page, client) -> bool:
    return all(asked.startswith((address(client), "blob:")) for asked in page.asked)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_an_image_is_uploaded_and_a_neighbour_is_searched_on_from(page, service, images, tmp_path, width, dark):
    ready(page, service, width=width, dark=dark)
    assert page.value("document.getElementById('facts').textContent") == "24 images of 4 classes."
    keep(page, f"start-{width}-{'dark' if dark else 'light'}", tmp_path)
    assert page.value("document.documentElement.scrollWidth") <= width
    page.value("document.getElementById('similar').click()")
    upload(page, images / "crab" / "3.png")
    settled(page)
    assert found(page)[0] == "crab: crab/3.png"
    assert len(found(page)) == 10
    assert page.value("document.querySelectorAll('#asked img').length") == 2  # the image and the crop
    assert page.value("[...document.images].filter(image => !image.naturalWidth).length") == 0
    assert page.value("document.documentElement.scrollWidth") <= width
    keep(page, f"found-{width}-{'dark' if dark else 'light'}", tmp_path)
    page.value("document.querySelectorAll('#found .tile')[2].click()")
    wait(page, "location.hash.startsWith('#item-')")
    wait(page, "document.querySelectorAll('#asked img').length == 1")
    settled(page)
    assert page.value("document.querySelectorAll('#found .right').length") == 5
    assert page.value("document.querySelectorAll('#found .wrong').length") == 5
    assert page.value("document.documentElement.scrollWidth") <= width
    keep(page, f"item-{width}-{'dark' if dark else 'light'}", tmp_path)
    with Image.open(tmp_path / f"item-{width}-{'dark' if dark else 'light'}.png") as picture:
        assert (np.median(np.asarray(picture.convert("L"))) < 60) == dark
    assert page.complaints == []
    assert own_requests_only(page, service)


def test_class_and_number_of_neighbours_and_similarity_change_the_result(page, service, images, tmp_path):
    ready(page, service)
    upload(page, images / "bee & <wasp>" / "0.png")
    settled(page)
    assert {title.partition(":")[0] for title in found(page)} == {"bee & <wasp>"}  # the others are below the threshold
    page.value("document.getElementById('similar').click()")
    wait(page, "document.querySelectorAll('#found .tile').length == 10")
    page.value("const k = document.getElementById('k'); k.value = 3; k.dispatchEvent(new Event('change'))")
    wait(page, "document.querySelectorAll('#found .tile').length == 3")
    page.value("const c = document.getElementById('class'); c.value = 'dove'; c.dispatchEvent(new Event('change'))")
    wait(page, "document.querySelector('#found .tile').title.startsWith('dove')")
    assert page.value("[...document.querySelectorAll('#classes option')].map(it => it.value)")[1] == "bee & <wasp>"
    assert page.complaints == []


def test_without_a_similar_image_the_page_says_so_and_shows_the_nearest_on_request(page, service, tmp_path):
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    ready(page, service)
    upload(page, tmp_path / "noise.png")
    settled(page)
    assert found(page) == []
    assert "No similar image" in page.value("document.getElementById('none').innerText")
    keep(page, "none", tmp_path)
    page.value("document.getElementById('anyway').click()")
    wait(page, "document.querySelectorAll('#found .tile').length == 10")
    assert page.value("document.getElementById('none').hidden")


def test_a_threshold_that_hides_most_right_neighbours_is_off_at_first(page, tmp_path):
    generator = np.random.default_rng(0)
    images = tmp_path / "images"
    for name in "abcdef":
        (images / name).mkdir(parents=True)
        for i in range(25):
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(images / name / f"{i}.png")
    index = retrieval.Index.build(make_model(), images)
    assert index.calibration.right_accept_rate < 0.5
    with running(index) as client:
        ready(page, client)
        assert not page.value("document.getElementById('similar').checked")
        upload(page, images / "a" / "0.png")
        settled(page)
        assert len(found(page)) == 10


def test_errors_are_shown_as_text(page, service, images, tmp_path):
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_text("no image")
    large = tmp_path / "large.png"
    large.write_bytes(b"\0" * 300_001)
    ready(page, service)
    upload(page, bad)
    wait(page, "!document.getElementById('error').hidden")
    assert page.value("document.getElementById('error').textContent") == (
        "<img src=x onerror=alert(1)>.png: cannot be read as an image (it is not an image of a known format); send another image"
    )
    keep(page, "error", tmp_path)
    upload(page, large)
    wait(page, "document.getElementById('error').textContent.includes('take a smaller image')")
    page.value("const c = document.getElementById('class'); c.value = 'dov'; 0")
    upload(page, images / "ant" / "0.png")
    wait(page, "document.getElementById('error').textContent.includes('did you mean')")
    page.value("document.getElementById('class').value = ''")
    upload(page, images / "ant" / "0.png")
    settled(page)
    assert page.value("document.getElementById('error').hidden")
    assert all("the server responded with a status of 422" in complaint for complaint in page.complaints)
    assert own_requests_only(page, service)


def test_everything_works_by_the_keyboard(page, service, images):
    ready(page, service)
    upload(page, images / "ant" / "0.png")
    settled(page)
    order = []
    page.value("document.activeElement.blur()")
    for _ in range(9):
        press(page, "Tab", 9)
        order.append(page.value("document.activeElement.id || document.activeElement.className"))
    assert order[:5] == ["choose", "photograph", "k", "class", "similar"]
    assert order[5].startswith("tile")
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    press(page, "Enter", 13, "\r")
    wait(page, "location.hash.startsWith('#item-')")


def test_images_are_pasted_and_dropped(page, service, images):
    ready(page, service)
    for event, field in (("ClipboardEvent('paste'", "clipboardData"), ("DragEvent('drop'", "dataTransfer")):
        page.value("document.getElementById('result').hidden = true")
        content = list((images / "dove" / "1.png").read_bytes())
        page.value(
            "{const data = new DataTransfer();"
            f"data.items.add(new File([new Uint8Array({content})], 'pasted.png', {{type: 'image/png'}}));"
            f"dispatchEvent(new {event}, {{{field}: data, cancelable: true}}))}} 0"
        )
        settled(page)
        assert found(page)[0] == "dove: dove/1.png"
    assert page.complaints == []


def test_back_returns_to_the_search_before(page, service):
    page.open("about:blank")  # an address that differs by its end only would load nothing
    page.open(f"{address(service)}#item-3")
    asked = "document.querySelector('#asked bdi')?.textContent"
    wait(page, f"{asked} == 'ant/3.png'")
    page.value("document.querySelectorAll('#found .tile')[1].click()")
    wait(page, f"{asked} != 'ant/3.png'")
    page.value("history.back()")
    wait(page, f"{asked} == 'ant/3.png'")
    assert page.value("location.hash") == "#item-3"


def test_a_token_is_asked_for_and_pictures_are_loaded_with_it(page, index, tmp_path):
    with running(index, token="open sesame".replace(" ", "-")) as client:
        page.open(address(client))
        wait(page, "!document.getElementById('key').hidden")
        keep(page, "token", tmp_path)
        assert page.complaints == []
        page.value("document.getElementById('token').value = 'wrong'; document.querySelector('#key button').click()")
        wait(page, "document.getElementById('error').textContent.includes('bearer token')")
        page.value(
            "document.getElementById('token').value = 'open-sesame'; document.querySelector('#key button').click()"
        )
        wait(page, "document.getElementById('facts').textContent")
        page.value("location.hash = 'item-2'")
        settled(page)
        wait(page, "[...document.images].every(image => image.naturalWidth)")
        assert page.value("document.images.length") >= 2
        page.value("sessionStorage.clear()")


def test_items_without_pictures_are_shown_by_their_class(page, index, tmp_path):
    bare = retrieval.Index.from_vectors(
        index.vectors, index.classes, paths=index.paths, root=tmp_path / "moved", model=make_model()
    )
    with running(bare) as client:
        page.open(f"{address(client)}#item-2")
        settled(page)
        wait(page, "document.querySelectorAll('.missing').length > 2")
        keep(page, "missing", tmp_path)
        assert page.complaints == []


def test_long_and_hostile_names_do_not_widen_the_page(page, tmp_path):
    root = draw(tmp_path / "images", 3)
    name = "<b>ünï & 'quoted' " + "very_long_name" * 8
    (root / "ant").rename(root / name)
    with running(retrieval.Index.build(make_model(), root)) as client:
        ready(page, client, width=390)
        page.value("document.getElementById('similar').checked = false; location.hash = 'item-0'")
        settled(page)
        assert name in page.value("document.body.innerText")
        assert page.value("document.documentElement.scrollWidth") <= 390
        keep(page, "long-390", tmp_path)
        assert page.complaints == []


@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_of_the_endpoints_fits_the_screen_and_asks_for_nothing_else(page, service, tmp_path, width):
    page.open(f"{address(service)}docs", width=width)
    assert page.complaints == []
    assert own_requests_only(page, service)
    assert "POST /v1/search" in page.value("document.body.innerText")
    assert page.value("document.documentElement.scrollWidth") <= width
    keep(page, f"docs-{width}", tmp_path)


def test_the_style_of_the_report_is_there(service):
    style = service.get("/page.css").content.decode()
    assert "--ground" in style
    assert ".drop" in style
    assert io.StringIO(style).readline().startswith(":root")
