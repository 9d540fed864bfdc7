from __future__ import annotations

import numpy as np
import pytest
from browser import browser
from PIL import Image
from report.pages import hostile_report

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
    assert page.value("document.querySelectorAll('svg.chart').length") == 6
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
        "['body', '.right .mark', '.wrong .mark', 'nav a', '.asked p', '.facts dt', 'svg.chart text'].map(which => {"
        "const style = getComputedStyle(document.querySelector(which));"
        "return which.startsWith('svg') ? style.fill : style.color})"
    )
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert min(contrast(colour, ground) for colour in colours) > 4.5  # WCAG's level AA


def contrast(one: str, other: str) -> float:
    """The contrast of two CSS colours by WCAG 2, from 1 to 21."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = np.array([float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
