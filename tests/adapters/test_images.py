import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.images import load_image, load_region_mask
from qformer.contracts import ImageError, RegionError


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def gradient(mode="RGB", size=(6, 4)):
    ramp = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size[1], size[0])
    return Image.fromarray(ramp).convert(mode)


def values(image):
    return image.tolist()


def test_a_picture_is_rgb_bytes_height_first(tmp_path):
    picture = Image.new("RGB", (6, 4), (10, 20, 30))
    picture.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encoded(picture), picture):
        image = load_image(source)
        assert image.dtype == torch.uint8
        assert image.shape == (4, 6, 3)
        assert image[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_common_formats_are_read(form):
    image = load_image(encoded(Image.new("RGB", (9, 5), (250, 250, 250)), form))
    assert image.shape == (5, 9, 3)
    assert image.min() > 240


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV"])
def test_modes_become_rgb(mode):
    image = load_image(gradient(mode))
    expected = np.array(gradient(mode).convert("RGB"))
    assert values(image) == expected.tolist()


def test_cmyk_becomes_rgb():
    image = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = image[4, 4].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    for form in ("PNG", "TIFF"):
        image = load_image(encoded(Image.fromarray(ramp), form))
        assert image[0, 0, 0] == 0
        assert image[-1, -1, 0] == 255
        assert len(image.unique()) == 24


def test_more_than_sixteen_bits_are_an_error():
    wide = Image.fromarray(np.full((4, 4), 2**20, dtype=np.int32))
    with pytest.raises(ImageError, match="32 bits"):
        load_image(encoded(wide, "TIFF"))
    with pytest.raises(ImageError, match="floating point"):
        load_image(encoded(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_over_white(mode):
    clear = Image.new(mode, (4, 4), 0)
    assert load_image(encoded(clear)).min() == 255


def test_a_palette_with_alpha_is_over_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.putpixel((1, 0), 1)
    image = load_image(encoded(picture, transparency=bytes([0, 255])))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 1].tolist() == [200, 0, 0]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    image = load_image(encoded(frames[0], form, **options))
    red, green, blue = image[4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_exif_rotation_is_applied():
    picture = Image.new("RGB", (6, 4), "white")
    picture.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    image = load_image(encoded(picture, exif=exif))
    assert image.shape == (6, 4, 3)
    assert image[0, 3].tolist() == [0, 0, 0]


def test_damaged_exif_is_left_alone():
    picture = Image.new("RGB", (6, 4), "white")
    assert load_image(encoded(picture, "JPEG", exif=b"Exif\0\0II*\0nonsense")).shape == (4, 6, 3)


def test_one_pixel_is_a_picture():
    assert load_image(encoded(Image.new("RGB", (1, 1), "red"))).tolist() == [[[255, 0, 0]]]


def bomb(width, height):
    """A PNG of one grey, in a few kilobytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("error")
def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    file = bomb(12000, 12000)
    assert len(file) < 20_000
    monkeypatch.setattr(
        "PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded before the check")
    )
    with pytest.raises(ImageError, match=r"12000x12000 pixels \(144 MP\): shrink it to 64 MP"):
        load_image(file)
    with pytest.raises(ImageError, match="shrink it to 64 MP"):
        load_image(bomb(60000, 60000))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", r"is empty \(0 bytes\): choose another file"),
        (b"hello, this is no picture", "not a picture that Loupe reads"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that Loupe reads"),
        ("https://example.org/a.png", "web address"),
        ("no/such/file.png", "there is no file no/such/file.png"),
        (".", "is a folder"),
        ("a\0b", "cannot be read"),
    ],
)
def test_what_is_no_picture_is_an_error_that_says_what_to_do(source, message):
    with pytest.raises(ImageError, match=message):
        load_image(source)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_short_is_an_error_of_one_line_without_addresses(form):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), form)
    for length in (len(whole) // 2, len(whole) * 3 // 4, 40):
        with pytest.raises(ImageError) as error:
            load_image(whole[:length])
        assert "\n" not in str(error.value)
        assert "0x" not in str(error.value)


def test_errors_name_the_file_not_its_folders(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"^a\.png is not a picture"):
        load_image(tmp_path / "a.png")


# Region masks


def white_square(mode="L", on=255):
    painted = np.zeros((4, 6), dtype=np.uint8)
    painted[1:3, 2:5] = on
    return Image.fromarray(painted).convert(mode)


@pytest.mark.parametrize("on", [255, 1, 128])
def test_a_region_mask_is_what_is_brighter_than_half(on):
    region_mask = load_region_mask(encoded(white_square(on=on)), (4, 6))
    assert region_mask.dtype == torch.bool
    assert region_mask.shape == (4, 6)
    assert region_mask.sum() == 6
    assert region_mask[1:3, 2:5].all()


@pytest.mark.parametrize("mode", ["1", "RGB", "P", "I", "I;16"])
def test_region_masks_of_other_modes(mode):
    picture = white_square("RGB" if mode == "P" else "L").convert(mode)
    source = encoded(picture, "TIFF" if mode == "I" else "PNG")
    assert load_region_mask(source, (4, 6)).sum() == 6


def test_what_is_transparent_is_not_in_the_region():
    picture = Image.new("RGBA", (6, 4), (255, 255, 255, 0))
    picture.putpixel((2, 1), (255, 255, 255, 255))
    assert load_region_mask(encoded(picture), (4, 6)).nonzero().tolist() == [[1, 2]]


def test_an_empty_region_mask_is_an_error():
    with pytest.raises(RegionError, match="empty"):
        load_region_mask(encoded(Image.new("L", (6, 4))), (4, 6))


def test_a_region_mask_of_another_size_is_an_error_with_both_sizes():
    with pytest.raises(RegionError, match="6x4 pixels and the picture 4x6"):
        load_region_mask(encoded(white_square()), (6, 4))


def test_a_region_mask_that_is_no_picture_is_an_image_error():
    with pytest.raises(ImageError):
        load_region_mask(b"nothing", (4, 6))
