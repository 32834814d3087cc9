"""Every family on real photos with masks, none of which it has learned: it runs and fits them."""

from pathlib import Path

import pytest
import tiny
import torch

from adapters.coco import area, read_dataset
from adapters.images import load_image
from adapters.registry import SEGMENTERS
from adapters.segmenters import open_segmenter
from qformer.contracts import RegionError, SegmentPrompt
from qformer.proposals import Everything

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_by"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos are not here")
GRID = Everything(3, 9, 0.0, 0.0)


@pytest.fixture(scope="module")
def photos():
    """(picture, one of its things) of the first three."""
    held = read_dataset(PHOTOS / "instances.json")
    things = {one["image_id"]: one for one in held["annotations"] if not one.get("iscrowd")}
    shown = [one for one in held["images"] if one["id"] in things][:3]
    pictures = [load_image(PHOTOS / "images" / one["file_name"]) for one in shown]
    return [
        (picture, area(things[one["id"]]["segmentation"], tuple(picture.shape[:2])))
        for one, picture in zip(shown, pictures, strict=True)
    ]


@pytest.fixture(scope="module", params=["embedded", *(n for n in tiny.SEGMENTER if n != "sam3")])
def segmenter(request, tiny_folder):
    if request.param == "embedded":
        return open_segmenter("embedded")
    return SEGMENTERS[tiny.SEGMENTER[request.param]](tiny_folder(request.param))


def test_photos_are_clicked_boxed_and_looked_through(segmenter, photos):
    for picture, thing in photos:
        ys, xs = torch.where(thing)
        middle = len(xs) // 2
        embedding = segmenter.encode(picture)
        prompts = [
            SegmentPrompt(((float(xs[middle]), float(ys[middle]), 1),)),
            SegmentPrompt(box=(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))),
        ]
        for prompt in prompts:
            try:
                found = segmenter.segment(embedding, prompt)
            except RegionError as refused:
                # One made for painted scenes may say, to a click alone, that nothing stands out.
                if segmenter.click_reach is None or not prompt.points:
                    raise
                assert "nothing stands out at" in str(refused)  # noqa: PT017
                continue
            assert {one.shape for one in found.region_masks} == {thing.shape}
        every = segmenter.everything(picture, GRID, embedding=embedding)
        assert all(one.area == int(one.region_mask.sum()) > 0 for one in every)
