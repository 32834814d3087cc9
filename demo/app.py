"""The Gradio page: a header, a region canvas, a talk, and the events that connect them.

The page is served before torch is imported or a model read; its files are in assets/, what its
events do in `demo.handlers`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware

from demo import gallery
from demo.models import Loader

if TYPE_CHECKING:
    from demo.handlers import Chat
    from qformer.assistant import Assistant

ASSETS = Path(__file__).parent / "assets"
SHARED = ("common",)  # scripts that every part starts with
MAX_FILE = "200mb"  # of an upload: a session file holds its pictures; `demo.events` says more


def part(name: str, scripts: tuple[str, ...] = (), **settings: Any) -> gr.HTML:
    """A piece of the page from assets/: a static template and its scripts, run as one."""
    # A subclass would make gradio write a stub file beside this module; hence a function.
    texts = [(ASSETS / f"{script}.js").read_text() for script in (*SHARED, *scripts, name)]
    return gr.HTML(
        html_template=(ASSETS / f"{name}.html").read_text(),
        js_on_load="\n".join(texts),
        apply_default_css=False,
        elem_id=f"loupe-{name}",
        **settings,
    )


def build_page(chat: Callable[[], Chat], title: str) -> gr.Blocks:
    """The whole page. chat: returns the handlers, waiting until they are there."""

    def enter() -> tuple:
        return chat().enter()

    def status() -> Iterator[dict]:
        yield from chat().status()

    def operate(key: str, event: gr.EventData) -> tuple:
        return chat().operate(key, event._data)

    def work(key: str, event: gr.EventData) -> Iterator[dict]:
        yield from chat().work(key, event._data)

    def stop(key: str) -> dict:
        return chat().stop(key)

    with gr.Blocks(
        title="Loupe", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as blocks:
        key = gr.State("", time_to_live=6 * 3600, delete_callback=lambda gone: chat().drop(gone))
        header = part("header", value={"state": "loading", "text": f"loading {title}"})
        with gr.Row(elem_id="loupe-body"):
            with gr.Column(scale=7, min_width=320, elem_id="loupe-left"):
                offered = gallery.offered(gallery.examples())
                canvas = part("canvas", ("shapes", "stage", "paint", "chips"), examples=offered)
            with gr.Column(scale=5, min_width=320, elem_id="loupe-right"):
                talk = part("talk")

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        blocks.load(enter, None, [key, canvas, talk], **quiet)
        blocks.load(status, None, header, concurrency_limit=None, **quiet)
        operated = canvas.operate(
            operate, key, [canvas, talk],
            trigger_mode="multiple", concurrency_id="canvas", concurrency_limit=4, **quiet,
        )  # fmt: skip
        working = talk.work(work, key, talk, concurrency_id="answers", concurrency_limit=4, **quiet)
        for event in (operated, working):
            event.failure(None, js="() => { document.dispatchEvent(new Event('loupe:lost')); }")
        talk.stop(stop, key, talk, cancels=[working], **quiet)
    return blocks.queue(max_size=64, api_open=False)


class SafeHeaders:
    """ASGI middleware: the page loads nothing from elsewhere, and is framed by nobody else."""

    POLICY = (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline';"
        " script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:;"
        " worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none';"
        " frame-ancestors 'self'"
    )
    HEADERS = (
        (b"content-security-policy", POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    )

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def theme() -> gr.themes.Base:
    font = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
    mono = (gr.themes.LocalFont("IBM Plex Mono", weights=(400,)), "monospace")
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=font, font_mono=mono)


def late(make: Callable[[], Any]) -> Callable[[], Any]:
    """Start make() in a thread; the returned function waits for what it made."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result


def launch(
    build: Callable[[], Assistant],
    title: str = "the embedded default",
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: tuple[str, str] | None = None,
    open_browser: bool = False,
    saves: Path | None = None,
) -> gr.Blocks:
    """Serve the chat at once and load the model meanwhile; returns while it runs.

    build: makes the assistant, in a thread. saves: where visitors may have their corrections kept.
    Raises LoupeError where the port is taken.
    """
    loader = Loader(build)
    ready = threading.Event()

    def handlers() -> Chat:
        ready.wait()  # what is imported here would hold up the page
        from demo.handlers import Chat

        made = Chat(loader, title, saves)
        loader.start()
        return made

    blocks = build_page(late(handlers), title)
    try:
        blocks.launch(
            server_name=host, server_port=port, auth=auth, inbrowser=open_browser,
            prevent_thread_lock=True, quiet=True, share=False, theme=theme(),
            css=(ASSETS / "page.css").read_text(), max_file_size=MAX_FILE, ssr_mode=False,
            footer_links=[], run_history=False, enable_monitoring=False,
            state_session_capacity=500, strict_cors=True,
            app_kwargs={"middleware": [Middleware(SafeHeaders)]},
        )  # fmt: skip
    except OSError as error:
        from qformer.contracts import LoupeError

        raise LoupeError(f"cannot listen on {host}:{port}: choose another --port") from error
    ready.set()
    return blocks
