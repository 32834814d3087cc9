"""Pictures are what a browser shows, and are refused before their pixels are held."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from profiles import ADOBE_RGB, D65, DISPLAY_P3, SRGB, profile

from adapters.images import load_image, load_region_mask
from qformer.contracts import ImageError, RegionError


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(width, height, depth, colour, rows, *chunks):
    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("kind", range(1, 9))
@pytest.mark.parametrize("tag", [(0x011A, 2), (0x0131, 12), (0x0110, 10)])
def test_an_orientation_is_kept_beside_a_tag_of_a_wrong_type(kind, tag):
    number, wrong = tag
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, kind, 0)
    other = struct.pack(">HHII", number, wrong, 1, 0x61620000)
    entries = sorted([entry, other], key=lambda one: one[:2])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + b"".join(entries) + b"\0\0\0\0" + bytes(8)
    rows = np.zeros((4, 6, 3), np.uint8)
    rows[0, 0] = 255
    image = load_image(encoded(Image.fromarray(rows), "PNG", exif=exif)).numpy()
    turned = {
        1: rows, 2: rows[:, ::-1], 3: rows[::-1, ::-1], 4: rows[::-1],
        5: rows.swapaxes(0, 1), 6: np.rot90(rows, -1), 7: np.rot90(rows, 2).swapaxes(0, 1),
        8: np.rot90(rows),
    }  # fmt: skip
    assert (image == turned[kind]).all()


def test_an_orientation_that_only_xmp_states_turns_nothing_as_in_browsers():
    packet = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    image = load_image(encoded(Image.new("RGB", (6, 4)), "WEBP", xmp=packet))
    assert image.shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (png(2, 1, 16, 0, [b"\0\0\x40\0"], (b"tRNS", b"\0\0")), [255, 64]),
        (png(2, 1, 16, 0, [b"\x80\x01\x80\x02"], (b"tRNS", b"\x80\x01")), [255, 128]),
        (png(4, 1, 4, 0, [b"\x12\x34"], (b"tRNS", b"\0\x01")), [255, 34, 51, 68]),
        (png(4, 1, 2, 0, [b"\x1b"], (b"tRNS", b"\0\x01")), [0, 255, 170, 255]),
        (png(1, 1, 16, 2, [b"\x10\x01" * 3], (b"tRNS", b"\x10\x01" * 3)), [255]),
        # more transparent values than the palette has colours: browsers count none
        (png(2, 1, 8, 3, [b"\0\1"], (b"PLTE", b"\1\1\1\2\2\2"), (b"tRNS", bytes(4))), [1, 2]),
        (png(2, 1, 8, 0, [b"\0\x80"], (b"gAMA", struct.pack(">I", 100_000))), [0, 188]),
        (png(2, 1, 8, 0, [b"\0\x80"], (b"gAMA", struct.pack(">I", 45_455))), [0, 128]),
    ],
)
def test_a_png_is_shown_as_it_states(file, shown):
    assert load_image(file)[0, :, 0].tolist() == shown


def in_srgb(primaries, stored, gamma=2.2):
    """By the definition of both: to light, to XYZ, to sRGB's light, to its levels; cut off."""
    to_xyz = []
    for one in (primaries, SRGB):
        columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in one]).T
        to_xyz.append(columns * np.linalg.solve(columns, D65))
    light = np.linalg.solve(to_xyz[1], to_xyz[0] @ (np.array(stored) / 255) ** gamma).clip(0, 1)
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * levels).astype(int).tolist()


@pytest.mark.parametrize(
    ("primaries", "stored"),
    [
        (DISPLAY_P3, (255, 0, 0)),
        (DISPLAY_P3, (200, 60, 60)),
        (ADOBE_RGB, (60, 200, 60)),
        (ADOBE_RGB, (128, 128, 128)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_follow_the_embedded_profile(primaries, stored, form):
    shown = in_srgb(primaries, stored)
    picture = Image.new("RGB", (16, 16), stored)
    lossless = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    file = encoded(picture, form, icc_profile=profile(primaries), **lossless)
    found = load_image(file)[8, 8].tolist()
    assert max(abs(a - b) for a, b in zip(found, shown, strict=True)) <= 4
    alpha = picture.convert("RGBA")
    if form == "PNG":
        assert load_image(encoded(alpha, icc_profile=profile(primaries)))[8, 8].tolist() == found


def test_a_profile_that_is_damaged_or_of_grey_changes_no_colour():
    for bad in (b"nonsense", profile(DISPLAY_P3)[:200]):
        file = encoded(Image.new("RGB", (4, 4), (200, 60, 60)), icc_profile=bad)
        assert load_image(file)[0, 0].tolist() == [200, 60, 60]


def test_a_heic_photo_says_what_to_do_and_jfif_is_read(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ImageError, match=r"a\.heic is a HEIC photo.*save it as JPEG"):
        load_image(tmp_path / "a.heic")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jfif", "JPEG")
    assert load_image(tmp_path / "a.jfif").shape == (4, 4, 3)


@pytest.mark.parametrize("size", [(20000, 32946), (8000, 8000)])
def test_a_tiff_of_too_many_pixels_or_tiles_is_refused_before_its_tiles_are_listed(
    size, monkeypatch
):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in ((256, size[0]), (257, size[1]), (258, 16), (259, 1), (262, 1), (277, 1),
                          (322, 16), (323, 16), (324, 8), (325, 8)):  # fmt: skip
        tags[number] = value
    file = io.BytesIO()
    file.write(b"II*\0\x08\0\0\0")
    file.write(tags.tobytes(8))
    monkeypatch.setattr("PIL.Image.open", lambda *a, **k: pytest.fail("opened before the check"))
    with pytest.raises(ImageError, match=r"659 MP|tiles"):
        load_image(file.getvalue())


def voc(numbers):
    """A mask with Pascal VOC's palette: 1 dark red, 2 dark green, 255 the unclear border."""
    picture = Image.fromarray(np.array(numbers, np.uint8)).convert("P")
    palette = bytearray(768)
    palette[3:9] = bytes([128, 0, 0, 0, 128, 0])
    palette[765:] = bytes([224, 224, 192])
    made = Image.frombytes("P", picture.size, np.array(numbers, np.uint8).tobytes())
    made.putpalette(bytes(palette))
    return made


BLOCKS = np.kron([[0, 1], [255, 1]], np.ones((4, 4), int))


def test_a_palette_mask_is_its_number_not_the_brightest_colour():
    assert (load_region_mask(encoded(voc(BLOCKS)), (8, 8)).numpy() == (BLOCKS == 1)).all()
    with pytest.raises(RegionError, match=r"2 regions, of the values 1, 2"):
        load_region_mask(encoded(voc(np.where(BLOCKS == 255, 2, BLOCKS))), (8, 8))


@pytest.mark.parametrize("other", [2, 128, 255])
def test_a_grey_mask_of_several_numbers_is_refused(other):
    rows = np.where(BLOCKS == 255, other, BLOCKS).astype(np.uint8)
    with pytest.raises(RegionError, match=f"2 regions, of the values 1, {other}"):
        load_region_mask(encoded(Image.fromarray(rows)), (8, 8))


def test_a_soft_edge_is_no_second_region():
    rows = np.zeros((9, 9), np.uint8)
    rows[1:8, 1:8] = 120
    rows[2:7, 2:7] = 255
    found = load_region_mask(encoded(Image.fromarray(rows)), (9, 9))
    assert (found.numpy() == (rows == 255)).all()
