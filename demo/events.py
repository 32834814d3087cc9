"""What the page may send: every event's payload is checked here, as if a stranger had written it.

An operation is {"op": name, field: value, ...}. FIELDS says, for each name, which fields it has and
what each must be. Whatever else arrives (`id`, the page's own count, is read by `acknowledged`) is
dropped, and whatever fits nothing is a LoupeError: no handler sees an unchecked value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from demo.serve.limits import Limits
from qformer.contracts import ImageError, LoupeError, QuestionError, RegionError

MAX_UPLOAD, MAX_SESSION = Limits.upload, Limits.session  # bytes of a file
MAX_QUESTION = 2000  # characters
MAX_ANSWER = 4000  # characters of a correction
MAX_STROKE = 4000  # points of a brush stroke
MAX_ID = 10**9

Check = Callable[[Any], Any]


class EventError(LoupeError):
    """The page sent something that it never would by itself."""


def unknown() -> EventError:
    return EventError("the page sent something unknown: reload it")


def acknowledged(data: Any) -> int:
    """The page's own number of an operation, 0 where there is none."""
    number = data.get("id") if isinstance(data, dict) else None
    whole_number = isinstance(number, int) and not isinstance(number, bool)
    return number if whole_number and 0 < number <= MAX_ID else 0


def read(data: Any, allowed: Mapping[str, Mapping[str, Check]]) -> tuple[str, dict[str, Any]]:
    """An event's payload -> the operation's name and its fields, checked. Raises a LoupeError."""
    name = data.get("op") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in allowed:
        raise unknown()
    return name, {field: check(data.get(field)) for field, check in allowed[name].items()}


# Checks ----------------------------------------------------------------------------------------


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise unknown()
    return value


def number(value: Any) -> int:
    """Check the number of a region, a picture, an entry or a candidate."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
        raise unknown()
    return value


def optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def real(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise unknown()
        if not low <= value <= high:  # nor is NaN
            raise EventError(f"{value!r:.40} does not lie between {low:g} and {high:g}: change it")
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise unknown()
        if not low <= value <= high:
            raise EventError(f"{str(value)[:40]} does not lie between {low} and {high}: change it")
        return value

    return check


def share(value: Any) -> float:
    """A place along a side of the picture, 0 to 1."""
    try:
        return real(0, 1)(value)
    except LoupeError:
        raise RegionError("that lies outside the picture: point inside it") from None


def corners(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != 4:
        raise unknown()
    return tuple(share(one) for one in value)


def stroke(value: Any) -> list[tuple[float, float]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STROKE:
        raise RegionError(f"a stroke has 1 to {MAX_STROKE} points: paint in shorter strokes")
    if not all(isinstance(point, list) and len(point) == 2 for point in value):
        raise unknown()
    return [(share(x), share(y)) for x, y in value]


def text(limit: int, what: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise unknown()
        if len(value) > limit:
            raise QuestionError(f"the {what} is longer than {limit} characters: cut it")
        # Lone surrogates and null bytes can be neither shown nor saved.
        return value.encode(errors="ignore").decode().replace("\0", "")

    return check


def choice(*allowed: Any) -> Check:
    def check(value: Any) -> Any:
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise unknown()
        return value

    return check


def upload(value: Any) -> Path:
    """A file that a visitor uploaded: gradio's own folder, nothing else, not beyond MAX_SESSION."""
    from gradio.utils import get_upload_folder

    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or "\0" in path or len(path) > 4096:
        raise unknown()
    try:
        file = Path(path).resolve()
        inside = file.is_relative_to(Path(get_upload_folder()).resolve()) and file.is_file()
        size = file.stat().st_size if inside else 0
    except (OSError, ValueError):
        inside, size = False, 0
    if not inside:
        raise ImageError("the upload is gone: open the file again")
    if size > MAX_SESSION:
        raise ImageError(f"the file is larger than {MAX_SESSION >> 20} MB: choose a smaller one")
    return file


def picture_file(value: Any) -> Path:
    file = upload(value)
    if file.stat().st_size > MAX_UPLOAD:
        raise ImageError(f"the file is larger than {MAX_UPLOAD >> 20} MB: choose a smaller one")
    return file


# Operations ------------------------------------------------------------------------------------

question = text(MAX_QUESTION, "question")
name = text(400, "name")
region = optional(number)

# On the canvas, and all else that is quickly done: `Chat.operate`.
OPERATIONS: dict[str, dict[str, Check]] = {
    "example": {"name": name},
    "upload": {"file": picture_file, "title": optional(name)},
    "switch": {"picture": number},
    "close": {"picture": number},
    "point": {"x": share, "y": share, "positive": flag, "region": region},
    "box": {"box": corners},
    "stroke": {"points": stroke, "radius": real(0, 1), "positive": flag, "region": region},
    "pick": {"candidate": number},
    "cycle": {"region": number},
    "rename": {"region": number, "label": name},
    "choose": {"region": number, "asked": flag},
    "delete": {"region": number},
    "clear": {},
    "undo": {},
    "redo": {},
    "sync": {},
    "forget": {},
    "restart": {},
    "rate": {"entry": number, "rating": choice(-1, 0, 1)},
    "correct": {"entry": number, "answer": text(MAX_ANSWER, "answer")},
    "evidence": {"entry": number},
    "export": {"form": choice("json", "html", "png")},
    "import": {"file": upload},
    "settings": {
        "preset": choice(None, "caption", "vqa", "chat"),
        "composer": choice(None, "regions", "global+regions", "text"),
        "max_new_tokens": optional(integer(1, 512)),
        "beams": optional(integer(1, 10)),
        "temperature": optional(real(0, 2)),
        "threshold": real(0, 1),
        "save": flag,
    },
}

# What takes a while and shows how far it is: `Chat.work`.
WORK: dict[str, dict[str, Check]] = {
    "ask": {"question": question},
    "retry": {"entry": number},
    "edit": {"entry": number, "question": question},
    "describe": {},
    "everything": {},
    "find": {"words": text(200, "description")},
}

# About models: `Chat.model`.
MODELS: dict[str, dict[str, Check]] = {
    "list": {},
    "choose": {
        "model": name,
        "segmenter": optional(name),
        "precision": choice("fp32", "bf16", "int8", "nf4"),
    },
}
