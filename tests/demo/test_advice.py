"""A picture that another default knows better: said in a line, changed over in a click."""

import dataclasses

import pytest
from caller import Caller

from adapters import defaults
from adapters.images import load_image
from adapters.painted import is_painted
from demo import gallery
from demo.advice import advice
from demo.handlers import Chat
from demo.models import Chooser, Loader
from demo.session import Session
from qformer.view import View

BUILT = pytest.mark.skipif(
    not defaults.folder_of("paintings").is_dir(), reason="the paintings' model is not here"
)


@pytest.fixture
def painted(monkeypatch):
    """Every picture looks like a painting, and is one that no model calls familiar."""
    monkeypatch.setattr("adapters.painted.is_painted", lambda image: True)
    monkeypatch.setattr(View, "familiar", False, raising=False)


@pytest.fixture
def two(tiny_folder, monkeypatch):
    """Both defaults are the tiny model."""
    for name, one in list(defaults.DEFAULTS.items()):
        tiny = dataclasses.replace(one, folder=tiny_folder("loupe"))
        monkeypatch.setitem(defaults.DEFAULTS, name, tiny)


def another(assistant):
    """The same parts once more."""
    return type(assistant)(
        assistant.vision, assistant.bridge, assistant.language, assistant.segmenter,
        assistant.config, assistant.tokenizer,
    )  # fmt: skip


@BUILT
def test_paintings_are_told_from_photos():
    for name, folder in gallery.SETS.items():
        for file in gallery.pictures(folder).values():
            assert is_painted(load_image(file)) == (name == "paintings"), file.name


def test_advice_names_the_default_that_knows_better(tiny_assistant, image, painted):
    view = tiny_assistant.encode(image)
    text, offers = advice(view, "photos")
    assert ("painting" in text, offers) == (True, "paintings")
    text, offers = advice(view, "paintings")
    assert ("tiny random weights" in text, offers) == (True, "photos")
    assert advice(view, "")[1] == ""  # of another model: nothing is known of which suits


def test_what_a_model_knows_is_not_talked_about(tiny_assistant, image, monkeypatch):
    monkeypatch.setattr("adapters.painted.is_painted", lambda image: False)
    for model in ("photos", "paintings", ""):
        assert advice(tiny_assistant.encode(image), model) is None


def test_advice_goes_with_the_model_it_is_about(tiny_assistant, image, painted):
    model, assistant = ["photos"], [tiny_assistant]
    session = Session(lambda: assistant[0], lambda: model[0])
    picture = session.open(image)
    assert [entry.offers for entry in picture.talk.entries] == ["paintings"]
    list(session.ask("what is this?"))
    model[0], assistant[0] = "paintings", another(tiny_assistant)
    assert [entry.role for entry in session.picture().talk.entries] == ["question", "answer"]
    list(session.ask("and this?"))
    roles = [entry.role for entry in picture.talk.entries]
    assert roles == ["question", "answer", "notice", "question", "answer"]
    assert picture.talk.entries[2].offers == "photos"
    list(session.ask("and that?"))  # it is said once
    assert [entry.role for entry in picture.talk.entries].count("notice") == 1


def test_the_page_is_told_what_to_offer_and_changes_over(tiny_assistant, image, painted, two):
    chooser = Chooser(lambda *named: another(tiny_assistant), model="", device=None)
    loader = Loader(lambda: tiny_assistant, "", chooser, lambda: ("paintings", "no photos: why"))
    chat = Chat(loader.start())
    *_, header = chat.status()
    assert (header["model"], header["text"], header["why"]) == ("paintings",) * 2 + (
        "no photos: why",
    )
    visitor = Caller(chat)
    visitor.session.open(image)
    _, talk = visitor.operate(op="sync")
    assert [entry["offers"] for entry in talk["entries"]] == ["photos"]
    choose = {"op": "choose", "model": "photos", "segmenter": None, "precision": "fp32"}
    *_, header = chat.model(choose)
    assert (header["model"], header["text"], header["why"]) == ("photos", "photos", "")
    _, talk = visitor.operate(op="sync")
    assert talk["entries"] == []


def test_the_command_line_says_it_too(loupe, picture, painted):
    for model, offers in (("photos", "paintings"), ("embedded", "photos")):
        code, _, err = loupe("ask", picture, "what is this?", "--model", model)
        assert code == 0
        assert err.startswith("loupe: note: This ")
        assert err.endswith(f"(--model {offers})\n")


@pytest.mark.browser
def test_one_click_changes_over_and_the_examples_follow(visit, tiny_assistant, painted, two):
    chooser = Chooser(lambda *named: another(tiny_assistant), model="", device=None)
    visitor = visit(
        lambda: tiny_assistant, chooser=chooser, settle=lambda: ("paintings", "no photos: why")
    )
    page = visitor.page
    page.wait_for_selector('[data-example="pond.png"]')
    assert page.locator(".lh-why").text_content() == "no photos: why"
    assert page.locator("[data-example]").count() == 4
    assert not page.locator(".lc-credits").is_visible()
    visitor.choose("pond.png")
    page.click("text=Change to the photos' model")
    visitor.settle()
    page.wait_for_selector('[data-example="coffee.jpg"]')
    assert page.locator(".lt-entry.notice").count() == 0
    assert not page.locator(".lh-why").is_visible()
    assert page.locator("[data-example]").count() == 6
    assert "vultilion, CC BY 2.0" in page.locator(".lc-credits").text_content()
    visitor.choose("cat.jpg")
    assert "paintings' model knows better" in page.locator(".lt-entry.notice").inner_text()
    page.click(".lh-choose")
    page.wait_for_selector(".lh-model")
    assert page.locator(".lh-model b").all_inner_texts()[:2] == ["photos", "paintings"]
    assert page.locator(".lh-model input:checked").input_value() == "photos"
    assert visitor.complaints == []
