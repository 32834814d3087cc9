"""Regions of data sets: none ends the process, and none lies where nobody drew it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.coco import annotation, read_region
from adapters.rle import fill_polygons
from qformer.contracts import LoupeError, RegionError
from qformer.proposals import Proposal
from train.config import read_config
from train.data.inspect import main as data_main
from train.data.readers import read
from train.data.sample import Area, Tally
from train.data.source import DataConfig
from train.segmenter.data import read_pictures

SIZE = (40, 60)
SQUARE = [5, 5, 25, 5, 25, 20, 5, 20]
KILLERS = [
    [5, 5, 1e9, 5, 25, 20], [5, 5, 25, -1e8, 25, 20], [float("nan"), 0, 3, 0, 3, 3],
    [0, 0, float("inf"), 0, 3, 3], [0, 0, 10**400, 0, 3, 3], [0, 0, "1", 0, 3, 3], [0, 0, None] * 2,
    [0.0, 0.0, 9e5, 9e5] * 20,
]  # fmt: skip


@pytest.mark.parametrize("polygon", KILLERS)
def test_a_polygon_that_would_end_the_process_is_refused(polygon, tmp_path):
    with pytest.raises(RegionError):
        fill_polygons([SQUARE, polygon], SIZE)
    (tmp_path / "r.json").write_text(json.dumps([polygon]))
    with pytest.raises(RegionError):
        read_region(tmp_path / "r.json", SIZE)
    held = instances([{"segmentation": [polygon]}])
    assert sum(write(tmp_path, held).reasons.values()) == 1
    assert data_main(["check", "coco-instances", str(tmp_path)]) == 1


def test_a_box_beyond_all_numbers_is_cut_off_at_the_picture():
    assert Area(box=(-1e300, 5, 1e300, 20)).region_mask(SIZE).sum() == 15 * 60


def instances(annotations, width=60, height=40, **image):
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height, **image}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 15], **one}
            for n, one in enumerate(annotations)
        ],
    }


def write(folder, held, size=SIZE, encoding="utf-8"):
    """The data set beside its picture, read; what was bad."""
    Image.new("RGB", size[::-1]).save(folder / "a.png")
    (folder / "instances.json").write_bytes(json.dumps(held).encode(encoding))
    tally = Tally()
    for sample in read(DataConfig("coco-instances", str(folder)), tally):
        with tally.use(sample.id):
            shape = sample.picture.load().shape[:2]
            write.areas = [area.region_mask(tuple(shape)) for area in sample.areas]
    return tally


def test_regions_are_scaled_to_a_picture_that_was_shrunk(tmp_path):
    tally = write(tmp_path, instances([{"segmentation": [SQUARE]}, {}]), (20, 30))
    assert not tally.bad
    wanted = torch.zeros(20, 30, dtype=torch.bool)
    wanted[2:10, 2:13] = True  # 2.5 to 10 and to 12.5, whole pixels
    assert write.areas[1].equal(wanted)
    assert (write.areas[0] & ~wanted).sum() == 0
    assert write.areas[0].sum() > 60


@pytest.mark.parametrize("size", [(60, 40), (40, 40)])
def test_regions_of_a_picture_that_was_turned_or_cropped_are_counted(tmp_path, size):
    tally = write(tmp_path, instances([{"segmentation": [SQUARE]}, {}]), size)
    (reason,) = tally.reasons
    assert "drawn on 60 x 40 pixels, not on" in reason


def test_a_line_of_ones_own_data_may_state_its_size_too(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    line = {"image": "a.png", "text": "a", "regions": [{"box": [6, 6, 20, 20]}]}
    (tmp_path / "data.jsonl").write_text(json.dumps({**line, "width": 60, "height": 40}))
    (sample,) = read(DataConfig("folder", str(tmp_path)))
    assert sample.areas[0].on((20, 30)).box == (3, 3, 10, 10)


def test_what_is_not_whole_is_counted_and_the_rest_is_learned(tmp_path):
    held = instances([{"segmentation": [SQUARE]}])
    held["images"] += [None, {"file_name": "b.png"}, {"id": None}, {"id": [1]}]
    held["annotations"] += [None, {}, {"image_id": 7}, {"image_id": 1, "segmentation": None}]
    held["annotations"] += [{"image_id": 1, "segmentation": [[1, 2, None, 4, 5, 6]], "id": 9}]
    held["categories"] += [None, {"id": 2, "name": None}]
    write(tmp_path, held)
    tally = Tally()
    (pictured,) = read_pictures(tmp_path / "instances.json", tmp_path, tally)
    assert [area.polygons for area in pictured.areas] == [(tuple(SQUARE),)]
    assert tally.bad == 8
    lvis = instances([{"segmentation": [SQUARE]}], coco_url="http://x/val2017/a.png")
    del lvis["images"][0]["file_name"]
    write(tmp_path, lvis)
    assert read_pictures(tmp_path / "instances.json", tmp_path)[0].file == tmp_path / "a.png"
    (tmp_path / "instances.json").write_text('{"images": {}, "annotations": null}')
    with pytest.raises(LoupeError, match="no COCO data set"):
        read_pictures(tmp_path / "instances.json", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_fault(tmp_path, encoding):
    assert not write(tmp_path, instances([{"segmentation": [SQUARE]}]), encoding=encoding).bad
    assert read_pictures(tmp_path / "instances.json", tmp_path)
    line = json.dumps({"image": "a.png", "text": "a"}) + "\n"
    (tmp_path / "data.jsonl").write_bytes((line * 2).encode(encoding))
    assert len([*read(DataConfig("folder", str(tmp_path)))]) == 2
    (tmp_path / "c.toml").write_bytes('format = "folder"\npath = "x"\n'.encode(encoding))
    assert read_config(DataConfig, tmp_path / "c.toml").path == "x"


def test_the_area_of_polygons_is_what_they_cover():
    from pycocotools import mask as coco

    ring = torch.zeros(SIZE, dtype=torch.bool)
    ring[5:35, 5:45] = True
    ring[10:20, 10:25] = False
    held = annotation(Proposal.of(ring, 1.0), "polygons")
    codes = coco.frPyObjects(held["segmentation"], *SIZE)
    assert held["area"] == coco.area(coco.merge(codes)) == 1200
    assert annotation(Proposal.of(ring, 1.0))["area"] == 1050


def test_a_polygon_of_two_corners_is_named_as_that(tmp_path):
    (tmp_path / "line.json").write_text(json.dumps({"segmentation": [SQUARE, [30, 10, 30, 12]]}))
    with pytest.raises(RegionError, match=r"line\.json: a polygon has 4 numbers"):
        read_region(tmp_path / "line.json", SIZE)


def test_many_polygons_take_no_square_of_time():
    corners = np.random.default_rng(0).random((20_000, 6)) * 8000
    corners[:, 2:] = np.tile(corners[:, :2], 2) + np.array([9, 0, 0, 9])
    assert fill_polygons(corners.tolist(), (8000, 8000)).any()
