from __future__ import annotations

import io
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from retrieval.data import images, load_image, to_image
from retrieval.data.images import decode_image
from retrieval.errors import DatasetError


def noise(height: int = 24, width: int = 37) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(folder, image, name, **options):
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = noise().convert(mode)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    loaded = load_image(saved(tmp_path, image, f"image.{suffix}"))
    assert (loaded.mode, loaded.size) == ("RGB", (37, 24))
    if suffix == "png" and mode not in ("LA", "RGBA"):
        np.testing.assert_array_equal(np.asarray(loaded), np.asarray(image.convert("RGB")))


def test_opaque_transparent_and_half_transparent_pixels_lie_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 128]]], dtype=np.uint8)
    loaded = np.asarray(load_image(saved(tmp_path, Image.fromarray(pixels), "image.png"))).astype(int)
    np.testing.assert_array_equal(loaded[0, :2], [[10, 20, 30], [255, 255, 255]])
    assert np.abs(loaded[0, 2] - [132, 137, 142]).max() <= 1


def test_a_transparent_colour_of_greyscale_rgb_and_palette_lies_on_white(tmp_path):
    grey = Image.fromarray(np.array([[7, 90]], dtype=np.uint8))
    colour = Image.merge("RGB", (grey, grey, grey))
    palette = grey.copy()
    palette.putpalette([value for index in range(256) for value in (index, index, index)])
    for image, transparent in ((grey, 7), (colour, (7, 7, 7)), (palette, 7)):
        loaded = load_image(saved(tmp_path, image, "image.png", transparency=transparent))
        np.testing.assert_array_equal(np.asarray(loaded)[0], [[255] * 3, [90] * 3], err_msg=image.mode)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    loaded = load_image(saved(tmp_path, Image.fromarray(values), f"image.{suffix}"))
    np.testing.assert_array_equal(np.asarray(loaded)[0, :, 0], [0, 0, 1, 1, 128, 255])


def test_numbers_of_unknown_range_are_refused(tmp_path):
    for values in (np.array([[0.5, 2.0]], dtype=np.float32), np.array([[0, 70000]], dtype=np.int32)):
        path = saved(tmp_path, Image.fromarray(values), "image.tif")
        with pytest.raises(DatasetError, match=r"image\.tif: .*convert it to 8 or 16 bits"):
            load_image(path)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = noise()
    loaded = load_image(saved(tmp_path, image, "image.png", exif=exif))
    np.testing.assert_array_equal(np.asarray(loaded), np.rot90(np.asarray(image), -1))


def test_damaged_metadata_does_not_cost_the_image(tmp_path):
    path = saved(tmp_path, noise(), "image.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert load_image(path).size == (37, 24)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    path = saved(tmp_path, frames[0], "image.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(load_image(path))[0, 0], [255, 0, 0])


def refusal(path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_what_is_no_image_is_named_with_the_reason_in_one_line(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "foreign.jpg").write_text("<html>not found</html>\n")
    (tmp_path / "postscript.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    whole = saved(tmp_path, noise(), "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    assert "No such file" in refusal(tmp_path / "missing.png")
    assert "directory" in refusal(tmp_path)
    assert "it is empty" in refusal(tmp_path / "empty.png")
    assert "not an image of a known format" in refusal(tmp_path / "foreign.jpg")
    assert "not an image of a known format" in refusal(tmp_path / "postscript.jpg")
    assert "truncated" in refusal(tmp_path / "truncated.jpg")


@pytest.mark.parametrize("limit", [1000, 400])
def test_decompression_bombs_are_refused_where_pillow_warns_and_where_it_raises(tmp_path, monkeypatch, limit):
    path = saved(tmp_path, Image.new("RGB", (40, 30)), "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert f"(1,200 pixels, more than {limit:,}); shrink it, or raise image.max_pixels" in refusal(path)
    assert load_image(path, max_pixels=1200).size == (40, 30)
    with pytest.raises(DatasetError, match="more than 1,199"):
        load_image(path, max_pixels=1199)


@pytest.mark.parametrize(
    ("full_size", "size"), [(1200, (40, 30)), (1199, (20, 15)), (300, (20, 15)), (299, (10, 8)), (1, (5, 4))]
)
def test_a_large_jpeg_is_decoded_at_a_smaller_size(tmp_path, monkeypatch, full_size, size):
    monkeypatch.setattr(images, "FULL_SIZE", full_size)
    path = saved(tmp_path, noise(30, 40).resize((40, 30), Image.Resampling.BOX), "image.jpg")
    assert load_image(path, max_pixels=1200).size == size
    assert load_image(saved(tmp_path, noise(30, 40), "image.png"), max_pixels=1200).size == (40, 30)


def test_a_jpeg_far_above_the_limit_of_pillow_is_read_with_the_option(tmp_path):
    path = saved(tmp_path, Image.new("L", (20_000, 10_000), 200), "image.jpg")
    assert "200,000,000 pixels, more than 89,478,485" in refusal(path)
    assert load_image(path, max_pixels=200_000_000).size == (10_000, 5_000)


@pytest.mark.parametrize("compressed", [False, True])
def test_metadata_of_any_size_does_not_cost_a_png(tmp_path, compressed):
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "x" * (2 << 20), zip=compressed)
    texts.add_text("Comment", "y" * (2 << 20), zip=compressed)
    for name, options in (("texts.png", {"pnginfo": texts}), ("profile.png", {"icc_profile": bytes(2 << 20)})):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = saved(tmp_path, noise(), name, exif=exif, **options)
        np.testing.assert_array_equal(np.asarray(load_image(path)), np.rot90(np.asarray(noise()), -1))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 40])
    assert "truncated" in refusal(path)


JPEGS = {"baseline": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 1}}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_marker_is_read_with_a_warning(tmp_path, kind, caplog):
    path = saved(tmp_path, noise(40, 70), "image.jpg", **JPEGS[kind])
    whole = path.read_bytes()
    expected = np.asarray(load_image(path))
    assert not caplog.records
    for cut in (whole[:-2], whole[:-1], whole[:-2] + bytes(100)):
        path.write_bytes(cut)
        np.testing.assert_array_equal(np.asarray(load_image(path)), expected)
    assert [record.message for record in caplog.records] == [
        f"{path}: lacks the end marker of a JPEG file; it is read, but may have been copied incompletely"
    ]


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_a_pixel_is_refused(tmp_path, kind):
    path = saved(tmp_path, noise(40, 70), "image.jpg", **JPEGS[kind])
    whole = path.read_bytes()
    expected = np.asarray(load_image(path))
    scans = [found.start() for found in re.finditer(b"\xff[\xda\xc4]", whole)]
    refused = 0
    for length in [*range(600, len(whole) - 60, 37), *range(len(whole) - 60, len(whole) - 2)]:
        path.write_bytes(whole[:length])
        try:
            pixels = np.asarray(load_image(path))
        except DatasetError:
            refused += 1
            continue
        between_scans = any(0 <= length - start <= 1 for start in scans)
        assert np.array_equal(pixels, expected) or between_scans, length
    assert refused > 40


def test_damage_anywhere_is_a_dataset_error_or_an_image(tmp_path):
    generator = random.Random(0)
    contents = []
    for format_, options in (("PNG", {}), ("JPEG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("TIFF", {})):
        buffer = io.BytesIO()
        noise().save(buffer, format_, **options)
        contents.append(buffer.getvalue())
    refused = 0
    for _ in range(600):
        damaged = bytearray(generator.choice(contents))
        for _ in range(generator.choice([1, 3, 20])):
            damaged[generator.randrange(min(len(damaged), generator.choice([60, 400, 10**6])))] = generator.randrange(
                256
            )
        (tmp_path / "image").write_bytes(damaged)
        try:
            assert load_image(tmp_path / "image").mode == "RGB"
        except DatasetError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right
    assert 0 < refused < 600


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_a_pil_image_is_converted_as_its_file_is(tmp_path, mode):
    image = noise().convert("L").convert("I;16") if mode == "I;16" else noise().convert(mode)
    path = saved(tmp_path, image, "image.tif")
    with Image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(to_image(opened)), np.asarray(load_image(path)))
    for same in (path, str(path)):
        np.testing.assert_array_equal(np.asarray(to_image(same)), np.asarray(load_image(path)))


def test_the_exif_rotation_of_a_pil_image_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(saved(tmp_path, noise(), "image.png", exif=exif)) as opened:
        upright = to_image(opened)
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(noise()), -1))
    np.testing.assert_array_equal(np.asarray(to_image(upright)), np.asarray(upright))


def test_arrays_and_tensors_of_pixels_are_images():
    pixels = np.array(noise())
    grey = pixels[..., 0]
    for item in (pixels, torch.from_numpy(pixels).permute(2, 0, 1), pixels[:, ::-1][:, ::-1]):
        image = to_image(item)
        assert (image.mode, image.size) == ("RGB", (37, 24))
        np.testing.assert_array_equal(np.asarray(image), pixels)
    for item in (grey, torch.from_numpy(grey.copy())[None]):
        np.testing.assert_array_equal(np.asarray(to_image(item)), np.stack([grey] * 3, axis=2))
    image = to_image(pixels)
    pixels[:] = 0
    assert np.asarray(image).any()  # a copy


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((4, 5, 3)), r"an array of float64 \(4, 5, 3\); give uint8 values from 0 to 255"),
        (torch.zeros(3, 4, 5), r"a tensor of float32 \(3, 4, 5\); give uint8 values from 0 to 255"),
        (np.zeros((3, 4, 5), np.uint8), r"an array of uint8 \(3, 4, 5\); give a path, .* \(height, width, 3\)"),
        (np.zeros((4, 5, 4), np.uint8), r"an array of uint8 \(4, 5, 4\); give"),
        (np.zeros(5, np.uint8), r"an array of uint8 \(5,\); give"),
        (
            torch.zeros(4, 5, 3, dtype=torch.uint8),
            r"a tensor of uint8 \(4, 5, 3\); give .* tensor \(3, height, width\)",
        ),
        (torch.zeros(1, 3, 4, 5, dtype=torch.uint8), r"a tensor of uint8 \(1, 3, 4, 5\); give"),
        (np.zeros((0, 5), np.uint8), "without a pixel"),
        (b"bytes", "of type bytes; give a path"),
        (None, "of type NoneType; give a path"),
        (Image.new("F", (2, 2)), r"the PIL image cannot be converted to RGB \(it holds floating-point numbers"),
    ],
)
def test_what_is_no_image_of_a_usual_form_is_refused_with_the_remedy(item, message):
    with pytest.raises(ValueError, match=message) as caught:
        to_image(item)
    assert "\n" not in str(caught.value)


def test_a_pil_image_whose_file_is_truncated_is_refused(tmp_path):
    whole = saved(tmp_path, noise(), "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with (
        Image.open(tmp_path / "cut.jpg") as opened,
        pytest.raises(ValueError, match=r"the PIL image cannot be converted to RGB .*truncated"),
    ):
        to_image(opened)


def photo(width: int = 400, height: int = 300) -> Image.Image:
    """Smooth noise, like a photograph."""
    small = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("least", "size"),
    [
        (None, (400, 300)),
        (151, (400, 300)),
        (150, (200, 150)),
        (76, (200, 150)),
        (75, (100, 75)),
        (38, (100, 75)),
        (37, (50, 38)),
        (1, (50, 38)),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_its_shorter_side_allows(tmp_path, least, size):
    path = saved(tmp_path, photo(), "image.jpg")
    assert load_image(path, least_side=least).size == size
    assert load_image(saved(tmp_path, photo(), "image.png"), least_side=least).size == (400, 300)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_reduced_jpeg_of_every_mode_and_orientation_shows_the_same_picture(tmp_path, mode):
    for orientation in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path, photo(403, 299).convert(mode), "image.jpg", quality=95, exif=exif)
        whole, reduced = load_image(path), load_image(path, least_side=100)
        assert (whole.mode, reduced.mode) == ("RGB", "RGB")
        assert reduced.size == tuple(-(-side // 2) for side in whole.size)
        small = [np.asarray(image.resize((40, 40)), dtype=float) for image in (whole, reduced)]
        assert np.abs(small[0] - small[1]).mean() < 3  # another picture, or one turned otherwise, differs by 60


def test_a_reduced_jpeg_is_bound_by_both_limits(tmp_path, monkeypatch):
    path = saved(tmp_path, photo(), "image.jpg")
    with pytest.raises(DatasetError, match="120,000 pixels, more than 1,000"):
        load_image(path, max_pixels=1000, least_side=10)
    monkeypatch.setattr(images, "FULL_SIZE", 400 * 300 // 16)
    assert load_image(path, least_side=150).size == (100, 75)


def test_a_damaged_jpeg_is_refused_at_every_size(tmp_path):
    whole = saved(tmp_path, photo(), "image.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "unmarked.jpg").write_bytes(whole[:-2])
    with pytest.raises(DatasetError, match="truncated"):
        load_image(tmp_path / "half.jpg", least_side=40)
    assert load_image(tmp_path / "unmarked.jpg", least_side=40).size == (400, 300)


def test_an_image_is_read_from_an_open_file_under_any_name(tmp_path):
    content = io.BytesIO(saved(tmp_path, photo(), "image.jpg").read_bytes())
    assert decode_image(content, "shard.tar/1.jpg", least_side=75).size == (100, 75)
    with pytest.raises(DatasetError, match=r"shard\.tar/2\.jpg: cannot be read as an image \(it is not an image"):
        decode_image(io.BytesIO(b"text"), "shard.tar/2.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff"])
def test_the_content_of_a_file_is_read_as_the_file_is(tmp_path, suffix):
    file = saved(tmp_path, noise(), f"image.{suffix}")
    found = decode_image(io.BytesIO(file.read_bytes()), "a name")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(load_image(file)))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "head"])
def test_content_that_is_no_image_is_named_with_the_reason_of_the_file(tmp_path, content):
    file = tmp_path / "image.png"
    file.write_bytes(content)
    with pytest.raises(DatasetError) as of_file:
        load_image(file)
    with pytest.raises(DatasetError) as of_content:
        decode_image(io.BytesIO(content), file)
    assert str(of_content.value) == str(of_file.value)
