"""The talk in a real Chromium: ask, stop, try again, edit, rate, look behind, and the whole way."""

import time
from importlib import import_module

import pytest
from PIL import Image

from demo import gallery
from demo.models import Chooser
from qformer.contracts import Decoding
from qformer.view import View

PAINTINGS = import_module("adapters.defaults").folder_of("paintings")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
]


@pytest.fixture
def visitor(visit, tiny_assistant, noise, tmp_path):
    made = visit(lambda: tiny_assistant, saves=tmp_path / "kept")
    made.choose()
    yield made
    assert made.complaints == []


def test_from_picture_to_answer(visitor, tiny_assistant, image):
    visitor.click(10.5 / 60, 10.5 / 40)
    assert visitor.page.locator(".lt-about").inner_text().split() == ["Asking", "about", "1"]
    answer = visitor.ask("what is this?")
    view = tiny_assistant.encode(image)
    assert answer.split() == view.ask("what is this?", [view.click(10.5, 10.5)]).split()
    asked = visitor.page.locator(".lt-entry.question")
    assert asked.locator("a[href='#region-1']").count() == 1
    assert asked.locator("img").evaluate("image => image.naturalWidth") == 60


def test_text_is_never_markup_and_a_bad_question_comes_back(visitor):
    visitor.ask("<img src=x onerror=document.title='gone'> *a*")
    assert visitor.questions() == ["<img src=x onerror=document.title='gone'> *a*"]
    visitor.page.fill(".lt-ask textarea", "why " * 400)
    visitor.page.press(".lt-ask textarea", "Enter")
    visitor.page.wait_for_selector(".lt-note:not(:empty)")
    assert visitor.page.input_value(".lt-ask textarea").startswith("why why")
    assert visitor.page.title() == "Loupe"


def test_a_number_in_the_question_overrides_the_chips_and_a_badge_shows_its_region(visitor):
    visitor.click(0.2, 0.2)
    visitor.click(0.8, 0.8)
    visitor.ask("what is #1?")
    asked = visitor.page.locator(".lt-entry.question")
    assert asked.locator("a").all_inner_texts() == ["#1"]
    assert "region 1" in asked.locator("img").get_attribute("alt")
    asked.locator("a").click()
    assert visitor.complaints == []


def test_an_answer_is_stopped_and_tried_again(visitor, tiny_assistant, monkeypatch):
    def endless(language, *args, **kwargs):
        while True:
            yield 5
            time.sleep(0.1)

    with monkeypatch.context() as patched:
        patched.setattr(type(tiny_assistant.language), "generate", endless)
        visitor.page.fill(".lt-ask textarea", "what is this?")
        visitor.page.press(".lt-ask textarea", "Enter")
        visitor.page.wait_for_selector(".lt-entry.writing")
        visitor.page.click(".lt-ask [data-act=stop]")
        visitor.page.wait_for_selector(".lt-entry.stopped")
    visitor.page.click("[aria-label='Try again']")
    visitor.page.wait_for_selector(".lt-entry.answer.done")
    assert len(visitor.answers()) == 1
    assert visitor.page.locator(".lt-tags").count() == 0  # not by chance: it was not done before


def test_a_question_is_edited_in_its_place(visitor):
    visitor.ask("what is this?")
    visitor.ask("and its colour?")
    visitor.page.locator(".lt-entry.question").first.hover()
    visitor.page.click("[aria-label='Edit the question'] >> nth=0")
    visitor.page.fill(".lt-edit textarea", "how many are there?")
    visitor.page.press(".lt-edit textarea", "Enter")
    visitor.page.wait_for_function(
        "() => document.querySelectorAll('.lt-entry.question').length === 1"
    )
    visitor.answered()
    assert visitor.questions() == ["how many are there?"]


def test_a_corrected_answer_is_kept_as_training_data(visitor, tmp_path):
    visitor.page.click("[data-act=settings]")
    visitor.page.check("[name=save]")
    visitor.settle()
    visitor.ask("what is this?")
    visitor.page.click("[aria-label='Put the answer right']")
    visitor.page.fill(".lt-edit textarea", "a boat")
    visitor.page.press(".lt-edit textarea", "Enter")
    visitor.settle()
    assert visitor.answers() == ["a boat"]
    assert "put right by you" in visitor.page.locator(".lt-tags").inner_text()
    assert '"a boat"' in (tmp_path / "kept" / "data.jsonl").read_text()


def test_a_model_that_does_not_fit_is_marked_and_refused(visit, tiny_assistant, noise, monkeypatch):
    monkeypatch.setattr("adapters.memory.available", lambda device: 9 * 10**9)
    visitor = visit(lambda: tiny_assistant, chooser=Chooser(lambda *_: tiny_assistant))
    visitor.choose()
    visitor.page.click(".lh-choose")
    row = visitor.page.locator(".lh-model", has=visitor.page.locator("[value$='blip2-opt-2.7b']"))
    assert "too large" in row.inner_text()
    row.click()
    visitor.page.click(".lh-models [type=submit]")
    visitor.page.wait_for_selector(".lh-note:not(:empty)")
    assert "these would fit: bf16" in visitor.page.locator(".lh-note").inner_text()
    visitor.page.select_option("[name=precision]", "nf4")
    assert "too large" not in row.inner_text()
    visitor.page.click(".lh-models [type=submit]")
    visitor.page.wait_for_selector(".lh-status[data-state=ready] >> text=blip2-opt-2.7b")
    assert visitor.ask("what is this?")
    assert visitor.complaints == []


def test_an_uncertain_answer_says_so_and_shows_the_guess_when_asked(visitor):
    visitor.page.click("[data-act=settings]")
    visitor.page.locator("[name=threshold]").fill("0.95")
    visitor.settle()
    assert visitor.ask("what is this?") == "I can't tell."
    assert not visitor.page.locator(".lt-guess span").is_visible()
    visitor.page.click(".lt-guess summary")
    assert "sure" in visitor.page.locator(".lt-guess span").inner_text()


def test_settings_reach_the_model(visitor, tiny_assistant, image):
    visitor.page.click("[data-act=settings]")
    visitor.page.fill("[name=max_new_tokens]", "2")
    visitor.page.press("[name=max_new_tokens]", "Tab")
    visitor.settle()
    answer = visitor.ask("what is this?")
    short = Decoding(max_new_tokens=2)
    wanted = tiny_assistant.encode(image).ask("what is this?", decoding=short)
    assert answer.split() == wanted.split()


def test_what_an_answer_was_read_from_is_shown(visitor):
    visitor.click(0.5, 0.5)
    visitor.ask("what is this?")
    visitor.page.click("[aria-label='Show what it was read from']")
    visitor.settle()
    assert "sure of its words" in visitor.page.locator(".lt-evidence").inner_text()
    assert visitor.page.locator(".lc-look .l-pill").count() >= 1
    visitor.page.click(".lc-look [aria-label='Back to the regions']")
    assert not visitor.page.locator(".lc-look").is_visible()


def test_an_unfamiliar_picture_is_said_to_be_one(visit, tiny_assistant, noise, monkeypatch):
    monkeypatch.setattr(View, "familiar", False, raising=False)
    visitor = visit(lambda: tiny_assistant)
    visitor.choose()
    note = visitor.page.locator(".lt-entry.notice").inner_text()
    assert "tiny random weights" in note


@pytest.mark.skipif(not PAINTINGS.is_dir(), reason="the paintings' model is not here")
def test_the_paintings_model_answers_right(visit):
    build = import_module("adapters.build").build
    visitor = visit(lambda: build("paintings"), settle=lambda: ("paintings", ""))
    described = gallery.described()
    assert described, "demo/examples/examples.json names no example"
    for example in described:
        with Image.open(gallery.EXAMPLES / example["file"]) as picture:
            width, height = picture.size
        visitor.choose(example["file"])
        if example["click"]:
            x, y = example["click"]
            visitor.click((x + 0.5) / width, (y + 0.5) / height)
        assert visitor.ask(example["question"]).strip() == example["answer"]
    assert visitor.complaints == []
