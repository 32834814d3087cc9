"""An answer that is likelier wrong than a model's config allows is given as a guess."""

import dataclasses

import pytest

from qformer.confidence import Confidence
from qformer.contracts import LoupeError


def talk_of(assistant, image, **confidence):
    config = dataclasses.replace(assistant.config, confidence=Confidence(**confidence))
    assistant.config, kept = config, assistant.config
    try:
        talk = assistant.encode(image).converse()
        return "".join(talk.ask("what is this?")), talk
    finally:
        assistant.config = kept


@pytest.fixture
def plain(tiny_assistant, image):
    return tiny_assistant.encode(image).ask("what is this?")


def test_a_short_answer_below_the_least_is_a_guess(tiny_assistant, image, plain):
    answer, talk = talk_of(tiny_assistant, image, shift=-100.0, least=0.5)
    if len(plain.split()) > 6:
        pytest.skip("the tiny model wrote a long answer")
    assert answer == f"I can't tell, perhaps: {plain}"
    assert talk.turns[-1].answer == answer


def test_a_likely_answer_stays_as_it_is(tiny_assistant, image, plain):
    answer, _ = talk_of(tiny_assistant, image, shift=100.0, least=0.5)
    assert answer == plain


def test_without_a_least_nothing_waits(tiny_assistant, image, plain):
    answer, _ = talk_of(tiny_assistant, image, shift=-100.0)
    assert answer == plain


def test_the_share_that_is_right_rises_with_the_likelihood():
    confidence = Confidence(scale=0.5, shift=-0.3)
    told = [confidence.of(p) for p in (0.0, 0.2, 0.5, 0.9, 1.0)]
    assert told == sorted(told)
    assert all(0 < p < 1 for p in told)
    assert Confidence().of(0.7) == pytest.approx(0.7)


def test_certainty_is_what_the_scaling_makes_of_the_likelihood(tiny_assistant, image):
    _, bare = talk_of(tiny_assistant, image)
    likelihood = bare.certainty()
    scaled = Confidence(scale=0.5, shift=1.0)
    config, tiny_assistant.config = (
        tiny_assistant.config,
        dataclasses.replace(tiny_assistant.config, confidence=scaled),
    )
    try:
        assert bare.certainty() == pytest.approx(scaled.of(likelihood), abs=1e-5)
    finally:
        tiny_assistant.config = config


@pytest.mark.parametrize("wrong", [{"least": 1.0}, {"least": -0.1}, {"hedge": "no idea"}])
def test_settings_that_cannot_be_are_named(wrong):
    with pytest.raises(LoupeError, match="confidence"):
        Confidence(**wrong)
