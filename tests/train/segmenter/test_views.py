"""Views of pictures with masks, and how answers are scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.coco import annotation, dataset, write_json
from qformer.contracts import LoupeError, Segmentation
from qformer.proposals import Proposal
from train.segmenter.data import Views, crop, light, paste, read_pictures
from train.segmenter.score import ious, largest, middle


def square(top, left, side, size=(40, 60)):
    inside = np.zeros(size, bool)
    inside[top : top + side, left : left + side] = True
    return inside


@pytest.fixture
def pictures(tmp_path):
    """Three grey pictures, each with a square in its own colour."""
    drawn = []
    for number in range(3):
        inside = square(5 + number, 10 + number, 12)
        pixels = np.full((40, 60, 3), 90, np.uint8)
        pixels[inside] = (250, 60 * number, 20)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        found = [annotation(Proposal.of(torch.tensor(inside), 1.0))]
        drawn.append((f"{number}.png", (40, 60), found))
    write_json(tmp_path / "set.json", dataset(drawn))
    return read_pictures(tmp_path / "set.json", tmp_path)


def test_in_every_view_the_masks_lie_on_what_they_are_of(pictures):
    views = Views(pictures, 3, varied=True)
    sizes, counts = set(), set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pixels, masks = pictures[0].load(3, rng)
        pixels, masks = views.vary(pixels, masks, rng)
        sizes.add(pixels.shape)
        counts.add(len(masks))
        for inside in masks:
            assert inside.shape == pixels.shape[:2]
            deep = inside & np.roll(inside, 1, 0) & np.roll(inside, 1, 1)
            deep &= np.roll(inside, -1, 0) & np.roll(inside, -1, 1)
            values = pixels[deep].astype(int)
            if len(values) and np.ptp(pixels.astype(int), 2).max() > 30:  # not a grey view
                assert (values[:, 0] > values[:, 2] + 20).all()
    assert len(sizes) > 5
    assert counts >= {1, 2}


def test_a_crop_drops_what_is_mostly_outside_and_a_paste_what_is_mostly_covered():
    rng = np.random.default_rng(0)
    pixels = np.zeros((40, 60, 3), np.uint8)
    masks = [square(0, 0, 10), square(25, 45, 12)]
    for _ in range(30):
        part, left = crop(pixels, masks, rng)
        whole = len(left) == 2
        assert whole or len(left) == 1
        assert {one.shape for one in left} == {part.shape[:2]}
        glued, (pasted, *seen) = paste(pixels, masks, pixels + 200, [square(0, 0, 30)], rng)
        assert (glued[pasted] >= 99).all()
        assert not any((one & pasted).any() for one in seen)
        for one in masks:
            if (one & ~pasted).sum() >= 0.25 * one.sum():
                assert any((new == (one & ~pasted)).all() for new in seen)


def test_other_light_leaves_things_where_they_are():
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[3:5, 3:5] = 200
    for seed in range(20):
        lit = light(pixels, np.random.default_rng(seed))
        assert lit.dtype == np.uint8
        assert lit[3:5, 3:5].min() > lit[:3].max()


def test_a_picture_of_more_weight_is_drawn_more_often(pictures):
    heavy = replace(pictures[0], weight=8.0)
    views = Views([heavy, *pictures[1:]], 1, varied=False)
    rng = np.random.default_rng(0)
    drawn = [views.draw(rng)[0] for _ in range(100)]
    assert 65 < drawn.count(heavy.file) < 92


def test_one_bad_file_is_passed_over_and_nothing_but_bad_ones_is_an_error(pictures):
    pictures[0].file.write_text("no picture")
    views = Views(pictures, 1, varied=True)
    assert all(views.draw(np.random.default_rng(seed)) for seed in range(10))
    with pytest.raises(LoupeError, match="no picture of the data set opens"):
        Views(pictures[:1], 1, varied=False).draw(np.random.default_rng(0))


def test_the_middle_is_where_a_thing_is_widest():
    ball_and_handle = square(5, 5, 15)
    ball_and_handle[12, 20:55] = True
    assert middle(ball_and_handle) == (12.5, 12.5)
    ring = square(5, 5, 20)
    ring[9:21, 9:21] = False
    x, y = middle(ring)
    assert ring[int(y), int(x)]
    for one in (square(39, 59, 1), np.ones((1, 1), bool), np.ones((3, 60), bool)):
        x, y = middle(one)
        assert one[int(y), int(x)]


def test_the_largest_wrong_part_is_corrected_next():
    """A segmenter that answers with what was clicked on so far."""
    left, right, beyond = square(2, 2, 12), square(2, 30, 8), square(25, 40, 10)
    goal, asked = left | right, []

    class Echo:
        capabilities = type("", (), {"logits": False})

        def segment(self, embedding, prompt):
            asked.append(prompt)
            found = beyond.copy() if prompt.box is None else goal
            for x, y, label in prompt.points:
                for part in (left, right, beyond):
                    if part[int(y), int(x)]:
                        found = found | part if label else found & ~part
            masks = torch.tensor(found)[None]
            return Segmentation(masks, torch.ones(1), torch.zeros(1, 4, 4), prompt)

    embedding = type("", (), {"size": (40, 60)})
    told = ious(Echo(), embedding, goal, 3)
    assert [len(one.points) for one in asked] == [1, 2, 3, 0]
    assert [label for _, _, label in asked[2].points] == [1, 0, 1]
    assert told["1 click"] == pytest.approx(144 / (144 + 64 + 100))
    assert told["3 clicks"] == told["box"] == 1
    assert asked[3].box == (2, 2, 38, 14)


def test_of_nothing_there_is_no_largest_part():
    assert largest(np.zeros((4, 4), bool)) is None
