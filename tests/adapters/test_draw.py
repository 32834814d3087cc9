import numpy as np
from PIL import Image

from adapters import draw


def disc(height=40, width=60, radius=10):
    rows, columns = np.mgrid[:height, :width]
    return (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < radius**2


def test_an_overlay_marks_the_region_and_leaves_the_rest():
    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    shown = np.asarray(draw.overlay(image, [(1, disc())]))
    assert shown.shape == image.shape
    assert (image == 200).all()
    assert (shown[:5, :5] == 200).all()
    assert not (shown[20, 30] == 200).all()


def test_an_overlay_survives_the_smallest_picture():
    shown = draw.overlay(np.zeros((1, 1, 3), dtype=np.uint8), [(1, np.ones((1, 1), dtype=bool))])
    assert shown.size == (1, 1)


def test_the_smallest_region_does_not_vanish_when_shrunk():
    region_mask = np.zeros((400, 600), dtype=bool)
    region_mask[200, 300] = True
    assert draw.resize_region_mask(region_mask, (60, 40)).any()


def test_neighbouring_numbers_differ_in_colour():
    colours = [draw.colour(number) for number in range(1, 9)]
    assert len(set(colours)) == 8
    assert draw.colour(9) == draw.colour(1)


def test_a_large_picture_is_shown_smaller_and_in_proportion():
    assert draw.displayed_size((4000, 3000)) == (1600, 1200)
    assert draw.displayed_size((5000, 1)) == (1600, 1)
    assert draw.displayed_size((30, 20)) == (30, 20)


def test_a_region_mask_is_resized_as_the_whole_sheet_would_be():
    generator = np.random.default_rng(0)
    for _ in range(20):
        height, width = generator.integers(20, 300, 2)
        area = np.zeros((height, width), dtype=bool)
        y, x = generator.integers(0, height - 10), generator.integers(0, width - 10)
        area[y : y + 40, x : x + 30] = True
        size = (int(width) // 2 + 1, int(height) // 3 + 1)
        sheet = Image.fromarray(area.astype(np.uint8) * 255)
        shares = np.asarray(sheet.resize(size, Image.Resampling.BOX))
        # A pixel that is half covered may fall either way.
        assert (draw.resize_region_mask(area, size) != (shares >= 128)).sum() <= 1
    assert not draw.resize_region_mask(np.zeros((9, 9), dtype=bool), (4, 4)).any()
