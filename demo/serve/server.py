"""The page and its doors in one process, listening in a thread."""

from __future__ import annotations

import re
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from demo import page
from demo.app import ASSETS, Chat, Loader, build_page, theme
from demo.serve.api import Api, Desk
from demo.serve.auth import Logins
from demo.serve.client import add_calls
from demo.serve.doors import Doors
from demo.serve.gate import LOOPBACK, Gate
from demo.serve.limits import Limits
from demo.serve.mcp import Tools
from demo.serve.metrics import CONTENT_TYPE, Metrics
from demo.serve.worker import Worker, take_turns
from qformer.assistant import Assistant
from qformer.contracts import LoupeError

CONNECTIONS = 2000  # open at once; a page holds two


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

    def close(self) -> None:
        """Stop listening; what is being streamed ends, and connections are cut."""
        self._server.should_exit = True
        for part in self._parts:
            part.close()
        self._thread.join(timeout=5)


class Streams:
    """gradio's endless streams to its pages."""

    def __init__(self, blocks: gr.Blocks, app: Starlette):
        self._queue, self._app = blocks._queue, app.routes[-1].app

    def close(self) -> None:
        self._queue.close()
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
        opened = socket.socket(family)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(512)
    except (OSError, OverflowError) as error:
        raise LoupeError(f"cannot listen on {host}:{port}: choose another --port") from error
    return opened


def launch(
    build: Callable[[], Assistant],
    title: str = "the embedded default",
    host: str = "127.0.0.1",
    port: int = 7860,
    logins: Logins | None = None,
    limits: Limits | None = None,
    public_url: str | None = None,
    open_browser: bool = False,
) -> Server:
    """Serve the chat at once and load the model meanwhile; returns while it runs.

    build: makes the assistant, in a thread. public_url: where others see the chat, behind a proxy.
    Raises LoupeError where the port is taken.
    """
    limits, metrics = limits or Limits(), Metrics()
    listening = listen(host, port)
    worker = Worker(lambda part, seconds: metrics.model.observe(seconds, part=part))
    loader = Loader(lambda: take_turns(build(), worker))
    chat = Chat(loader, title)
    desk = Desk(limits, metrics)
    doors = Doors(loader.ready, limits)
    blocks = build_page(chat)
    add_calls(blocks, doors, limits.answers)
    api, tools = Api(doors, desk, slug(title), metrics), Tools(doors, desk)
    app = mount(blocks, routes(loader, api, tools, metrics), limits, public_url)
    metrics.reading("loupe_ready", "1 once the model is loaded.", lambda: _ready(loader))
    metrics.reading("loupe_sessions", "Visitors remembered.", lambda: len(chat.sessions))
    metrics.reading("loupe_working", "Programs' requests being answered.", lambda: desk.working)
    metrics.reading("loupe_waiting", "... and waiting for their turn.", lambda: desk.waiting)
    metrics.reading("loupe_pictures", "Pictures kept for programs.", lambda: len(doors.shelf))
    gate = Gate(app, limits, metrics, logins, hosts(host, logins, public_url))
    config = uvicorn.Config(
        gate, log_level="warning", access_log=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=30, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = Server(uvicorn.Server(config), listening, loader, [Streams(blocks, app), desk, worker])
    loader.start()
    if open_browser:
        webbrowser.open(server.local_url)
    return server


def hosts(host: str, logins: Logins | None, public_url: str | None) -> tuple[str, ...] | None:
    """The names a server without logins answers to: a page elsewhere cannot pretend to be it."""
    if logins is not None:
        return None
    public = urlsplit(public_url or "").hostname
    return (*LOOPBACK, host, *([public] if public else []))


def slug(title: str) -> str:
    """A model's name for programs: "the embedded default" -> "embedded"."""
    name = re.sub(r"[^\w.-]+", "-", title.removeprefix("the ")).strip("-").lower()
    return name.removesuffix("-default") or "loupe"


def _ready(loader: Loader) -> int:
    return int(loader.ready() is not None)


def routes(loader: Loader, api: Api, tools: Tools, metrics: Metrics) -> list[Route]:
    """What stands beside the page."""

    async def health(request: Request) -> Response:
        ready = bool(_ready(loader))
        return JSONResponse({"status": "ok" if ready else "loading", "ready": ready})

    async def figures(request: Request) -> Response:
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE)

    return [
        Route("/health", health),
        Route("/metrics", figures),
        Route("/v1/models", api.models),
        Route("/v1/models/{model}", api.retrieve),
        Route("/v1/chat/completions", api.complete, methods=["POST"]),
        Route("/mcp", tools.answer, methods=["POST"]),
    ]


def mount(
    blocks: gr.Blocks, beside: list[Route], limits: Limits, public_url: str | None
) -> Starlette:
    """One application: `beside`, and the page for every other path."""
    blocks.queue(max_size=limits.queue, api_open=False)
    blocks.state_session_capacity = 4 * limits.sessions
    path = urlsplit(public_url or "").path.rstrip("/")

    @asynccontextmanager
    async def quiet(app: Starlette):  # gradio's own is put around it
        yield

    app = Starlette(routes=beside, lifespan=quiet)
    return gr.mount_gradio_app(
        app, blocks, path="/", max_file_size=limits.upload, theme=theme(),
        css=(ASSETS / "page.css").read_text() + page.region_css(),
        ssr_mode=False, footer_links=[], run_history=False, enable_monitoring=False,
        show_error=False, pwa=False, mcp_server=False, root_path=public_url if path else None,
    )  # fmt: skip
