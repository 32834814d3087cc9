"""The page and its doors in one process, listening in a thread."""

from __future__ import annotations

import gc
import re
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from demo.serve import form
from demo.serve.auth import Logins
from demo.serve.client import add_calls
from demo.serve.gate import LOOPBACK, Gate
from demo.serve.limits import BusyError, Limits
from demo.serve.metrics import CONTENT_TYPE, Metrics
from demo.serve.starting import lean_import, unswept
from qformer.contracts import LoupeError

with lean_import():
    import gradio as gr

from demo.app import ASSETS, build_page, theme
from demo.models import Chooser, Loader

if TYPE_CHECKING:
    from demo.handlers import Chat
    from demo.serve.programs import Programs
    from demo.serve.worker import Worker
    from qformer.assistant import Assistant

CONNECTIONS = 2000  # open at once; a page holds two
HEAD_START = 3.0  # seconds the first page has the machine to itself, if nobody wants the model
GRACE = 8.0  # seconds that answers may take to end with the server; docker kills after 10
SWITCH = 0.0005  # seconds that the model's thread lets the page's wait for Python, ten times less


class Server:
    """A chat that listens. local_url: where to find it on this machine. loader: of its model."""

    def __init__(
        self, server: uvicorn.Server, listening: socket.socket, loader: Loader, parts: list[Any]
    ):
        self._server, self.loader, self._parts = server, loader, parts
        host, port = listening.getsockname()[:2]
        self.local_url = f"http://{reachable(host)}:{port}/"
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="loupe-server", daemon=True
        )
        self._thread.start()

    def close(self, grace: float = GRACE) -> None:
        """Take no new questions, give the answers that were begun `grace` seconds to end, tell the
        rest, and stop listening."""
        for part in self._parts:
            part.end()
        until = time.monotonic() + grace
        while any(part.busy for part in self._parts) and time.monotonic() < until:
            time.sleep(0.05)
        self._server.should_exit = True
        for part in self._parts:
            part.close()
        self._thread.join(timeout=5)


class Streams:
    """gradio's endless streams to its pages."""

    def __init__(self, blocks: gr.Blocks, app: Starlette):
        self._queue, self._app = blocks._queue, app.routes[-1].app

    async def leave(self, session: str) -> None:
        """A page was closed: nothing more is answered there. gradio itself only sees this where the
        page had begun to listen for the answer."""
        await self._queue.clean_events(session_hash=session)

    def end(self) -> None:
        self._queue.close()

    @property
    def busy(self) -> bool:
        return any(job is not None for job in self._queue.active_jobs)

    def close(self) -> None:
        self._app.stop_event.set()


def reachable(host: str) -> str:
    """The address as a URL names it; "all addresses" is reached at localhost."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that nobody who comes early is sent away."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Named as TCP, asyncio lets its answers go at once; else each waits 40 ms for an old one's.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(512)
    except (OSError, OverflowError) as error:
        raise LoupeError(f"cannot listen on {host}:{port}: choose another --port") from error
    return opened


def launch(
    build: Callable[[], Assistant],
    title: str = "the model",
    host: str = "127.0.0.1",
    port: int = 7860,
    logins: Logins | None = None,
    limits: Limits | None = None,
    public_url: str | None = None,
    open_browser: bool = False,
    saves: Path | None = None,
    chooser: Chooser | None = None,
    settle: Callable[[], tuple[str, str]] | None = None,
) -> Server:
    """Serve the chat at once and load the model meanwhile; returns while it runs.

    build: makes the assistant, in a thread. public_url: where others see the chat, behind a proxy.
    saves: a folder in which visitors may have their corrections kept. chooser: the models they may
    change to. settle: see Loader.
    Raises LoupeError where the port is taken.
    """
    limits, metrics = limits or Limits(), Metrics()
    listening = listen(host, port)
    model = Model(build, metrics, title, chooser, saves, limits.sessions, settle)
    doors = Late(model.loader, limits, metrics)
    blocks = build_page(model.chat, title, model.loader.model)
    add_calls(blocks, doors.calls, limits.answers)
    blocks.queue(max_size=limits.queue, api_open=False)
    app = mount(blocks, routes(model.loader, doors, metrics), limits, public_url)
    metrics.reading("loupe_ready", "1 once the model is loaded.", lambda: _ready(model.loader))
    metrics.reading("loupe_sessions", "Visitors remembered.", model.visitors)
    streams = Streams(blocks, app)
    gate = Gate(app, limits, metrics, logins, hosts(host, logins, public_url), streams.leave)
    config = uvicorn.Config(
        gate, log_level="warning", access_log=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=30, timeout_graceful_shutdown=1,
    )  # fmt: skip
    parts = [streams, doors, model]
    server = Server(uvicorn.Server(config), listening, model.loader, parts)
    sys.setswitchinterval(SWITCH)
    model.loader.start(after=HEAD_START)
    if open_browser:
        webbrowser.open(server.local_url)
    return server


class Model:
    """The page's handlers, the assistant and the thread that runs it.

    None of them is there before the loader has been started: the page does not wait for what they
    import.
    """

    busy = False  # alone it does nothing

    def __init__(
        self, build: Callable[[], Assistant], metrics: Metrics, title: str,
        chooser: Chooser | None, saves: Path | None, sessions: int,
        settle: Callable[[], tuple[str, str]] | None = None,
    ):  # fmt: skip
        self._build, self._metrics = build, metrics
        self._about = (saves, sessions)
        self._chat: Future[Chat] = Future()
        self._worker: Worker | None = None
        if chooser is not None:
            chooser = replace(chooser, build=partial(self._another, chooser.build))
        self.loader = Loader(self._load, title, chooser, settle)

    def chat(self) -> Chat:
        """The handlers, once they are there."""
        self.loader.hurry()  # the page is there, and wants them
        return self._chat.result()

    def visitors(self) -> int:
        return len(self.chat().sessions) if self._chat.done() else 0

    def _load(self) -> Assistant:
        with unswept():
            from demo.handlers import Chat

            self._chat.set_result(Chat(self.loader, *self._about))
            return self._in_turns(self._build())

    def _another(self, build: Callable[..., Assistant], *named: Any) -> Assistant:
        gc.unfreeze()  # the one that answers now can go when nobody reads with it any more
        return self._in_turns(build(*named))

    def _in_turns(self, assistant: Assistant) -> Assistant:
        from demo.serve.worker import Worker, take_turns

        if self._worker is None:
            observe = self._metrics.model.observe
            self._worker = Worker(lambda part, seconds: observe(seconds, part=part))
        return take_turns(assistant, self._worker)

    def end(self) -> None:
        """It goes on for those who still answer."""

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class Late:
    """What programs call. Made once the model is there: the page does not wait for its imports."""

    def __init__(self, loader: Loader, limits: Limits, metrics: Metrics):
        self.loader, self.limits, self.metrics = loader, limits, metrics
        self._made: Programs | None = None
        self._lock = threading.Lock()

    def programs(self) -> Programs:
        """Raises BusyError while the model is being loaded, and the LoupeError that met it."""
        if self.loader.done() and self.loader.ready() is None:
            self.loader.wait()  # raises
        if self.loader.ready() is None:
            self.loader.hurry()
            raise BusyError("the model is being loaded: come again in a moment", 3, status=503)
        with self._lock:
            if self._made is None:
                from demo.serve.programs import Programs

                made = Programs(self.loader.ready, self.limits, self.metrics, self._named)
                self.loader.on_change(lambda assistant: made.doors.shelf.clear())
                self._made = made
        return self._made

    def _named(self) -> str:
        return slug(self.loader.title)

    def calls(self) -> Any:
        return self.programs().doors

    def route(self, path: str, door: str, method: str) -> Route:
        """A path that one of the programs' endpoints answers."""

        async def answer(request: Request) -> Response:
            try:
                made = await run_in_threadpool(self.programs)
            except LoupeError as problem:
                status, says, headers = form.error(problem)
                return JSONResponse(says, status, headers)
            return await getattr(made, door)(request)

        return Route(path, answer, methods=[method])

    def end(self) -> None:
        if self._made is not None:
            self._made.desk.end()

    @property
    def busy(self) -> bool:
        return self._made is not None and self._made.desk.busy

    def close(self) -> None:
        if self._made is not None:
            self._made.desk.close()


def hosts(host: str, logins: Logins | None, public_url: str | None) -> tuple[str, ...] | None:
    """The names a server without logins answers to: a page elsewhere cannot pretend to be it."""
    if logins is not None:
        return None
    public = urlsplit(public_url or "").hostname
    return (*LOOPBACK, host, *([public] if public else []))


def slug(title: str) -> str:
    """A model's name for programs: "the model" -> "model"."""
    name = re.sub(r"[^\w.-]+", "-", title.removeprefix("the ")).strip("-").lower()
    return name or "loupe"


def _ready(loader: Loader) -> int:
    return int(loader.ready() is not None)


def routes(loader: Loader, late: Late, metrics: Metrics) -> list[Route]:
    """What stands beside the page."""

    async def health(request: Request) -> Response:
        loader.hurry()  # whoever asks waits for the model
        ready = bool(_ready(loader))
        return JSONResponse({"status": "ok" if ready else "loading", "ready": ready})

    async def figures(request: Request) -> Response:
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE)

    return [
        Route("/health", health),
        Route("/metrics", figures),
        late.route("/v1/models", "models", "GET"),
        late.route("/v1/models/{model}", "retrieve", "GET"),
        late.route("/v1/chat/completions", "complete", "POST"),
        late.route("/mcp", "tool", "POST"),
    ]


def mount(
    blocks: gr.Blocks, beside: list[Route], limits: Limits, public_url: str | None
) -> Starlette:
    """One application: `beside`, and the page for every other path."""
    blocks.state_session_capacity = 4 * limits.sessions
    path = urlsplit(public_url or "").path.rstrip("/")

    @asynccontextmanager
    async def quiet(app: Starlette):  # gradio's own is put around it
        yield

    app = Starlette(routes=beside, lifespan=quiet)
    return gr.mount_gradio_app(
        app, blocks, path="/", max_file_size=limits.session, theme=theme(),
        css=(ASSETS / "page.css").read_text(),
        ssr_mode=False, footer_links=[], run_history=False, enable_monitoring=False,
        show_error=False, pwa=False, mcp_server=False, root_path=public_url if path else None,
    )  # fmt: skip
