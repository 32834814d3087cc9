"""Tuning a segmenter on COCO masks: what is learned, what stays, what is saved."""

import json
from functools import partial

import numpy as np
import pytest
import tiny_segmenters
import torch
from PIL import Image

from adapters.coco import annotation, dataset, write_json
from adapters.segmenter_lite import LiteSamConfig
from adapters.segmenters import open_segmenter
from qformer.contracts import LoupeError
from qformer.proposals import Proposal
from train import cli
from train.loop import LoopConfig, fit
from train.segmenter import cli as segmenter_cli
from train.segmenter.data import read_pictures, split
from train.segmenter.neck import NeckStage
from train.segmenter.score import measure
from train.segmenter.stage import TuneConfig, TuneStage


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


def config(**changes):
    return TuneConfig(LoopConfig(steps=1, batch=2), **{"masks": 3, "rounds": 2, **changes})


def stage_of(segmenter, data, **changes):
    return TuneStage(segmenter, read_pictures(data / "set.json", data), config(**changes))


def test_a_mask_lies_in_the_decoders_frame_as_its_picture_in_the_input(data, sam):
    segmenter = open_segmenter(sam)
    stage = stage_of(segmenter, data)
    target = stage.views.data[0]
    pixels, (region_mask,) = target.load(1, np.random.default_rng(0))
    goal = stage.goal(region_mask, stage.encode(target.file, pixels))
    held = json.loads((data / "set.json").read_text())
    x, y, width, height = held["annotations"][0]["bbox"]
    ys, xs = goal.nonzero().T
    scale = stage.side / 64  # the longest side fills the frame
    assert abs(float(xs.float().mean()) + 0.5 - (x + width / 2) * scale) < 0.6
    assert abs(float(ys.float().mean()) + 0.5 - (y + height / 2) * scale) < 0.6


@pytest.mark.parametrize("name", ["sam", "sam_hq", "sam2", "efficientsam", "mobilesam", "lite_sam"])
def test_gradients_reach_what_is_trained_and_not_the_encoder(data, name, tmp_path):
    segmenter = open_segmenter(getattr(tiny_segmenters, name)(tmp_path))
    stage = stage_of(segmenter, data)
    batch = stage.batch(np.random.default_rng(1))
    batch[0]["rounds"] = 2
    losses = stage.losses(batch)
    assert losses.keys() == {"first", "first_iou", "corrected", "corrected_iou"}
    torch.stack(list(losses.values())).sum().backward()
    moved = [n for n, p in segmenter.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("mask_decoder" in name for name in moved)
    assert not any("vision_encoder" in n or "image_encoder" in n or "trunk" in n for n in moved)
    assert any("neck" in n for n in moved) == (name == "lite_sam")


@pytest.mark.parametrize("name", ["sam", "sam2", "efficientsam", "lite_sam"])
def test_masks_side_by_side_lose_what_they_lose_one_by_one(data, name, tmp_path, monkeypatch):
    """A correcting click is drawn at random: here it is always the first wrong place."""
    monkeypatch.setattr(torch, "multinomial", lambda odds, _: odds.argmax(-1, keepdim=True))
    segmenter = open_segmenter(getattr(tiny_segmenters, name)(tmp_path))
    stage = stage_of(segmenter, data)
    (row, _) = stage.batch(np.random.default_rng(3))
    row["rounds"] = 2
    goal = row["goals"][0]
    other = goal.roll(2, 0)
    row["goals"] = torch.stack([goal, other])
    for asked in (torch.tensor([[5.0, 6.0], [8.0, 9.0]]), torch.tensor([[1.0, 2, 9, 9]] * 2)):
        row["asked"] = asked
        together = stage.interact(row)
        parts = [
            stage.interact({**row, "goals": row["goals"][n : n + 1], "asked": asked[n : n + 1]})
            for n in range(2)
        ]
        for (loss, misfit), *alone in zip(together, *parts, strict=True):
            torch.testing.assert_close(loss, (alone[0][0] + alone[1][0]) / 2, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                misfit, (alone[0][1] + alone[1][1]) / 2, atol=1e-4, rtol=1e-4
            )


def test_a_picture_that_is_always_seen_the_same_way_is_encoded_once(data, sam, monkeypatch):
    segmenter = open_segmenter(sam)
    looked = []
    look = TuneStage.look
    monkeypatch.setattr(TuneStage, "look", lambda *all: looked.append(1) or look(*all))
    for augment, times in ((False, range(1, 11)), (True, range(20, 21))):
        looked.clear()
        stage = stage_of(segmenter, data, augment=augment)
        for step in range(10):
            stage.batch(np.random.default_rng(step))
        assert len(looked) in times


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
    _, held = split(read_pictures(data / "set.json", data), 0.2)
    measured = measure(again, held)
    assert measured["1 click"] == pytest.approx(told["after"]["1 click"], abs=0.02)


def test_a_small_segmenter_learns_from_ever_new_views(data, tmp_path):
    folder = tiny_segmenters.lite_sam(tmp_path)
    words = ["segmenter", str(data / "set.json"), "--from", str(folder), "--size", "96",
             "--out", str(tmp_path / "run"), "--augment", "--steps", "3", "--hold", "0.1",
             "--measure", str(data / "set.json"), "--set", "loop.ema=0.9"]  # fmt: skip
    assert cli.main(words) == 0
    told = json.loads((tmp_path / "run" / "measured.json").read_text())
    assert told["before"] != told["after"]
    values = json.loads((tmp_path / "run" / "segmenter" / "config.json").read_text())
    assert values["image_size"] == 96
    assert (tmp_path / "run" / "segmenter" / values["trunk"]).resolve().is_file()


def test_a_new_neck_comes_to_say_what_the_sam_says_whose_decoder_it_feeds(data, tmp_path, sam):
    segmenter = open_segmenter(tiny_segmenters.lite_sam(tmp_path))
    settings = TuneConfig(LoopConfig(steps=30, batch=2, lr=1e-2, warmup=1), masks=1)
    pictures = read_pictures(data / "set.json", data)
    stage = NeckStage(TuneStage(segmenter, pictures, settings), open_segmenter(sam))
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    batch = stage.batch(np.random.default_rng(0))
    first = float(stage.losses(batch)["neck"].detach())
    fit(stage, settings.loop, tmp_path / "run", lambda line: None)
    assert float(stage.losses(batch)["neck"].detach()) < 0.7 * first
    changed = {n for n, value in segmenter.state_dict().items() if not value.equal(before[n])}
    assert changed
    assert all(name.startswith("model.neck.") for name in changed)


def test_a_new_one_is_trained_from_nothing_by_one_command(data, tmp_path, monkeypatch):
    folder = tiny_segmenters.lite_sam(tmp_path)
    trunk = {"trunk": str(folder / "trunk.safetensors")}
    monkeypatch.setattr(segmenter_cli, "LiteSamConfig", partial(LiteSamConfig, **trunk))
    words = ["segmenter", str(data / "set.json"), "--from", "new:lite", "--size", "64",
             "--out", str(tmp_path / "run"), "--steps", "2", "--neck", "2", "--batch", "1",
             "--hold", "0"]  # fmt: skip
    assert cli.main(words) == 0
    made = open_segmenter(tmp_path / "run" / "segmenter")
    assert (made.family, made.input_size) == ("lite-sam", 64)
    assert cli.main(words) == 0  # again: nothing is left to do
    assert open_segmenter(tmp_path / "run" / "segmenter").tag == made.tag


def test_settings_that_are_none_are_refused(data, sam, tmp_path):
    words = ["segmenter", str(data / "set.json"), "--from", str(sam), "--out", str(tmp_path)]
    with pytest.raises(LoupeError, match="--size goes with a lite segmenter, not with sam"):
        cli.main([*words, "--size", "96"])
    with pytest.raises(LoupeError, match="did you mean"):
        cli.main([*words, "--set", "loop.emma=0.9"])
    with pytest.raises(LoupeError, match="masks=0 must be above 0"):
        cli.main([*words, "--masks", "0"])


def test_pictures_are_split_whole(data):
    learned, held = split(read_pictures(data / "set.json", data), 0.3)
    assert len(held) == 3
    assert not {one.file for one in learned} & {one.file for one in held}


def test_what_cannot_be_learned_from_says_so(data, sam, tmp_path):
    (tmp_path / "none.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(LoupeError, match="holds no masks"):
        read_pictures(tmp_path / "none.json", data)
    with pytest.raises(LoupeError, match=r"10 of 10 pictures are not below .* --images"):
        read_pictures(data / "set.json", tmp_path)
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(LoupeError, match="not readable JSON"):
        read_pictures(tmp_path / "text.json", data)
