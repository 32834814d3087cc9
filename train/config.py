"""Settings in TOML files: strict keys, and changes from the command line on top."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from adapters import texts
from qformer.config import from_dict
from qformer.contracts import LoupeError

CONFIGS = Path(__file__).parent / "configs"
Settings = TypeVar("Settings")


def read_config(kind: type[Settings], path: Path, changes: Sequence[str] = ()) -> Settings:
    """A TOML file as one frozen dataclass, with "a.b=c" changes on top.

    Raises LoupeError for an unknown key, a value of another type or a file that is not TOML.
    """
    try:
        values = tomllib.loads(texts.read_text(path))
    except OSError:
        raise LoupeError(f"there is no config {path}: see {CONFIGS}") from None
    except UnicodeDecodeError:
        raise LoupeError(f"{path} is not a UTF-8 text: save it as one") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LoupeError(f"{path} is not TOML: {error}") from None
    return from_dict(kind, changed(values, changes), path.name)


def changed(values: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The same tables with "a.b=c" changes in them. Raises LoupeError."""
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise LoupeError(f"--set {change!r}: write it as a.b=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = text
        *tables, last = name.strip().split(".")
        table: Any = values
        for part in tables:
            table = inner(table, part, change)
        if isinstance(table, list):
            raise LoupeError(f"--set {change!r}: {last} is a table of a list, not a value")
        table[last] = value
    return values


def inner(table: Any, part: str, change: str) -> Any:
    """The table called `part`, or the one of that number in a list ("data.0.path")."""
    if isinstance(table, list):
        if not part.isdigit() or int(part) >= len(table):
            raise LoupeError(f"--set {change!r}: the list has tables 0 to {len(table) - 1}")
        return table[int(part)]
    found = table.setdefault(part, {})
    if not isinstance(found, dict | list):
        raise LoupeError(f"--set {change!r}: {part} is not a table")
    return found
