"""The example pictures, a set for each default. Imports nothing heavy: the page shows them before a
model is there."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from demo.models import PAINTINGS, PHOTOS

EXAMPLES = Path(__file__).parent / "examples"
SETS = {PHOTOS: EXAMPLES / "photos", PAINTINGS: EXAMPLES}
KINDS = {".png": "png", ".jpg": "jpeg"}


def examples() -> dict[str, Path]:
    """The example pictures of all sets, by file name."""
    return {name: path for folder in SETS.values() for name, path in pictures(folder).items()}


def pictures(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.glob("*")) if path.suffix in KINDS}


def described(folder: Path = EXAMPLES) -> list[dict]:
    """What is known of a set: {"file", "title"} each; of paintings "click", "question" and the
    "answer", of photos "by", "licence", "source" and "terms" (addresses)."""
    page = folder / "examples.json"
    return json.loads(page.read_text()) if page.exists() else []


def known() -> dict[str, dict]:
    """The same of all sets, by file name."""
    return {entry["file"]: entry for folder in SETS.values() for entry in described(folder)}


def titled(files: dict[str, Path]) -> dict[str, str]:
    """A title for each example, with whom it is by: it goes where the picture goes."""
    titles, about = {}, known()
    for number, name in enumerate(files, 1):
        entry = about.get(name, {})
        titles[name] = entry.get("title", f"example {number}")
        if "by" in entry:
            titles[name] += f", photo: {entry['by']}, {entry['licence']}"
    return titles


def offered(files: dict[str, Path]) -> list[dict]:
    """The examples as the canvas offers them, in the order they are described in; they are small.
    "set": the model whose examples they are."""
    sets, about = {folder: name for name, folder in SETS.items()}, known()
    places = {name: place for place, name in enumerate(about)}
    return [
        {
            "name": name,
            "title": title,
            "src": data_uri(files[name]),
            "set": sets.get(files[name].parent, ""),
            "source": about.get(name, {}).get("source", ""),
            "terms": about.get(name, {}).get("terms", ""),
        }
        for name, title in sorted(titled(files).items(), key=lambda one: places.get(one[0], 0))
    ]


def data_uri(file: Path) -> str:
    kind = KINDS[file.suffix]
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
