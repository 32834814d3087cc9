"""What every data set becomes: a picture, areas of it, and what is said about them.

Readers yield these; training learns from them and evaluation asks them. Nothing is loaded before
it is needed: a sample names its picture, and a picture opens itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


class Picture(Protocol):
    """Where a picture lies: a file, a member of an archive, a row of an array."""

    key: str  # the same for the same picture, different for others; features are cached under it

    def load(self) -> Tensor:
        """uint8 (height, width, 3). Raises ImageError where it is missing or broken."""
        ...


@dataclass(frozen=True)
class Area:
    """A region as a data set writes it, in pixels of the picture; exactly one of the two is given.

    box: (x0, y0, x1, y1). rle: COCO's {"size": [height, width], "counts": ...}; polygons become one
    when they are read.
    """

    box: tuple[float, float, float, float] | None = None
    rle: dict[str, Any] | None = None


@dataclass(frozen=True)
class Turn:
    """question: "" where the answer is a caption. answers: all that people gave, the first is
    learned; evaluation scores against all. areas: which of the sample's areas it is about."""

    question: str
    answers: tuple[str, ...]
    areas: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()  # of a multiple-choice question


@dataclass(frozen=True)
class Sample:
    """One line of a data set. extra: what only one task needs (an answer type, a category)."""

    id: str
    picture: Picture
    turns: tuple[Turn, ...]
    areas: tuple[Area, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
