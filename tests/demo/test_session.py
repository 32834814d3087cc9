import dataclasses
import threading

import pytest
import torch
from inside import answered, entries, regions

from demo.picture import Settings
from demo.session import MAX_PICTURES, Session, TokenBucket
from qformer.contracts import (
    ImageError,
    LoupeError,
    QuestionError,
    RegionError,
)
from qformer.conversation import Conversation
from qformer.view import View


def test_without_a_picture_everything_says_so(tiny_assistant):
    empty = Session(lambda: tiny_assistant)
    acts = (
        empty.picture, empty.restart, lambda: answered(empty), lambda: empty.evidence(1),
        lambda: list(empty.everything()), lambda: list(empty.retry(1)),
    )  # fmt: skip
    for act in acts:
        with pytest.raises(ImageError, match="no picture yet"):
            act()
        assert not empty.busy


# Pictures


def test_pictures_keep_their_own_regions_and_talk(session, image):
    regions(session).click(10, 10)
    answered(session)
    second = session.open(image, "second")
    assert entries(session) == []
    assert regions(session).click(30, 20).number == 1
    session.switch(1)
    assert len(entries(session)) == 2
    assert list(regions(session).marks) == [1]
    session.close(1)
    assert session.picture() is second
    for act in (session.switch, session.close):
        with pytest.raises(ImageError, match="closed"):
            act(1)
    assert session.open(image).serial == 3


def test_a_session_holds_a_bounded_number_of_pictures(session, image):
    for _ in range(MAX_PICTURES - 1):
        session.open(image)
    with pytest.raises(ImageError, match="close one first"):
        session.open(image)


def test_a_picture_that_was_away_answers_as_before(session, image):
    answered(session)
    twin = Session(session._assistant)
    twin.open(image)
    answered(twin)
    for _ in range(3):
        session.open(image)
    session.switch(1)
    assert answered(session, "and its colour?") == answered(twin, "and its colour?")


def test_another_model_takes_over_pictures_regions_and_talk(session, tiny_assistant):
    mark = regions(session).click(10, 10)
    answered(session)
    other = type(tiny_assistant)(
        tiny_assistant.vision, tiny_assistant.bridge, tiny_assistant.language,
        tiny_assistant.segmenter, tiny_assistant.config, tiny_assistant.tokenizer,
    )  # fmt: skip
    session._assistant = lambda: other
    assert session.picture().view.assistant is other
    assert regions(session).marks[1].region is mark.region
    answered(session, "and its colour?")
    (first, second) = session.picture().talk.conversation().turns
    assert first.question == "what is this?"
    assert second.regions == (mark.region,)


def test_a_picture_of_one_pixel_can_be_asked_about(tiny_assistant):
    session = Session(lambda: tiny_assistant)
    session.open(torch.zeros(1, 1, 3, dtype=torch.uint8))
    answered(session)
    assert entries(session)[-1].state == "done"


def test_an_unfamiliar_picture_is_said_to_be_one(session, image, monkeypatch):
    monkeypatch.setattr(View, "familiar", False, raising=False)
    session.open(image)
    (note,) = entries(session)
    assert note.role == "notice"
    assert "tiny random weights" in note.text
    answered(session)
    session.restart()
    assert entries(session) == [note]


def test_a_model_that_cannot_be_loaded_is_said_at_the_picture(image):
    def missing():
        raise LoupeError("model.safetensors is missing")

    with pytest.raises(LoupeError, match="missing"):
        Session(missing).open(image)


# Questions


def test_the_question_is_about_the_chosen_regions_or_those_it_names(session, monkeypatch):
    about = []
    ask = Conversation.ask

    def spy(conversation, question, regions=None, decoding=None):
        about.append((question, [region.name for region in regions]))
        return ask(conversation, question, regions, decoding)

    monkeypatch.setattr(Conversation, "ask", spy)
    here = regions(session)
    here.click(10, 10)
    here.click(30, 20)
    here.rename(2, "cup")
    answered(session, "which is bigger?")
    answered(session, "and what is #1?")
    answered(session, "is the cup red?")
    here.choose(1, False)
    here.choose(2, False)
    answered(session, "describe it")
    assert about == [
        ("which is bigger?", ["region 1", "region 2"]),
        ("and what is region 1?", ["region 1"]),
        ("is region 2 red?", ["region 2"]),
        ("describe it", []),
    ]
    assert entries(session)[4].text == "is the cup red?"
    with pytest.raises(RegionError, match="no region 9"):
        answered(session, "what is region 9?")


def test_the_transcript_keeps_the_turn_with_a_snapshot_of_its_regions(session):
    regions(session).click(10, 10)
    text = answered(session)
    question, answer = entries(session)
    assert (question.role, question.text, question.numbers) == ("question", "what is this?", (1,))
    assert question.snapshot.startswith("data:image/png;base64,")
    assert (answer.role, answer.text, answer.state) == ("answer", text, "done")
    assert answer.id > question.id


@pytest.mark.parametrize("question", ["", "   ", "why " * 400])
def test_a_question_that_cannot_be_asked_changes_nothing(session, question):
    with pytest.raises(QuestionError):
        answered(session, question)
    assert entries(session) == []
    assert not session.busy
    answered(session)


def test_one_answer_at_a_time(session):
    pieces = session.ask("what is this?")
    next(pieces)
    for act in (lambda: session.ask("and that?"), lambda: session.retry(1)):
        with pytest.raises(QuestionError, match="being written"):
            list(act())
    pieces.close()
    answered(session, "and that?")


def test_a_stopped_answer_is_kept_but_not_remembered(session):
    pieces = session.ask("what is this?")
    assert next(pieces) == ""
    next(pieces)
    session.stop()
    list(pieces)
    assert entries(session)[-1].state == "stopped"
    assert session.picture().talk.conversation().turns == []
    answered(session)
    assert len(session.picture().talk.conversation().turns) == 1


def test_a_visitor_who_leaves_stops_the_answer(session):
    pieces = session.ask("what is this?")
    next(pieces)
    pieces.close()
    assert entries(session)[-1].state == "stopped"
    assert not session.busy


def test_a_failing_model_keeps_the_chat(session, tiny_assistant, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory at 0x7f")
        yield

    monkeypatch.setattr(type(tiny_assistant.language), "generate", broken)
    assert answered(session) == ""
    assert entries(session)[-1].state == "failed"
    assert "0x7f" not in entries(session)[-1].text
    monkeypatch.undo()
    answered(session)
    assert entries(session)[-1].state == "done"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")],
    ids=["python", "torch"],
)
def test_memory_that_runs_out_in_an_answer_says_what_would_fit(
    session, tiny_assistant, monkeypatch, caplog, error
):
    def broken(*args, **kwargs):
        raise error
        yield

    monkeypatch.setattr(type(tiny_assistant.language), "generate", broken)
    answered(session)
    assert entries(session)[-1].state == "failed"
    assert "--quantize nf4" in entries(session)[-1].text


def test_restarting_keeps_the_regions(session):
    regions(session).click(10, 10)
    answered(session)
    session.restart()
    assert entries(session) == []
    assert list(regions(session).marks) == [1]
    assert session.picture().talk.conversation().turns == []


# Again, otherwise, more certain


def test_trying_again_takes_back_what_followed(session):
    answered(session)
    answered(session, "and its colour?")
    answered(session, "why?")
    second = entries(session)[2]
    list(session.retry(second.id))
    assert [entry.text for entry in entries(session) if entry.role == "question"] == [
        "what is this?", "and its colour?",
    ]  # fmt: skip
    assert entries(session)[-1].sampled  # the same words would be answered the same
    turns = session.picture().talk.conversation().turns
    assert [turn.question for turn in turns] == ["what is this?", "and its colour?"]


def test_an_edited_question_is_asked_in_its_place(session):
    regions(session).click(10, 10)
    answered(session)
    regions(session).click(30, 20)
    list(session.retry(entries(session)[0].id, "what colour is it?"))
    question, answer = entries(session)
    assert (question.text, question.numbers) == ("what colour is it?", (1,))
    assert not answer.sampled
    twin = Session(session._assistant)
    twin.open(session.picture().image)
    regions(twin).click(10, 10)
    assert answer.text == answered(twin, "what colour is it?")


def test_an_edit_that_cannot_be_asked_takes_nothing_back(session):
    answered(session)
    before = list(entries(session))
    for question in ("", "why " * 400, "what is region 9?"):
        with pytest.raises(LoupeError):
            session.retry(before[0].id, question)
    assert entries(session) == before
    assert not session.busy
    with pytest.raises(QuestionError, match="gone"):
        session.retry(99)


def test_an_uncertain_answer_is_withheld_but_kept(session):
    session.set(Settings(threshold=0.999))
    assert answered(session) == ""
    answer = entries(session)[-1]
    assert answer.state == "withheld"
    assert answer.text
    assert 0 < answer.certainty < 0.999
    session.set(Settings(threshold=1e-9))
    answered(session)
    assert entries(session)[-1].state == "done"


def test_settings_reach_the_model(session):
    session.set(Settings(max_new_tokens=2, composer="regions"))
    regions(session).click(10, 10)
    answered(session)
    talk = session.picture().talk
    assert talk.conversation().prompt.composer == "regions"
    assert talk.conversation().turns[0].wrote <= 2
    with pytest.raises(LoupeError, match="exclude each other"):
        session.set(Settings(beams=3, temperature=1.0))
    assert session.settings.max_new_tokens == 2


def test_another_composer_remembers_what_was_said(session):
    answered(session)
    session.set(Settings(composer="text"))
    answered(session, "and its colour?")
    assert len(session.picture().talk.conversation().turns) == 2


def test_a_corrected_answer_is_what_is_remembered(session):
    answered(session)
    talk = session.picture().talk
    entries(session)[1].text = "a boat"
    talk.forget()
    assert talk.conversation().turns[0].answer == "a boat"


def test_evidence_shows_where_an_answer_was_read(session):
    regions(session).click(10, 10)
    answered(session)
    found = session.evidence(entries(session)[-1].id)
    assert set(found["maps"]) == set(session.picture().talk.conversation().plan("x", [
        regions(session).marks[1].region]).sources)  # fmt: skip
    assert set(found["close_ups"]) <= {1}
    assert 0 < found["certainty"] <= 1
    assert found["grounding"] is not None
    entries(session)[-1].state = "failed"
    with pytest.raises(QuestionError, match="no answer to look behind"):
        session.evidence(entries(session)[-1].id)


# Visitors


def test_clicks_from_many_threads_are_all_taken(session):
    def click():
        with session.lock:
            session.picture().regions.click(10, 10)

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(regions(session).marks) == list(range(1, 9))


def test_the_bucket_allows_a_burst_and_then_a_rate():
    bucket = TokenBucket(rate=0.001, burst=3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_every_setting_can_be_sent_by_the_page():
    from demo.events import OPERATIONS

    assert set(OPERATIONS["settings"]) == {field.name for field in dataclasses.fields(Settings)}
