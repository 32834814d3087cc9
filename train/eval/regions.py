"""Questions about regions, made from instance masks: what is this, is this a dog, and what a
description should not name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from adapters.rle import decode_rle
from qformer.contracts import RegionError
from qformer.proposals import box_around
from train.data.sample import Area, Sample
from train.eval.case import Case, case_of

WHAT, IS_IT = "what is this?", "is this {}?"
VOWELS = "aeiou"
Bounds = tuple[float, float, float, float]


def what_cases(samples: Iterable[Sample]) -> Iterator[Case]:
    """Every named thing of a picture: "what is this?"."""
    for sample in samples:
        for number, turn in enumerate(sample.turns):
            case = case_of(sample, turn, f"{sample.id}.{number}")
            if not turn.question:
                yield _asking(case, WHAT)


def attribute_cases(samples: Iterable[Sample]) -> Iterator[Case]:
    """Every question that a data set asks about a thing's colour, pattern or material."""
    for sample in samples:
        for number, turn in enumerate(sample.turns):
            if turn.question:
                yield case_of(sample, turn, f"{sample.id}.{number}")


def leakage_cases(samples: Iterable[Sample]) -> Iterator[Case]:
    """A description of every thing in a picture that shows other kinds of things too.

    extra["elsewhere"]: the names of the other kinds, which the description should not hold.
    """
    for sample in samples:
        kinds = {turn.answers[0] for turn in sample.turns}
        if len(kinds) < 2:
            continue
        for number, turn in enumerate(sample.turns):
            case = case_of(sample, turn, f"{sample.id}.{number}")
            elsewhere = sorted(kinds - set(turn.answers))
            yield _asking(case, "", {**sample.extra, "elsewhere": elsewhere})


def pope_cases(samples: Iterable[Sample]) -> Iterator[Case]:
    """Region-POPE: of each thing, "is this" it, and "is this" the kind of its nearest neighbour.

    As many yes as no: a thing whose picture shows no other kind is left out. The neighbour is the
    hard negative, for it is in the picture and often in the region's box. Its kind is nowhere
    under the region itself. extra["overlap"]: whether the two boxes touch.
    """
    for sample in samples:
        names = [turn.answers for turn in sample.turns]
        bounds = [_bounds(sample.areas[turn.areas[0]]) for turn in sample.turns]
        for number, turn in enumerate(sample.turns):
            here = bounds[number]
            others = [
                (distance(here, there), other)
                for other, there in enumerate(bounds)
                if here and there and not set(names[other]) & set(turn.answers)
            ]
            if not others:
                continue
            gap, nearest = min(others)
            case = case_of(sample, turn, f"{sample.id}.{number}")
            for answer, name in (("yes", turn.answers[0]), ("no", names[nearest][0])):
                yield Case(
                    f"{case.id}-{answer}", case.picture, IS_IT.format(with_article(name)),
                    (answer,), case.areas, ("yes", "no"), answer,
                    extra={"overlap": gap == 0, "category": turn.answers[0]},
                )  # fmt: skip


def _asking(case: Case, question: str, extra: dict | None = None) -> Case:
    return Case(
        case.id, case.picture, question, case.answers, case.areas,
        extra={**case.extra, "category": case.answers[0]} if extra is None else extra,
    )  # fmt: skip


def with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in VOWELS else 'a'} {name}"


def _bounds(area: Area) -> Bounds | None:
    """The box of an area, x0, y0, x1, y1; None where it has none."""
    if area.box is not None:
        return area.box
    if area.polygons is not None:
        corners = np.concatenate([np.asarray(one).reshape(-1, 2) for one in area.polygons])
        return (*corners.min(0).tolist(), *corners.max(0).tolist())  # type: ignore[return-value]
    if area.rle is None:
        return None
    try:
        return box_around(decode_rle(area.rle))
    except RegionError:
        return None


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Between two boxes, in pixels; 0 where they touch."""
    across = max(0.0, one[0] - other[2], other[0] - one[2])
    down = max(0.0, one[1] - other[3], other[1] - one[3])
    return math.hypot(across, down)
