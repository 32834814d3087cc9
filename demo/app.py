"""The Gradio page: a header, a region canvas, a talk, and the events that connect them.

Its files are in assets/, what its events do in `demo.handlers`; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demo import gallery

if TYPE_CHECKING:
    from demo.handlers import Chat

ASSETS = Path(__file__).parent / "assets"
HELD = (
    "() => { try { return [sessionStorage.getItem('loupe-key') || '']; } catch { return ['']; } }"
)
SHARED = ("common",)  # scripts that every part starts with


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


def build_page(chat: Callable[[], Chat], title: str, model: str = "") -> gr.Blocks:
    """The whole page. chat: returns the handlers, waiting until they are there. model: the one that
    will answer, by its name in the chooser, where that is known."""

    def enter(held: str, request: gr.Request) -> tuple:
        scope = getattr(request.request, "scope", {})
        told = (scope.get("loupe.visitor", ""), request.session_hash or "")
        return chat().enter(held, *told, scope.get("loupe.pages", ()))

    def status() -> Iterator[dict]:
        yield from chat().status()

    def operate(key: str, event: gr.EventData) -> tuple:
        return chat().operate(key, event._data)

    def work(key: str, event: gr.EventData) -> Iterator[dict]:
        yield from chat().work(key, event._data)

    def model(event: gr.EventData) -> Iterator[dict]:
        yield from chat().model(event._data)

    def stop(key: str) -> dict:
        return chat().stop(key)

    with gr.Blocks(
        title="Loupe", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as blocks:
        key = gr.State("", time_to_live=6 * 3600, delete_callback=lambda gone: chat().drop(gone))
        header = part("header", value={
            "state": "loading", "text": f"loading {title}", "model": model,
        })  # fmt: skip
        with gr.Row(elem_id="loupe-body"):
            with gr.Column(scale=7, min_width=320, elem_id="loupe-left"):
                offered = gallery.offered(gallery.examples())
                canvas = part("canvas", ("shapes", "stage", "paint", "chips"), examples=offered)
            with gr.Column(scale=5, min_width=320, elem_id="loupe-right"):
                talk = part("talk")

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        held = gr.Textbox(visible=False)  # what the tab remembers, see canvas.js
        blocks.load(enter, held, [key, canvas, talk], js=HELD, **quiet)
        blocks.load(status, None, header, concurrency_limit=None, **quiet)
        header.model(model, None, header, concurrency_limit=4, **quiet)
        operated = canvas.operate(
            operate, key, [canvas, talk],
            trigger_mode="multiple", concurrency_id="canvas", concurrency_limit=4, **quiet,
        )  # fmt: skip
        working = talk.work(work, key, talk, concurrency_id="answers", concurrency_limit=4, **quiet)
        for event in (operated, working):
            event.failure(None, js="() => { document.dispatchEvent(new Event('loupe:lost')); }")
        talk.stop(stop, key, talk, cancels=[working], **quiet)
    return blocks


def theme() -> gr.themes.Base:
    font = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
    mono = (gr.themes.LocalFont("IBM Plex Mono", weights=(400,)), "monospace")
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=font, font_mono=mono)
