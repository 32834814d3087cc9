"""What every data set becomes: a picture, areas of it, and what is said about them.

Readers (train/data/readers.py) yield these; training learns from them and evaluation asks them.
Nothing is loaded before it is needed: a sample names its picture, and a picture opens itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil, floor, isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from adapters.images import load_region_mask
from adapters.rle import decode_rle, fill_polygons
from qformer.contracts import LoupeError, RegionError

EMPTY = "an answer or caption is empty"
MOST_WORDS = 1000  # of a question or an answer; what is longer is not meant as one


class Picture(Protocol):
    """Where a picture lies: a file, a member of an archive, a row of an array."""

    key: str  # names it: the same for the same picture, different for others

    def load(self) -> Tensor:
        """uint8 (height, width, 3). Raises ImageError where it is missing or broken."""
        ...

    def digest(self) -> str:
        """SHA-256 of what is stored; features are cached under it. Raises ImageError."""
        ...


@dataclass(frozen=True)
class Area:
    """A region as a data set writes it, in pixels of the picture; exactly one way is given.

    box: (x0, y0, x1, y1). rle: COCO's {"size": [height, width], "counts": ...}. polygons: corners
    [x, y, x, y, ...] each. file: a picture whose bright pixels are the region. drawn_on: (height,
    width) that the data set states of the picture; a box and polygons are scaled from there.
    """

    box: tuple[float, float, float, float] | None = None
    rle: dict[str, Any] | None = None
    polygons: tuple[tuple[float, ...], ...] | None = None
    file: Path | None = None
    drawn_on: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.box, self.rle, self.polygons, self.file)) != 1:
            raise RegionError("a region needs one of box, rle, polygons or file")
        if self.box is None:
            return
        x0, y0, x1, y1 = self.box
        if not (all(map(isfinite, self.box)) and x0 < x1 and y0 < y1):
            raise RegionError("a box has no area: write it as x0, y0, x1, y1 in pixels")
        if max(self.box) <= 1:
            raise RegionError(
                "a box lies within one pixel: give pixels, not shares of the picture's sides"
            )

    def on(self, size: tuple[int, int]) -> Area:
        """The area in pixels of a picture of `size`, (height, width): scaled, where it was drawn
        before the picture was shrunk. Raises RegionError where that was turned or cropped since."""
        if self.drawn_on in (None, tuple(size)) or (self.box is None and self.polygons is None):
            return self
        (height, width), (drawn_height, drawn_width) = size, self.drawn_on
        if abs(width * drawn_height - height * drawn_width) > max(self.drawn_on):  # a pixel off
            raise drawn_elsewhere(self.drawn_on, size)
        across, down = width / drawn_width, height / drawn_height
        scaled = [
            tuple(value * (down if place % 2 else across) for place, value in enumerate(corners))
            for corners in self.polygons or [self.box]
        ]
        if self.box is not None:
            return replace(self, box=scaled[0], drawn_on=None)
        return replace(self, polygons=tuple(scaled), drawn_on=None)

    def region_mask(self, size: tuple[int, int]) -> Tensor:
        """bool (height, width), what lies outside the picture cut off.

        Raises RegionError if nothing is left, or if it was drawn on a picture of another size.
        """
        if (here := self.on(size)) is not self:
            return here.region_mask(size)
        height, width = size
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            region_mask = torch.zeros(size, dtype=torch.bool)
            left, right = (min(max(0, place), width) for place in (floor(x0), ceil(x1)))
            top, bottom = (min(max(0, place), height) for place in (floor(y0), ceil(y1)))
            region_mask[top:bottom, left:right] = True
        elif self.rle is not None:
            region_mask = decode_rle(self.rle, size)
        elif self.polygons is not None:
            region_mask = fill_polygons(self.polygons, size)
        else:
            region_mask = load_region_mask(self.file, size)
        if tuple(region_mask.shape) != tuple(size):
            raise drawn_elsewhere(tuple(region_mask.shape), size)
        if not region_mask.any():
            raise RegionError("a region lies outside its picture, or is empty")
        return region_mask


def drawn_elsewhere(drawn: Sequence[int], size: Sequence[int]) -> RegionError:
    """drawn, size: (height, width)."""
    return RegionError(
        f"a region was drawn on {drawn[1]} x {drawn[0]} pixels, not on {size[1]} x {size[0]}"
    )


def stated_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) that an entry of a data set states of its picture; None where it does not."""
    height, width = entry.get("height"), entry.get("width")
    if all(isinstance(side, int) and 0 < side < 1e6 for side in (height, width)):
        return height, width  # type: ignore[return-value]
    return None


@dataclass(frozen=True)
class Turn:
    """question: "" where the answer is a caption. answers: all that people gave. Of a question the
    first is learned; of a caption any one, drawn anew each time. Evaluation scores against all.
    areas: which of the sample's areas it is about. choices: of a multiple-choice question. notes:
    a word for each soft token of the picture, which it is to be like (train/notes.py)."""

    question: str
    answers: tuple[str, ...]
    areas: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class Sample:
    """One line of a data set. dialogue: the turns follow one another; otherwise each stands alone.
    extra: what only one task needs (an answer type, a category)."""

    id: str
    picture: Picture
    turns: tuple[Turn, ...]
    areas: tuple[Area, ...] = ()
    dialogue: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class BadSampleError(LoupeError):
    """A line of a data set that cannot be learned from; its message is the reason."""


def without_empty(sample: Sample, tally: Tally) -> Sample:
    """The sample without empty answers, each of which is counted, where others stand beside them;
    `check` refuses one of which nothing is left."""
    turns = []
    for turn in sample.turns:
        said = tuple(answer for answer in turn.answers if answer.strip())
        turns.append(replace(turn, answers=said) if said else turn)
        for _ in range(len(turn.answers) - len(said) if said else 0):
            tally.add(EMPTY, sample.id)
    return replace(sample, turns=tuple(turns))


def check(sample: Sample) -> Sample:
    """The sample itself. Raises BadSampleError for what no picture is needed to see."""
    if not sample.turns:
        raise BadSampleError("nothing is said about the picture")
    for turn in sample.turns:
        if not turn.answers or not all(text.strip() for text in (*turn.answers, *turn.choices)):
            raise BadSampleError(EMPTY)
        for text in (turn.question, *turn.answers):
            if len(text) > 4 * MOST_WORDS and len(text.split()) > MOST_WORDS:
                raise BadSampleError(f"a text has more than {MOST_WORDS} words")
        if any(not 0 <= area < len(sample.areas) for area in turn.areas):
            raise BadSampleError("a turn is about a region that is not there")
    return sample


class Tally:
    """How many samples were good, and how many bad for which reason, with a few examples of each.

    share: the most that may be bad before `ok` gives up; it waits for `least` samples to judge.
    """

    def __init__(self, share: float = 1.0, least: int = 200) -> None:
        self.share, self.least = share, least
        self.good = 0
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    @property
    def bad(self) -> int:
        return self.reasons.total()

    def ok(self) -> None:
        self.good += 1

    def add(self, reason: str, place: str) -> None:
        """Count a bad one. Raises LoupeError where they are more than `share` of all."""
        self.reasons[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < 3:
            examples.append(place)
        seen = self.good + self.bad
        if seen >= self.least and self.bad > self.share * seen:
            most, times = self.reasons.most_common(1)[0]
            raise LoupeError(
                f"{self.bad} of {seen} samples are bad, more than bad_share={self.share:g} allows; "
                f"{times} of them: {most} ({self.examples[most][0]})"
            )

    @contextmanager
    def use(self, place: str) -> Iterator[None]:
        """Around what is done with one sample: what the user can put right is counted."""
        try:
            yield
        except LoupeError as error:
            self.add(str(error), place)

    @contextmanager
    def row(self, place: str) -> Iterator[None]:
        """Around what reads one sample from a file, which may hold anything."""
        try:
            with self.use(place):
                yield
        except LoupeError:  # too many were bad
            raise
        except KeyError as key:
            self.add(f"{key} is missing", place)
        except OSError:
            self.add("a file has a name that no file can have", place)
        except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError):
            self.add("it is not written as its format says", place)


def lines_of(tally: Tally) -> list[str]:
    """A line for each reason, the commonest first."""
    return [
        f"{times:6d}  {reason} (e.g. {'; '.join(tally.examples[reason])})"
        for reason, times in tally.reasons.most_common()
    ]
