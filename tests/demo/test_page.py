import types

import pytest
from PIL import Image

from adapters import draw
from demo import page
from demo.session import Entry, Session
from qformer.assistant import AssistantConfig, Suggestions


@pytest.fixture
def session(tiny_assistant, image):
    made = Session(lambda: tiny_assistant)
    made.open(image)
    return made


def test_region_masks_travel_once_and_the_picture_when_opened(session):
    mark = session.click(10, 10)
    first = page.scene(session, ack=3, changed=(mark,), opened=True)
    assert first["ack"] == 3
    assert first["picture"]["src"].startswith("data:image/png;base64,")
    (region,) = first["regions"]
    assert (draw.decode_rle(region["rle"]) == mark.region.region_mask.numpy()).all()
    assert region["points"] == [[10 / 60, 10 / 40, True]]
    assert region["asked"]
    again = page.scene(session)
    assert "src" not in again["picture"]
    assert "rle" not in again["regions"][0]


def test_text_shows_as_it_was_typed():
    text = "<img src=x onerror=alert(1)> *a* [b](javascript:c) `d` & # $e$"
    shown = page.told(Entry("answer", text))
    assert "<" not in shown
    assert "](" not in shown
    assert "\\*a\\*" in shown


def test_regions_are_links_in_questions_and_answers():
    answer = page.told(Entry("answer", "region 2 is bigger"))
    assert answer == "[region 2](#region-2) is bigger"
    named = page.told(Entry("question", "is region 1 big?", (1,), "data:image/png;base64,x"))
    assert named == "![](data:image/png;base64,x)\n\nis [region 1](#region-1) big?"
    assert page.told(Entry("question", "which?", (1, 3))) == "[1](#region-1) [3](#region-3) which?"


def test_unfinished_answers_say_so():
    assert page.told(Entry("answer", "a red", state="stopped")).endswith("*(stopped)*")
    assert page.told(Entry("answer", "too long", state="failed")).startswith("⚠")


def test_suggestions_fit_what_is_asked_about(session):
    offered = Suggestions(("describe it",), ("what is {1}?",), ("is {1} bigger than {2}?",))
    assistant = types.SimpleNamespace(config=AssistantConfig(suggestions=offered))
    assert page.composer(session, assistant)["suggestions"] == ["describe it"]
    session.click(10, 10)
    assert page.composer(session, assistant)["suggestions"] == ["what is region 1?"]
    session.click(30, 20)
    assert page.composer(session, assistant)["suggestions"] == ["is region 1 bigger than region 2?"]
    session.click(50, 35)
    assert page.composer(session, assistant)["suggestions"] == []
    assert page.composer(session, None)["asked"] == [{"number": 1}, {"number": 2}, {"number": 3}]


def test_every_example_that_ships_is_offered(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "one.png")
    assert list(page.examples(tmp_path)) == ["one.png"]
    for offered in page.thumbnails(page.examples()):
        assert offered["src"].startswith("data:image/png;base64,")


def test_the_described_examples_are_there():
    for entry in page.described_examples():
        assert entry["file"] in page.examples()
        assert {"click", "question", "answer"} <= entry.keys()
