"""The example pictures. Imports nothing heavy: the page shows them before a model is there."""

from __future__ import annotations

import base64
import json
from pathlib import Path

EXAMPLES = Path(__file__).parent / "examples"


def examples(folder: Path = EXAMPLES) -> dict[str, Path]:
    """The example pictures, by file name."""
    return {path.name: path for path in sorted(folder.glob("*.png"))}


def described() -> list[dict]:
    """What is known of the examples: {"file", "click", "question", "answer"[, "title"]} each."""
    page = EXAMPLES / "examples.json"
    return json.loads(page.read_text()) if page.exists() else []


def titled(pictures: dict[str, Path]) -> dict[str, str]:
    """A title for each example."""
    titles = {entry["file"]: entry["title"] for entry in described() if "title" in entry}
    return {name: titles.get(name, f"example {n}") for n, name in enumerate(pictures, 1)}


def offered(pictures: dict[str, Path]) -> list[dict]:
    """The examples as the canvas offers them; they are small."""
    return [
        {"name": name, "title": title, "src": data_uri(pictures[name])}
        for name, title in titled(pictures).items()
    ]


def data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
