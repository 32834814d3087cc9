"""All phases on tiny parts, from random weights to an assistant that answers."""

import json

import numpy as np
import pytest
import torch

from adapters.build import build
from qformer.contracts import LoupeError
from train import states
from train.embedded.evaluate import TARGETS, evaluate, f1, iou
from train.scenes.dialogue import painted_scene
from train.scenes.questions import TYPES


@pytest.fixture(scope="module")
def trained(pipeline):
    pipeline.stage1()
    pipeline.stage2()
    return pipeline


def test_the_pipeline_ends_in_an_assistant_that_answers(trained):
    assistant = build(trained.parts / "loupe")
    assert assistant.config.domain == trained.config.domain
    _, picture, masks = painted_scene(np.random.default_rng(0))
    view = assistant.encode(torch.from_numpy(picture))
    ys, xs = masks[0].nonzero()
    region = view.region(view.segment(points=[(float(xs[0]), float(ys[0]), 1)]).region_masks[0])
    talk = view.converse()
    assert isinstance("".join(talk.ask("what is this?", [region])), str)
    assert isinstance("".join(talk.ask("and its colour?")), str)
    assert len(talk.turns) == 2


def test_only_what_is_answered_well_is_suggested(trained):
    rows = {type: {"right": 0.0} for type in TARGETS} | {"what": {"right": 0.99}}
    trained._note("evaluation", {"types": rows, "caption_f1": 0.95})
    trained.offer()
    offered = build(trained.parts / "loupe").config.suggestions  # its manifest is whole
    assert offered.region == ("what is this?",)
    assert offered.picture == ("describe the picture",)
    assert offered.pair == ()


def test_every_phase_tells_its_steps(trained):
    config = trained.config
    loops = {
        "vision": config.vision.loop,
        "language": config.language.loop,
        "segmenter": config.segmenter.loop,
        "stage1": config.stage1,
        "stage2": config.stage2,
    }
    for name, loop in loops.items():
        note = json.loads((trained.folder / f"{name}.json").read_text())
        assert note["steps"] == loop.steps


def test_a_finished_phase_is_not_trained_again(trained):
    log = trained.folder / "stage2" / "log.jsonl"
    before, weights = log.read_text(), (trained.parts / "loupe/model.safetensors").read_bytes()
    trained.stage2()
    assert log.read_text() == before
    assert (trained.parts / "loupe/model.safetensors").read_bytes() == weights


def test_a_snapshot_is_stage_2_as_it_stands(trained):
    weights = (trained.parts / "loupe/model.safetensors").read_bytes()
    trained.snapshot()
    assert (trained.parts / "loupe/model.safetensors").read_bytes() == weights


def test_install_copies_the_parts(trained, tmp_path):
    trained.install(tmp_path)
    assert build(tmp_path / "loupe").config.domain == trained.config.domain


def test_the_evaluation_asks_every_type(trained):
    result = evaluate(trained.parts / "loupe", 2, lambda line: None)
    assert set(result["types"]) == {*TYPES, "follow_up"}
    for row in result["types"].values():
        assert row["asked"] == 2
        assert 0 <= row["right"] <= 1
        assert row["majority"] in (0.5, 1.0)
    assert set(result["held_out"]) == {"what", "colour", "kind"}
    assert set(result["segmenter"]) == {
        f"{how}, {pairs}" for how in ("click", "box") for pairs in ("seen", "held out")
    }


def test_scores():
    truth = "a red star, a blue car and a blue car"
    assert f1(truth, truth) == 1
    assert f1("a blue car and an orange cat", truth) == pytest.approx(2 / 5)
    assert f1("", truth) == 0
    a, b = np.zeros((2, 4, 4), bool)
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(1 / 3)


def test_stage_1_of_another_bridge_is_refused(trained, monkeypatch):
    state = states.trained_module(trained.folder / "stage1")
    state.pop("bridge.qformer.query_tokens")
    monkeypatch.setattr("train.embedded.pipeline.trained_module", lambda folder: state)
    with pytest.raises(LoupeError, match="stage 1 does not fit the bridge"):
        trained.stage2()
