"""Tuning a segmenter on COCO masks: what is learned, what stays, what is saved."""

import json

import numpy as np
import pytest
import tiny_segmenters
import torch
from PIL import Image

from adapters.coco import annotation, dataset, write_json
from adapters.segmenters import open_segmenter
from qformer.contracts import LoupeError
from qformer.proposals import Proposal
from train import cli
from train.segmenter_tune import TuneStage, split, targets


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten pictures with one bright square each, and its mask."""
    folder = tmp_path_factory.mktemp("data")
    random, pictures = np.random.default_rng(0), []
    for number in range(10):
        x, y = random.integers(2, 30, 2)
        pixels = np.full((48, 64, 3), 30, np.uint8)
        pixels[y : y + 14, x : x + 18] = (230, 200, 40)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        region_mask = torch.zeros(48, 64, dtype=torch.bool)
        region_mask[y : y + 14, x : x + 18] = True
        pictures.append((f"{number}.png", (48, 64), [annotation(Proposal.of(region_mask, 1.0))]))
    write_json(folder / "set.json", dataset(pictures))
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return tiny_segmenters.sam(tmp_path_factory.mktemp("sam"))


def test_a_mask_lies_in_the_decoders_frame_as_its_picture_in_the_input(data, sam):
    segmenter = open_segmenter(sam)
    stage = TuneStage(segmenter, targets(data / "set.json", data), batch=1)
    target = stage.data[0]
    embedding = stage.encode(target.file)
    goal = stage.goal(target, embedding)
    held = json.loads((data / "set.json").read_text())
    x, y, width, height = held["annotations"][0]["bbox"]
    ys, xs = goal.nonzero().T
    scale = stage.side / 64  # the longest side fills the frame
    assert abs(float(xs.float().mean()) + 0.5 - (x + width / 2) * scale) < 0.6
    assert abs(float(ys.float().mean()) + 0.5 - (y + height / 2) * scale) < 0.6


@pytest.mark.parametrize("name", ["sam", "sam_hq", "sam2", "efficientsam", "mobilesam"])
def test_gradients_reach_the_decoder_and_not_the_encoder(data, name, tmp_path):
    segmenter = open_segmenter(getattr(tiny_segmenters, name)(tmp_path))
    stage = TuneStage(segmenter, targets(data / "set.json", data), batch=3, rounds=2)
    losses = stage.losses(stage.batch(np.random.default_rng(1)))
    assert losses.keys() == {"first", "first_iou", "corrected", "corrected_iou"}
    torch.stack(list(losses.values())).sum().backward()
    moved = [n for n, p in segmenter.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("mask_decoder" in name for name in moved)
    assert not any("vision_encoder" in name or "image_encoder" in name for name in moved)


def test_tuning_helps_is_saved_and_opens_again(data, sam, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["segmenter", str(data / "set.json"), "--from", str(sam), "--out", str(out),
             "--steps", "40", "--batch", "2", "--rounds", "1", "--lr", "1e-2",
             "--hold", "0.2"]  # fmt: skip
    assert cli.main(words) == 0
    told = json.loads((out / "measured.json").read_text())
    assert told["after"]["1 click"] > told["before"]["1 click"] + 0.1
    assert "mean IoU at 1 click" in capsys.readouterr().out
    again = open_segmenter(out / "segmenter")
    stage = TuneStage(again, [], batch=1)
    _, held = split(targets(data / "set.json", data), 0.2)
    measured = stage.measure(held)
    assert measured["1 click"] == pytest.approx(told["after"]["1 click"], abs=0.02)


def test_pictures_are_split_whole(data):
    learned, held = split(targets(data / "set.json", data), 0.3)
    assert len(held) == 3
    assert not {one.file for one in learned} & {one.file for one in held}


def test_what_cannot_be_learned_from_says_so(data, sam, tmp_path):
    (tmp_path / "none.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(LoupeError, match="holds no masks"):
        targets(tmp_path / "none.json", data)
    with pytest.raises(LoupeError, match=r"10 of 10 pictures are not below .* --images"):
        targets(data / "set.json", tmp_path)
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(LoupeError, match="not readable JSON"):
        targets(tmp_path / "text.json", data)
