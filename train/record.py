"""What a run was made with, kept in its folder: recipe, overrides, data, versions, machine."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from qformer.config import Over
from train.recipe import Recipe

RECORD, FILE = "run.json", "recipe.toml"
LIBRARIES = ("loupe-assistant", "torch", "transformers", "peft", "accelerate", "bitsandbytes")
NONE = "nothing"


def keep_record(folder: Path, recipe: Recipe, file: Path, changes: Sequence[str]) -> None:
    """Write both files; of a run that is resumed they say how it goes on, and how it began stands
    under "before"."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_record(folder)
    record: dict[str, Any] = {
        "file": str(file), "changes": list(changes), "recipe": plain(recipe),
        "data": fingerprints(recipe), "versions": versions(),
        "machine": {"system": platform.platform(), "processor": platform.processor(),
                    "python": platform.python_version()},
    }  # fmt: skip
    if before is not None:
        earlier = before.pop("before", [])
        same = all(before.get(key) == record[key] for key in record)
        record["before"] = earlier if same else [*earlier, before]
    new = folder / f".{RECORD}.new"
    new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    new.replace(folder / RECORD)
    if file.resolve() != (folder / FILE).resolve():
        shutil.copyfile(file, folder / FILE)


def what_changed(folder: Path, recipe: Recipe) -> list[str]:
    """Settings, data and versions that are other than those the run in `folder` was begun with."""
    before = read_record(folder)
    if before is None:
        return []
    now = {"recipe": plain(recipe), "data": fingerprints(recipe), "versions": versions()}
    return [
        f"{name} was {old}, and is {new}"
        for key, value in now.items()
        for name, old, new in differences(before.get(key), value, "" if key == "recipe" else key)
    ]


def read_record(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def differences(old: Any, new: Any, name: str) -> list[tuple[str, str, str]]:
    """(name, before, now) of all that differs between two values of JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            one
            for key in sorted(old.keys() | new.keys())
            for one in differences(old.get(key), new.get(key), f"{name}.{key}".strip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            one
            for number, pair in enumerate(zip(old, new, strict=True))
            for one in differences(*pair, f"{name}.{number}")
        ]
    if old == new:
        return []
    return [(name, *(NONE if one is None else json.dumps(one) for one in (old, new)))]


def plain(value: Any) -> Any:
    """A config as JSON has it."""
    if isinstance(value, Over):
        return {key: plain(one) for key, one in value.values.items()}
    if dataclasses.is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """How large each data file is, and when it was written last."""
    found = {}
    for config in (*recipe.data, *recipe.validate):
        for path in (config.path, config.answers):
            file = Path(path) if path else None
            if file is not None and file.is_file():
                about = file.stat()
                found[str(path)] = f"{about.st_size} bytes of {int(about.st_mtime)}"
    return found


def versions() -> dict[str, str]:
    told = {}
    for name in LIBRARIES:
        try:
            told[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return told
