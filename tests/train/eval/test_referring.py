"""Expressions are looked for among what the segmenter proposes, once a picture."""

import torch

from adapters.build import build
from qformer import finding
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
    asked = [Question(image, text) for text in ("a red star", "a cat")]
    found = model.find(asked)
    surest = model.find([Question(image, "")])
    assert len(searched) == 1
    assert [torch.equal(one, area(left)) for one, left in zip(surest[0], (0, 30), strict=True)]
    for question, areas in zip(asked, found, strict=True):
        view = View(tiny_assistant, image)
        best = finding.among(view, everything(view), question.text)
        expected = [one.proposal.region_mask for one in best]
        assert all(torch.equal(one, two) for one, two in zip(areas, expected, strict=True))
    monkeypatch.setattr(View, "everything", lambda *_, **__: [])
    assert model.find([Question(image.clone(), "a cat")]) == [[]]


def test_without_a_segmenter_each_case_says_so(tiny_folder, image):
    assistant = build(tiny_folder("loupe"))
    assistant.segmenter = None
    (found,) = AssistantModel("loupe", assistant, False, None).find([Question(image, "a cat")])
    assert isinstance(found, RegionError)
