import numpy as np
import pytest
import torch

from adapters.components import Cleanup, Parts, clean, drop_specks, fill_holes, part_at
from qformer.contracts import LoupeError


def flood(inside):
    """The parts by the book: grow each from a pixel. Returns sizes, sorted."""
    left, sizes = {tuple(place) for place in np.argwhere(inside)}, []
    while left:
        edge, size = [left.pop()], 0
        while edge:
            y, x = edge.pop()
            size += 1
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            edge += around
        sizes.append(size)
    return sorted(sizes)


@pytest.mark.parametrize("seed", range(40))
def test_parts_are_those_of_a_flood_fill(seed):
    random = np.random.default_rng(seed)
    inside = random.random(random.integers(1, 15, 2)) < random.random()
    parts = Parts(inside)
    assert sorted(parts.areas) == flood(inside)
    for number, area in enumerate(parts.areas):
        pixels = parts.pixels(np.arange(len(parts.areas)) == number)
        assert pixels.sum() == area
        assert flood(pixels) == [area]
        assert (pixels <= inside).all()


def ring():
    inside = np.zeros((12, 20), bool)
    inside[2:10, 2:10] = True
    inside[5:7, 5:7] = False  # a hole of 4
    inside[0, 18:20] = True  # a speck of 2
    return inside


def test_a_hole_is_filled_and_a_speck_removed():
    cleaned = clean(torch.from_numpy(ring()), Cleanup(holes=5, specks=3)).numpy()
    assert cleaned[5:7, 5:7].all()
    assert not cleaned[0].any()
    assert cleaned.sum() == 64


def test_what_is_as_large_as_the_limit_stays():
    inside = ring()
    assert fill_holes(inside, 4) is inside
    assert drop_specks(inside, 2) is inside
    assert clean(torch.from_numpy(inside), Cleanup(0, 0)).numpy().sum() == inside.sum()


def test_the_largest_part_stays_however_small():
    inside = np.zeros((9, 9), bool)
    inside[1, 1], inside[4, 4:6] = True, True
    assert drop_specks(inside, 100).nonzero() == (pytest.approx([4, 4]), pytest.approx([4, 5]))


def test_a_full_and_an_empty_mask_are_left_alone():
    for value in (False, True):
        inside = torch.full((5, 7), value)
        assert (clean(inside, Cleanup(99, 99)) == inside).all()


def test_a_negative_limit_is_an_error():
    with pytest.raises(LoupeError, match="holes=-1"):
        Cleanup(holes=-1)


def test_cleaning_around_the_region_is_cleaning_the_picture():
    generator = np.random.default_rng(0)
    for holes, specks in ((5, 5), (0, 30), (30, 0), (12, 40)):
        noise = generator.random((90, 120)) < 0.5
        noise[:30], noise[:, 80:] = False, False
        whole = drop_specks(fill_holes(noise, holes), specks)
        cleaned = clean(torch.from_numpy(noise), Cleanup(holes, specks))
        assert (cleaned.numpy() == whole).all()


@pytest.mark.parametrize("seed", range(20))
def test_the_part_at_a_point_is_the_nearest_one_within_reach(seed):
    random = np.random.default_rng(seed)
    inside = random.random(random.integers(2, 15, 2)) < 0.3
    x, y = random.random(2) * inside.shape[::-1]
    parts, away = Parts(inside), []
    for number in range(len(parts.areas)):
        rows, columns = np.nonzero(parts.pixels(np.arange(len(parts.areas)) == number))
        across = np.maximum(np.abs(columns + 0.5 - x), np.abs(rows + 0.5 - y)) - 0.5
        away.append(across.min())
    if not away:
        assert part_at(inside, x, y, 99) is None
        return
    found = part_at(inside, x, y, min(away))
    assert flood(found) == [found.sum()]
    assert (found <= inside).all()
    assert found.sum() in parts.areas[np.isclose(away, min(away))]
    assert part_at(inside, x, y, min(away) - 0.01) is None
