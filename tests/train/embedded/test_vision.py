"""What the vision encoder is trained to say of every patch."""

import math

import numpy as np
import pytest
import torch

from adapters.fresh import fresh_vision, save_frozen
from adapters.vision import open_vision_encoder
from qformer.regions import geometry_features
from train.embedded.vision import PLACES, VisionStage, dense_targets
from train.scenes.scene import COLOURS, KINDS, Item, Scene

GRID = 4


@pytest.fixture
def labelled():
    """One item over the right half of the upper half."""
    scene = Scene((Item("star", "green", "solid", 0.75, 0.25, 0.2),), 40, 40, seed=0)
    masks = np.zeros((1, 40, 40), bool)
    masks[0, :20, 20:] = True
    return dense_targets(scene, masks, GRID, None)


def test_a_patch_is_what_it_lies_on(labelled):
    on = torch.zeros(GRID, GRID, dtype=torch.bool)
    on[:2, 2:] = True
    assert labelled["on"].view(GRID, GRID).equal(on)
    kinds = labelled["kind"].view(GRID, GRID)
    assert (kinds[on] == KINDS.index("star")).all()
    assert (kinds[~on] == len(KINDS)).all()
    assert (labelled["colour"].view(GRID, GRID)[~on] == -100).all()
    assert labelled["item_colour"].tolist()[:2] == [COLOURS.index("green"), -100]


def test_a_place_is_told_in_the_waves_of_a_regions_geometry(labelled):
    on = labelled["on"]
    box = torch.tensor([0.75, 0.25, 0.5, 0.5, 0.25])
    torch.testing.assert_close(
        labelled["place"][on], geometry_features(box).expand(int(on.sum()), -1)
    )
    here = labelled["here"].view(GRID, GRID, -1)
    assert here[0, 3, :2].tolist() == [0.875, 0.125]
    assert here[0, 3, 2].item() == pytest.approx(math.sin(math.pi * 0.875), abs=1e-6)


def test_places_and_grey_pictures_come_late():
    torch.manual_seed(0)
    stage = VisionStage(fresh_vision(32, 24, 1, 2), batch=24)
    early, late = (stage.batch(np.random.default_rng(0), p) for p in (PLACES - 0.01, PLACES))

    def grey(batch):
        pixels = batch["pixel_values"]
        flat = (pixels[:, 0] == pixels[:, 1]).flatten(1).all(1)
        assert (batch["item_colour"][flat] == -100).all()
        assert (batch["item_kind"][flat, 0] >= 0).any() or not flat.any()
        return int(flat.sum())

    assert (grey(early), "here" in stage.losses(early)) == (0, False)
    assert (grey(late) > 0, {"here", "place"} <= set(stage.losses(late))) == (True, True)


def test_what_was_trained_is_what_is_opened(tmp_path):
    """Trained with channels last; saved and read as any other folder."""
    torch.manual_seed(0)
    stage = VisionStage(fresh_vision(32, 24, 1, 2), batch=2)
    half = [0.5, 0.5, 0.5]
    save_frozen(stage.module["vision"].eval(), tmp_path, {"image_mean": half, "image_std": half})
    vision = open_vision_encoder(tmp_path)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours = stage.module["vision"].half().float()(pixels).last_hidden_state
    torch.testing.assert_close(vision.encode(pixels), ours, rtol=1e-4, atol=1e-4)
