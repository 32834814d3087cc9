"""OpenAI's chat completions as text in and text out: a request checked, answers and errors worded.

No model and no network here. What a request asks for and cannot get is refused, never ignored.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from demo.arguments import shown
from demo.models import PAINTINGS
from demo.serve.limits import BusyError, Limits, is_text
from qformer.contracts import Decoding, LoupeError, hint

# Asked for so, or as null, these change nothing here; asked for otherwise, they cannot be had.
ONLY: dict[str, tuple] = {
    "n": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "stop": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "moderation": (),
    "web_search_options": (),
}
# These say something about the caller, not about the answer.
UNREAD = ("metadata", "parallel_tool_calls", "prediction", "prompt_cache_key",
          "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "seed",
          "service_tier", "store", "user", "verbosity", "reasoning_effort")  # fmt: skip
READ = ("model", "messages", "regions", "stream", "stream_options", "temperature", "max_tokens",
        "max_completion_tokens")  # fmt: skip
ROLES = ("system", "developer", "user", "assistant")


class RequestError(LoupeError):
    """The request is not one that can be answered. param: the part of it that is wrong."""

    def __init__(self, text: str, param: str | None = None, code: str | None = None, status=400):
        super().__init__(text)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True)
class Asked:
    """A request for an answer, checked as far as that goes without the picture."""

    picture: str  # a data URL
    question: str
    regions: Any = None  # as in a batch line; None: those named or in force
    past: tuple[tuple[str, str, Any], ...] = ()  # (question, answer, regions) about this picture
    stream: bool = False
    usage: bool = False  # count tokens at the end of a stream too
    wanted: dict = field(default_factory=dict)  # changes to the model's own Decoding
    unread: tuple[str, ...] = ()  # what was sent and has no effect, for the caller to know

    def decoding(self, own: Decoding) -> Decoding:
        """The model's own settings with what the request changes."""
        values = {**vars(own), **self.wanted}
        values["min_new_tokens"] = min(values["min_new_tokens"], values["max_new_tokens"])
        if values["temperature"] > 0:
            values["beams"] = 1
        return Decoding(**values)


def names(model: str) -> tuple[str, ...]:
    """What a program may call the model that is served."""
    return (model, "loupe", "embedded") if model == PAINTINGS else (model, "loupe")


def parse(body: Any, model: str, limits: Limits) -> Asked:
    """A request's JSON, read. Raises RequestError naming the part that is wrong."""
    if not isinstance(body, dict):
        raise RequestError("the request is not a JSON object")
    known = (*READ, *ONLY, *UNREAD)
    for key in body:
        if key not in known:
            meant = hint(key, known, "docs/api.md names those that are read")
            raise RequestError(f"unknown parameter {key[:40]!r}; {meant}", key[:40])
    for key, allowed in ONLY.items():
        value = body.get(key)
        if value is not None and not any(_same(value, one) for one in allowed):
            may = " or ".join(map(json.dumps, allowed)) or "out"
            raise RequestError(f"{key} {shown(value)} is not supported: leave it {may}", key)
    if body.get("model") not in names(model):
        raise RequestError(
            f"the model {shown(body.get('model'))} is not served here: ask for {model!r}",
            "model", "model_not_found", 404,
        )  # fmt: skip
    stream = _of(body, "stream", bool, False)
    options = _of(body, "stream_options", dict, {})
    unread = [key for key in UNREAD if body.get(key) is not None]
    picture, past, last = _talk(body.get("messages"), limits)
    question, regions = last
    if body.get("regions") is not None:
        if regions is not None:
            raise RequestError("regions stand twice, beside and in the last message", "regions")
        regions = body["regions"]
    if any(m.get("role") in ("system", "developer") for m in body["messages"]):
        unread.append("system message")
    return Asked(
        picture, question, regions, past, stream, bool(options.get("include_usage")),
        _wanted(body, limits), tuple(unread),
    )  # fmt: skip


def _same(value: Any, other: Any) -> bool:
    """Equal, where true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _of(body: dict, key: str, kind: type | tuple, default: Any) -> Any:
    """body[key], of the right type."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RequestError(f"{key} is {shown(value)}, of the wrong type", key)
    return value


def _wanted(body: dict, limits: Limits) -> dict:
    wanted: dict[str, Any] = {}
    for key in ("max_tokens", "max_completion_tokens"):
        most = _of(body, key, int, None)
        if most is not None:
            if most < 1:
                raise RequestError(f"{key}={most} must be at least 1", key)
            wanted["max_new_tokens"] = min(most, limits.tokens)
    warmth = _of(body, "temperature", (int, float), None)
    if warmth is not None:
        if not 0 <= warmth <= 2:  # nor is NaN
            raise RequestError(f"temperature={warmth} must lie between 0 and 2", "temperature")
        wanted["temperature"] = float(warmth)
    return wanted


def _talk(messages: Any, limits: Limits) -> tuple[str, tuple, tuple[str, Any]]:
    """The picture asked about, the finished turns about it, and the open (question, regions)."""
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages is a list with at least one message", "messages")
    if len(messages) > limits.messages:
        raise RequestError(
            f"{len(messages)} messages are more than {limits.messages}: leave out old ones",
            "messages",
        )
    picture: str | None = None
    past: list[tuple[str, str, Any]] = []
    texts: list[str] = []
    regions: Any = None
    for place, message in enumerate(messages):
        at = f"messages[{place}]"
        role, text, found = _message(message, at, limits)
        if role == "user":
            if found is not None:  # another picture: what was said before is about the old one
                picture, past, texts, regions = found, [], [], None
            texts += [text] if text else []
            own = message.get("regions")
            regions = regions if own is None else own
        elif role == "assistant" and texts:
            past.append(("\n".join(texts), text, regions))
            texts, regions = [], None
    if messages[-1]["role"] != "user" or not texts:
        raise RequestError("the last message must be the user's, with a question", "messages")
    if picture is None:
        raise RequestError(
            'there is no picture: give one as {"type": "image_url", "image_url": {"url":'
            ' "data:image/png;base64,..."}} in a message of the user', "messages",
        )  # fmt: skip
    about = [turn for turn in past if turn[1]]
    return picture, tuple(about), ("\n".join(texts), regions)


def _message(message: Any, at: str, limits: Limits) -> tuple[str, str, str | None]:
    """(role, text, picture) of one message."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise RequestError(f'{at} needs a "role": {", ".join(ROLES)}', at)
    role, content = message["role"], message.get("content")
    if message.get("regions") is not None and role != "user":
        raise RequestError(f"{at}: regions belong to a message of the user", f"{at}.regions")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if parts is None and role == "assistant":
        parts = []
    if not isinstance(parts, list) or len(parts) > limits.messages:
        raise RequestError(f"{at}.content is a text or a short list of parts", f"{at}.content")
    texts: list[str] = []
    pictures: list[str] = []
    for number, part in enumerate(parts):
        here = f"{at}.content[{number}]"
        match part:
            case {"type": "text", "text": str(text)} if is_text(text):
                texts.append(text)
            case {"type": "refusal", "refusal": str(text)} if role == "assistant" and is_text(text):
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)} | str(url)} if role == "user":
                pictures.append(url)  # a bare text is what LiteLLM and vLLM take, too
            case _:
                raise RequestError(
                    f'{here} is not a part that is read here: {{"type": "text"}}, or in a message'
                    ' of the user {"type": "image_url"}', here,
                )  # fmt: skip
    if len(pictures) > 1:
        raise RequestError(f"{at} has {len(pictures)} pictures: one a message", f"{at}.content")
    text = "\n".join(texts).strip()
    if role != "system" and len(text) > limits.question:
        raise RequestError(
            f"{at} is longer than {limits.question} characters: cut it", f"{at}.content"
        )
    return role, text, pictures[0] if pictures else None


# Answers --------------------------------------------------------------------------------------


def completion(key: str, model: str, text: str, finish: str, usage: dict, told: dict) -> dict:
    """A whole answer. told: what OpenAI's form has no place for, under "loupe"."""
    return {
        "id": key, "object": "chat.completion", "created": int(time.time()), "model": model,
        "choices": [{
            "index": 0, "finish_reason": finish, "logprobs": None,
            "message": {"role": "assistant", "content": text, "refusal": None},
        }],
        "usage": usage, "loupe": told,
    }  # fmt: skip


def chunk(key: str, model: str, delta: dict | None, finish: str | None = None, **more: Any) -> str:
    """A piece of an answer as a server-sent event. delta: None where there is no choice in it."""
    choices = [] if delta is None else [
        {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    ]  # fmt: skip
    return event({
        "id": key, "object": "chat.completion.chunk", "created": int(time.time()),
        "model": model, "choices": choices, **more,
    })  # fmt: skip


def event(values: dict) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def usage(read: int, wrote: int) -> dict:
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def error(problem: Exception) -> tuple[int, dict, dict[str, str]]:
    """(status, body, headers) for what went wrong. What is not a LoupeError keeps its text."""
    if isinstance(problem, BusyError):
        says = _error(str(problem), "rate_limit_error", None, "busy")
        return problem.status, says, {"retry-after": str(problem.retry)}
    if isinstance(problem, RequestError):
        kind = "authentication_error" if problem.status == 401 else "invalid_request_error"
        return problem.status, _error(str(problem), kind, problem.param, problem.code), {}
    if isinstance(problem, LoupeError):
        code = type(problem).__name__.removesuffix("Error").lower()
        return 400, _error(str(problem), "invalid_request_error", None, code), {}
    text = f"the model failed ({type(problem).__name__}): ask again"
    return 500, _error(text, "server_error", None, None), {}


def _error(text: str, kind: str, param: str | None, code: str | None) -> dict:
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}
