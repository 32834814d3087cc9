"""What the chat's page is shown, as plain values: canvas, messages, composer, header.

No gradio here. Text that is not ours (questions, answers, a checkpoint's words) is escaped.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from PIL import Image

from adapters import draw
from demo.session import CHOOSE, Entry, Mark, Session
from qformer.assistant import Assistant, Suggestions

EXAMPLES = Path(__file__).parent / "examples"
THUMBNAIL = 192  # pixels of an example's longest side


def examples(folder: Path = EXAMPLES) -> dict[str, Path]:
    """The example pictures, by file name."""
    return {path.name: path for path in sorted(folder.glob("*.png"))}


def described_examples() -> list[dict]:
    """What is known of the examples: {"file", "click", "question", "answer"[, "title"]} each."""
    described = EXAMPLES / "examples.json"
    return json.loads(described.read_text()) if described.exists() else []


def thumbnails(pictures: dict[str, Path]) -> list[dict]:
    """The examples as the canvas offers them."""
    titles = {e["file"]: e["title"] for e in described_examples() if "title" in e}
    offered = []
    for number, (name, path) in enumerate(pictures.items(), 1):
        with Image.open(path) as picture:
            small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        title = titles.get(name, f"example {number}")
        offered.append({"name": name, "title": title, "src": draw.data_uri(small)})
    return offered


def scene(
    session: Session,
    ack: int = 0,
    error: str = "",
    changed: tuple[Mark, ...] = (),
    opened: bool = False,
) -> dict:
    """The canvas' value: region_masks only for `changed`, the picture only when just `opened`."""
    picture = session.picture
    if picture is None:
        return {"ack": ack, "error": error, "picture": None, "regions": [], "active": None}
    width, height = picture.size
    regions = []
    for mark in picture.marks.values():
        x0, y0, x1, y1 = mark.region.box
        region = {
            "number": mark.number,
            "colour": draw.css(draw.colour(mark.number)),
            "ink": draw.css(draw.ink(mark.number)),
            "asked": mark.number in picture.asked,
            "box": [x0 / width, y0 / height, x1 / width, y1 / height],
            "points": [[x / width, y / height, bool(label)] for x, y, label in mark.points],
        }
        if mark in changed:
            size = draw.displayed_size(picture.size)
            shown = draw.resize_region_mask(mark.region.region_mask.cpu().numpy(), size)
            region["rle"] = draw.encode_rle(shown)
        regions.append(region)
    about = {"id": picture.serial, "width": width, "height": height}
    if opened:
        about["src"] = draw.data_uri(draw.displayed(picture.image.numpy()))
    return {
        "ack": ack, "error": error, "picture": about, "regions": regions, "active": picture.active,
    }  # fmt: skip


def messages(session: Session) -> list[dict]:
    """The transcript as gradio's Chatbot wants it."""
    return [
        {"role": "user" if entry.role == "question" else "assistant", "content": told(entry)}
        for entry in session.transcript
    ]


def told(entry: Entry) -> str:
    """One entry as markdown: regions are links, a question carries a snapshot of its regions."""
    text = re.sub(r"\b(region) (\d{1,4})\b", r"[\1 \2](#region-\2)", plain(entry.text), flags=re.I)
    if entry.role == "notice":
        return "**Note:** " + text.replace(plain(CHOOSE), f"`{CHOOSE}`")
    if entry.role == "question":
        unnamed = [number for number in entry.regions if f"(#region-{number})" not in text]
        links = " ".join(f"[{number}](#region-{number})" for number in unnamed)
        image = f"![]({entry.snapshot})\n\n" if entry.snapshot else ""
        return image + f"{links} {text}".strip()
    if entry.state == "failed":
        return f"⚠ {text}"
    return f"{text} *(stopped)*" if entry.state == "stopped" else text


def plain(text: str) -> str:
    """Text that shows as it is: neither HTML nor markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$])", r"\\\1", html.escape(text, quote=False))


def composer(session: Session, assistant: Assistant | None, note: str = "") -> dict:
    """What the next question is about, and the quick questions that fit."""
    with session.lock:
        picture = session.picture
        asked = [] if picture is None else list(picture.asked)
    offered = assistant.config.suggestions if assistant else Suggestions()
    kind = {0: "picture", 1: "region", 2: "pair"}.get(len(asked), "")
    names = {f"{{{place}}}": f"region {number}" for place, number in enumerate(asked, 1)}
    suggestions = []
    for question in getattr(offered, kind, ()) if picture is not None else ():
        for place, name in names.items():
            question = question.replace(place, name)
        suggestions.append(question)
    return {
        "picture": picture is not None,
        "asked": [{"number": number} for number in asked],
        "suggestions": suggestions,
        "busy": session.answering,
        "note": note,
    }


def header(state: str, text: str, assistant: Assistant | None = None) -> dict:
    """The status chip and, where the model knows less than everything, what it knows.

    state: "loading" | "ready" | "failed".
    """
    return {"state": state, "text": text, "knows": assistant.config.domain if assistant else None}


def region_css(numbers: int = 64) -> str:
    """The colours of region links, which sanitised markdown cannot carry itself."""
    rules = []
    for number in range(1, numbers + 1):
        colour, ink = draw.css(draw.colour(number)), draw.css(draw.ink(number))
        rules.append(f'a[href="#region-{number}"]{{--region:{colour};--ink:{ink}}}')
    return "\n".join(rules)
