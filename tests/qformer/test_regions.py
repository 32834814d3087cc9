import math

import pytest
import torch

from qformer.contracts import RegionError
from qformer.regions import (
    GEOMETRY_FEATURES,
    Region,
    RegionConfig,
    box_geometry,
    focal_box,
    focal_crop,
    geometry,
    geometry_features,
    patch_bias,
    patch_coverage,
)


def rectangle(height, width, x0, y0, x1, y1):
    region_mask = torch.zeros(height, width, dtype=torch.bool)
    region_mask[y0:y1, x0:x1] = True
    return region_mask


def test_an_empty_region_says_what_to_do():
    with pytest.raises(RegionError, match="covers no pixel: click again, or ask without a region"):
        Region(torch.zeros(4, 5, dtype=torch.bool), "region 1")


@pytest.mark.parametrize("region_mask", [torch.ones(4, 5), torch.ones(1, 4, 5, dtype=torch.bool)])
def test_a_region_mask_is_bool_and_flat(region_mask):
    with pytest.raises(RegionError, match=r"bool tensor \(height, width\)"):
        Region(region_mask, "region 1")


def test_a_region_knows_its_box_and_area():
    region = Region(rectangle(20, 30, 3, 4, 10, 6), "region 1")
    assert region.box == (3, 4, 10, 6)
    assert region.area == 14


def test_coverage_is_the_share_of_each_stretched_patch():
    coverage = patch_coverage(rectangle(4, 8, 0, 0, 3, 1), (2, 4))  # patches are 2 x 2 pixels
    assert coverage.tolist() == [0.5, 0.25, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [(7, 11), (1, 1), (3, 100), (97, 2)])
def test_coverage_of_any_size_adds_up_to_the_area(size):
    torch.manual_seed(0)
    region_mask = torch.rand(size) < 0.4
    region_mask[0, 0] = True
    coverage = patch_coverage(region_mask, (5, 6))
    assert coverage.min() >= 0
    assert coverage.max() <= 1
    torch.testing.assert_close(coverage.mean(), region_mask.float().mean())


def test_a_pixel_beside_a_patch_leaves_it_exactly_uncovered():
    # 0.1 * 3 is not 0.3: patch borders must not leak by rounding
    coverage = patch_coverage(rectangle(30, 30, 3, 3, 6, 6), (10, 10))
    assert coverage.count_nonzero() == 1
    assert coverage[11] == 1


def test_a_dot_on_a_large_picture_is_still_covered():
    assert patch_coverage(rectangle(2000, 3000, 1500, 7, 1501, 8), (16, 16)).count_nonzero() == 1


def test_coverage_takes_a_batch():
    region_masks = torch.stack([rectangle(9, 9, 0, 0, 4, 4), rectangle(9, 9, 5, 2, 9, 9)])
    singly = torch.stack([patch_coverage(one, (4, 4)) for one in region_masks])
    torch.testing.assert_close(patch_coverage(region_masks, (4, 4)), singly)


def test_bias_is_log_coverage_and_hides_what_lies_outside():
    bias = patch_bias(torch.tensor([[1.0, 0.5, 0.0]]), leading=1, hide_leading=True)
    assert bias.tolist() == [[-math.inf, 0.0, pytest.approx(math.log(0.5)), -math.inf]]


def test_leading_tokens_are_hidden_row_by_row():
    bias = patch_bias(torch.ones(2, 3), leading=2, hide_leading=torch.tensor([False, True]))
    assert bias[0].tolist() == [0.0] * 5
    assert bias[1].tolist() == [-math.inf] * 2 + [0.0] * 3


def test_geometry_is_relative_to_the_picture():
    expected = torch.tensor([0.25, 0.5, 0.5, 1.0, 0.5])
    torch.testing.assert_close(box_geometry((0, 0, 20, 10), 200, (10, 40)), expected)
    torch.testing.assert_close(geometry(Region(rectangle(10, 40, 0, 0, 20, 10), "a")), expected)
    assert geometry_features(expected.expand(2, 3, 5)).shape == (2, 3, GEOMETRY_FEATURES)


def test_the_focal_box_grows_by_one_box_and_stays_inside():
    assert focal_box((10, 10, 14, 12), (100, 100)) == (6, 8, 18, 14)
    assert focal_box((0, 97, 4, 100), (100, 100)) == (0, 94, 8, 100)


def test_the_focal_crop_keeps_the_region_and_blurs_the_rest():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8)
    region = Region(rectangle(60, 80, 30, 20, 42, 32), "region 1")
    crop, inside = focal_crop(image, region.region_mask, region.box)
    assert crop.shape == (36, 36, 3)
    assert crop.dtype == torch.uint8
    torch.testing.assert_close(crop[inside], image[20:32, 30:42].reshape(-1, 3))
    original = image[8:44, 18:54]
    assert crop[~inside].float().std() < 0.5 * original[~inside].float().std()


def test_a_one_pixel_picture_has_a_focal_crop():
    crop, inside = focal_crop(
        torch.full((1, 1, 3), 7, dtype=torch.uint8), rectangle(1, 1, 0, 0, 1, 1), (0, 0, 1, 1)
    )
    assert crop.tolist() == [[[7, 7, 7]]]
    assert inside.all()


def test_region_config_checks_itself():
    with pytest.raises(ValueError, match="focal_patches=-1"):
        RegionConfig(focal_patches=-1)
