"""Text and JSON files as tools write them: in UTF-8, or as a byte order mark says."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any, NoReturn

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16 does
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(content: bytes) -> str:
    """How a text is written, by its first bytes."""
    return next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")


def decode(content: bytes) -> str:
    """Without its byte order mark. Raises ValueError for what is no such text."""
    return content.decode(encoding_of(content))


def read_text(path: Path) -> str:
    """Raises OSError; ValueError for what is no text."""
    return decode(path.read_bytes())


def parse_json(text: str | bytes, strict: bool = False) -> Any:
    """Raises ValueError for what is no JSON, or is nested deeper than any data are. strict: also
    for NaN and infinities, which JSON has not, but Python writes."""
    plain = decode(text) if isinstance(text, bytes) else text.lstrip("\ufeff")
    try:
        return json.loads(plain, parse_constant=_refuse if strict else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, strict: bool = False) -> Any:
    """Raises OSError; ValueError for what is no JSON."""
    return parse_json(path.read_bytes(), strict)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON's")
