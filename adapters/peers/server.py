"""A peer behind an address: any server that speaks OpenAI's chat form, pictures as data URIs."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from adapters.draw import data_uri, displayed
from adapters.peers.base import Batch
from adapters.published import PRESETS
from qformer.contracts import CheckpointError, LoupeError, QuestionError
from qformer.together import Question

KEY = "LOUPE_PEER_KEY"  # where the environment holds it, it is sent as a bearer token
TOGETHER = 8  # requests under way
TIMEOUT = 120.0
BUSY = (429, 502, 503, 504)  # answered by asking again
TRIES = 6
LONGEST_WAIT = 60.0  # seconds
CAPTION = "Describe the picture in one short sentence."
SHORT = "{} Answer with one word or a short phrase."
CHOICE = "{} Answer with one of these and nothing else: {}."


class ServerPeer:
    """Answers over HTTP; nothing else of it is known than what it writes."""

    ways = ("write",)
    sees_regions = False

    def __init__(self, name: str, url: str, model: str | None = None) -> None:
        """url: up to and with /v1; "#model" behind it names the model, by default its first.

        Raises CheckpointError if nothing answers there.
        """
        address, _, named = url.partition("#")
        self.name, self.url = name, address.rstrip("/")
        self.model = model or named or self._first_model()

    def _first_model(self) -> str:
        try:
            listed = self._call("/models")["data"]
            return listed[0]["id"]
        except (LoupeError, KeyError, IndexError, TypeError):
            raise CheckpointError(
                f"{self.url} lists no models: check the address (up to /v1), or add #MODEL to it"
            ) from None

    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        with ThreadPoolExecutor(TOGETHER) as pool:
            return list(pool.map(lambda question: self._answer(question, preset), questions))

    def _answer(self, question: Question, preset: str) -> str | LoupeError:
        text = SHORT.format(question.text) if question.text else CAPTION
        if question.choices:
            text = CHOICE.format(question.text, ", ".join(question.choices))
        picture = {"url": data_uri(displayed(question.image.cpu().numpy()))}
        message = {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": picture},
                {"type": "text", "text": text},
            ],
        }
        asked = {
            "model": self.model,
            "messages": [message],
            "max_tokens": PRESETS[preset].max_new_tokens,
            "temperature": 0,
        }
        try:
            return str(self._call("/chat/completions", asked)["choices"][0]["message"]["content"])
        except LoupeError as error:
            return error
        except (KeyError, IndexError, TypeError):
            return QuestionError(f"{self.url} answered in another form than OpenAI's")

    def _call(self, path: str, body: dict[str, Any] | None = None, tried: int = 1) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        content = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, content, headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in BUSY or tried == TRIES:
                raise QuestionError(f"{self.url}{path} answered {error.code}") from None
            seconds = pause(error.headers.get("Retry-After"), tried)
        except (OSError, ValueError) as error:
            raise QuestionError(f"{self.url}{path}: {type(error).__name__}") from None
        time.sleep(seconds)
        return self._call(path, body, tried + 1)

    def about(self, preset: str) -> dict[str, Any]:
        decoding = {"max_tokens": PRESETS[preset].max_new_tokens, "temperature": 0}
        return {"served": self.model, "preset": preset, "decoding": decoding}


def pause(told: str | None, tried: int) -> float:
    """Seconds until a busy server is asked again: what it told, else twice as long each time."""
    seconds = float(told) if told and told.isdigit() else 2.0 ** (tried - 1)
    return min(LONGEST_WAIT, seconds)
