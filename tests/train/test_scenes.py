import math

import numpy as np
import pytest

from train.embedded.pool import clumsy
from train.scenes.dialogue import painted_scene
from train.scenes.questions import TYPES
from train.scenes.render import paint
from train.scenes.scene import COLOURS, HELD_OUT, KINDS, TEXTURES, Item, Scene, sample_scene


def drawn(seed, pairs="seen"):
    return painted_scene(np.random.default_rng(seed), pairs)


def test_the_same_seed_paints_the_same_picture():
    for seed in range(5):
        (scene, picture, masks), (again, copy, others) = drawn(seed), drawn(seed)
        assert scene == again
        assert (picture == copy).all()
        assert (masks == others).all()
    assert drawn(0)[0] != drawn(1)[0]


def test_pairs_held_out_are_neither_shown_nor_named():
    assert {kind for kind, _ in HELD_OUT} == set(KINDS)
    held_out = [f"{colour} {kind}" for kind, colour in HELD_OUT]
    for seed in range(150):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        assert not {item.pair for item in scene.items} & HELD_OUT
        for make in TYPES.values():
            question = make(scene, rng)
            said = f"{question.text} {question.answer} {question.evidence}" if question else ""
            assert not [pair for pair in held_out if pair in said], said


def test_pictures_of_held_out_pairs_hold_one():
    for seed in range(60):
        scene = sample_scene(np.random.default_rng(seed), "held_out")
        assert {item.pair for item in scene.items} & HELD_OUT


def test_scenes_vary():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(300)]
    items = [item for scene in scenes for item in scene.items]
    assert {len(scene.items) for scene in scenes} == {1, 2, 3, 4, 5, 6}
    assert {item.kind for item in items} == set(KINDS)
    assert {item.colour for item in items} == set(COLOURS)
    assert {item.texture for item in items} == set(TEXTURES)
    aspects = [scene.width / scene.height for scene in scenes]
    assert min(aspects) < 0.7
    assert max(aspects) > 1.4


def test_visible_masks_do_not_overlap_and_lie_where_the_items_stand():
    for seed in range(40):
        scene, picture, masks = drawn(seed)
        assert picture.shape == (scene.height, scene.width, 3)
        assert picture.dtype == np.uint8
        assert masks.shape == (len(scene.items), scene.height, scene.width)
        assert masks.sum(0).max() <= 1
        assert scene.areas == tuple(masks.sum((1, 2)))
        for item, mask in zip(scene.items, masks, strict=True):
            ys, xs = np.nonzero(mask)
            reach = item.half * math.sqrt(scene.width * scene.height) + 6  # and an outline
            assert np.abs(xs - item.x * scene.width).max() <= reach
            assert np.abs(ys - item.y * scene.height).max() <= reach


def test_what_is_painted_later_lies_on_top():
    under = Item("square", "red", "solid", 0.45, 0.5, 0.15)
    over = Item("circle", "green", "solid", 0.55, 0.5, 0.15)
    alone = paint(Scene((over,), 160, 160, 0))[1][0]
    both = paint(Scene((under, over), 160, 160, 0))[1]
    assert abs(int(both[1].sum()) - int(alone.sum())) < 0.2 * alone.sum()
    assert both[0].sum() < 0.8 * paint(Scene((under,), 160, 160, 0))[1][0].sum()


@pytest.mark.parametrize(
    ("half", "size", "clear"),
    [
        (0.06, "small", False),
        (0.068, "small", True),
        (0.086, "small", True),
        (0.0979, "small", False),
        (0.0981, "medium", False),
        (0.112, "medium", True),
        (0.136, "medium", True),
        (0.1519, "medium", False),
        (0.1521, "large", False),
        (0.172, "large", True),
        (0.208, "large", True),
        (0.24, "large", False),
    ],
)
def test_size_words_have_bands_with_gaps_between(half, size, clear):
    item = Item("cat", "red", "solid", 0.5, 0.5, half)
    assert (item.size, item.clear_size) == (size, clear)


def test_clumsy_masks_are_a_pixel_off_at_most():
    masks = drawn(3)[2]
    bent = [clumsy(masks, seed) for seed in range(8)]
    assert any((a != b).any() for row in bent for a, b in zip(row, masks, strict=True))
    for row in bent:
        for ours, mask in zip(row, masks, strict=True):
            assert ours.any() == mask.any()
            grown = np.pad(mask, 1)
            near = np.max(
                [np.roll(grown, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)], 0
            )
            assert not (ours & ~near[1:-1, 1:-1]).any()
