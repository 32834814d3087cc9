"""The gradio client and MCP: the same three things to do, by name, and nothing else."""

import json
import urllib.error
import urllib.request

import gradio_client
import pytest

from adapters.rle import decode_rle
from demo.serve.mcp import TOOLS

POINT = [{"points": [[10, 10, 1]]}]


@pytest.fixture(scope="module")
def gradio(served):
    return gradio_client.Client(served.local_url, verbose=False)


def test_the_gradio_client_asks_segments_and_describes(gradio, url, tiny_assistant, image):
    view = tiny_assistant.encode(image)
    region = view.click(10, 10)
    told = gradio.predict(url, "what is this?", POINT, api_name="/ask")
    assert told["answer"] == view.ask("what is this?", [region])
    (cut,) = gradio.predict(url, POINT, api_name="/segment")["regions"]
    assert decode_rle(cut["rle"]).equal(region.region_mask)
    told = gradio.predict(url, POINT, api_name="/describe")
    assert (told["caption"], told["regions"][0]["caption"]) == (
        view.caption(),
        view.caption(region),
    )


def test_the_gradio_client_is_told_what_is_wrong_and_finds_nothing_else(gradio, url):
    with pytest.raises(Exception, match="never opened"):
        gradio.predict("/etc/passwd", "what?", [], api_name="/ask")
    named = gradio.view_api(return_format="dict")["named_endpoints"]
    assert sorted(named) == ["/ask", "/describe", "/segment"]


def test_memory_that_runs_out_is_said_to_programs_as_busy(gradio, served, url, monkeypatch, caplog):
    def full(*args, **named):
        raise MemoryError("at 0x7f")

    messages = [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"},
    ]}]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("qformer.conversation.Conversation.ask", full)
        patched.setattr("qformer.view.View.segment", full)
        with pytest.raises(Exception, match="memory ran out: send a smaller picture"):
            gradio.predict(url, POINT, api_name="/segment")
        request = urllib.request.Request(
            f"{served.local_url}v1/chat/completions",
            json.dumps({"model": "tiny", "messages": messages}).encode(),
            {"content-type": "application/json"},
        )
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(request, timeout=30)
    said = json.loads(told.value.read())["error"]
    assert (told.value.code, told.value.headers["retry-after"]) == (503, "5")
    assert "memory ran out" in said["message"]
    assert gradio.predict(url, "what is this?", POINT, api_name="/ask")["answer"]


def rpc(served, method, params=None, key=1):
    message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    if key is not None:
        message["id"] = key
    request = urllib.request.Request(
        f"{served.local_url}mcp",
        json.dumps(message).encode(),
        {"content-type": "application/json", "accept": "application/json, text/event-stream"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
            return answer.status, json.loads(body) if body else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_language_model_finds_and_calls_the_tools(served, url, tiny_assistant, image):
    _, begun = rpc(served, "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}})
    assert begun["result"]["serverInfo"]["name"] == "loupe"
    assert rpc(served, "notifications/initialized", key=None) == (202, None)
    _, listed = rpc(served, "tools/list")
    assert [tool["name"] for tool in listed["result"]["tools"]] == list(TOOLS)
    given = {"picture": url, "question": "what is this?", "regions": POINT}
    _, called = rpc(served, "tools/call", {"name": "ask", "arguments": given})
    view = tiny_assistant.encode(image)
    told = called["result"]["structuredContent"]
    assert told["answer"] == view.ask("what is this?", [view.click(10, 10)])
    assert json.loads(called["result"]["content"][0]["text"]) == told


def test_a_wrong_call_of_a_tool_is_said_to_the_language_model(served, url):
    given = {"picture": "http://10.0.0.1/x.png", "question": "what?"}
    _, called = rpc(served, "tools/call", {"name": "ask", "arguments": given})
    assert called["result"]["isError"]
    assert "never opened" in called["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("resources/read", {"uri": "file:///etc/passwd"}, -32601),
        ("tools/call", {"name": "shell"}, -32602),
        ("tools/call", {"name": "look", "arguments": {}}, -32602),
        ("tools/call", {"name": "ask", "arguments": {"owner": "bob"}}, -32602),
        ("tools/call", {"name": "ask", "arguments": {"picture": "data:"}}, -32602),
        ("tools/call", {"name": "ask", "arguments": []}, -32602),
        ("tools/list", [], -32602),
    ],
)
def test_what_is_no_tool_is_refused(served, method, params, code):
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    if params == []:
        message["params"] = [1]
    _, said = rpc(served, method, message["params"])
    assert said["error"]["code"] == code
