"""Expressions are looked for among what the segmenter proposes, once a picture."""

import torch

from adapters.build import build
from qformer.contracts import RegionError
from qformer.proposals import Proposal
from qformer.together import Question
from qformer.view import View
from train.eval.models import AssistantModel


def area(left):
    region_mask = torch.zeros(40, 60, dtype=torch.bool)
    region_mask[5:35, left : left + 20] = True
    return region_mask


def test_a_picture_is_searched_once_and_each_text_takes_what_fits_it(
    tiny_assistant, image, monkeypatch
):
    searched = []

    def everything(view, settings=None, progress=None, cancel=None):
        searched.append(view)
        return [Proposal.of(area(0), 0.9), Proposal.of(area(30), 0.8)]

    monkeypatch.setattr(View, "everything", everything)
    model = AssistantModel("loupe", tiny_assistant, False, None)
    found = model.find([Question(image, text) for text in ("a red star", "a cat")])
    assert len(searched) == 1
    proposed = [area(0), area(30)]
    for one in found:
        assert any(torch.equal(one, region_mask) for region_mask in proposed)
    monkeypatch.setattr(View, "everything", lambda *_, **__: [])
    assert model.find([Question(image.clone(), "a cat")]) == [None]


def test_without_a_segmenter_each_case_says_so(tiny_folder, image):
    assistant = build(tiny_folder("loupe"))
    assistant.segmenter = None
    (found,) = AssistantModel("loupe", assistant, False, None).find([Question(image, "a cat")])
    assert isinstance(found, RegionError)
