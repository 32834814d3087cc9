"""OpenAI's endpoints: /v1/models and /v1/chat/completions, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from demo import batch
from demo.serve import form
from demo.serve.doors import Doors
from demo.serve.limits import BusyError, Limits
from demo.serve.metrics import Metrics
from qformer.contracts import LoupeError

log = logging.getLogger(__name__)
END = object()


@dataclass(frozen=True)
class Done:
    """How an answer ended."""

    read: int  # tokens
    wrote: int
    finish: str  # "stop" | "length"
    told: dict


class Desk:
    """Lets so many requests work at a time and so many wait; tells the rest that it is busy.

    Work runs in threads of its own, and ends within a step of the model once nobody waits for it.
    """

    def __init__(self, limits: Limits, metrics: Metrics):
        self._limits, self._metrics = limits, metrics
        self._threads = ThreadPoolExecutor(limits.answers, thread_name_prefix="loupe-answer")
        self._slots: asyncio.Semaphore | None = None
        self._closed = False
        self.waiting = 0
        self.working = 0
        self.ending = False

    async def start(self, make: Callable[[], Iterator]) -> AsyncIterator:
        """The items of make(), as they come, once there is room. Raises BusyError at once."""
        if self.ending:
            raise _ending()
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._limits.answers)
        if self._slots.locked() and self.waiting >= self._limits.queue:
            self._metrics.busy.add()
            raise BusyError(f"busy: {self.waiting} requests are waiting already; try again")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        return self._run(make, self._slots)

    def _run(self, make: Callable[[], Iterator], slots: asyncio.Semaphore) -> AsyncIterator:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue = asyncio.Queue()
        stop = threading.Event()

        def put(item: Any) -> None:
            with suppress(RuntimeError):  # the server has been closed meanwhile
                loop.call_soon_threadsafe(items.put_nowait, item)

        def pump() -> None:
            try:
                with closing(make()) as made:
                    for item in made:
                        put(item)
                        if stop.is_set():
                            self._metrics.stopped.add()
                            break
                        if self._closed:
                            raise _ending()
            except BaseException as error:
                put(_ending() if self._closed else error)
            put(END)

        def ended() -> None:
            self.working -= 1
            slots.release()

        try:
            work = self._threads.submit(pump)
        except RuntimeError:  # closed while this waited
            slots.release()
            raise _ending() from None
        self.working += 1
        # The slot is free when the thread is, not when the visitor has gone.
        work.add_done_callback(lambda _: _soon(loop, ended))

        async def follow() -> AsyncIterator:
            try:
                while (item := await items.get()) is not END:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
            finally:
                stop.set()

        return follow()

    async def result(self, make: Callable[[], Iterator], request: Request) -> list:
        """All items of make(); stops the work when the one who asked has gone."""
        items = await self.start(make)
        collected = asyncio.ensure_future(_collect(items))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({collected, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not collected.done():
                raise ClientDisconnect
            return collected.result()
        finally:
            collected.cancel()
            gone.cancel()

    def end(self) -> None:
        """Take nothing new; what has come in goes on."""
        self.ending = True

    @property
    def busy(self) -> bool:
        return self.working + self.waiting > 0

    def close(self) -> None:
        """What is not done by now is told so."""
        self.ending = self._closed = True
        self._threads.shutdown(wait=False)


def _ending() -> BusyError:
    return BusyError("the server is ending: ask again in a moment", 5, status=503)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


async def _collect(items: AsyncIterator) -> list:
    return [item async for item in items]


async def _gone(request: Request) -> None:
    """Returns when the connection has been closed; the request's body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Api:
    """The endpoints, over the doors."""

    def __init__(self, doors: Doors, desk: Desk, named: Callable[[], str], metrics: Metrics):
        self.doors, self.desk, self.named, self.metrics = doors, desk, named, metrics
        self._created = int(time.time())

    @property
    def model(self) -> str:
        """Its name, which changes when a visitor chooses another."""
        return self.named()

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def retrieve(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in form.names(self.model):
            text = f"the model {name[:60]!r} is not served here: ask for {self.model!r}"
            return refusal(form.RequestError(text, "model", "model_not_found", 404))
        return JSONResponse(self._model())

    def _model(self) -> dict:
        return {
            "id": self.model, "object": "model", "created": self._created, "owned_by": "loupe",
        }  # fmt: skip

    async def complete(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        key = f"chatcmpl-{secrets.token_hex(12)}"
        start = time.perf_counter()
        owner = request.scope.get("loupe.user", "")
        try:
            asked = form.parse(await body_of(request), self.model, self.doors.limits)
            if not asked.stream:
                items = await self.desk.result(lambda: self._write(asked, owner, start), request)
                *pieces, done = items
                used = form.usage(done.read, done.wrote)
                text = "".join(pieces)
                whole = form.completion(key, self.model, text, done.finish, used, done.told)
                return JSONResponse(whole)
            items = await self.desk.start(lambda: self._write(asked, owner, start))
            try:
                opening = await anext(items)  # a mistake shows before the answer's first byte
            except BaseException:
                await items.aclose()
                raise
            events = self._events(key, asked, opening, items)
            headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(events, headers=headers, media_type="text/event-stream")
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as problem:
            return refusal(problem)

    def _write(self, asked: form.Asked, owner: str, start: float) -> Iterator[str | Done]:
        """The answer: an empty piece when it has been accepted, pieces of text, a Done."""
        with self.doors.look(asked.picture, owner) as view:
            decoding = asked.decoding(view.assistant.config.decoding)
            made: dict[str, list] = {}

            def regions(wanted: Any) -> list | None:  # the same words mean the same Region
                if wanted is None:
                    return None
                known = json.dumps(wanted, sort_keys=True, default=str)
                if known not in made:
                    made[known] = self.doors.regions(view, wanted)
                return made[known]

            talk = view.converse()
            for question, answer, wanted in asked.past:
                talk.recall(question, answer, regions(wanted))
            pieces = talk.ask(asked.question, regions(asked.regions), decoding)
            yield ""
            with closing(pieces):
                for number, piece in enumerate(pieces):
                    if number == 0:
                        self.metrics.first.observe(time.perf_counter() - start)
                    yield piece
            turn = talk.turns[-1]
            self.metrics.tokens.add(turn.read, kind="read")
            self.metrics.tokens.add(turn.wrote, kind="written")
            told = {
                "regions": [{"name": r.name, **batch.described(r)} for r in turn.regions],
                "familiar": view.familiar,
                "unread": list(asked.unread),
            }
            finish = "length" if turn.wrote >= decoding.max_new_tokens else "stop"
            yield Done(turn.read, turn.wrote, finish, told)

    async def _events(
        self, key: str, asked: form.Asked, opening: str, items: AsyncIterator
    ) -> AsyncIterator[str]:
        opened = {"role": "assistant", "content": opening}
        none: dict[str, Any] = {"usage": None} if asked.usage else {}  # but in the last chunk
        try:
            yield form.chunk(key, self.model, opened, **none)
            async for item in items:
                if isinstance(item, Done):
                    yield form.chunk(key, self.model, {}, item.finish, loupe=item.told, **none)
                    if asked.usage:
                        used = form.usage(item.read, item.wrote)
                        yield form.chunk(key, self.model, None, usage=used)
                else:
                    yield form.chunk(key, self.model, {"content": item}, **none)
            yield "data: [DONE]\n\n"
        except Exception as problem:
            yield form.event(worded(problem)[1])
        finally:
            await items.aclose()


async def body_of(request: Request) -> Any:
    """The request's JSON. RequestError where it is none."""
    try:
        return json.loads(await request.body(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise form.RequestError("the request's body is not JSON") from None


def _no_number(text: str) -> None:
    raise ValueError(text)  # NaN and infinities are not JSON


def worded(problem: Exception) -> tuple[int, dict, dict[str, str]]:
    """An error in OpenAI's form; what nobody expected goes to the log."""
    if not isinstance(problem, LoupeError):
        log.error("a request failed", exc_info=problem)
    return form.error(problem)


def refusal(problem: Exception) -> JSONResponse:
    status, says, headers = worded(problem)
    return JSONResponse(says, status, headers)
