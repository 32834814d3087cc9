"""What the server allows, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from qformer.contracts import LoupeError

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """sessions: visitors at once. queue: requests that may wait for their turn; more are told
    "busy". answers: written at the same time. upload, session, body: bytes of a picture file, of a
    session file, which holds its pictures, and of a request that carries pictures as text.
    messages, regions: of one request. tokens: the longest answer that may be asked for. question:
    characters. pictures: kept encoded for the programs' next questions, at most `kept` bytes of
    pixels.
    """

    sessions: int = 64
    queue: int = 64
    answers: int = 4
    upload: int = 20 * MEGABYTE
    session: int = 64 * MEGABYTE
    body: int = 32 * MEGABYTE
    event: int = 8 * MEGABYTE  # bytes of an event of the page
    messages: int = 64
    regions: int = 32
    tokens: int = 512
    question: int = 2000
    pictures: int = 16
    kept: int = 256 * MEGABYTE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise LoupeError(f"{name}={value} must be at least 1")


def is_text(value: object) -> bool:
    """Whether it is a text that can be written down: JSON may hold halves of letters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


class BusyError(LoupeError):
    """Too much is going on: the same request may succeed in `retry` seconds."""

    def __init__(self, text: str, retry: int = 2, status: int = 429):
        super().__init__(text)
        self.retry, self.status = retry, status
