"""What a model is shown: the thing itself, and the baselines that say what the figure is worth.

An arm changes the picture and the regions before any model sees them, so that it means the same for
all. "question only" shows a grey picture; what is still right was in the words. "no words" has a
region looked for without saying which.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from qformer.proposals import box_around
from qformer.regions import focal_crop
from train.eval.case import Case

Shown = tuple[Tensor, tuple[Tensor, ...]]  # uint8 (height, width, 3); bool (height, width) each
GREY = 128


def as_it_is(image: Tensor, region_masks: tuple[Tensor, ...]) -> Shown:
    return image, region_masks


def grey(image: Tensor, region_masks: tuple[Tensor, ...]) -> Shown:
    return torch.full_like(image, GREY), ()


def no_region(image: Tensor, region_masks: tuple[Tensor, ...]) -> Shown:
    return image, ()


def box_crop(image: Tensor, region_masks: tuple[Tensor, ...]) -> Shown:
    """The box around all regions, cut out."""
    union = torch.stack(region_masks).any(0)
    x0, y0, x1, y1 = box_around(union)
    return image[y0:y1, x0:x1].contiguous(), ()


def blurred_crop(image: Tensor, region_masks: tuple[Tensor, ...]) -> Shown:
    """The regions with one box size of margin, what lies outside them blurred."""
    union = torch.stack(region_masks).any(0)
    crop, _ = focal_crop(image, union, box_around(union))
    return crop, ()


ARMS: dict[str, Callable[[Tensor, tuple[Tensor, ...]], Shown]] = {
    "question only": grey,
    "no region": no_region,
    "box crop": box_crop,
    "blurred crop": blurred_crop,
    "regions": as_it_is,
    "no words": as_it_is,
    "picture": as_it_is,
}
MAJORITY = "majority"
WHOLE = "whole picture"  # stands in its place where a region is looked for
FINDING = ("no words", "picture")


def arms_for(regions: bool, sees_regions: bool) -> tuple[str, ...]:
    """The arms of a model. regions: the task is about regions. sees_regions: the model can be given
    them; others get crops."""
    if not regions:
        return "question only", "picture"
    # Those that show the whole picture follow each other: it is encoded for the first of them.
    crops = ("question only", "box crop", "blurred crop", "no region")
    return (*crops, "regions") if sees_regions else crops


def majority(cases: list[Case]) -> list[str]:
    """The answer that is most often right, of those that may be chosen.

    It knows how often each answer is right in these very data, which no model does. Where choices
    differ from case to case, a right one would give itself away by being there: then the other
    pictures alone are counted, and a coin is tossed where none of the choices is ever right there.
    """
    rights = [Counter({case.right: 1.0} if case.right else shares(case.answers)) for case in cases]
    counts: Counter[str] = Counter()
    for right in rights:
        counts.update(right)
    best = counts.most_common(1)[0][0] if counts else ""
    if len({frozenset(case.choices) for case in cases}) == 1:
        return [best] * len(cases)
    here: dict[str, Counter[str]] = {}
    for case, right in zip(cases, rights, strict=True):
        here.setdefault(case.picture.key, Counter()).update(right)
    answers = []
    for case in cases:
        coin = {c: hashlib.sha256(f"{case.id} {c}".encode()).digest() for c in case.choices}
        others = {c: round(counts[c] - here[case.picture.key][c], 9) for c in case.choices}
        answers.append(max(case.choices, key=lambda c: (others[c], coin[c]), default=best))
    return answers


def shares(answers: tuple[str, ...]) -> dict[str, float]:
    """How many of a case's people gave each answer, as a share."""
    return {answer: count / len(answers) for answer, count in Counter(answers).items()}
