"""Who finds which session again, and who makes room for whom."""

import pytest

from demo.handlers import Chat
from demo.models import Loader
from demo.session import LOST
from demo.visitors import Sessions
from qformer.contracts import ImageError


@pytest.fixture
def store(tiny_assistant):
    return Sessions(lambda: tiny_assistant, capacity=2)


def test_the_store_is_bounded_and_forgets_the_longest_unseen(store):
    first, second = store.get("a"), store.get("b")
    assert store.get("a") is first
    store.get("c")
    assert len(store) == 2
    assert store.get("a") is first
    assert store.get("b") is not second
    store.drop("a")
    store.drop("never there")
    assert len(store) == 1


def test_a_reloaded_page_finds_its_session_again(store):
    key = store.enter("", "browser")
    session = store.get(key)
    assert store.enter(key, "browser") == key
    assert store.get(key) is session
    store.drop(key)  # gradio lets go of the page before the reload, an hour later
    assert store.get(key) is session
    store.drop(key)
    assert len(store) == 0


def test_a_duplicated_tab_goes_on_with_a_copy(store, image):
    key = store.enter("", "browser", "page 1", {"page 1"})
    session = store.get(key)
    session.open(image)
    here = session.picture().regions
    here.click(10, 10)
    list(session.ask("what is this?"))
    here.click(30, 20)
    here.undo()
    twins = store.enter(key, "browser", "page 2", {"page 1", "page 2"})
    assert twins != key
    twin = store.get(twins)
    there = twin.picture().regions
    assert (list(there.marks), there.asked, there.redoable) == ([1], [1], True)
    assert [entry.text for entry in twin.picture().talk.entries] == [
        entry.text for entry in session.picture().talk.entries
    ]
    there.redo()
    there.rename(1, "cup")
    list(twin.ask("and its colour?"))
    twin.open(image)
    assert [len(one.pictures) for one in (session, twin)] == [1, 2]
    assert (list(here.marks), here.marks[1].label, here.redoable) == ([1], "", True)
    assert len(session.picture().talk.entries) == 2
    here.delete(1)
    twin.switch(1)
    assert list(twin.picture().regions.marks) == [1, 2]
    numbers = [entry.id for entry in twin.picture().talk.entries]
    assert len(set(numbers)) == len(numbers) == 4


def test_a_reload_after_the_page_has_gone_is_no_duplicate(store):
    key = store.enter("", "browser", "page 1", {"page 1"})
    assert store.enter(key, "browser", "page 2", {"page 2", "somebody else's"}) == key
    assert store.enter(key, "browser", "page 3", {"page 2", "page 3"}) != key


def test_an_answer_under_way_stays_with_the_tab_that_asked(store, image):
    session = store.get(store.enter("", "browser", "page 1", {"page 1"}))
    session.open(image)
    answer = session.ask("what is this?")
    next(answer), next(answer)
    twin = session.copy()
    assert twin.picture().talk.entries[-1].state == "stopped"
    assert not twin.busy
    list(answer)
    assert session.picture().talk.entries[-1].state == "done"
    assert twin.picture().talk.entries[-1].state == "stopped"


@pytest.mark.parametrize("owner", ["another", "", "browser2"])
def test_a_key_is_good_only_for_the_browser_it_was_given_to(store, owner):
    key = store.enter("", "browser")
    assert store.enter(key, owner) != key
    nobodys = store.enter("", "")  # a browser without cookies
    assert store.enter(nobodys, "") != nobodys


def test_a_key_that_was_never_given_out_is_not_taken(store):
    assert store.enter("x" * 22, "browser") != "x" * 22


def test_a_reloaded_page_is_shown_all_of_its_session(tiny_assistant, image):
    chat = Chat(Loader(lambda: tiny_assistant).start())
    chat.loader.wait()
    key, empty, _ = chat.enter("", "browser")
    assert empty["picture"] is None
    chat.sessions.get(key).open(image)
    chat.operate(key, {"id": 1, "op": "point", "x": 0.5, "y": 0.5, "positive": True})
    list(chat.work(key, {"op": "ask", "question": "what is this?"}))
    again, canvas, talk = chat.enter(key, "browser")
    assert (again, canvas["key"]) == (key, key)
    assert canvas["picture"]["src"]
    assert canvas["regions"][0]["rle"]
    assert [entry["role"] for entry in talk["entries"]][-2:] == ["question", "answer"]
    for hostile in (None, 7, "../" * 9, "k" * 5000, {"a": 1}):
        assert chat.enter(hostile, "browser")[1]["picture"] is None


def test_who_had_to_make_room_is_told_so(tiny_assistant, image):
    chat = Chat(Loader(lambda: tiny_assistant).start(), visitors=1)
    chat.loader.wait()
    key = chat.enter("", "browser")[0]
    chat.sessions.get(key).open(image)
    chat.enter("", "another")
    canvas, _ = chat.operate(key, {"id": 1, "op": "sync"})
    assert (canvas["error"], canvas["picture"]) == (LOST, None)
    assert list(chat.work(key, {"op": "ask", "question": "what?"}))[-1]["note"] == LOST
    chat.sessions.get(key).open(image)
    chat.sessions.get(key).close(1)
    with pytest.raises(ImageError, match="no picture yet"):
        chat.sessions.get(key).picture()
