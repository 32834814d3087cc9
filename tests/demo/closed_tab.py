"""`make test` runs this in a process of its own, as a chat is served: after dozens of servers in
one process gradio no longer hears of a page that went."""

import threading
import time

import pytest

from demo.session import Session

pytestmark = pytest.mark.browser


def test_a_closed_tab_stops_its_answer(visit, tiny_assistant, noise, monkeypatch):
    going, steps = threading.Event(), []

    def endless(session, question):
        going.set()
        while True:
            time.sleep(0.02)  # as a model's step does, it leaves the server time to see
            steps.append(time.monotonic())
            yield ""

    monkeypatch.setattr(Session, "ask", endless)
    visitor = visit(lambda: tiny_assistant)
    visitor.choose()
    visitor.page.fill(".lt-ask textarea", "what is this?")
    visitor.page.press(".lt-ask textarea", "Enter")
    assert going.wait(60)
    visitor.page.close()
    end = time.monotonic() + 60
    while time.monotonic() < end and time.monotonic() - steps[-1] < 2:
        time.sleep(0.1)
    assert time.monotonic() < end  # it is asked for no further step
