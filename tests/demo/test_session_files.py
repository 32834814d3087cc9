import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from demo import export
from demo.session import Session
from qformer.contracts import LoupeError


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def session(tiny_assistant, image):
    made = Session(lambda: tiny_assistant)
    made.open(image, "noise", png(image))
    here = made.picture().regions
    here.click(10, 10)
    here.click(30, 20)
    here.delete(1)
    here.rename(2, "the <b>cup</b>")
    list(made.ask("what is this?"))
    here.click(40, 30, number=2)
    list(made.ask("and its colour?"))
    made.open(image, "second")
    made.switch(1)
    return made


@pytest.fixture
def written(session):
    return json.loads(export.to_json(session, "tiny"))


def test_a_replayed_session_is_the_one_that_was_exported(session, tiny_assistant, written):
    again = Session(lambda: tiny_assistant)
    assert export.replay(again, json.dumps(written)) == 2
    again.switch(1)
    one, two = session.picture(), again.picture()
    assert two.title == "noise"
    assert torch.equal(one.image, two.image)
    assert list(two.regions.marks) == [2]
    mark, twin = one.regions.marks[2], two.regions.marks[2]
    assert (twin.label, twin.region.score) == (mark.label, mark.region.score)
    assert torch.equal(mark.region.region_mask, twin.region.region_mask)
    assert two.regions.asked == one.regions.asked
    assert not two.regions.undoable
    for said, told in zip(one.talk.entries, two.talk.entries, strict=True):
        assert (said.role, said.text, said.state) == (told.role, told.text, told.state)
        assert said.numbers == told.numbers
        assert bool(said.snapshot) == bool(told.snapshot)
        for then, now in zip(said.regions, told.regions, strict=True):
            assert torch.equal(then.region_mask, now.region_mask)
    turns = two.talk.conversation().turns
    assert [turn.question for turn in turns] == ["what is this?", "and its colour?"]
    assert json.loads(export.to_json(again, "tiny")) == written
    assert two.regions.click(5, 5).number == 3


def test_region_masks_are_written_as_coco_does(written):
    (region,) = written["pictures"][0]["regions"]
    assert region["rle"]["size"] == [40, 60]
    assert region["number"] == 2


def bad(written, change):
    change(written["pictures"][0])
    return json.dumps(written)


HOSTILE = {
    "no json": lambda w: "{",
    "a list": lambda w: "[]",
    "deep": lambda w: "[" * 100_000,
    "another version": lambda w: json.dumps({**w, "loupe": 2}),
    "many pictures": lambda w: json.dumps({**w, "pictures": [w["pictures"][0]] * 9}),
    "a picture that is none": lambda w: json.dumps({**w, "pictures": [3]}),
    "an address": lambda w: bad(w, lambda p: p.update(image="http://10.0.0.1/a.png")),
    "a path": lambda w: bad(w, lambda p: p.update(image="../../etc/passwd")),
    "no picture": lambda w: bad(w, lambda p: p.update(image=base64.b64encode(b"x").decode())),
    "another size": lambda w: bad(w, lambda p: p["regions"][0]["rle"].update(size=[41, 60])),
    "a huge size": lambda w: bad(w, lambda p: p["regions"][0]["rle"].update(size=[10**9, 10**9])),
    "damaged runs": lambda w: bad(w, lambda p: p["regions"][0]["rle"].update(counts="\u00ff~~")),
    "runs of numbers": lambda w: bad(w, lambda p: p["regions"][0]["rle"].update(counts=[1, 2])),
    "an empty region": lambda w: bad(w, lambda p: p["regions"][0]["rle"].update(counts="P[2")),
    "no number": lambda w: bad(w, lambda p: p["regions"][0].update(number="1")),
    "many regions": lambda w: bad(w, lambda p: p.update(regions=p["regions"] * 99)),
    "a long label": lambda w: bad(w, lambda p: p["regions"][0].update(label="x" * 999)),
    "a role": lambda w: bad(w, lambda p: p["transcript"][0].update(role="system")),
    "a long question": lambda w: bad(w, lambda p: p["transcript"][0].update(text="x" * 10**6)),
    "no text": lambda w: bad(w, lambda p: p["transcript"][0].update(text=None)),
    "areas": lambda w: bad(w, lambda p: p["transcript"][0].update(areas=[1])),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_session_file_opens_nothing(kind, written, tiny_assistant):
    fresh = Session(lambda: tiny_assistant)
    with pytest.raises(LoupeError) as error:
        export.replay(fresh, HOSTILE[kind](written))
    assert len(str(error.value)) < 300
    assert not fresh.pictures


@pytest.mark.parametrize("kind", ["a huge size", "an address", "no number"])
def test_one_bad_picture_of_several_opens_none(kind, written, session, tiny_assistant):
    bad_one = json.loads(HOSTILE[kind](json.loads(json.dumps(written))))["pictures"][0]
    written["pictures"].append(bad_one)
    with pytest.raises(LoupeError):
        export.replay(session, json.dumps(written))
    assert list(session.pictures) == [2, 1]
    assert session.current == 1


def test_memory_that_runs_out_while_a_session_is_loaded_leaves_the_old_one(
    written, session, monkeypatch
):
    opened = Session.open

    def full(self, *named, **given):
        if len(self.pictures) == 3:
            raise MemoryError
        return opened(self, *named, **given)

    monkeypatch.setattr(Session, "open", full)
    with pytest.raises(MemoryError):
        export.replay(session, json.dumps(written))
    assert list(session.pictures) == [2, 1]
    assert session.current == 1


def test_a_session_that_could_not_be_loaded_again_is_not_saved(session, monkeypatch):
    size = len(export.to_json(session, "tiny").encode())
    monkeypatch.setattr(export, "MAX_SESSION", size)
    assert export.to_json(session, "tiny")
    monkeypatch.setattr(export, "MAX_SESSION", size - 1)
    with pytest.raises(LoupeError, match="can be loaded again: save it as a page, or close some"):
        export.to_json(session, "tiny")
    assert len(session.pictures) == 2


def test_the_page_to_pass_on_needs_nothing_and_shows_text_as_text(session):
    page = export.to_html(session, "tiny <model>")
    assert "tiny &lt;model&gt;" in page
    assert "the &lt;b&gt;cup&lt;/b&gt;" in page
    assert "what is this?" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count('<img src="data:image/') >= 3


def test_the_overlay_has_the_pictures_size(session):
    with Image.open(io.BytesIO(export.overlay_png(session))) as picture:
        assert picture.size == (60, 40)
        assert (np.asarray(picture) != session.picture().image.numpy()).any()


def test_an_empty_session_has_nothing_to_show(tiny_assistant):
    with pytest.raises(LoupeError, match="nothing to export"):
        export.to_html(Session(lambda: tiny_assistant), "tiny")
