from __future__ import annotations

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from retrieval.report.thumbnail import data_uri, read_picture, read_thumbnail


def decoded(uri: str) -> Image.Image:
    head, content = uri.split(",")
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_file_and_what_it_holds_give_the_same_square(tmp_path):
    Image.new("RGB", (80, 20), (255, 0, 0)).save(tmp_path / "wide.png")
    picture = read_thumbnail(tmp_path / "wide.png", 40)
    assert picture.size == (40, 40)
    assert picture.getpixel((20, 20)) == (255, 0, 0)
    assert picture.getpixel((20, 2)) == (255, 255, 255)
    assert picture.tobytes() == read_thumbnail((tmp_path / "wide.png").read_bytes(), 40).tobytes()


def test_what_is_no_image_is_none(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for source in (tmp_path / "text.png", tmp_path / "program.eps", tmp_path / "gone", tmp_path, b"", b"\xff\xd8 no"):
        assert read_thumbnail(source, 40) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert read_thumbnail(tmp_path / "pipe.png", 40) is None


def test_a_picture_keeps_its_shape_and_is_never_enlarged(tmp_path):
    Image.new("RGB", (800, 200), (255, 0, 0)).save(tmp_path / "large.png")
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "small.png")
    assert read_picture(tmp_path / "large.png", 256).size == (256, 64)
    assert read_picture(tmp_path / "small.png", 256).size == (30, 20)
    assert read_picture(tmp_path / "gone.png", 256) is None


def test_an_address_holds_the_picture_in_its_smallest_form():
    flat = Image.new("RGB", (40, 40), (0, 0, 255))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    assert decoded(data_uri(noise)).format == "WEBP"
    assert decoded(data_uri(noise)).size == (64, 64)
    assert len(data_uri(flat)) < 300


def test_what_shows_through_goes_on_doing_so():
    picture = Image.new("RGBA", (40, 40))
    picture.paste((255, 0, 0, 255), (0, 0, 20, 40))
    assert decoded(data_uri(picture)).convert("RGBA").getpixel((30, 20))[3] == 0


def test_a_whole_image_in_a_damaged_file_is_shown(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    texts = PngInfo()
    texts.add_text("Comment", "x" * (2 << 20), zip=True)
    image.save(tmp_path / "texts.png", pnginfo=texts)
    image.save(tmp_path / "image.jpg")
    whole = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-2])
    np.testing.assert_array_equal(read_picture(tmp_path / "texts.png", 60), image)
    np.testing.assert_array_equal(read_picture(tmp_path / "cut.jpg", 60), read_picture(tmp_path / "image.jpg", 60))
    assert read_picture(whole[:-2], 60) is not None
    assert read_picture(whole[:-40], 60) is None
