"""The models that come with the code, by name, and which of them is opened where none is named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adapters.checkpoint import CONFIG, is_relative, load_config
from adapters.packages import PREFIX, locate_package
from qformer.contracts import CheckpointError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Default:
    """folder: its Loupe checkpoint; the parts that ship with it lie beside that one."""

    folder: Path
    suits: str
    licence: str


PHOTOS, PAINTINGS = "photos", "paintings"
DEFAULTS = {
    PHOTOS: Default(
        HERE / "photos" / "loupe",
        "photos of everyday things",
        "weights for research, not for commerce; their frozen parts Apache-2.0",
    ),
    PAINTINGS: Default(HERE / "embedded" / "loupe", "painted scenes", "Apache-2.0"),
}
NAMED = re.compile(f'"{PREFIX}([^"]+)"')  # in a config.json
FORMER = {"embedded": PAINTINGS}  # names that were given before


def default_named(model: str | Path) -> str | None:
    """The name of the default that `model` means, if any."""
    name = FORMER.get(str(model), str(model))
    return name if name in DEFAULTS else None


def folder_of(model: str | Path) -> Path:
    """A default's checkpoint by its name; anything else is the path of one."""
    name = default_named(model)
    return Path(model) if name is None else DEFAULTS[name].folder


def default_model() -> tuple[str, str]:
    """The one to open where none is named, and, where it is not the photos' model, why not: a line
    that says what to do."""
    try:
        check_parts(DEFAULTS[PHOTOS].folder)
    except CheckpointError as error:
        return PAINTINGS, f"the paintings' model is open, the photos' one cannot be: {error}"
    return PHOTOS, ""


def check_parts(folder: Path) -> None:
    """Raises CheckpointError where a checkpoint, or a part of it that a package carries, is not
    here."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is missing: check the project out again")
    for name in package_parts(folder):
        locate_package(name)


def package_parts(folder: Path) -> list[str]:
    """What a checkpoint, and the parts beside it, need of adapters/packages.py, by name. Raises
    CheckpointError."""
    pages = [folder / CONFIG]
    for part in load_config(folder).parts:
        if is_relative(folder, part.path):
            pages.append(folder / part.path / CONFIG)
    texts = [page.read_text(encoding="utf-8") for page in pages if page.is_file()]
    return sorted({name for text in texts for name in NAMED.findall(text)})
