"""What the chat's page is shown, as plain values: canvas, talk, header.

No gradio here, and no markup: the page writes every text as text. What is large (pictures, areas,
snapshots) travels once, when it is new; `whole` sends all of it again.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters import draw
from adapters.rle import encode_rle
from demo.models import Loader, fetched
from demo.picture import Picture
from demo.regions import MAX_REGIONS, Mark
from demo.session import Session
from demo.talk import Entry
from qformer.assistant import Assistant, Suggestions

THUMBNAIL = 192  # pixels of the longest side


def thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return draw.data_uri(small)


# The canvas ------------------------------------------------------------------------------------


def scene(
    session: Session,
    ack: int = 0,
    error: str = "",
    changed: Collection[Mark] = (),
    whole: bool = False,
    **extra: Any,
) -> dict:
    """The canvas' value. changed: regions whose areas are sent; whole: all are, and the picture and
    the candidates too. extra: what only this operation brings."""
    shown = {"ack": ack, "error": error, "picture": None, "pictures": [], "regions": [], **extra}
    if session.current is None:
        return shown
    picture = session.pictures[session.current]
    regions, (width, height) = picture.regions, picture.size
    about: dict[str, Any] = {"id": picture.serial, "width": width, "height": height}
    about["title"] = picture.title
    if whole:
        about["src"] = draw.data_uri(draw.displayed(picture.image.numpy()))
        shown["candidates"] = candidates(picture)
    shown["picture"] = about
    shown["pictures"] = [listed(one, whole) for _, one in sorted(session.pictures.items())]
    marks = sorted(regions.marks.values(), key=lambda mark: mark.number)
    shown["regions"] = [marked(mark, picture, area=whole or mark in changed) for mark in marks]
    shown |= {
        "active": regions.active,
        "undo": regions.undoable,
        "redo": regions.redoable,
        "full": len(regions.marks) >= MAX_REGIONS,
        "finds": picture.view.assistant.segmenter is not None,
    }
    return shown


def candidates(picture: Picture) -> list[dict]:
    """The areas that "everything" found, to pick from."""
    return [encoded(one.region_mask.numpy(), picture) for one in picture.regions.candidates]


def listed(picture: Picture, whole: bool) -> dict:
    one = {"id": picture.serial, "title": picture.title, "regions": len(picture.regions.marks)}
    return {**one, "thumb": thumbnail(Image.fromarray(picture.small))} if whole else one


def marked(mark: Mark, picture: Picture, area: bool) -> dict:
    width, height = picture.size
    x0, y0, x1, y1 = mark.region.box
    shown = {
        "number": mark.number,
        "label": mark.label,
        "asked": mark.number in picture.regions.asked,
        "box": [x0 / width, y0 / height, x1 / width, y1 / height],
        "points": [[x / width, y / height, bool(label)] for x, y, label in mark.points],
        "share": mark.region.area / (width * height),
        "readings": mark.readings,
        "reading": mark.reading,
    }
    return (
        {**shown, "rle": encoded(mark.region.region_mask.cpu().numpy(), picture)} if area else shown
    )


def encoded(region_mask: np.ndarray, picture: Picture) -> dict:
    """An area at the size in which the picture is displayed."""
    small = draw.resize_region_mask(region_mask, draw.displayed_size(picture.size))
    return encode_rle(torch.from_numpy(small))


# The talk --------------------------------------------------------------------------------------


def talk(
    session: Session,
    assistant: Assistant | None,
    note: str = "",
    kept: str | None = None,
    since: int | None = None,
    saves: bool = False,
) -> dict:
    """The talk's value. note: what went wrong; kept: a question to put back; since: the entries
    from this number on bring their snapshots (None: all); saves: corrections can be kept."""
    with session.lock:
        picture = session.pictures.get(session.current or 0)
        entries = [] if picture is None else list(picture.talk.entries)
        asked = [] if picture is None else [picture.regions.marks[n] for n in picture.regions.asked]
        progress = session.progress
    return {
        "picture": None if picture is None else picture.serial,
        "entries": [said(one, since is None or one.id >= since) for one in entries],
        "asked": [{"number": mark.number, "label": mark.label} for mark in asked],
        "suggestions": suggestions(assistant, [mark.number for mark in asked]) if picture else [],
        "busy": session.busy,
        "progress": progress and list(progress),
        "version": session.version,
        "note": note,
        "kept": kept,
        "settings": dataclasses.asdict(session.settings),
        "saves": saves,
    }


def said(entry: Entry, snapshot: bool) -> dict:
    names = ("id", "role", "text", "state", "rating", "corrected", "sampled", "certainty", "offers")
    shown = {name: getattr(entry, name) for name in names}
    shown["numbers"] = list(entry.numbers)
    shown["rows"] = [list(row) for row in entry.rows]
    return {**shown, "snapshot": entry.snapshot} if snapshot and entry.snapshot else shown


def suggestions(assistant: Assistant | None, asked: list[int]) -> list[str]:
    """The quick questions that fit what is asked about."""
    offered = assistant.config.suggestions if assistant else Suggestions()
    kind = {0: "picture", 1: "region", 2: "pair"}.get(len(asked), "")
    names = {f"{{{place}}}": f"region {number}" for place, number in enumerate(asked, 1)}
    fitting = []
    for question in getattr(offered, kind, ()):
        for place, name in names.items():
            question = question.replace(place, name)
        fitting.append(question)
    return fitting


def evidence(session: Session, found: dict) -> dict:
    """What `Session.evidence` found, for the page: maps as bytes, 255 where most was read."""
    picture = session.picture()
    width, height = picture.size
    maps = []
    for source, values in found["maps"].items():
        array = values.float().cpu().numpy()
        top = float(array.max())
        levels = (array / top * 255).round() if top > 0 else array * 0
        maps.append({
            "source": source,
            "rows": array.shape[0],
            "columns": array.shape[1],
            "levels": base64.b64encode(levels.astype(np.uint8).tobytes()).decode(),
        })  # fmt: skip
    return {
        "entry": found["answer"].id,
        "picture": picture.serial,
        "maps": maps,
        "close_ups": {
            number: [box[0] / width, box[1] / height, box[2] / width, box[3] / height]
            for number, box in found["close_ups"].items()
        },
        "certainty": found["certainty"],
        "grounding": found["grounding"],
    }


# The header ------------------------------------------------------------------------------------


def header(loader: Loader, note: str = "", **more: Any) -> dict:
    """The status chip: what answers, what it knows where that is less than everything, what is
    being read and how much of it has come; and whether another may be chosen."""
    assistant = loader.ready()
    state, text = "ready", loader.title
    if loader.loading is not None or (assistant is None and loader.error is None):
        state, text = "loading", f"loading {loader.loading or loader.title}{progress(loader)}"
    elif assistant is None:
        state, text = "failed", str(loader.error)
    return {
        "state": state,
        "text": text,
        "note": note or (str(loader.error) if assistant and loader.error else ""),
        "knows": assistant.config.domain if assistant else None,
        "model": loader.model,
        "segmenter": loader.segmenter,
        "precision": loader.precision,
        "chooses": loader.chooser is not None,
        "why": loader.why,
        **more,
    }


def progress(loader: Loader) -> str:
    """Say how much of a model that is fetched from the hub has come."""
    here, whole = fetched(loader.source) if "/" in loader.source else (0, None)
    if not here:
        return ""
    return f", {here / 1e9:.1f}{'' if whole is None else f' of {whole / 1e9:.1f}'} GB here"
