"""Where a model lies: a folder here, or an id on the hub. Its settings are read once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters import texts
from qformer.contracts import CheckpointError

CONFIG = "config.json"
PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
# model_type of a whole model, which holds a `vision_model` and a `language_model` -> the class of
# its vision encoder.
WHOLE_MODELS = {"blip-2": "Blip2VisionModel", "instructblip": "InstructBlipVisionModel"}


@dataclass(frozen=True)
class ModelSource:
    """path: a folder here (a Path, or a text that names one), or a hub id; revision: which version
    of the latter. Open one and pass it on: each of its settings files is read at most once."""

    path: str | Path
    revision: str | None = None
    _read: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, source: Source) -> ModelSource:
        """The same for a ModelSource; a folder or hub id becomes one."""
        return source if isinstance(source, ModelSource) else cls(source)

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is meant as a folder here rather than as a hub id."""
        return isinstance(self.path, Path) or Path(self.path).is_dir()

    @property
    def folder(self) -> Path:
        return Path(self.path)

    @property
    def absolute(self) -> str:
        """A name of it that holds wherever one stands: a folder's whole path, or the hub id."""
        return str(self.folder.resolve()) if self.is_folder else str(self)

    @property
    def pinned(self) -> dict[str, Any]:
        """What `from_pretrained` is called with, first and by name."""
        return {"pretrained_model_name_or_path": self.path, "revision": self.revision or "main"}

    def file(self, name: str) -> Path | None:
        """Where one of its files lies (fetched, where it is not here yet); None without it."""
        if self.is_folder:
            path = self.folder / name
            return path if path.is_file() else None
        from transformers.utils import cached_file

        try:
            found = cached_file(str(self), name, revision=self.revision)
        except (OSError, ValueError):
            return None
        return None if found is None else Path(found)

    def settings(self, name: str = CONFIG) -> dict[str, Any]:
        """One of its JSON files. Raises CheckpointError where it is missing or damaged."""
        if name not in self._read:
            path = self.folder / name if self.is_folder else self.file(name)
            if path is None:
                raise CheckpointError(not_here(self))
            self._read[name] = read_json(path)
        return dict(self._read[name])

    def image_processor(self) -> dict[str, Any]:
        """As `find_image_processor`. Raises CheckpointError where it does not say."""
        settings = self.find_image_processor()
        if settings is None:
            raise CheckpointError(
                f"{self} has neither {IMAGE_PROCESSOR} nor pictures' settings in {PROCESSOR}: copy"
                " the whole folder again"
            )
        return settings

    def find_image_processor(self) -> dict[str, Any] | None:
        """How it wants its pictures; None where it does not say.

        As transformers' get_image_processor_dict finds it: in processor_config.json, where version
        5 writes it, else in preprocessor_config.json.
        """
        whole = self.file(PROCESSOR)
        nested = None if whole is None else self.settings(PROCESSOR).get("image_processor")
        if nested is not None:
            if not isinstance(nested, dict):
                raise CheckpointError(
                    f'"image_processor" in {whole} is not an object: copy it again'
                )
            return nested
        return None if self.file(IMAGE_PROCESSOR) is None else self.settings(IMAGE_PROCESSOR)

    @property
    def model_type(self) -> str | None:
        """What config.json calls it."""
        return self.settings().get("model_type")

    @property
    def is_whole(self) -> bool:
        """Whether it is a BLIP-2 or InstructBLIP, frozen parts and all."""
        return self.model_type in WHOLE_MODELS

    def part(self, name: str) -> str | None:
        """The name of a part ("vision_model", "language_model") in a whole model; None where the
        model is that part itself."""
        return name if self.is_whole else None


Source = str | Path | ModelSource


def not_here(source: Source) -> str:
    """What to say of a hub id whose files cannot be had."""
    return (
        f"{str(source)!r} is neither a folder here nor a model the hub gave: check the name, or, "
        "without a network, copy the model's files into a folder and give that"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises CheckpointError if it is missing or is not one."""
    try:
        values = texts.read_json(path, strict=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: copy the whole folder again") from None
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is not readable JSON: copy the folder again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object: copy the folder again")
    return values


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names in a message, the first few."""
    ordered = sorted(names)
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")
