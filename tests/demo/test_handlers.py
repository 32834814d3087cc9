"""What the page's events do, payloads of strangers included."""

import base64
import json
import threading
from pathlib import Path

import pytest
from caller import Caller
from gradio.utils import get_upload_folder
from PIL import Image

from demo import events
from demo.app import ASSETS
from demo.handlers import Chat
from demo.models import Loader


@pytest.fixture
def chat(tiny_assistant, tmp_path, image):
    made = Chat(Loader(lambda: tiny_assistant, "tiny").start(), saves=tmp_path / "kept")
    made.loader.wait()
    Image.fromarray(image.numpy()).save(tmp_path / "noise.png")
    made.examples = {"noise.png": tmp_path / "noise.png"}
    return made


@pytest.fixture
def visitor(chat):
    made = Caller(chat)
    canvas, _ = made.operate(op="example", name="noise.png")
    assert canvas["error"] == ""
    return made


def test_from_example_to_answer(chat):
    visitor = Caller(chat)
    canvas, talk = visitor.operate(op="example", name="noise.png")
    assert canvas["picture"]["width"] == 60
    assert canvas["picture"]["src"].startswith("data:image/png;base64,")
    assert talk["entries"] == []
    canvas, talk = visitor.operate(op="point", x=0.2, y=0.3, positive=True, region=None)
    assert (canvas["ack"], canvas["error"]) == (2, "")
    assert canvas["regions"][0]["rle"]["counts"]
    assert "src" not in canvas["picture"]
    assert talk["asked"] == [{"number": 1, "label": ""}]
    talk = visitor.ask()
    assert [entry["role"] for entry in talk["entries"]] == ["question", "answer"]
    assert talk["entries"][1]["text"]
    assert talk["entries"][0]["snapshot"].startswith("data:image/png")
    assert not talk["busy"]


def test_region_masks_travel_once_and_all_again_when_asked_for(visitor):
    visitor.operate(op="box", box=[0.1, 0.1, 0.5, 0.8])
    canvas, _ = visitor.operate(op="stroke", points=[[0.5, 0.5]], radius=0.1, positive=True,
                                region=None)  # fmt: skip
    assert ["rle" in region for region in canvas["regions"]] == [False, True]
    canvas, _ = visitor.operate(op="sync")
    assert all("rle" in region for region in canvas["regions"])
    assert canvas["candidates"] == []
    assert "src" not in canvas["picture"]


def test_the_other_operations_on_regions(visitor):
    visitor.operate(op="point", x=0.2, y=0.3, positive=True, region=None)
    canvas, _ = visitor.operate(op="cycle", region=1)
    assert canvas["regions"][0]["reading"] == 1
    assert "rle" in canvas["regions"][0]
    canvas, talk = visitor.operate(op="rename", region=1, label="cup")
    assert canvas["regions"][0]["label"] == talk["asked"][0]["label"] == "cup"
    canvas, talk = visitor.operate(op="choose", region=1, asked=False)
    assert talk["asked"] == []
    visitor.operate(op="delete", region=1)
    canvas, _ = visitor.operate(op="undo")
    assert canvas["regions"][0]["label"] == "cup"
    assert "rle" in canvas["regions"][0]
    canvas, _ = visitor.operate(op="redo")
    assert canvas["regions"] == []
    canvas, _ = visitor.operate(op="clear")
    assert canvas["error"] == ""


def test_pictures_are_switched_and_closed(visitor):
    visitor.ask()
    visitor.operate(op="example", name="noise.png")
    canvas, talk = visitor.operate(op="switch", picture=1)
    assert [picture["id"] for picture in canvas["pictures"]] == [1, 2]
    assert canvas["picture"]["id"] == 1
    assert canvas["picture"]["src"]
    assert len(talk["entries"]) == 2
    canvas, talk = visitor.operate(op="close", picture=1)
    assert canvas["picture"]["id"] == 2
    canvas, talk = visitor.operate(op="close", picture=2)
    assert canvas["picture"] is None
    assert talk["picture"] is None


def test_an_answer_streams(visitor):
    talks = visitor.work(op="ask", question="what is this?")
    assert len(talks) > 3
    lengths = [len(talk["entries"][-1]["text"]) for talk in talks]
    assert lengths[0] == 0
    assert lengths == sorted(lengths)
    assert [talk["busy"] for talk in talks] == [True] * (len(talks) - 1) + [False]


def test_snapshots_travel_with_their_own_answer_only(visitor):
    visitor.operate(op="point", x=0.2, y=0.3, positive=True, region=None)
    visitor.ask()
    for talk in visitor.work(op="ask", question="and its colour?"):
        assert ["snapshot" in entry for entry in talk["entries"]] == [False, False, True, False]


def test_stop_keeps_what_was_written(chat, visitor):
    answer = chat.work(visitor.key, {"op": "ask", "question": "what is this?"})
    next(answer)
    stopper = threading.Thread(target=answer.close)
    stopper.start()
    talk = chat.stop(visitor.key)
    stopper.join()
    assert talk["entries"][-1]["state"] == "stopped"
    assert not talk["busy"]


def test_a_question_that_fails_comes_back_into_the_box(chat, visitor):
    talk = Caller(chat).ask()
    assert (talk["entries"], talk["kept"]) == ([], "what is this?")
    assert "no picture yet" in talk["note"]
    for question in ("", "why " * 200, "x" * (events.MAX_QUESTION + 1)):
        talk = visitor.ask(question)
        assert talk["kept"] == question[: events.MAX_QUESTION]
        assert talk["note"]


def test_retry_edit_and_restart(visitor):
    first = visitor.ask()["entries"]
    talk = visitor.work(op="edit", entry=first[0]["id"], question="what colour is it?")[-1]
    assert [entry["text"] for entry in talk["entries"]][:1] == ["what colour is it?"]
    talk = visitor.work(op="retry", entry=talk["entries"][1]["id"])[-1]
    assert len(talk["entries"]) == 2
    assert talk["entries"][1]["sampled"]
    _, talk = visitor.operate(op="restart")
    assert talk["entries"] == []


SETTINGS = {
    "preset": None, "composer": None, "max_new_tokens": None, "beams": None, "temperature": None,
    "threshold": 0.0, "save": False,
}  # fmt: skip


def test_settings_hold_for_this_visitor(chat, visitor):
    wanted = {**SETTINGS, "max_new_tokens": 3, "threshold": 0.999}
    canvas, talk = visitor.operate(op="settings", **wanted)
    assert (canvas["error"], talk["settings"]) == ("", wanted)
    assert visitor.ask()["entries"][-1]["state"] == "withheld"
    assert Caller(chat).session.settings.threshold == 0
    canvas, talk = visitor.operate(op="settings", **{**wanted, "beams": 4, "temperature": 1.0})
    assert "exclude each other" in canvas["error"]
    assert talk["settings"] == wanted


def test_evidence_is_shown_and_can_be_painted(visitor):
    visitor.operate(op="point", x=0.2, y=0.3, positive=True, region=None)
    entries = visitor.ask()["entries"]
    canvas, _ = visitor.operate(op="evidence", entry=entries[1]["id"])
    found = canvas["evidence"]
    assert found["entry"] == entries[1]["id"]
    for one in found["maps"]:
        levels = base64.b64decode(one["levels"])
        assert len(levels) == one["rows"] * one["columns"]
        assert max(levels) == 255
    canvas, _ = visitor.operate(op="sync")
    assert "evidence" not in canvas


def test_corrections_are_kept_only_where_switched_on(visitor, tmp_path):
    visitor.operate(op="stroke", points=[[0.5, 0.5]], radius=0.1, positive=True, region=None)
    answer = visitor.ask()["entries"][1]["id"]
    _, talk = visitor.operate(op="rate", entry=answer, rating=1)
    assert talk["entries"][1]["rating"] == 1
    assert not (tmp_path / "kept").exists()
    visitor.operate(op="settings", **{**SETTINGS, "save": True})
    _, talk = visitor.operate(op="correct", entry=answer, answer=" a boat ")
    assert (talk["entries"][1]["text"], talk["entries"][1]["corrected"]) == ("a boat", True)
    (line,) = (tmp_path / "kept" / "data.jsonl").read_text().splitlines()
    assert json.loads(line)["conversation"][0]["answer"] == "a boat"
    assert (tmp_path / "kept" / "instances.json").exists()
    assert visitor.operate(op="correct", entry=answer, answer=" ")[0]["error"]
    visitor.operate(op="rate", entry=answer, rating=-1)
    assert (tmp_path / "kept" / "data.jsonl").read_text() == ""


def test_where_nothing_may_be_kept_it_is_not_offered(tiny_assistant):
    chat = Chat(Loader(lambda: tiny_assistant, "tiny").start())
    chat.loader.wait()
    visitor = Caller(chat)
    canvas, talk = visitor.operate(op="settings", **{**SETTINGS, "save": True})
    assert "nothing is kept here" in canvas["error"]
    assert not talk["saves"]


def test_exports_come_as_files(visitor):
    visitor.operate(op="point", x=0.2, y=0.3, positive=True, region=None)
    visitor.ask()
    for form in ("json", "html", "png"):
        canvas, _ = visitor.operate(op="export", form=form)
        assert canvas["file"]["name"] == f"loupe.{form}"
    assert base64.b64decode(canvas["file"]["base64"]).startswith(b"\x89PNG")


# What strangers send ---------------------------------------------------------------------------

POINT = {"op": "point", "x": 0.5, "y": 0.5, "positive": True, "region": None}
STROKE = {"op": "stroke", "points": [[0.5, 0.5]], "radius": 0.1, "positive": True, "region": None}
HOSTILE = [
    {},
    {"op": "fly"},
    {"op": ["point"]},
    {"op": "__init__"},
    {"op": "ask", "question": "a question is not asked here"},
    {"op": "example", "name": "../../etc/passwd"},
    {"op": "example", "name": 3},
    {"op": "upload", "file": {"path": "/etc/passwd"}},
    {"op": "upload", "file": {"path": str(ASSETS / "page.css")}},
    {"op": "upload", "file": {"path": "http://localhost/x.png"}},
    {"op": "upload", "file": {"path": "a\0b"}},
    {"op": "upload", "file": {"path": "x" * 10_000}},
    {"op": "upload", "path": "/etc/passwd"},
    {"op": "import", "file": {"path": "/etc/passwd"}},
    {"op": "switch", "picture": 9},
    {"op": "close", "picture": -1},
    {**POINT, "x": 1.5},
    {**POINT, "x": float("nan")},
    {**POINT, "x": "0"},
    {**POINT, "x": True},
    {**POINT, "positive": 1},
    {**POINT, "region": "1"},
    {**POINT, "region": True},
    {**POINT, "region": 10**30},
    {"op": "box", "box": [0, 0, 0, 0]},
    {"op": "box", "box": [0, 0, 1]},
    {"op": "box", "box": "0011"},
    {**STROKE, "points": []},
    {**STROKE, "points": [[0.5, 0.5]] * 5000},
    {**STROKE, "points": [[0.5]]},
    {**STROKE, "points": [[0.5, 7]]},
    {**STROKE, "radius": float("inf")},
    {"op": "pick", "candidate": 0},
    {"op": "cycle", "region": 1},
    {"op": "rename", "region": 1, "label": {}},
    {"op": "choose", "region": 5, "asked": True},
    {"op": "choose", "region": {}, "asked": True},
    {"op": "delete", "region": None},
    {"op": "undo"},
    {"op": "rate", "entry": 1, "rating": 5},
    {"op": "correct", "entry": 1, "answer": "x" * 10_000},
    {"op": "evidence", "entry": 77},
    {"op": "export", "form": "../../x"},
    {"op": "settings", **SETTINGS, "preset": "rm"},
    {"op": "settings", **SETTINGS, "max_new_tokens": 10**9},
    {"op": "settings", **SETTINGS, "temperature": float("nan")},
    {"op": "settings", **SETTINGS, "threshold": None},
    {"op": "settings", **SETTINGS, "beams": True},
]


@pytest.mark.parametrize("operation", HOSTILE, ids=lambda one: json.dumps(one, default=str)[:50])
def test_what_the_page_would_never_send_is_refused(visitor, operation):
    canvas, talk = visitor.operate(**operation)
    assert canvas["error"]
    assert len(canvas["error"]) < 300
    assert canvas["ack"] == 2
    assert canvas["regions"] == []
    assert talk["entries"] == []


@pytest.mark.parametrize(
    "task",
    [
        {}, {"op": "point"}, {"op": "ask"}, {"op": "ask", "question": 3},
        {"op": "ask", "question": "x" * 10_000_000}, {"op": "retry", "entry": None},
        {"op": "edit", "entry": 1, "question": "?"},
    ],
    ids=lambda one: json.dumps(one)[:40],
)  # fmt: skip
def test_tasks_that_the_page_would_never_send_are_refused(visitor, task):
    (talk,) = visitor.work(**task)
    assert talk["note"]
    assert len(json.dumps(talk)) < 10_000
    assert not talk["busy"]


def test_event_data_of_any_shape_is_answered(chat, visitor):
    for data in (None, [], "x", 7, {"id": "1"}, {"id": True}, {"id": -1}):
        canvas, _ = chat.operate(visitor.key, data)
        assert canvas["error"]
        assert canvas["ack"] == 0


def test_a_key_that_was_never_given_out_gets_an_empty_session(chat, visitor):
    for key in ("", "x", None, 7, "../" * 9, "k" * 5000, {"a": 1}):
        canvas, _ = chat.operate(key, {"op": "sync", "id": 1})
        assert canvas["picture"] is None
        assert len(chat.sessions) == 1


def test_an_upload_is_taken_from_the_upload_folder_only(visitor, image):
    folder = Path(get_upload_folder()) / "loupe-test"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "upload.png"
    try:
        Image.fromarray(image.numpy()).save(file)
        sent = {"file": {"path": str(file)}, "title": "holiday.png"}
        canvas, _ = visitor.operate(op="upload", **sent)
        assert canvas["picture"]["title"] == "holiday"
        file.write_bytes(b"no picture")
        canvas, _ = visitor.operate(op="upload", **sent)
        assert "not a picture" in canvas["error"]
        assert canvas["picture"]["id"] == 2  # the old one stays
        canvas, _ = visitor.operate(op="import", **sent)
        assert "no session file" in canvas["error"]
        with file.open("wb") as handle:
            handle.truncate(events.MAX_UPLOAD + 1)
        assert "larger than 20 MB" in visitor.operate(op="upload", **sent)[0]["error"]
    finally:
        file.unlink()
        folder.rmdir()


def test_clicks_at_the_far_edge_are_inside(visitor):
    canvas, _ = visitor.operate(**{**POINT, "x": 1, "y": 1})
    assert canvas["error"] == ""


def test_a_flood_of_clicks_is_slowed(chat, visitor):
    visitor.session.bucket.tokens = visitor.session.bucket.burst = 40
    errors = [visitor.operate(op="clear")[0]["error"] for _ in range(60)]
    assert errors[0] == ""
    assert "too fast" in errors[-1]


def test_memory_that_runs_out_is_said_and_nothing_is_lost(visitor, monkeypatch, caplog):
    def full(*args, **named):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")

    visitor.operate(**POINT)
    answer = visitor.ask()["entries"][1]["id"]
    with monkeypatch.context() as patched:
        for broken in ("View.segment", "View.find", "View.evidence", "View.log_likelihood"):
            patched.setattr(f"qformer.view.{broken}", full)
        patched.setattr("qformer.assistant.Assistant.encode", full)
        patched.setattr("qformer.conversation.Conversation.ask", full)
        patched.setattr("demo.session.search", full)
        told = [
            visitor.operate(**operation)[0]["error"]
            for operation in (POINT, {"op": "evidence", "entry": answer},
                              {"op": "example", "name": "noise.png"})
        ]  # fmt: skip
        for task in ({"op": "ask", "question": "and now?"}, {"op": "retry", "entry": answer},
                     {"op": "everything"}, {"op": "find", "words": "a cup"}):  # fmt: skip
            talk = visitor.work(**task)[-1]
            assert not talk["busy"]
            told.append(talk["note"])
        assert visitor.work(op="describe")[-1]["entries"][-1]["text"].startswith("memory ran out")
    for one in told:
        assert one.startswith("memory ran out: ask about fewer regions")
    canvas, _ = visitor.operate(op="sync")
    assert [region["number"] for region in canvas["regions"]] == [1]
    assert visitor.ask("and its colour?")["entries"][-1]["state"] == "done"


def test_two_visitors_do_not_meet(chat, visitor):
    other, canvas, talk = chat.enter()
    assert canvas["picture"] is None
    assert talk["entries"] == []
    assert other != visitor.key


def test_an_operation_that_breaks_says_so_and_keeps_the_page(visitor, monkeypatch, caplog):
    monkeypatch.setattr("demo.regions.Regions.click", lambda *args: 1 / 0)
    canvas, _ = visitor.operate(**POINT)
    assert "ZeroDivisionError" in canvas["error"]
    assert canvas["picture"]["id"] == 1
