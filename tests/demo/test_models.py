"""The model the page answers with: read meanwhile, failed, changed for another."""

import threading

import pytest
from caller import Caller

from demo.handlers import Chat
from demo.models import Chooser, Loader
from qformer.contracts import LoupeError


def test_the_header_tells_of_loading_ready_and_failed(tiny_assistant):
    gate = threading.Event()
    slow = Chat(Loader(lambda: gate.wait() and tiny_assistant, "tiny").start())
    states = slow.status()
    assert next(states)["state"] == "loading"
    gate.set()
    ready = next(states)
    assert (ready["state"], ready["text"]) == ("ready", "tiny")
    assert ready["knows"] == "tiny random weights"


@pytest.mark.parametrize("error", [LoupeError("no such model"), MemoryError("secret")])
def test_a_model_that_does_not_load_is_said_in_the_header_and_at_the_picture(error, caplog):
    def build():
        raise error

    chat = Chat(Loader(build, "broken").start())
    *_, header = chat.status()
    assert header["state"] == "failed"
    assert header["text"]
    assert "secret" not in header["text"]
    with pytest.raises(LoupeError):
        chat.loader.wait()
    assert chat.loader.ready() is None


def test_another_model_is_chosen_while_the_old_one_answers(tiny_assistant, image):
    gate = threading.Event()
    second = type(tiny_assistant)(
        tiny_assistant.vision, tiny_assistant.bridge, tiny_assistant.language,
        tiny_assistant.segmenter, tiny_assistant.config, tiny_assistant.tokenizer,
    )  # fmt: skip
    asked = []

    def another(model, segmenter):
        asked.append((model, segmenter))
        gate.wait()
        if model == "embedded":
            raise LoupeError("too little memory: nf4 would fit")
        return second

    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(another)).start())
    chat.loader.wait()
    visitor = Caller(chat)
    visitor.session.open(image)
    wanted = {"op": "choose", "model": "Salesforce/blip2-opt-2.7b", "segmenter": None}
    states = chat.model(wanted)
    shown = next(states)
    assert shown["model"] == "embedded"  # what the list marks
    assert (shown["state"], shown["text"]) == ("loading", "loading Salesforce/blip2-opt-2.7b")
    assert "is being read" in next(chat.model(wanted))["note"]
    assert visitor.session.picture().view.assistant is tiny_assistant
    visitor.ask()
    gate.set()
    *_, shown = states
    assert (shown["state"], shown["text"], shown["note"]) == ("ready", "blip2-opt-2.7b", "")
    assert (shown["model"], shown["segmenter"]) == (wanted["model"], None)
    assert visitor.session.picture().view.assistant is second
    *_, shown = chat.model({"op": "choose", "model": "embedded", "segmenter": None})
    assert (shown["state"], shown["note"]) == ("ready", "too little memory: nf4 would fit")
    assert chat.loader.ready() is second
    assert asked == [("Salesforce/blip2-opt-2.7b", None), ("embedded", None)]


@pytest.mark.parametrize(
    "data",
    [
        None, {"op": "choose"}, {"op": "choose", "model": "../../etc", "segmenter": None},
        {"op": "choose", "model": "somebody/pickle", "segmenter": None},
        {"op": "choose", "model": "embedded", "segmenter": "http://10.0.0.1/"},
    ],
    ids=str,
)  # fmt: skip
def test_a_model_that_is_not_on_the_list_is_not_read(tiny_assistant, data):
    def never(*named):
        raise AssertionError(named)

    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(never)).start())
    chat.loader.wait()
    (shown,) = chat.model(data)
    assert shown["note"]
    assert chat.loader.loading is None


def test_where_models_are_not_chosen_nobody_can(tiny_assistant):
    chat = Chat(Loader(lambda: tiny_assistant, "tiny").start())
    chat.loader.wait()
    for data in ({"op": "list"}, {"op": "choose", "model": "embedded", "segmenter": None}):
        (shown,) = chat.model(data)
        assert "not chosen here" in shown["note"]
        assert not shown["chooses"]


def test_the_list_says_what_each_model_needs(monkeypatch):
    row = {"model": "a/b", "parameters": 10, "licence": "MIT", "suits": "chat", "bf16": 20}
    rows = [{**row, "int8": 11, "nf4": 7}, {**row, "model": "only/compares", "int8": None}]
    monkeypatch.setattr("adapters.catalogue.rows", lambda: rows)
    for memory, needs in ((None, 40), ("bf16", 20), ("nf4", 7)):
        own, other = Chooser(lambda *named: None, memory).models()
        assert own["model"] == "embedded"
        assert 0 < own["memory"] < 10**8
        assert (other["model"], other["memory"]) == ("a/b", needs)
    for one in (own, other, *Chooser.segmenters()):
        assert one["licence"]
        assert one["suits"]
