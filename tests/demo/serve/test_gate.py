import asyncio

from demo.serve.gate import Gate
from demo.serve.limits import Limits
from demo.serve.metrics import Metrics


def test_a_page_that_goes_is_told_of_and_no_other_stream_is():
    """Whether it listened for an answer or not: gradio sees only those that did."""
    gone, told = [], []

    async def left(key):
        gone.append(key)

    async def until_it_goes(scope, receive, send):
        told.append((list(scope["loupe.pages"]), scope["loupe.pages"] is gate.pages))
        while (await receive())["type"] != "http.disconnect":
            pass

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError(message)

    gate = Gate(until_it_goes, Limits(), Metrics(), left=left)
    for path, query in (("heartbeat/abc123", b""), ("queue/data", b"session_hash=abc123")):
        scope = {
            "type": "http", "method": "GET", "path": f"/gradio_api/{path}", "query_string": query,
            "headers": [(b"host", b"localhost:7860")],
        }  # fmt: skip
        asyncio.run(gate(scope, receive, send))
    assert gone == ["abc123"]
    assert told == [(["abc123"], True), ([], True)]  # which pages are open
    assert not gate.pages
