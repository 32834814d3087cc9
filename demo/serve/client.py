"""What the gradio client may call by name. Every other event of the page is the page's own."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo.serve.doors import Doors
from qformer.contracts import LoupeError


def add_calls(blocks: gr.Blocks, doors: Doors, at_once: int) -> None:
    """Add /ask, /segment and /describe to the page's endpoints. at_once: calls answered so."""

    def told(work: Any, request: gr.Request, *values: Any) -> dict:
        owner = getattr(request.request, "scope", {}).get("loupe.user", "")
        try:
            return work(owner, *values)
        except LoupeError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def ask(
        picture: str, question: str, request: gr.Request, regions: list[dict] | None = None
    ) -> dict:
        """Ask about a picture (a data URL), or about regions of it."""
        return told(doors.ask, request, picture, question, regions or [])

    def segment(picture: str, regions: list[dict], request: gr.Request) -> dict:
        """Cut regions out of a picture (a data URL); answers with run lengths."""
        return told(doors.segment, request, picture, regions)

    def describe(picture: str, request: gr.Request, regions: list[dict] | None = None) -> dict:
        """Describe a picture (a data URL), and regions of it."""
        return told(doors.describe, request, picture, regions or [])

    for event in blocks.fns.values():  # the page's own have no name that a program could use
        event.api_name = f"page_{event._id}"
    with blocks:
        for call in (ask, segment, describe):
            gr.api(call, api_name=call.__name__, concurrency_id="calls", concurrency_limit=at_once)
