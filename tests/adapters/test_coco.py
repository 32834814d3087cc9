import json

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.coco import (
    annotation,
    polygons,
    read_dataset,
    read_region,
    record,
    write_region,
)
from adapters.components import fill_holes
from adapters.rle import fill_polygons
from qformer.contracts import LoupeError, RegionError
from qformer.proposals import Proposal

SIZE = (24, 31)


def blobs(seed):
    noise = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, SIZE, mode="bilinear")[0, 0] > 0


@pytest.mark.parametrize("seed", range(12))
def test_polygons_are_what_coco_fills_to_the_same_area(seed):
    region_mask = blobs(seed)
    outside = np.pad(region_mask.numpy(), 60)  # so that only real holes are small
    filled = fill_holes(outside, 3000)[60:-60, 60:-60]
    assert (fill_polygons(polygons(region_mask), SIZE).numpy() == filled).all()


def test_parts_that_touch_at_a_corner_are_polygons_of_their_own():
    region_mask = torch.zeros(4, 4, dtype=torch.bool)
    region_mask[0, 0] = region_mask[1, 1] = True
    assert polygons(region_mask) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]


def test_run_lengths_are_pycocotools():
    from pycocotools import mask as coco

    region_mask = blobs(3)
    held = annotation(Proposal.of(region_mask, 0.9))
    theirs = coco.encode(np.asfortranarray(region_mask.numpy().astype(np.uint8)))
    assert held["segmentation"]["counts"] == theirs["counts"].decode()
    assert held["bbox"] == coco.toBbox(theirs).tolist()
    assert held["area"] == coco.area(theirs)


def test_a_record_says_what_sams_generator_says():
    one = Proposal.of(blobs(1), 0.91, stability=0.97, point=(3.0, 4.0), crop=(0, 0, 31, 24))
    told = record(one)
    assert told["predicted_iou"] == 0.91
    assert told["stability_score"] == 0.97
    assert told["point_coords"] == [[3.0, 4.0]]
    assert told["crop_box"] == [0, 0, 31, 24]


@pytest.mark.parametrize("form", ["png", "rle", "polygons"])
def test_a_region_is_read_as_it_was_written(tmp_path, form):
    region_mask = torch.zeros(SIZE, dtype=torch.bool)
    region_mask[3:9, 5:20] = True
    file = tmp_path / ("a.png" if form == "png" else "a.json")
    write_region(region_mask, file, form, score=0.5)
    assert (read_region(file, SIZE) == region_mask).all()


@pytest.mark.parametrize(
    "held",
    [
        {"points": [[3, 4, 1]], "box": [1, 2, 9, 9]},
        [[3, 4], [5, 6, 0]],
    ],
)
def test_points_in_a_file_are_a_prompt(tmp_path, held):
    (tmp_path / "p.json").write_text(json.dumps(held))
    prompt = read_region(tmp_path / "p.json", SIZE)
    assert prompt["points"][0] == [3, 4, 1]
    assert prompt["points"][-1][2] == (0 if isinstance(held, list) else 1)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ("{", "not readable JSON"),
        ('{"size": [5, 5], "counts": [25]}', "drawn on 5 x 5 pixels, not on 31 x 24"),
        ('{"size": [24, 31], "counts": [744]}', "covers no pixel"),
        ("[[1, 2, 3, 4, 5]]", "p.json: a polygon has 5 numbers"),
        ("[[1, 1, 5, 1, 5, 4, 9]]", "three corners"),
        ("[]", "is no region"),
        ('"cat"', "is no region"),
        ('{"segmentation": {"counts": "24"}}', "run-length code needs"),
    ],
)
def test_a_file_that_holds_no_region_says_so(tmp_path, held, says):
    (tmp_path / "p.json").write_text(held)
    with pytest.raises(RegionError, match=says):
        read_region(tmp_path / "p.json", SIZE)


def test_a_mask_of_another_size_is_refused(tmp_path):
    Image.new("L", (7, 9), 255).save(tmp_path / "m.png")
    with pytest.raises(RegionError, match="7x9 pixels and the picture 31x24"):
        read_region(tmp_path / "m.png", SIZE)


def test_what_is_no_data_set_is_named(tmp_path):
    with pytest.raises(LoupeError, match="there is no file"):
        read_dataset(tmp_path / "none.json")
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(LoupeError, match="no COCO data set"):
        read_dataset(tmp_path / "some.json")
