import threading

import pytest
import torch

from demo import page
from demo.session import MAX_REGIONS, Session, Sessions, TokenBucket
from qformer.contracts import ImageError, LoupeError, QuestionError, RegionError
from qformer.conversation import Conversation
from qformer.view import View


@pytest.fixture
def session(tiny_assistant, image):
    made = Session(lambda: tiny_assistant)
    made.open(image)
    return made


def answered(session, question):
    return "".join(session.ask(question))


def test_without_a_picture_everything_says_so(tiny_assistant):
    empty = Session(lambda: tiny_assistant)
    for act in (lambda: empty.click(1, 1), empty.clear, lambda: answered(empty, "what is this?")):
        with pytest.raises(ImageError, match="no picture yet"):
            act()


def test_a_number_is_never_used_twice_in_one_picture(session):
    assert session.click(10, 10).number == 1
    assert session.box(5, 5, 30, 30).number == 2
    session.delete(2)
    assert session.click(30, 20).number == 3
    session.clear()
    assert session.click(30, 20).number == 4


def test_a_new_picture_starts_anew(session, image):
    session.click(10, 10)
    answered(session, "what is this?")
    session.open(image)
    assert session.transcript == []
    assert session.click(10, 10).number == 1


def test_refining_feeds_back_the_logits_and_every_point(session, monkeypatch):
    mark = session.click(10, 10)
    logits, before = mark.logits, mark.region
    asked = []
    segment = View.segment

    def spy(view, points=(), box=None, logits=None):
        asked.append((points, box, logits))
        return segment(view, points, box, logits)

    monkeypatch.setattr(View, "segment", spy)
    refined = session.click(30, 20, positive=False, number=1)
    ((points, box, fed),) = asked
    assert points == ((10, 10, 1), (30, 20, 0))
    assert box is None
    assert fed is logits
    assert refined.number == 1
    assert refined.region is not before
    assert refined.region.name == "region 1"


def test_a_refinement_that_fails_leaves_the_region(session, monkeypatch):
    mark = session.click(10, 10)
    region = mark.region
    with pytest.raises(RegionError, match="outside the picture"):
        session.click(999, 10, number=1)
    assert session.picture.marks[1].region is region
    assert mark.points == ((10, 10, 1),)


def test_a_box_may_be_dragged_from_any_corner(session):
    assert session.box(30, 30, 5, 5).box == (5, 5, 30, 30)


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.click(60, 10),
        lambda s: s.click(float("nan"), 1),
        lambda s: s.box(5, 5, 5, 30),
        lambda s: s.click(3, 3, positive=False),
        lambda s: s.click(3, 3, number=7),
        lambda s: s.delete(7),
        lambda s: s.choose(7, True),
    ],
    ids=["outside", "nan", "no area", "exclude from nothing", "refine", "delete", "choose"],
)
def test_bad_pointing_is_a_region_error_and_changes_nothing(session, act):
    with pytest.raises(RegionError):
        act(session)
    assert session.picture.marks == {}


def test_a_picture_holds_a_bounded_number_of_regions(session):
    for _ in range(MAX_REGIONS):
        session.click(10, 10)
    with pytest.raises(RegionError, match="delete one first"):
        session.click(10, 10)


def test_new_regions_are_asked_about_until_a_question_is_put(session):
    session.click(10, 10)
    session.click(30, 20)
    assert session.picture.asked == [1, 2]
    answered(session, "which is bigger?")
    session.click(50, 35)
    assert session.picture.asked == [3]
    session.choose(1, True)
    assert session.picture.asked == [3, 1]
    session.choose(3, False)
    assert session.picture.asked == [1]


def test_the_question_is_about_the_chosen_regions_or_those_it_names(session, monkeypatch):
    about = []
    ask = Conversation.ask

    def spy(conversation, question, regions=None, decoding=None):
        about.append((question, [region.name for region in regions]))
        return ask(conversation, question, regions, decoding)

    monkeypatch.setattr(Conversation, "ask", spy)
    session.click(10, 10)
    session.click(30, 20)
    answered(session, "which is bigger?")
    answered(session, "and what is #1?")
    session.choose(1, False)
    session.choose(2, False)
    answered(session, "describe it")
    assert about == [
        ("which is bigger?", ["region 1", "region 2"]),
        ("and what is region 1?", ["region 1"]),
        ("describe it", []),
    ]
    with pytest.raises(RegionError, match="no region 9"):
        answered(session, "what is region 9?")


def test_the_transcript_keeps_the_turn_with_a_snapshot_of_its_regions(session):
    session.click(10, 10)
    text = answered(session, "what is this?")
    question, answer = session.transcript
    assert (question.role, question.text, question.regions) == ("question", "what is this?", (1,))
    assert question.snapshot.startswith("data:image/png;base64,")
    assert (answer.role, answer.text, answer.state) == ("answer", text, "done")


@pytest.mark.parametrize("question", ["", "   ", "why " * 400])
def test_a_question_that_cannot_be_asked_changes_nothing(session, question):
    with pytest.raises(QuestionError):
        answered(session, question)
    assert session.transcript == []
    assert not session.answering
    answered(session, "what is this?")


def test_one_answer_at_a_time(session):
    pieces = session.ask("what is this?")
    next(pieces)
    with pytest.raises(QuestionError, match="being written"):
        answered(session, "and that?")
    pieces.close()
    answered(session, "and that?")


def test_a_stopped_answer_is_kept_but_not_remembered(session):
    pieces = session.ask("what is this?")
    assert next(pieces) == ""
    next(pieces)
    session.stop()
    list(pieces)
    assert session.transcript[-1].state == "stopped"
    assert session.picture.conversation.turns == []
    answered(session, "what is this?")
    assert len(session.picture.conversation.turns) == 1


def test_a_visitor_who_leaves_stops_the_answer(session):
    pieces = session.ask("what is this?")
    next(pieces)
    pieces.close()
    assert session.transcript[-1].state == "stopped"
    assert not session.answering


def test_a_failing_model_keeps_the_chat(session, tiny_assistant, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory at 0x7f")
        yield

    monkeypatch.setattr(type(tiny_assistant.language), "generate", broken)
    assert answered(session, "what is this?") == ""
    assert session.transcript[-1].state == "failed"
    assert "0x7f" not in session.transcript[-1].text
    monkeypatch.undo()
    answered(session, "what is this?")
    assert session.transcript[-1].state == "done"


def test_a_new_picture_ends_the_answer_about_the_old(session, image):
    pieces = session.ask("what is this?")
    next(pieces)
    session.open(image)
    list(pieces)
    assert session.transcript == []
    answered(session, "what is this?")


def test_restarting_keeps_the_regions(session):
    session.click(10, 10)
    answered(session, "what is this?")
    session.restart()
    assert session.transcript == []
    assert list(session.picture.marks) == [1]
    assert session.picture.conversation.turns == []


def test_an_unfamiliar_picture_is_said_to_be_one(session, image, monkeypatch):
    monkeypatch.setattr(View, "familiar", False, raising=False)
    session.open(image)
    (note,) = session.transcript
    assert note.role == "notice"
    assert "tiny random weights" in note.text
    assert "loupe chat --model FOLDER" in note.text
    assert "`loupe chat --model FOLDER`" in page.told(note)
    session.restart()
    assert session.transcript == [note]


def test_clicks_from_many_threads_are_all_taken(session):
    threads = [threading.Thread(target=session.click, args=(10, 10)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(session.picture.marks) == list(range(1, 9))


def test_the_store_is_bounded_and_forgets_the_longest_unseen(tiny_assistant):
    store = Sessions(lambda: tiny_assistant, capacity=2)
    first, second = store.get("a"), store.get("b")
    assert store.get("a") is first
    store.get("c")
    assert len(store) == 2
    assert store.get("a") is first
    assert store.get("b") is not second
    store.drop("a")
    store.drop("never there")
    assert len(store) == 1


def test_a_model_that_cannot_be_loaded_is_said_at_the_picture(image):
    def missing():
        raise LoupeError("model.safetensors is missing")

    with pytest.raises(LoupeError, match="missing"):
        Session(missing).open(image)


def test_the_bucket_allows_a_burst_and_then_a_rate():
    bucket = TokenBucket(rate=0.001, burst=3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_a_picture_of_one_pixel_can_be_asked_about(tiny_assistant):
    session = Session(lambda: tiny_assistant)
    session.open(torch.zeros(1, 1, 3, dtype=torch.uint8))
    answered(session, "what is this?")
    assert session.transcript[-1].state == "done"
