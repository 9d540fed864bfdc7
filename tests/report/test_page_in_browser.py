from __future__ import annotations

import numpy as np
import pytest
from browser import browser
from PIL import Image
from report.pages import hostile_report, hostile_search_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(hostile_report(tmp_path_factory.mktemp("images")).html, encoding="utf-8")
    return path.as_uri()


def test_the_browser_of_these_tests_sees_requests_and_complaints(page, tmp_path):
    (tmp_path / "bad.html").write_text("<img src='gone.png'><script>console.error('so bad')</script>")
    page.open((tmp_path / "bad.html").as_uri())
    assert [asked.rsplit("/", 1)[1] for asked in page.asked] == ["bad.html", "gone.png"]
    assert any("so bad" in complaint for complaint in page.complaints)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_a_report_shows_all_its_pictures_asks_for_nothing_and_fits_the_screen(page, address, tmp_path, width, dark):
    page.open(address, width=width, dark=dark)
    assert page.asked == [address]
    assert page.complaints == []
    assert page.value("document.title") == "A <title> & more"
    assert page.value("[...document.images].filter(image => !image.naturalWidth).length") == 0
    assert page.value("document.images.length") > 50
    assert page.value("document.querySelectorAll('svg.chart').length") == 7
    assert page.value("document.documentElement.scrollWidth") <= width
    narrow = (
        "[...document.querySelectorAll('svg.chart')].filter(chart => chart.getBoundingClientRect().width < 300).length"
    )
    assert page.value(narrow) == 0
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert (np.median(pixels) < 60) == dark
    assert len(np.unique(pixels[:1000])) > 20  # something is written and drawn there


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_frames_stand_out_from_the_ground(page, address, dark):
    page.open(address, dark=dark)
    colours = page.value(
        "['body', 'h1', '.lead', '.right .mark', '.wrong .mark', 'nav a', '.asked p', '.caption', '.more > summary',"
        "'svg.chart text'].map(which => {"
        "const style = getComputedStyle(document.querySelector(which));"
        "return which.startsWith('svg') ? style.fill : style.color})"
    )
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert min(contrast(colour, ground) for colour in colours) > 4.5  # WCAG's level AA


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_on_panels_stands_out_from_them(page, address, dark):
    page.open(address, dark=dark)
    colours = page.value(
        "['.facts dt', '.facts dd', '.cards p', '.cards .wrong .mark'].map(which => "
        "getComputedStyle(document.querySelector(which)).color)"
    )
    panel = page.value("getComputedStyle(document.querySelector('.facts')).backgroundColor")
    assert min(contrast(colour, panel) for colour in colours) > 4.5


def press_enter(page) -> None:
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    for kind in ("rawKeyDown", "char", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, text="\r" if kind == "char" else "", **key)


def click(page, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@pytest.mark.parametrize("width", [1100, 390])
def test_a_tile_is_enlarged_and_closed_by_a_click_and_by_the_enter_key(page, address, width):
    page.open(address, width=width)
    tile = "document.querySelectorAll('.found .tile')[1]"
    size = f"Math.max({tile}.querySelector('img').offsetWidth, {tile}.querySelector('img').offsetHeight)"
    shown = f"getComputedStyle({tile}.querySelector('.path')).display != 'none'"
    small = page.value(size)
    page.value(f"{tile}.querySelector('summary').focus()")
    press_enter(page)
    assert page.value("document.querySelectorAll('.tile[open]').length") == 1
    assert page.value(size) > 2.5 * small
    assert page.value(shown)
    assert page.value("document.documentElement.scrollWidth") <= width
    press_enter(page)
    assert page.value("document.querySelectorAll('.tile[open]').length") == 0
    page.value(f"document.documentElement.style.scrollBehavior = 'auto'; {tile}.scrollIntoView({{block: 'center'}})")
    place = page.value(f"JSON.parse(JSON.stringify({tile}.querySelector('img').getBoundingClientRect()))")
    click(page, place["x"] + 20, place["y"] + 20)
    assert page.value(size) > 2.5 * small
    click(page, 5, 5)  # anywhere
    assert page.value("document.querySelectorAll('.tile[open]').length") == 0
    assert page.value(size) == small


def test_a_table_that_is_too_wide_for_a_phone_scrolls_and_shows_that_it_does(page, address, tmp_path):
    page.open(address, width=390)
    wide = "document.querySelector('.wide')"
    assert page.value(f"{wide}.scrollWidth") > page.value(f"{wide}.clientWidth")
    assert page.value(f"{wide}.tabIndex") == 0  # arrow keys scroll it
    edge, inside = (shades(page, tmp_path, place) for place in ("right", "middle"))
    assert edge < inside - 20  # a shadow where it goes on
    page.value(f"{wide}.scrollLeft = 1000")
    assert page.value(f"{wide}.querySelector('tbody th').getBoundingClientRect().x") >= 0  # the names stay


def shades(page, tmp_path, place: str) -> float:
    """The lightness of the head of the first table at its right edge or in the middle."""
    box = page.value("JSON.parse(JSON.stringify(document.querySelector('.wide').getBoundingClientRect()))")
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("L")).astype(float)
    column = int(box["right"]) - 2 if place == "right" else int(box["x"] + box["width"] / 2)
    return float(np.median(pixels[int(box["y"]) + 3 : int(box["y"]) + 90, column]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_search_fits_the_screen_and_asks_for_nothing(page, tmp_path, width, dark):
    address = hostile_search_page(tmp_path).as_uri()
    page.open(address, width=width, dark=dark)
    assert page.asked == [address]
    assert page.complaints == []
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("document.images.length") == 3
    assert page.value("document.body.innerText").count("No similar image") == 1


def contrast(one: str, other: str) -> float:
    """The contrast of two CSS colours by WCAG 2, from 1 to 21."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = np.array([float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
