"""OpenAI's endpoints, by OpenAI's own client against a live server."""

import json
import threading
import urllib.request

import pytest

from demo.models import Chooser
from demo.serve.form import RequestError, parse
from demo.serve.limits import Limits
from demo.serve.server import launch

openai = pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"{served.local_url}v1", api_key="unused", max_retries=0)


@pytest.fixture
def ask(client):
    def asked(messages, **more):
        return client.chat.completions.create(model="tiny", messages=messages, **more)

    return asked


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "loupe"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_another_model_is_listed_by_its_own_name(tiny_assistant):
    chooser = Chooser(lambda *named: tiny_assistant, device=None)
    server = launch(lambda: tiny_assistant, "tiny", port=0, chooser=chooser)
    try:
        server.loader.wait()
        client = openai.OpenAI(base_url=f"{server.local_url}v1", api_key="unused", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny"]
        server.loader.choose("Salesforce/blip2-opt-2.7b", None, "nf4")
        assert server.loader.settled(30)
        assert [model.id for model in client.models.list()] == ["blip2-opt-2.7b"]
    finally:
        server.close()


def test_an_answer_is_the_one_the_assistant_gives(ask, messages, tiny_assistant, image):
    given = ask(messages("what is this?"), extra_body={"regions": [{"points": [[10, 10, 1]]}]})
    view = tiny_assistant.encode(image)
    region = view.click(10, 10)
    assert given.choices[0].message.content == view.ask("what is this?", [region])
    told = given.loupe["regions"][0]
    assert (told["name"], told["box"]) == ("region 1", list(region.box))
    assert given.usage.total_tokens == given.usage.prompt_tokens + given.usage.completion_tokens
    assert given.usage.completion_tokens > 0


def test_a_streamed_answer_joins_to_the_whole_one(ask, messages):
    whole = ask(messages("what is this?"))
    options = {"include_usage": True}
    *pieces, last = ask(messages("what is this?"), stream=True, stream_options=options)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content
    assert len(pieces) > 3
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage


def test_only_the_last_chunk_counts_and_the_others_say_null(served, messages):
    body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True},
            "stop": None, "messages": messages("what is this?")}  # fmt: skip
    request = urllib.request.Request(
        f"{served.local_url}v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        lines = [
            line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: ")
        ]
    *chunks, last = (json.loads(line) for line in lines[:-1])
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["usage"]["total_tokens"] > 0
    assert lines[-1] == "[DONE]"


def test_null_is_nothing_and_a_picture_in_broken_lines_the_picture(ask, messages, url):
    plain = ask(messages("what is this?")).choices[0].message.content
    head, _, text = url.partition(",")
    lines = "\n".join(text[n : n + 76] for n in range(0, len(text), 76)).rstrip("=")
    talk = messages("what is this?")
    talk[0]["content"][0]["image_url"]["url"] = f"{head.replace(';', ';name=a.png;')},{lines}"
    nulls = dict.fromkeys(("temperature", "max_tokens", "top_logprobs", "function_call", "audio"))
    assert ask(talk, **nulls).choices[0].message.content == plain


def test_later_turns_know_the_earlier_ones(ask, messages, tiny_assistant, image):
    view = tiny_assistant.encode(image)
    region = view.box(5, 5, 40, 30)
    talk = view.converse()
    talk.recall("what is this?", "a red star", [region])
    expected = "".join(talk.ask("and its colour?"))
    turns = messages("what is this?", regions=[{"box": [5, 5, 40, 30]}])
    turns += [{"role": "assistant", "content": "a red star"}]
    turns += [{"role": "user", "content": "and its colour?"}]
    given = ask(turns)
    assert given.choices[0].message.content == expected
    assert [one["name"] for one in given.loupe["regions"]] == ["region 1"]
    assert given.usage.prompt_tokens == talk.turns[1].read


def test_a_mistake_is_openais_bad_request_even_in_a_stream(ask, messages):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="outside the picture") as caught:
            ask(messages("what?"), stream=stream,
                extra_body={"regions": [{"points": [[1000, 1, 1]]}]})  # fmt: skip
        assert caught.value.code == "region"


def test_length_and_warmth_are_the_callers(ask, messages):
    short = ask(messages("what is this?"), max_tokens=1)
    assert short.usage.completion_tokens == 1
    assert short.choices[0].finish_reason == "length"
    assert ask(messages("what is this?"), temperature=1.5, max_completion_tokens=4).usage


def test_a_caller_who_leaves_stops_the_answer(served, messages, monkeypatch, tiny_assistant):
    going, left = threading.Event(), threading.Event()

    def endless(*_):
        try:
            while True:
                going.set()
                yield 5
        finally:
            left.set()

    monkeypatch.setattr(tiny_assistant.language, "generate", endless)
    body = {"model": "tiny", "stream": True, "messages": messages("what is this?")}
    request = urllib.request.Request(
        f"{served.local_url}v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    answer = urllib.request.urlopen(request, timeout=30)
    assert going.wait(30)
    answer.close()
    assert left.wait(1), "the model went on writing for nobody"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "gpt-4o"}, "model"),
        ({"n": 2}, "n"),
        ({"top_p": 0.5}, "top_p"),
        ({"stop": ["x"]}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperatur": 1}, "temperatur"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "no picture"}]}, "messages"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "system", "content": "x", "regions": []}]},
         "messages[0].regions"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name(messages, change, param):
    body = {"model": "tiny", "messages": messages("what?"), **change}
    with pytest.raises(RequestError) as caught:
        parse(body, "tiny", Limits())
    assert caught.value.param == param


def test_another_picture_starts_another_talk(messages, url):
    talk = [
        *messages("what is this?"),
        {"role": "assistant", "content": "a star"},
        {"role": "system", "content": "be brief"},
        *messages("and here?"),
    ]
    asked = parse({"model": "tiny", "messages": talk, "user": "ann"}, "tiny", Limits())
    assert (asked.question, asked.past, asked.picture) == ("and here?", (), url)
    assert asked.unread == ("user", "system message")
