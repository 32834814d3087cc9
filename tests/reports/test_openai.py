"""Requests as the openai client and the compatibility suites of vLLM and LiteLLM send them."""

import base64
import io
from urllib.parse import quote, quote_from_bytes

import numpy as np
import pytest
from PIL import Image

from demo.serve.doors import picture_bytes
from demo.serve.form import RequestError, parse
from demo.serve.limits import MEGABYTE, Limits
from qformer.contracts import ImageError

URL = "data:image/png;base64,AAAA"
PICTURE = {"type": "image_url", "image_url": {"url": URL}}
TEXT = {"type": "text", "text": "what is in this image?"}


def user(*parts, **more):
    return {"role": "user", "content": list(parts), **more}


def read(messages=None, **more):
    body = {"model": "loupe", "messages": messages or [user(PICTURE, TEXT)], **more}
    return parse(body, "loupe", Limits())


def reference():
    """Every parameter that the installed client knows."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    params = openai.types.chat.completion_create_params.CompletionCreateParamsBase
    return sorted(params.__annotations__.keys() - {"messages", "model"} | {"stream"})


def test_null_is_accepted_of_every_parameter_of_the_reference():
    for key in reference():
        asked = read(**{key: None})
        assert (asked.wanted, asked.stream, asked.unread) == ({}, False, ()), key
    assert read(**dict.fromkeys(reference())).question == TEXT["text"]


ACCEPTED = [  # what is sent beside a usual message, and what comes of it
    {},
    {"max_tokens": 10, "temperature": 0.0},
    {"max_completion_tokens": 10, "temperature": 0.0, "stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": False}},
    {"stream": False, "stream_options": None, "n": 1, "stop": None, "top_p": 1.0},
    {"logprobs": False, "top_logprobs": 0, "logit_bias": {}, "seed": 33},
    {"logprobs": None, "top_logprobs": None, "presence_penalty": 0.0, "frequency_penalty": 0},
    {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none"},
    {"tools": None, "tool_choice": "auto", "parallel_tool_calls": True, "function_call": "auto"},
    {"response_format": {"type": "text"}, "modalities": ["text"], "audio": None},
    {"user": "ishaan@berri.ai", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    {"prediction": {"type": "content", "content": "a dog"}, "prompt_cache_retention": "24h"},
    {"reasoning_effort": "low", "verbosity": "low", "safety_identifier": "x"},
    {"regions": None},
]


@pytest.mark.parametrize("more", ACCEPTED)
def test_what_asks_for_nothing_that_cannot_be_had_is_answered(more):
    assert read(**more).picture == URL


REFUSED = [
    ({"n": 2}, "n"), ({"n": True}, "n"), ({"logprobs": True, "top_logprobs": 5}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"), ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"), ({"web_search_options": {}},
     "web_search_options"), ({"function_call": {"name": "f"}}, "function_call"),
    ({"tool_choice": "required"}, "tool_choice"), ({"stop": ["\n"]}, "stop"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"temperature": 2.5}, "temperature"), ({"max_tokens": 0}, "max_tokens"),
    ({"stream": "true"}, "stream"), ({"temperatur": None}, "temperatur"), ({"top_k": 5}, "top_k"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param"), REFUSED)
def test_what_cannot_be_had_is_refused_by_name(more, param):
    with pytest.raises(RequestError) as caught:
        read(**more)
    assert caught.value.param == param


TALKS = [
    [{"role": "system", "content": "You are a helpful assistant."}, user(PICTURE, TEXT)],
    [{"role": "system", "content": [TEXT], "name": None}, user(TEXT, PICTURE)],
    [
        {"role": "developer", "content": "be brief", "regions": None},
        user(PICTURE, TEXT, name="ann"),
    ],
    [user(PICTURE), {"role": "user", "content": TEXT["text"]}],
    [user({"type": "image_url", "image_url": {"url": URL, "detail": "auto"}}, TEXT)],
    [user({"type": "image_url", "image_url": {"url": URL, "detail": None}}, TEXT)],
    [user({"type": "image_url", "image_url": URL}, TEXT)],  # LiteLLM's short form
    [user(PICTURE, {**TEXT, "prompt_cache_breakpoint": None}, regions=None)],
]


@pytest.mark.parametrize("messages", TALKS)
def test_messages_come_in_every_form_of_the_reference(messages):
    asked = read(messages)
    assert (asked.picture, asked.question, asked.regions) == (URL, TEXT["text"], None)


ASSISTANT = [
    {"content": "a dog", "refusal": None, "audio": None, "tool_calls": None, "function_call": None},
    {"content": [{"type": "text", "text": "a dog"}], "tool_calls": [], "annotations": []},
    {"content": [{"type": "refusal", "refusal": "a dog"}]},
]


@pytest.mark.parametrize("said", ASSISTANT)
def test_an_answer_goes_back_as_the_client_gives_it(said):
    again = {"role": "user", "content": "and its colour?"}
    asked = read([user(PICTURE, TEXT), {"role": "assistant", **said}, again])
    assert asked.past == ((TEXT["text"], "a dog", None),)
    nothing = {"role": "assistant", "content": None, "refusal": None}
    assert read([user(PICTURE, TEXT), nothing, again]).past == ()


def test_regions_of_a_message_are_not_undone_by_null():
    asked = read([user(PICTURE, regions=[{"box": [0, 0, 9, 9]}]), user(TEXT, regions=None)])
    assert asked.regions == [{"box": [0, 0, 9, 9]}]


# Pictures ---------------------------------------------------------------------------------------


def png():
    """A file whose base64 has both odd letters and needs padding."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()
    content += b"\0" * (1 + -len(content) % 3)  # which readers pass over
    text = base64.b64encode(content).decode()
    assert text.endswith("==")
    assert {"+", "/"} <= set(text)
    return content, text


CONTENT, B64 = png()
LINES = "\r\n".join(B64[n : n + 76] for n in range(0, len(B64), 76))


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{B64}",
        f"DATA:image/PNG;BASE64,{B64}",
        f"data:image/png;charset=utf-8;base64,{B64}",
        f'data:image/png;name="a, b.png";base64,{B64}',
        f"data:image/png;name=a.png;charset=US-ASCII;base64,{B64}",
        f"data:image/*;base64,{B64}",
        f"data:image/png;base64,{LINES}\n",
        f"  data:image/png;base64, {B64} ",
        f"data:image/png;base64,{B64.rstrip('=')}",
        f"data:image/png;base64,{B64.translate(str.maketrans('+/', '-_'))}",
        f"data:image/png;base64,{quote(B64, safe='')}",
        f"data:image/png,{quote_from_bytes(CONTENT)}",
    ],
)
def test_data_urls_are_read_as_browsers_and_clients_write_them(url):
    assert picture_bytes(url, MEGABYTE) == CONTENT


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/a.png", "never opened"),
        ("/etc/passwd", "never opened"),
        ("data:text/html;base64,AAAA", "never opened"),
        ("data:image/png;base64", "never opened"),
        ("data:image/png;" + "a=b;" * 200 + "base64,AAAA", "never opened"),
        (f"data:image/png;base64,{B64.rstrip('=')[:-1]}", "base64 is damaged"),
        ("data:image/png;base64,AA!A", "base64 is damaged"),
        ("data:image/png;base64," + "A" * 2 * MEGABYTE, "larger than 1 MB"),
        (None, "a picture is a text"),
    ],
)
def test_what_is_no_picture_in_a_data_url_is_refused(url, message):
    with pytest.raises(ImageError, match=message):
        picture_bytes(url, MEGABYTE)
