"""Regions found by words: matched under each region's mask, or judged by the language model."""

import dataclasses
import json

import pytest
import test_ranking
import torch
from PIL import Image

from adapters.build import build_ranker, open_segmenter
from demo import cli
from qformer import finding
from qformer.contracts import QuestionError, RegionError
from qformer.proposals import Proposal
from qformer.regions import Region
from qformer.together import Question, likelihoods

TEXT = "a small red circle"
folder = test_ranking.folder


def proposal(image, box):
    mask = torch.zeros(image.shape[:2], dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return Proposal.of(mask, score=0.9)


@pytest.fixture
def proposals(image):
    boxes = [(0, 0, 30, 20), (10, 5, 60, 40), (25, 10, 50, 38), (0, 20, 20, 40)]
    return [proposal(image, box) for box in boxes]


def test_matching_scores_what_lies_under_each_region(folder, image, proposals):
    ranker = build_ranker(folder)
    view = ranker.encode(image)
    found = finding.by_matching(view, ranker, proposals, TEXT)
    assert len(found) == len(proposals)
    ids = ranker.read_text(TEXT)
    for one in found:
        region = Region(one.proposal.region_mask, "region 1")
        inputs = ranker.bridge.inputs(view.memory, view.rows([region], None))
        with torch.no_grad():
            features = ranker.stage1.row_features(**inputs)[0]
            text = ranker.stage1.text_features(ids)[0]
            no, yes = ranker.stage1.match(**inputs, input_ids=ids)[0].tolist()
        assert one.itc == pytest.approx(float((features @ text).max()), abs=1e-5)
        assert one.itm == pytest.approx(yes - no, abs=1e-5)
        assert one.score == pytest.approx(yes + one.itc, abs=1e-5)
    assert len({round(one.score, 4) for one in found}) > 1


def test_contrast_picks_what_is_matched(folder, image, proposals):
    ranker = build_ranker(folder)
    view = ranker.encode(image)
    every = finding.by_matching(view, ranker, proposals, TEXT)
    best = sorted(every, key=lambda one: -one.itc)[:2]
    kept = finding.by_matching(view, ranker, proposals, TEXT, keep=2)
    assert {one.proposal for one in kept} == {one.proposal for one in best}


def test_a_whole_picture_scores_as_rank_does(folder, image):
    """The region that is all of the picture, the class token shown: BLIP-2's own score."""
    ranker = build_ranker(folder)
    shown = dataclasses.replace(ranker.bridge.config.region, hide_leading=False)
    ranker.bridge.config = dataclasses.replace(ranker.bridge.config, region=shown)
    whole = proposal(image, (0, 0, 60, 40))
    found = finding.by_matching(ranker.encode(image), ranker, [whole], TEXT)[0]
    assert found.score == pytest.approx(ranker.rank([image], TEXT)[0].score, abs=1e-5)


def test_likelihood_is_told_by_the_region_less_by_the_picture(tiny_assistant, image, proposals):
    view = tiny_assistant.encode(image)
    found = finding.by_likelihood(view, proposals, "the red circle")
    asked = [Question(view.image, "", choices=("a red circle",))]
    asked += [Question(view.image, "", (proposals[2].region_mask,), ("a red circle",))]
    bare, told = (one[0].mean for one in likelihoods(tiny_assistant, asked))
    assert found[2].score == pytest.approx(told - bare, abs=1e-4)
    assert (found[2].itc, found[2].itm) == (None, None)
    assert len({round(one.score, 4) for one in found}) > 1
    assert view.region(proposals[0].region_mask).name == "region 1"  # no name was taken


@pytest.mark.parametrize(
    ("text", "answer"),
    [("the red star", "a red star"), ("The orange cat.", "an orange cat"), ("a dog", "a dog"),
     ("red mugs", "red mugs"), ("the", "the"), ("red glass", "a red glass"), ("...", ""),
     ("two cats", "two cats"), ("dogs on a bench", "dogs on a bench"),
     ("orange cat", "an orange cat")],
)  # fmt: skip
def test_words_are_put_as_an_answer(text, answer):
    assert finding.as_answer(text) == answer


def test_the_best_comes_first_and_a_segmenter_that_reads_text_is_asked(
    tiny_assistant, image, proposals, monkeypatch
):
    view = tiny_assistant.encode(image)
    monkeypatch.setattr(type(view), "everything", lambda *_: proposals)
    worths = [one.worth for one in finding.find(view, "red")]
    assert worths == sorted(worths, reverse=True)
    reads = type("Reads", (), {"text": True})
    monkeypatch.setattr(tiny_assistant.segmenter, "capabilities", reads, raising=False)
    monkeypatch.setattr(type(view), "find", lambda self, text: proposals[:1])
    assert [one.proposal for one in finding.find(view, "red")] == proposals[:1]
    monkeypatch.setattr(type(view), "find", lambda self, text: [])
    assert finding.find(view, "red") == []
    with pytest.raises(QuestionError, match="the text is empty"):
        finding.find(view, " ")


def test_of_areas_that_fit_alike_the_better_cut_one_is_first(tiny_assistant, image, proposals):
    view = tiny_assistant.encode(image)
    rough, fine = (dataclasses.replace(proposals[1], score=score) for score in (0.6, 0.9))
    found = finding.among(view, [rough, fine], "the red circle")
    assert [one.proposal.score for one in found] == [0.9, 0.6]
    assert found[0].score == pytest.approx(found[1].score, abs=1e-5)


def test_without_a_segmenter_it_says_so(folder, image):
    ranker = build_ranker(folder)
    with pytest.raises(RegionError, match="there is no segmenter"):
        finding.find(ranker.encode(image), TEXT, ranker)


@pytest.mark.parametrize("compares", [True, False])
def test_the_command_finds_regions(
    folder,
    image,
    proposals,
    tiny_folder,
    tmp_path,
    capsys,
    monkeypatch,
    compares,
):
    segmenter = type(open_segmenter(tiny_folder("sam")))
    monkeypatch.setattr(segmenter, "everything", lambda *_, **__: proposals)
    Image.fromarray(image.numpy()).save(tmp_path / "scene.png")
    model = folder if compares else tiny_folder("loupe")
    words = ["find", str(tmp_path / "scene.png"), "the red circle", "--model", str(model)]
    words += ["--segmenter", str(tiny_folder("sam")), "--top", "3"]
    assert cli.main([*words, "--json", "--overlay", str(tmp_path / "seen.png")]) == 0
    told = json.loads(capsys.readouterr().out)["regions"]
    assert len(told) == 3
    assert all((one["itm"] is None) != compares for one in told)
    assert Image.open(tmp_path / "seen.png").size == (60, 40)
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(f"1. box {','.join(map(str, told[0]['box']))}, ")
    assert cli.main([*words[:2], " ", *words[3:]]) == 2
