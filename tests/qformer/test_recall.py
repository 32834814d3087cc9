"""Turns taken over from elsewhere, and what a turn costs in tokens."""

import pytest
import torch
from fakes import TinyLanguage
from test_assistant import KIND_NAMES, KINDS, a_view


@pytest.fixture(params=KINDS, ids=KIND_NAMES)
def kind(request):
    return request.param


class Quotes(TinyLanguage):
    """Its next answers may be given, and then end with EOS; its tokens are letters."""

    given = ()

    def decode(self, ids):
        return "".join(chr(60 + (token - 3) + 60 * (token < 40)) for token in ids)

    def generate(self, inputs_embeds, decoding, prefix=None, answer_stop=None):
        if not self.given:
            yield from super().generate(inputs_embeds, decoding, prefix, answer_stop)
            return
        ids = self.tokenize(self.given.pop(0))
        self.step(inputs_embeds, prefix)
        yield from ids.tolist()
        self.step(self.embed(torch.tensor([*ids, self.eos_id])), prefix)


def test_a_turn_recalled_is_as_good_as_one_lived_through(kind):
    view = a_view(language=Quotes, **kind)
    one, two = view.click(20, 20), view.box(40, 4, 70, 40)
    _ = view.caption(one), view.caption(two)  # the text composer's, before answers are given
    lived = view.converse()
    view.assistant.language.given = ["abc", "defg"]
    list(lived.ask("what is this?", [one]))
    list(lived.ask("and its colour?"))
    recalled = view.converse()
    recalled.recall("what is this?", "abc", [one])
    recalled.recall("and its colour?", "defg")
    assert recalled.turns == lived.turns
    for talk in (lived, recalled):
        list(talk.ask("which is bigger?", [one, two]))
    assert recalled.turns[2] == lived.turns[2]
    blank = view.converse()
    list(blank.ask("which is bigger?", [one, two]))
    assert blank.turns[0].read < lived.turns[2].read


def test_what_was_read_and_written_is_counted():
    view = a_view()
    talk = view.converse()
    list(talk.ask("what is this?"))
    first = talk.turns[0]
    assert first.wrote == len(first.answer.split())  # the fake writes " wN" for each token
    list(talk.ask("why?"))
    assert talk.turns[1].read > first.read + first.wrote
