"""What the gradio client may call by name. Every other event of the page is the page's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from demo.serve.starting import lean_import
from qformer.contracts import LoupeError

with lean_import():
    import gradio as gr

if TYPE_CHECKING:
    from demo.serve.doors import Doors


def add_calls(blocks: gr.Blocks, doors: Callable[[], Doors], at_once: int) -> None:
    """Add /ask, /segment and /describe to the page's endpoints.

    doors: gives them, once the model is there. at_once: calls answered so.
    """

    def told(name: str, request: gr.Request, *values: Any) -> dict:
        owner = getattr(request.request, "scope", {}).get("loupe.user", "")
        try:
            return getattr(doors(), name)(owner, *values)
        except LoupeError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def ask(
        picture: str, question: str, request: gr.Request, regions: list[dict] | None = None
    ) -> dict:
        """Ask about a picture (a data URL), or about regions of it."""
        return told("ask", request, picture, question, regions or [])

    def segment(picture: str, regions: list[dict], request: gr.Request) -> dict:
        """Cut regions out of a picture (a data URL); answers with run lengths."""
        return told("segment", request, picture, regions)

    def describe(picture: str, request: gr.Request, regions: list[dict] | None = None) -> dict:
        """Describe a picture (a data URL), and regions of it."""
        return told("describe", request, picture, regions or [])

    for event in blocks.fns.values():  # the page's own have no name that a program could use
        event.api_name = f"page_{event._id}"
    with blocks:
        for call in (ask, segment, describe):
            gr.api(call, api_name=call.__name__, concurrency_id="calls", concurrency_limit=at_once)
