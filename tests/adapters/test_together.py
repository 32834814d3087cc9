"""Many questions at once give the answers that they get alone."""

import dataclasses

import pytest
import torch

from adapters import language as language_module
from adapters.build import build
from adapters.registry import LANGUAGE_MODELS
from qformer import together
from qformer.contracts import Decoding, LoupeError, QuestionError
from qformer.together import Question
from qformer.view import View
from tests import tiny
from tests.qformer.fakes import picture


@pytest.fixture(scope="module", params=[True, False], ids=["instruct", "plain"])
def assistant(request, tmp_path_factory):
    return build(tiny.loupe(tmp_path_factory.mktemp("together"), instruct=request.param))


def area(top, left, height, width):
    region_mask = torch.zeros(48, 80, dtype=torch.bool)
    region_mask[top : top + height, left : left + width] = True
    return region_mask


def mixed():
    """Questions of several lengths, about no, one and two regions, one of them tiny."""
    first, second = picture(), picture(seed=1)
    large, small = area(0, 0, 40, 60), area(30, 50, 3, 3)
    return [
        Question(first, "what is this?", (large,)),
        Question(second, "how many pink fish are there?"),
        Question(first, "which is bigger, region 1 or region 2?", (small, large)),
        Question(second, "", (small,)),
        Question(first, ""),
        Question(first, "what?"),
    ]


def alone(assistant, question, decoding=None):
    view = assistant.encode(question.image)
    regions = [view.region(region_mask) for region_mask in question.region_masks]
    if question.text:
        return view.ask(question.text, regions, decoding)
    return view.caption(regions[0] if regions else None, decoding)


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=8), Decoding(8, beams=3)])
def test_answers_together_are_those_given_alone(assistant, decoding):
    expected = [alone(assistant, question, decoding) for question in mixed()]
    assert together.answers(assistant, mixed(), decoding) == expected
    assert len(set(expected)) > 2


def test_least_length_and_repetition_hold_for_every_row(assistant):
    decoding = Decoding(max_new_tokens=9, min_new_tokens=5, repetition_penalty=2.0)
    expected = [alone(assistant, question, decoding) for question in mixed()]
    assert together.answers(assistant, mixed(), decoding) == expected


@pytest.mark.parametrize(
    "decoding",
    [Decoding(12), Decoding(12, beams=3), Decoding(12, 4, beams=2, repetition_penalty=1.5)],
    ids=["greedy", "beams", "beams, long"],
)
@pytest.mark.parametrize("kind", ["opt", "t5", "llama"])
def test_a_language_model_writes_side_by_side_what_it_writes_alone(
    kind, decoding, tmp_path, monkeypatch
):
    monkeypatch.setattr(language_module, "BEAMS_AT_ONCE", 9)  # more than one batch
    registry = {"opt": "decoder", **tiny.LANGUAGE}[kind]
    language = LANGUAGE_MODELS[registry](getattr(tiny, kind)(tmp_path))
    language.stop_ids = [language.eos_id, *range(5, 60, 3)]  # so that answers end by and by
    torch.manual_seed(1)
    prompts = [torch.randn(n, language.width) for n in (3, 9, 1, 6, 9)]
    with torch.no_grad():
        expected = [list(language.generate(prompt, decoding)) for prompt in prompts]
        assert language.generate_together(prompts, decoding) == expected
    assert len({len(ids) for ids in expected}) > 1 or kind == "t5"  # which says one thing only
    assert language.generate_together([], decoding) == []


@pytest.mark.parametrize("beams", [1, 3])
def test_a_full_context_ends_an_answer_as_it_does_alone(beams, tmp_path):
    language = LANGUAGE_MODELS["decoder"](tiny.opt(tmp_path))
    prompts = [torch.randn(n, language.width) for n in (language.context - 2, 4)]
    decoding = Decoding(max_new_tokens=10, beams=beams)
    with torch.no_grad():
        expected = [list(language.generate(prompt, decoding)) for prompt in prompts]
        assert language.generate_together(prompts, decoding) == expected
        with pytest.raises(QuestionError, match="language model reads"):
            language.generate_together([torch.randn(language.context, 32), prompts[1]], decoding)


def test_one_bad_question_does_not_cost_the_others_their_answers(assistant):
    questions = mixed()
    questions[1] = Question(picture(), "why? " * 400)
    questions[3] = Question(picture(), "what is it?", (torch.zeros(48, 80, dtype=torch.bool),))
    given = together.answers(assistant, questions)
    assert isinstance(given[1], LoupeError)
    assert "no pixel" in str(given[3])
    assert [given[i] for i in (0, 2, 4, 5)] == [
        alone(assistant, questions[i]) for i in (0, 2, 4, 5)
    ]


def test_a_picture_read_before_is_not_encoded_again(assistant, monkeypatch):
    question = mixed()[1]
    view = assistant.encode(question.image)
    encoded = []
    encode = View._encode
    monkeypatch.setattr(View, "_encode", lambda *args: encoded.append(args) or encode(*args))
    expected = together.answers(assistant, [question])
    assert len(encoded) == 1
    assert together.answers(assistant, [question], views=[view]) == expected
    assert len(encoded) == 1


def test_a_failure_costs_no_other_its_answer():
    def ask(some):
        if 3 in some:
            raise RuntimeError("three")
        return [2 * one for one in some]

    *others, three = together.in_spite(ask, [1, 2, 4, 3])
    assert others == [2, 4, 8]
    assert isinstance(three, RuntimeError)


def test_likelihoods_are_those_of_the_loss(assistant):
    choices = ("a yellow cat", "three", "no")
    questions = [dataclasses.replace(one, choices=choices) for one in mixed()[:3]]
    for question, found in zip(questions, together.likelihoods(assistant, questions), strict=True):
        view = assistant.encode(question.image)
        regions = [view.region(region_mask) for region_mask in question.region_masks]
        plan = view.converse().plan(question.text, regions)
        soft = view.soft_tokens(plan.sources, plan.instruction)
        prompt = together.assemble(assistant.language, plan.pieces, soft)
        for choice, likelihood in zip(choices, found, strict=True):
            language = assistant.language
            ids = torch.cat([language.tokenize(choice), torch.tensor([language.eos_id])])
            assert likelihood.tokens == len(ids)
            assert likelihood.mean == pytest.approx(
                -float(language.loss([prompt], [ids])), abs=1e-5
            )
