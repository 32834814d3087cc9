"""How well a segmenter cuts out what is asked for: mean IoU at one click, at three, at a box.

As interactive segmentation is judged: the first click where the thing is widest, each further one
where the largest wrong part is. At the picture's own resolution, the best mask by the model's own
score, through the same calls as the chat's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from adapters.components import Parts
from adapters.images import load_image
from qformer.contracts import ImageError, RegionError, SegmentPrompt
from train.segmenter.data import Pictured

MOST = 200  # masks that are measured, spread over all pictures
SMALLEST = 0.01  # share of the picture that they cover


def measure(
    segmenter: Any, data: Sequence[Pictured], clicks: int = 3, most: int = MOST
) -> dict[str, float]:
    """Mean IoU of the things over SMALLEST of the picture; nothing where there are none."""
    sums, count = dict.fromkeys(("1 click", f"{clicks} clicks", "box"), 0.0), 0
    for i in np.random.default_rng(0).permutation(len(data)).tolist():
        if count >= most:
            break
        try:
            image = load_image(data[i].file)
            size = image.shape[0], image.shape[1]
            goals = [area.region_mask(size).numpy() for area in data[i].areas]
        except (ImageError, RegionError):
            continue
        embedding = segmenter.encode(image.to(segmenter.device))
        for goal in goals:
            if goal.sum() >= SMALLEST * goal.size:
                count += 1
                for name, iou in ious(segmenter, embedding, goal, clicks).items():
                    sums[name] += iou
    return {name: round(total / count, 4) for name, total in sums.items()} if count else {}


def ious(segmenter: Any, embedding: Any, goal: np.ndarray, clicks: int) -> dict[str, float]:
    """Of one thing, bool (H, W)."""
    points: tuple[tuple[float, float, int], ...] = ((*middle(goal), 1),)
    logits, told = None, {}
    for number in range(1, clicks + 1):
        found, logits = answer(segmenter, embedding, SegmentPrompt(points, logits=logits))
        if number in (1, clicks):
            told[f"{number} click{'s' * (number > 1)}"] = iou(found, goal)
        wrong = largest(found ^ goal)
        if wrong is None:
            wrong = goal
        x, y = middle(wrong)
        points = (*points, (x, y, int(goal[int(y), int(x)])))
    ys, xs = np.nonzero(goal)
    box = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
    told["box"] = iou(answer(segmenter, embedding, SegmentPrompt(box=box))[0], goal)
    return told


def answer(
    segmenter: Any, embedding: Any, prompt: SegmentPrompt
) -> tuple[np.ndarray, torch.Tensor | None]:
    """The best mask, and its logits where the segmenter reads them again; a refusal is empty."""
    try:
        found = segmenter.segment(embedding, prompt)
    except RegionError:
        return np.zeros(embedding.size, bool), None
    logits = found.logits[0] if segmenter.capabilities.logits else None
    return found.region_masks[0].cpu().numpy(), logits


def iou(found: np.ndarray, goal: np.ndarray) -> float:
    return float((found & goal).sum() / max(1, (found | goal).sum()))


def largest(inside: np.ndarray) -> np.ndarray | None:
    """The largest connected part of bool (H, W), None where there is none."""
    if not inside.any():
        return None
    parts = Parts(inside)
    return parts.pixels(np.arange(len(parts.areas)) == parts.areas.argmax())


def middle(inside: np.ndarray) -> tuple[float, float]:
    """x, y of the pixel that lies deepest inside: peeled off by turns without and with corners,
    which is round enough, until nothing more would be left."""
    ys, xs = np.nonzero(inside)
    top, left = int(ys.min()), int(xs.min())
    left_over = np.pad(inside[top : ys.max() + 1, left : xs.max() + 1], 1)
    corners = False
    while True:
        peeled = left_over.copy()
        for axis in (0, 1):
            base = peeled.copy() if corners else left_over
            peeled &= np.roll(base, 1, axis) & np.roll(base, -1, axis)
        if not peeled.any():
            break
        left_over, corners = peeled, not corners
    ys, xs = np.nonzero(left_over)
    nearest = ((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin()
    return float(xs[nearest] + left - 1 + 0.5), float(ys[nearest] + top - 1 + 0.5)
