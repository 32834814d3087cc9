"""The Gradio chat: a region canvas beside a conversation.

The page holds a key; pictures, regions and talk live in `demo.session`. Every handler is public as
far as gradio is concerned, so each checks what it is sent. The page's files are in assets/.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from adapters.images import load_image
from demo import page
from demo.session import Mark, Session, Sessions
from qformer.assistant import Assistant
from qformer.contracts import ImageError, LoupeError, QuestionError, RegionError

ASSETS = Path(__file__).parent / "assets"
MAX_UPLOAD = 20 * 2**20  # bytes
MAX_QUESTION = 2000  # characters

log = logging.getLogger(__name__)


class Loader:
    """Builds the assistant in a thread, once started, so that the page is there first."""

    def __init__(self, build: Callable[[], Assistant]):
        self._build = build
        self._future: Future[Assistant] = Future()

    def start(self) -> Loader:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def _run(self) -> None:
        try:
            self._future.set_result(self._build())
        except LoupeError as error:
            self._future.set_exception(error)
        except Exception as error:
            log.exception("the model could not be loaded")
            text = f"the model could not be loaded ({type(error).__name__}): the terminal says more"
            self._future.set_exception(LoupeError(text))

    def wait(self) -> Assistant:
        """The assistant, once it is there. Raises the LoupeError that building it met."""
        return self._future.result()

    def ready(self) -> Assistant | None:
        """The assistant, or None while it is not there."""
        there = self._future.done() and self._future.exception() is None
        return self._future.result() if there else None


class Chat:
    """The page's handlers, over the sessions."""

    def __init__(self, loader: Loader, title: str):
        self.loader, self.title = loader, title
        self.sessions = Sessions(loader.wait)
        self.examples = page.examples()

    def enter(self) -> tuple[str, dict, dict]:
        """A page was opened: give it a key."""
        key = secrets.token_urlsafe(16)
        session = self.sessions.get(key)
        return key, page.scene(session), page.composer(session, self.loader.ready())

    def status(self) -> Iterator[dict]:
        """The header's value, now and when the model has been loaded."""
        if self.loader.ready() is None:
            yield page.header("loading", f"loading {self.title}")
        try:
            yield page.header("ready", self.title, self.loader.wait())
        except LoupeError as error:
            yield page.header("failed", str(error))

    def operate(self, key: str, event: gr.EventData) -> tuple:
        """One operation on the canvas -> canvas, messages, composer. Never raises."""
        session = self.sessions.get(key)
        operation = event._data if isinstance(event._data, dict) else {}
        ack = operation.get("id") if isinstance(operation.get("id"), int) else 0
        changed: tuple[Mark, ...] = ()
        error, opens = "", operation.get("op") in ("example", "upload")
        try:
            if not session.bucket.take():
                raise RegionError("that was too fast: wait a second and try again")
            changed = self._apply(session, operation)
        except LoupeError as problem:
            error, opens = str(problem), False
        except Exception as problem:
            log.exception("an operation failed")
            error, opens = f"that did not work ({type(problem).__name__}): try again", False
        with session.lock:
            canvas = page.scene(session, ack, error, changed, opened=opens)
        talk = page.messages(session) if opens else gr.skip()
        return canvas, talk, page.composer(session, self.loader.ready())

    def _apply(self, session: Session, operation: dict) -> tuple[Mark, ...]:
        """Carry out one operation; return the regions whose area changed."""
        match operation:
            case {"op": "example", "name": str(name)} if name in self.examples:
                session.open(load_image(self.examples[name]))
            case {"op": "upload", "file": {"path": str(path)}}:
                session.open(load_image(uploaded(path)))
            case {"op": "point", "x": x, "y": y, "positive": bool(positive), "region": region}:
                spot = pixels(session, x, y)
                number = None if region is None else whole(region)
                return (session.click(*spot, positive=positive, number=number),)
            case {"op": "box", "box": [x0, y0, x1, y1]}:
                return (session.box(*pixels(session, x0, y0, x1, y1)),)
            case {"op": "choose", "region": region, "asked": bool(asked)}:
                session.choose(whole(region), asked)
            case {"op": "delete", "region": region}:
                session.delete(whole(region))
            case {"op": "clear"}:
                session.clear()
            case _:
                raise RegionError("the page sent something unknown: reload it")
        return ()

    def ask(self, key: str, question: str) -> Iterator[tuple]:
        """A question -> messages, text box, composer, again and again as the answer grows."""
        session = self.sessions.get(key)
        note, kept = "", ""
        try:
            if not session.bucket.take():
                raise LoupeError("that was too fast: wait a second and ask again")
            if len(str(question)) > MAX_QUESTION:
                raise QuestionError(
                    f"the question is longer than {MAX_QUESTION} characters: cut it"
                )
            box: Any = gr.Textbox(value="", submit_btn=False, stop_btn=True)
            for _ in session.ask(str(question)):
                yield page.messages(session), box, self._composer(session)
                box = gr.skip()
            if session.transcript and session.transcript[-1].state == "failed":
                kept = question
        except LoupeError as error:
            note, kept = str(error), question
        yield page.messages(session), self._box(kept), self._composer(session, note)

    def quick(self, key: str, event: gr.EventData) -> Iterator[tuple]:
        """A quick question was pressed."""
        data = event._data if isinstance(event._data, dict) else {}
        yield from self.ask(key, str(data.get("question", "")))

    def stop(self, key: str) -> tuple:
        """Stop was pressed: the answer so far stays, marked as stopped."""
        session = self.sessions.get(key)
        session.stop(wait=2)
        return page.messages(session), self._box(), self._composer(session)

    def restart(self, key: str) -> tuple:
        """A new talk about the same picture."""
        session = self.sessions.get(key)
        session.restart()
        return page.messages(session), self._box(), self._composer(session)

    @staticmethod
    def _box(text: str = "") -> gr.Textbox:
        return gr.Textbox(value=text, submit_btn=True, stop_btn=False)

    def _composer(self, session: Session, note: str = "") -> dict:
        return page.composer(session, self.loader.ready(), note)


def uploaded(path: str) -> Path:
    """The path, if it is a file that a visitor uploaded and of bounded size."""
    file = Path(path).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise ImageError("the upload is gone: open the picture again")
    if file.stat().st_size > MAX_UPLOAD:
        raise ImageError(f"the file is larger than {MAX_UPLOAD >> 20} MB: choose a smaller one")
    return file


def pixels(session: Session, *shares: Any) -> list[float]:
    """Shares x, y, x, y ... of the picture -> pixels, checked."""
    width, height = session.opened().size
    for share in shares:
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not math.isfinite(share) or not 0 <= share <= 1:
            raise RegionError("the click lies outside the picture: click inside it")
    sizes = (width, height) * (len(shares) // 2)
    # The last pixel's far edge still belongs to it.
    return [min(share * size, size - 1e-3) for share, size in zip(shares, sizes, strict=True)]


def whole(number: Any) -> int:
    """A region's number as the page sends it."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise RegionError("the page sent something unknown: reload it")
    return number


# The page ------------------------------------------------------------------------------------


def part(name: str, **settings: Any) -> gr.HTML:
    """A piece of the page from assets/: a static template and its script."""
    # A subclass would make gradio write a stub file beside this module; hence a function.
    return gr.HTML(
        html_template=(ASSETS / f"{name}.html").read_text(),
        js_on_load=(ASSETS / f"{name}.js").read_text(),
        apply_default_css=False,
        elem_id=f"loupe-{name}",
        **settings,
    )


def build_page(chat: Chat) -> gr.Blocks:
    """The whole page, its events wired to the chat's handlers."""
    with gr.Blocks(
        title="Loupe", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as blocks:
        key = gr.State("", time_to_live=6 * 3600, delete_callback=chat.sessions.drop)
        header = part("header", value=page.header("loading", f"loading {chat.title}"))
        with gr.Row(elem_id="loupe-body"):
            with gr.Column(scale=7, min_width=320, elem_id="loupe-left"):
                canvas = part("canvas", examples=page.thumbnails(chat.examples))
            with gr.Column(scale=5, min_width=320, elem_id="loupe-right"):
                talk = gr.Chatbot(
                    elem_id="loupe-talk", show_label=False, container=False, height=None,
                    sanitize_html=True, allow_tags=False, latex_delimiters=[], buttons=[],
                    feedback_options=None, allow_file_downloads=False,
                    placeholder="### Ask about what you point at\nOpen a picture, click a thing"
                    " in it, and ask: *what is this?*",
                )  # fmt: skip
                composer = part("composer")
                box = gr.Textbox(
                    elem_id="loupe-ask", show_label=False, container=False, lines=1, max_lines=4,
                    label="Question", placeholder="Ask about the picture or the chosen regions",
                    submit_btn=True, max_length=MAX_QUESTION,
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
                )  # fmt: skip

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        shown = [talk, box, composer]
        blocks.load(chat.enter, None, [key, canvas, composer], **quiet)
        blocks.load(chat.status, None, header, concurrency_limit=None, **quiet)
        operated = canvas.operate(
            chat.operate, key, [canvas, talk, composer],
            trigger_mode="multiple", concurrency_id="canvas", concurrency_limit=4, **quiet,
        )  # fmt: skip
        operated.failure(None, js="() => { document.dispatchEvent(new Event('loupe:lost')); }")
        answering = [
            event(handler, inputs, shown, concurrency_id="answers", concurrency_limit=4, **quiet)
            for event, handler, inputs in (
                (box.submit, chat.ask, [key, box]),
                (composer.quick, chat.quick, key),
            )
        ]
        box.stop(chat.stop, key, shown, cancels=answering, **quiet)
        talk.clear(chat.restart, key, shown, cancels=answering, **quiet)
    return blocks.queue(max_size=64, api_open=False)


def theme() -> gr.themes.Base:
    font = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
    mono = (gr.themes.LocalFont("IBM Plex Mono", weights=(400,)), "monospace")
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=font, font_mono=mono)
