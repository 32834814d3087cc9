"""Colours by pixels."""

import numpy as np
import pytest

from train.photos.colours import COLOURS, colour_index, colour_of

SHOWN = {
    "black": [(10, 10, 12), (38, 36, 35)],
    "white": [(245, 245, 240), (225, 228, 230)],
    "grey": [(128, 128, 128), (100, 102, 104)],
    "red": [(200, 30, 30), (139, 0, 0), (230, 20, 60)],
    "orange": [(255, 140, 0), (240, 120, 30)],
    "yellow": [(250, 220, 40), (230, 200, 60)],
    "green": [(40, 120, 50), (85, 107, 47), (120, 220, 60)],
    "blue": [(40, 80, 200), (0, 0, 128), (135, 206, 235), (70, 90, 130)],
    "purple": [(128, 0, 128), (138, 43, 226), (150, 120, 200)],
    "pink": [(255, 192, 203), (255, 105, 180)],
    "brown": [(101, 67, 33), (139, 69, 19), (120, 80, 50)],
}
BETWEEN = [(210, 180, 140), (224, 172, 140), (0, 128, 128)]  # tan, skin, teal


@pytest.mark.parametrize("name", COLOURS)
def test_plain_colours_are_named(name):
    indices = colour_index(np.array(SHOWN[name]))
    assert [COLOURS[index] for index in indices] == [name] * len(indices)


def test_what_people_name_differently_has_no_name():
    assert (colour_index(np.array(BETWEEN)) == -1).all()


def picture_of(share: float) -> np.ndarray:
    """Red from the left as far as `share` goes, blue beyond."""
    picture = np.full((50, 100, 3), (30, 60, 200), np.uint8)
    picture[:, : round(100 * share)] = (200, 20, 20)
    return picture


def test_a_region_has_a_colour_only_if_one_clearly_dominates():
    assert colour_of(picture_of(0.8)) == "red"
    assert colour_of(picture_of(0.55)) is None
    assert colour_of(picture_of(0.1)) == "blue"


def test_only_the_inside_of_the_region_counts():
    picture, region_mask = picture_of(0.5), np.zeros((50, 100), bool)
    region_mask[10:40, 20:50] = True
    assert colour_of(picture, region_mask) == "red"
    thin = np.zeros((50, 100), bool)
    thin[10:13, 5:95] = True
    assert colour_of(picture, thin) is None
