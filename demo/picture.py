"""One picture of a visitor, and how they want answers about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.draw import snapshot
from adapters.published import PRESETS
from demo.regions import Mark, Regions
from demo.talk import Talk
from qformer.contracts import Decoding
from qformer.prompt import Composer
from qformer.view import View

SMALL = 320  # pixels of the longest side of a snapshot


@dataclass(frozen=True)
class Settings:
    """How a visitor wants answers; None: as the model's own checkpoint says. threshold: an answer
    the model is less certain of is withheld. save: corrections may be kept as training data."""

    preset: str | None = None
    composer: Composer | None = None
    max_new_tokens: int | None = None
    beams: int | None = None
    temperature: float | None = None
    threshold: float = 0.0
    save: bool = False

    def decoding(self, own: Decoding) -> Decoding:
        """Raises LoupeError where two settings exclude each other."""
        base = PRESETS[self.preset] if self.preset else own
        names = ("max_new_tokens", "beams", "temperature")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "max_new_tokens" in changes:  # a shorter answer than the preset's shortest is meant
            changes["min_new_tokens"] = min(base.min_new_tokens, changes["max_new_tokens"])
        return dataclasses.replace(base, **changes)


@dataclass
class Picture:
    """An opened picture: read once, its regions and the talk about it."""

    serial: int  # the first picture of a session is 1
    title: str
    image: Any  # uint8 tensor (height, width, 3)
    source: bytes | None  # the file it came from
    view: View
    regions: Regions
    talk: Talk
    small: np.ndarray  # for snapshots
    advised: bool = False  # whether the model knows such pictures has been looked at

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def copy(self, ids: Callable[[], int]) -> Picture:
        """The same picture, with regions and a talk of its own. ids: gives entries numbers."""
        view = self.view
        view = view.apart() if view.encoded else View(view.assistant, view.image)
        regions, talk = self.regions.copy(view), self.talk.copy(view, ids)
        return dataclasses.replace(self, view=view, regions=regions, talk=talk)

    def snapshot(self, marks: list[Mark]) -> str:
        """These regions as they are now, a data URI; "" for none."""
        return self.drawn([(mark.number, mark.region.region_mask.cpu().numpy()) for mark in marks])

    def drawn(self, areas: list[tuple[int, np.ndarray]]) -> str:
        return snapshot(self.small, areas, SMALL) if areas else ""
