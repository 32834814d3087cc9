"""A session as files: JSON that replays it, a picture with its regions, a page to pass on.

A session file comes from anywhere: `replay` believes nothing in it.
"""

from __future__ import annotations

import base64
import html
import io
import json
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters import draw
from adapters.images import load_image
from adapters.rle import decode_rle, encode_rle
from adapters.texts import parse_json
from demo.events import MAX_ANSWER, MAX_QUESTION, MAX_SESSION
from demo.picture import Picture
from demo.regions import MAX_LABEL, MAX_REGIONS
from demo.session import MAX_PICTURES, Session
from demo.talk import MAX_ENTRIES, Entry
from qformer.contracts import LoupeError, QuestionError, RegionError
from qformer.regions import Region

VERSION = 1
OVERLAY = 2048  # pixels of the longest side of an exported picture
STATES = ("done", "stopped", "failed", "withheld")


def to_json(session: Session, model: str) -> str:
    """All pictures with their regions (COCO's run lengths, full size) and transcripts. Raises
    LoupeError where that is more than can be loaded again."""
    with session.lock:
        pictures = [written(picture) for _, picture in sorted(session.pictures.items())]
    whole = {"loupe": VERSION, "model": model, "pictures": pictures}
    text = json.dumps(whole, ensure_ascii=False)
    if (size := len(text.encode())) > MAX_SESSION:
        raise LoupeError(
            f"this session would be a file of {size >> 20} MB, and {MAX_SESSION >> 20} MB can be"
            " loaded again: save it as a page, or close some pictures and save the others"
        )
    return text


def written(picture: Picture) -> dict:
    width, height = picture.size
    known = {mark.number: mark.region for mark in picture.regions.marks.values()}
    return {
        "title": picture.title,
        "width": width,
        "height": height,
        "image": base64.b64encode(picture.source or _png(picture.image.numpy())).decode(),
        "regions": [
            {
                "number": mark.number,
                "label": mark.label,
                "box": list(mark.region.box),
                "area": mark.region.area,
                "score": mark.region.score,
                "rle": encode_rle(mark.region.region_mask),
            }
            for mark in picture.regions.marks.values()
        ],
        "asked": list(picture.regions.asked),
        "transcript": [said(entry, known) for entry in picture.talk.entries],
    }


def said(entry: Entry, known: dict[int, Region]) -> dict:
    """An entry; areas that were changed or deleted since it was asked are written with it."""
    told: dict[str, Any] = {"role": entry.role, "text": entry.text}
    if entry.role == "question":
        told |= {"said": entry.said, "regions": list(entry.numbers)}
        then = dict(zip(entry.numbers, entry.regions, strict=True))
        changed = {n: one for n, one in then.items() if known.get(n) is not one}
        if changed:
            told["areas"] = {str(n): encode_rle(one.region_mask) for n, one in changed.items()}
    if entry.role == "answer":
        told |= {"state": entry.state, "rating": entry.rating, "corrected": entry.corrected}
        if entry.certainty is not None:
            told["certainty"] = round(entry.certainty, 4)
        if entry.rows:
            told["rows"] = [list(row) for row in entry.rows]
    return told


# Back again ------------------------------------------------------------------------------------


def replay(session: Session, text: str | bytes) -> int:
    """Open all pictures of a session file, with regions and transcripts; how many.

    The model goes on from the recorded answers, it does not give them again. Raises LoupeError for
    what is no session file, before anything is opened.
    """
    try:
        data = parse_json(text)
    except ValueError:
        raise _bad("it is no JSON") from None
    if not isinstance(data, dict) or data.get("loupe") != VERSION:
        raise _bad("it was not exported by Loupe, or by a newer one")
    pictures = _list(data, "pictures", MAX_PICTURES)
    room = MAX_PICTURES - len(session.pictures)
    if len(pictures) > room:
        raise LoupeError(
            f"the session holds {len(pictures)} pictures and there is room for {room}: close some"
        )
    read = [_read(one, number) for number, one in enumerate(pictures, 1)]
    before = set(session.pictures)
    try:
        for one in read:
            _restore(session, *one)
    except BaseException:
        for serial in session.pictures.keys() - before:
            session.close(serial)
        raise
    return len(read)


def _read(one: Any, number: int) -> tuple[dict[str, Any], list[dict], list, list[tuple]]:
    """A picture as `Session.open` takes it, its regions, which are asked about, its entries."""
    if not isinstance(one, dict):
        raise _bad(f"picture {number} is none")
    try:
        source = base64.b64decode(_text(one, "image", MAX_SESSION), validate=True)
    except ValueError:
        raise _bad(f"picture {number} is damaged") from None
    image = load_image(source)
    size = (image.shape[0], image.shape[1])
    regions = [_region(entry, size) for entry in _list(one, "regions", MAX_REGIONS)]
    entries = [_entry(entry, size) for entry in _list(one, "transcript", MAX_ENTRIES)]
    asked = [_number(n) for n in _list(one, "asked", MAX_REGIONS)]
    opened = {"image": image, "title": _text(one, "title", 400), "source": source}
    return opened, regions, asked, entries


def _restore(
    session: Session, opened: dict[str, Any], regions: list[dict], asked: list[int],
    entries: list[tuple],
) -> None:  # fmt: skip
    picture = session.open(**opened)
    with session.lock:
        for region in regions:
            picture.regions.add(**region)
        known = picture.regions.marks
        picture.regions.asked = [n for n in dict.fromkeys(asked) if n in known]
        picture.regions.forget_changes()
        marks = picture.regions.marks
        if any(role == "notice" for role, *_ in entries):
            picture.talk.entries.clear()  # it brings its own
        for role, words, areas, details in entries:
            numbers = details.get("numbers", ())
            if role == "question":
                there = {n: marks[n].region for n in numbers if n in marks}
                there |= {n: picture.view.region(a, f"region {n}") for n, a in areas.items()}
                kept = tuple(n for n in numbers if n in there)
                details |= {"numbers": kept, "regions": tuple(there[n] for n in kept)}
                drawn = [(n, there[n].region_mask.numpy()) for n in kept]
                details["snapshot"] = picture.drawn(drawn)
            picture.talk.add(role, words, **details)


def _region(data: Any, size: tuple[int, int]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _bad("a region is none")
    score = data.get("score")
    return {
        "region_mask": _area(data.get("rle"), size),
        "label": _text(data, "label", MAX_LABEL),
        "number": _number(data.get("number")),
        "score": _share(score),
    }


def _area(rle: Any, size: tuple[int, int]) -> torch.Tensor:
    """Run lengths -> bool (height, width), which must be the picture's size."""
    try:
        region_mask = decode_rle(rle, size)
    except RegionError as error:
        raise _bad(f"of a region: {error}") from None
    if not region_mask.any():
        raise _bad("a region is empty")
    return region_mask


def _entry(data: Any, size: tuple[int, int]) -> tuple[str, str, dict, dict[str, Any]]:
    role = data.get("role") if isinstance(data, dict) else None
    if role not in ("question", "answer", "notice"):
        raise _bad("an entry of the transcript is none")
    text = _text(data, "text", max(MAX_QUESTION, MAX_ANSWER))
    if role == "question":
        numbers = [_number(n) for n in _list(data, "regions", MAX_REGIONS)]
        areas = data.get("areas", {})
        if not isinstance(areas, dict) or not all(key.isdecimal() for key in areas):
            raise _bad("an entry's areas are none")
        changed = {int(n): _area(rle, size) for n, rle in areas.items() if int(n) in numbers}
        details = {"said": _text(data, "said", MAX_QUESTION), "numbers": tuple(numbers)}
        return role, text, changed, details
    if role == "notice":
        return role, text, {}, {}
    state, rating = data.get("state"), data.get("rating")
    certainty = data.get("certainty")
    rows = [
        (_number(row[0]), row[1][:MAX_ANSWER])
        for row in _list(data, "rows", MAX_REGIONS)
        if isinstance(row, list) and len(row) == 2 and isinstance(row[1], str)
    ]
    return role, text, {}, {
        "state": state if state in STATES else "stopped",
        "rating": rating if rating in (-1, 0, 1) else 0,
        "corrected": data.get("corrected") is True,
        "certainty": _share(certainty),
        "rows": tuple(rows),
    }  # fmt: skip


def _share(value: Any) -> float | None:
    """A score or certainty; None for anything else."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _list(data: dict, name: str, limit: int) -> list:
    value = data.get(name, [])
    if not isinstance(value, list) or len(value) > limit:
        raise _bad(f"its {name} are more than {limit}, or none")
    return value


def _text(data: dict, name: str, limit: int) -> str:
    value = data.get(name, "")
    if not isinstance(value, str) or len(value) > limit:
        raise _bad(f"its {name} is no text of at most {limit} characters")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**6:
        raise _bad("a region's number is none")
    return value


def _bad(reason: str) -> LoupeError:
    return LoupeError(f"this is no session file ({reason}): choose one that Loupe exported")


# To look at ------------------------------------------------------------------------------------


def overlay(picture: Picture) -> Image.Image:
    """The picture with its numbered regions."""
    shown = draw.displayed(picture.image.numpy(), OVERLAY)
    areas = [
        (mark.number, draw.resize_region_mask(mark.region.region_mask.cpu().numpy(), shown.size))
        for mark in picture.regions.marks.values()
    ]
    return draw.overlay(np.asarray(shown), areas)


def overlay_png(session: Session) -> bytes:
    with session.lock:
        drawn = overlay(session.picture())
    return _png(np.asarray(drawn))


def to_html(session: Session, model: str) -> str:
    """One page that needs nothing else: pictures with their regions, and what was said."""
    with session.lock:
        shown = [_section(picture) for _, picture in sorted(session.pictures.items())]
    if not shown:
        raise QuestionError("there is nothing to export yet: open a picture first")
    return PAGE.replace("%MODEL%", html.escape(model)).replace("%BODY%", "\n".join(shown))


def _section(picture: Picture) -> str:
    rows = "".join(
        f"<li>{_badge(mark.number)} {html.escape(mark.name)}"
        f" <small>{100 * mark.region.area / (picture.size[0] * picture.size[1]):.1f} %</small></li>"
        for mark in picture.regions.marks.values()
    )
    talk = "".join(_turn(entry) for entry in picture.talk.entries)
    alt = f"{picture.title} with {len(picture.regions.marks)} numbered regions"
    return (
        f"<section><h2>{html.escape(picture.title)}</h2><div class=both><div>"
        f'<img src="{draw.data_uri(overlay(picture))}" alt="{html.escape(alt)}">'
        f"<ol class=regions>{rows}</ol></div><div class=talk>{talk}</div></div></section>"
    )


def _turn(entry: Entry) -> str:
    badges = "".join(_badge(number) for number in entry.numbers)
    text = html.escape(entry.text)
    if entry.state == "withheld":
        text = f"I can't tell. <small>(a guess: {text})</small>"
    if entry.state in ("stopped", "failed"):
        text += f" <small>({entry.state})</small>"
    if entry.rows:
        rows = (f"<tr><th>{_badge(n)}</th><td>{html.escape(c)}</td></tr>" for n, c in entry.rows)
        text += f"<table>{''.join(rows)}</table>"
    image = f'<img src="{entry.snapshot}" alt="">' if entry.snapshot else ""
    if entry.corrected:
        text += " <small>(put right by hand)</small>"
    return f"<div class={entry.role}>{image}{badges}{' ' if badges else ''}{text.strip()}</div>"


def _badge(number: int) -> str:
    colour, ink = draw.css(draw.colour(number)), draw.css(draw.ink(number))
    return f'<b class=badge style="background:{colour};color:{ink}">{number}</b>'


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A talk with Loupe</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 1200px; margin: 0 auto; padding: 24px; }
h1 { font-size: 22px; } h2 { font-size: 18px; } small { opacity: .75; }
.both { display: grid; grid-template-columns: 7fr 5fr; gap: 24px; }
.both > div > img { width: 100%; border-radius: 10px; }
.regions { display: flex; flex-wrap: wrap; gap: 6px 16px; padding: 0; list-style: none; }
.badge { display: inline-block; min-width: 1.1em; padding: 0 .35em; border-radius: 99px;
 text-align: center; font-size: .85em; }
.talk > div { width: fit-content; max-width: 90%; margin: 8px 0; padding: 8px 13px;
 border-radius: 14px; background: #8882; white-space: pre-wrap; }
.talk > .question { margin-left: auto; background: #0f766e33; }
.talk img { display: block; max-width: 180px; border-radius: 8px; }
.talk table { white-space: normal; text-align: left; } .talk th { padding-right: 8px; }
@media (max-width: 800px) { .both { grid-template-columns: 1fr; } }
</style></head><body>
<h1>A talk with Loupe</h1><p><small>Answers by %MODEL%.</small></p>
%BODY%
</body></html>
"""
