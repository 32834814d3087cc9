import types

import pytest

from adapters.rle import decode_rle
from demo import page
from demo.session import Session
from qformer.assistant import AssistantConfig, Suggestions


@pytest.fixture
def session(tiny_assistant, image):
    made = Session(lambda: tiny_assistant)
    made.open(image)
    return made


def test_region_masks_travel_once_and_the_picture_when_opened(session):
    mark = session.picture().regions.click(10, 10)
    first = page.scene(session, ack=3, whole=True)
    assert first["ack"] == 3
    assert first["picture"]["src"].startswith("data:image/png;base64,")
    assert first["pictures"][0]["thumb"].startswith("data:image/png;base64,")
    (region,) = first["regions"]
    assert decode_rle(region["rle"]).equal(mark.region.region_mask)
    assert region["points"] == [[10 / 60, 10 / 40, True]]
    assert region["asked"]
    again = page.scene(session)
    assert "src" not in again["picture"]
    assert "rle" not in again["regions"][0]


def test_suggestions_fit_what_is_asked_about(session):
    offered = Suggestions(("describe it",), ("what is {1}?",), ("is {1} bigger than {2}?",))
    assistant = types.SimpleNamespace(config=AssistantConfig(suggestions=offered))
    regions = session.picture().regions
    assert page.talk(session, assistant)["suggestions"] == ["describe it"]
    regions.click(10, 10)
    assert page.talk(session, assistant)["suggestions"] == ["what is region 1?"]
    regions.click(30, 20)
    assert page.talk(session, assistant)["suggestions"] == ["is region 1 bigger than region 2?"]
    regions.click(50, 35)
    assert page.talk(session, assistant)["suggestions"] == []
    told = page.talk(session, None)
    assert [asked["number"] for asked in told["asked"]] == [1, 2, 3]
    assert told["suggestions"] == []
