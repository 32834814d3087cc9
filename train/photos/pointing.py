"""The segmenter's overlap with COCO's things, and regions found by expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapters.images import load_image
from qformer import finding
from qformer.assistant import Assistant
from qformer.contracts import LoupeError
from qformer.proposals import Everything
from qformer.regions import Region as Marked
from qformer.retrieval import Ranker
from qformer.view import View
from train.eval.run import box_iou
from train.photos.asking import Say, middle
from train.photos.names import COCO
from train.photos.regions import Referred, Region, area

CLICKS = 3
NEAR = 0.5  # overlap of boxes that counts as found, the field's rule


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def correction(region_mask: Tensor, truth: Tensor) -> tuple[float, float, int]:
    """The next click, deep inside whatever is most wrong: (x, y, 1 add | 0 exclude)."""
    missed, spilled = truth & ~region_mask, region_mask & ~truth
    add = int(missed.sum()) >= int(spilled.sum())
    wrong = missed if add else spilled
    return (*middle(wrong if bool(wrong.any()) else truth), int(add))


def segmented(view: View, truth: Tensor) -> dict[str, float]:
    """The overlaps of one thing by one click (the mask that comes first, and the best of its
    readings), by three clicks, and by its box."""
    lone = view.segment(points=[(*middle(truth), 1)])
    fits = [overlap(mask, truth) for mask in lone.region_masks]
    found, first = lone, lone.region_masks[0]
    for _ in range(CLICKS - 1):
        found = view.refine(found, 0, [correction(found.region_masks[0], truth)])
    x0, y0, x1, y1 = map(float, Marked(truth, "the thing").box)
    boxed = view.segment(box=(x0, y0, x1, y1))
    return {
        "one click": overlap(first, truth),
        "one click, best reading": max(fits),
        "three clicks": overlap(found.region_masks[0], truth),
        "box": overlap(boxed.region_masks[0], truth),
    }


def segment_all(
    assistant: Assistant, things: Sequence[Region], folder: Path, say: Say
) -> dict[str, list[float]]:
    """The overlaps of each thing; 0 where nothing was found."""
    result: dict[str, list[float]] = {}
    views: dict[str, View] = {}
    for number, thing in enumerate(sorted(things, key=lambda one: one.image), 1):
        if thing.image not in views:
            views = {thing.image: View(assistant, load_image(folder / thing.image))}
        view = views[thing.image]
        truth = area(thing.region).region_mask(view.size)
        try:
            told = segmented(view, truth)
        except LoupeError:
            told = dict.fromkeys(result, 0.0)
        for name, value in told.items():
            result.setdefault(name, []).append(value)
        if number % 20 == 0:
            say(f"{number} of {len(things)} things segmented")
    return result


def find_all(
    viewer: Assistant | Ranker, referred: Sequence[Referred], folder: Path, say: Say
) -> list[tuple[bool, bool]]:
    """Of each expression: whether the first region found is the one that is meant, and whether any
    proposal is. viewer: what reads the photo; a stage-1 model also compares."""
    ranker = viewer if isinstance(viewer, Ranker) else None
    found: list[tuple[bool, bool]] = []
    by_photo: dict[str, list[Referred]] = {}
    for one in referred:
        by_photo.setdefault(one.image, []).append(one)
    for image, ones in by_photo.items():
        view = viewer.encode(load_image(folder / image))
        proposals = view.everything(Everything(**finding.GENEROUS))
        for one in ones:
            near = [box_iou(one.box, proposal.box) > NEAR for proposal in proposals]
            for text in one.expressions:
                best = finding.among(view, proposals, text, ranker)
                hit = bool(best) and box_iou(one.box, best[0].proposal.box) > NEAR
                found.append((hit, any(near)))
        say(f"{len(found)} expressions looked for")
    return found


@torch.no_grad()
def contrast_names(ranker: Ranker, things: Sequence[Region], folder: Path, say: Say) -> list[bool]:
    """Whether contrast alone picks a thing's name among COCO's 80, under its true mask."""
    texts = ranker.text_features(COCO)
    found: list[bool] = []
    by_photo: dict[str, list[Region]] = {}
    for thing in things:
        by_photo.setdefault(thing.image, []).append(thing)
    for image, ones in by_photo.items():
        view = ranker.encode(load_image(folder / image))
        masks = [area(one.region).region_mask(view.size) for one in ones]
        rows = view.rows([view.region(mask) for mask in masks], None)
        features = ranker.stage1.row_features(**ranker.bridge.inputs(view.memory, rows))
        cosines = torch.einsum("aqd,td->aqt", features, texts).amax(1)
        names = [COCO[index] for index in cosines.argmax(1).tolist()]
        found += [name == one.name for name, one in zip(names, ones, strict=True)]
    say(f"{len(found)} things named by contrast")
    return found
