"""Boxes of found areas, (x0, y0, x1, y1) in pixels with x1 and y1 just outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]
NEAR = 20.0  # pixels; SAM's


def suppress(boxes: Sequence[Box], worth: Sequence[float], threshold: float) -> list[int]:
    """Greedy non-maximum suppression: indices that stay, most worth first; of equals the first.

    A box goes when its IoU with a worthier one is above `threshold`. SAM measures boxes from pixel
    to pixel, without the last one's width, and so does this.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float32).reshape(-1, 4).T
    x1, y1 = x1 - 1, y1 - 1
    areas = (x1 - x0) * (y1 - y0)
    waiting = np.argsort(-np.asarray(worth, np.float32), kind="stable")
    kept: list[int] = []
    while len(waiting):
        first, rest = waiting[0], waiting[1:]
        kept.append(int(first))
        across = np.minimum(x1[first], x1[rest]) - np.maximum(x0[first], x0[rest])
        down = np.minimum(y1[first], y1[rest]) - np.maximum(y0[first], y0[rest])
        shared = across.clip(min=0) * down.clip(min=0)
        # Never divided: two boxes of no area have no IoU, and both stay.
        alike = shared > threshold * (areas[first] + areas[rest] - shared)
        waiting = rest[~alike]
    return kept


def near_crop_edge(box: Box, crop: Box, size: tuple[int, int]) -> bool:
    """Whether a box ends at the edge of its crop though the picture goes on there: it is cut off.

    size: (height, width) of the picture.
    """
    inclusive = (box[0], box[1], box[2] - 1, box[3] - 1)
    whole = (0, 0, size[1], size[0])
    return any(
        abs(place - edge) <= NEAR and abs(place - end) > NEAR
        for place, edge, end in zip(inclusive, crop, whole, strict=True)
    )
