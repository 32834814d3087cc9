"""The server is told to end (SIGTERM) while it answers: what was begun is finished."""

import json
import logging
import threading
import time
import urllib.error
import urllib.request

import pytest

from demo.serve.limits import Limits
from demo.serve.server import launch


@pytest.fixture
def url_of(image):
    import base64
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def slow(tiny_assistant, monkeypatch):
    """A server whose model takes a moment for each step."""
    language = type(tiny_assistant.language)
    step = language.embed

    def slowly(self, *args, **named):
        time.sleep(0.1)
        return step(self, *args, **named)

    monkeypatch.setattr(language, "embed", slowly)
    server = launch(lambda: tiny_assistant, "tiny", port=0, limits=Limits(queue=8, answers=1))
    server.loader.wait()
    yield server
    server.close(0)


def ask(server, url, stream, told):
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    body = {
        "model": "loupe",
        "max_tokens": 8,
        "stream": stream,
        "messages": [{"role": "user", "content": content}],
    }
    request = urllib.request.Request(
        server.local_url + "v1/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            told.append((answer.status, answer.read().decode()))
    except urllib.error.HTTPError as error:
        told.append((error.code, error.read().decode()))


def several(server, url, count):
    told: list = []
    threads = [
        threading.Thread(target=ask, args=(server, url, number % 2 == 0, told))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    return threads, told


def test_answers_that_were_begun_are_finished(slow, url_of, caplog):
    threads, told = several(slow, url_of, 4)
    with caplog.at_level(logging.WARNING):
        slow.close()
    for thread in threads:
        thread.join(10)
    assert [status for status, _ in told] == [200] * 4
    for _, text in told:
        assert text.endswith("data: [DONE]\n\n") or json.loads(text)["choices"]
    assert not caplog.records


def test_what_cannot_be_finished_is_told_and_nothing_is_traced(slow, url_of, caplog):
    threads, told = several(slow, url_of, 4)
    with caplog.at_level(logging.WARNING):
        slow.close(grace=0.0)
    for thread in threads:
        thread.join(10)
    assert len(told) == 4
    for status, text in told:
        assert status in (200, 503)
        assert "the server is ending" in text or status == 200
    assert not [record for record in caplog.records if record.exc_info]
