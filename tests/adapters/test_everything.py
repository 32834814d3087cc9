from pathlib import Path

import pytest
import torch

from adapters.boxes import near_crop_edge, suppress
from adapters.everything import crops, tidy
from adapters.images import load_image
from adapters.segmenters import open_segmenter
from qformer.contracts import LoupeError
from qformer.proposals import Everything, Proposal

EXAMPLES = Path(__file__).resolve().parents[2] / "demo" / "examples"


def test_a_worse_box_that_overlaps_goes_and_equals_keep_the_first():
    boxes = [(0, 0, 11, 11), (0, 0, 11, 10), (30, 0, 41, 11), (30, 0, 41, 11)]
    assert suppress(boxes, [0.5, 0.9, 0.7, 0.7], 0.7) == [1, 2]
    assert suppress(boxes, [0.5, 0.9, 0.7, 0.7], 1.0) == [1, 2, 3, 0]


def test_boxes_of_no_area_all_stay():
    assert suppress([(3, 3, 4, 4)] * 2, [0.1, 0.2], 0.7) == [1, 0]


def test_crops_cover_the_picture_and_overlap():
    looked = crops((300, 400), Everything(8, crop_n_layers=1, crop_n_points_downscale_factor=2))
    assert [len(crop.points) for crop in looked] == [64, 16, 16, 16, 16]
    assert looked[0].box == (0, 0, 400, 300)
    seen = torch.zeros(300, 400)
    for crop in looked[1:]:
        x0, y0, x1, y1 = crop.box
        seen[y0:y1, x0:x1] += 1
    assert seen.min() == 1
    assert seen.max() == 4
    middle = looked[0].points.mean(0)
    torch.testing.assert_close(middle, torch.tensor([200.0, 150.0], dtype=middle.dtype))


def test_what_a_crop_cuts_off_is_told_from_what_the_picture_cuts_off():
    crop, size = (0, 0, 200, 150), (300, 400)
    assert near_crop_edge((100, 50, 195, 100), crop, size)  # the picture goes on at the right
    assert not near_crop_edge((0, 0, 100, 100), crop, size)
    assert not near_crop_edge((50, 50, 400, 300), (0, 0, 400, 300), size)


def test_tidied_areas_that_became_alike_leave_the_untouched_one():
    whole = torch.zeros(60, 60, dtype=torch.bool)
    whole[10:50, 10:50] = True
    holed = whole.clone()
    holed[20:22, 20:22] = False
    found = [Proposal.of(holed, 0.99), Proposal.of(whole, 0.9)]
    kept = tidy(found, Everything(min_mask_region_area=10))
    assert [one.score for one in kept] == [0.9]
    (alone,) = tidy(found[:1], Everything(min_mask_region_area=10))
    assert alone.area == 1600


def test_what_the_settings_leave_open_is_the_models_own():
    asked = Everything(points_per_batch=3, pred_iou_thresh=0.0)
    filled = asked.over(Everything(9, 9, 0.9, 0.8, 0.7)).over(Everything(1, 1, 1.0, 1.0, 1.0))
    assert (filled.points_per_side, filled.points_per_batch) == (9, 3)
    assert (filled.pred_iou_thresh, filled.stability_score_thresh) == (0.0, 0.8)


def test_the_embedded_segmenter_finds_the_things_of_a_picture_of_its_kind():
    """With thresholds of its own: SAM's would leave next to nothing."""
    segmenter = open_segmenter("embedded")
    assert segmenter.settings().stability_score_offset == 0.5
    picture = load_image(EXAMPLES / "shapes.png")
    found = segmenter.everything(picture, Everything(8))
    large = [one for one in found if one.score > 0.9 and one.area > 500]
    assert len(large) >= 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points_per_side", 0),
        ("points_per_side", 300),
        ("points_per_batch", 0),
        ("pred_iou_thresh", 1.5),
        ("stability_score_thresh", -0.1),
        ("crop_n_layers", 9),
        ("crop_overlap_ratio", 1.0),
        ("min_mask_region_area", -1),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(LoupeError, match=name):
        Everything(**{name: value})
