"""A conversation that is taken up again, and how sure the model was of an answer."""

import math

import fakes
import pytest
import torch

from qformer.contracts import Decoding, QuestionError


def a_view(**kind):
    return fakes.tiny_assistant(**kind).encode(fakes.picture())


def test_a_recalled_turn_that_cannot_be_read_changes_nothing():
    talk = a_view().converse()
    with pytest.raises(QuestionError):
        talk.recall(" ", "an answer")
    assert talk.turns == []


def test_certainty_is_the_mean_probability_of_the_answers_tokens(tiny_assistant, image):
    view = tiny_assistant.encode(image)
    talk = view.converse()
    assert talk.certainty() == 0
    list(talk.ask("what is this?", decoding=Decoding(max_new_tokens=4)))
    language = view.assistant.language
    reads = torch.cat(talk._heard[: talk._before])
    ids = torch.tensor(talk._written)
    (logits,) = language.answer_logits([reads], [ids])
    chosen = logits.float().log_softmax(-1).gather(1, ids[:, None])
    assert talk.certainty() == pytest.approx(math.exp(chosen.mean()), rel=1e-4)
    assert 0 < talk.certainty() <= 1


def test_a_close_up_is_read_for_small_regions_only():
    view = a_view()
    height, width = view.size
    dot = torch.zeros(height, width, dtype=torch.bool)
    dot[10:12, 10:12] = True
    x0, y0, x1, y1 = view.close_up(view.region(dot))
    assert x0 <= 10 < 12 <= x1
    assert y0 <= 10 < 12 <= y1
    assert view.close_up(view.region(torch.ones(height, width, dtype=torch.bool))) is None
