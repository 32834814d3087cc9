"""Everything in a picture: SAM's automatic mask generator (arXiv 2304.02643, appendix B).

A grid of clicks, three masks each. What a mask's own numbers rule out goes first, at low
resolution; the rest grows to the picture one by one, only where it is not empty, and is kept as run
lengths. So memory depends neither on the picture's size nor on how much is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adapters.boxes import Box, near_crop_edge, suppress
from adapters.components import drop_specks, fill_holes
from adapters.grow import grow, window
from adapters.prompts import Prompts
from qformer.contracts import StoppedError
from qformer.proposals import Everything, Proposal

Progress = Callable[[int, int], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class Crop:
    """A part of the picture to look at, x0, y0, x1, y1, and the clicks on it, (n, 2) pixels."""

    box: Box
    points: Tensor


def generate(
    segmenter: Any,
    image: Tensor,
    settings: Any,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    embedding: Any = None,
) -> list[Proposal]:
    """See qformer's Segmenter. settings: an Everything that leaves nothing open. embedding: of the
    whole image. Raises StoppedError."""
    size = image.shape[0], image.shape[1]
    looked = crops(size, settings)
    done, total = 0, sum(len(crop.points) for crop in looked)
    found: list[Proposal] = []
    for crop in looked:
        x0, y0, x1, y1 = crop.box
        if embedding is None or crop.box != (0, 0, size[1], size[0]):
            stop_if(cancel)
            seen = segmenter.encode(image[y0:y1, x0:x1])
        else:
            seen = embedding
        here: list[Proposal] = []
        for points in crop.points.split(settings.points_per_batch):
            stop_if(cancel)
            here += survivors(segmenter, seen, points, crop, size, settings)
            done += len(points)
            if progress is not None:
                progress(done, total)
        found += best(here, [one.score for one in here], settings.box_nms_thresh)
    if len(looked) > 1:  # a thing is told best by the smallest crop that shows it whole
        found = best(found, [1 / area(one.crop) for one in found], settings.crop_nms_thresh)
    if settings.min_mask_region_area:
        found = tidy(found, settings)
    return found


def stop_if(cancel: Cancel | None) -> None:
    if cancel is not None and cancel():
        raise StoppedError("stopped: what was found so far is dropped")


def crops(size: tuple[int, int], settings: Any) -> list[Crop]:
    """The whole picture, then (2^i)^2 overlapping crops of layer i, each with its clicks."""
    (height, width), per_side = size, settings.points_per_side
    whole = (0, 0, width, height)
    looked = [Crop(whole, grid(per_side, whole))]
    for layer in range(1, settings.crop_n_layers + 1):
        count = 2**layer
        overlap = int(settings.crop_overlap_ratio * min(size) * (2 / count))
        across = math.ceil((overlap * (count - 1) + width) / count)
        down = math.ceil((overlap * (count - 1) + height) / count)
        points = max(1, int(per_side / settings.crop_n_points_downscale_factor**layer))
        for left in (int((across - overlap) * i) for i in range(count)):
            for top in (int((down - overlap) * i) for i in range(count)):
                box = (left, top, min(left + across, width), min(top + down, height))
                if box[0] < box[2] and box[1] < box[3]:  # a tiny picture has fewer crops
                    looked.append(Crop(box, grid(points, box)))
    return looked


def grid(per_side: int, box: Box) -> Tensor:
    """Clicks in the middle of per_side x per_side cells of a crop, row by row, (n, 2)."""
    middle = (torch.arange(per_side, dtype=torch.float64) + 0.5) / per_side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    size = torch.tensor([box[2] - box[0], box[3] - box[1]])
    return torch.stack([x, y], -1).flatten(0, 1) * size


def survivors(
    segmenter: Any,
    seen: Any,
    points: Tensor,
    crop: Crop,
    size: tuple[int, int],
    settings: Any,
) -> Iterator[Proposal]:
    """What a batch of clicks finds, after the thresholds, in the model's order."""
    scale = torch.tensor(seen.scale, dtype=points.dtype)
    clicks = (points * scale).float().to(segmenter.device)[:, None]
    labels = torch.ones(clicks.shape[:2], dtype=torch.long, device=clicks.device)
    logits, scores = segmenter.decode(seen, Prompts(clicks, labels))
    logits, scores = logits.flatten(0, 1).float(), scores.flatten(0, 1).float()
    each = scores.numel() // len(points)
    passed = scores > settings.pred_iou_thresh if settings.pred_iou_thresh > 0 else scores == scores
    left, top = crop.box[:2]
    rows, columns = segmenter.sides(seen, logits)
    for index in passed.nonzero().flatten().tolist():
        part = window(logits[index], rows, columns, -settings.stability_score_offset)
        if part is None:
            continue
        down, across = part
        grown = grow(logits[index], rows[down], columns[across])
        stability = stability_of(grown, settings.stability_score_offset)
        if settings.stability_score_thresh > 0 and not stability > settings.stability_score_thresh:
            continue
        region_mask = grown > 0
        if not region_mask.any():
            continue
        x, y = points[index // each].tolist()
        proposal = Proposal.within(
            region_mask,
            (across.start + left, down.start + top),
            size,
            score=float(scores[index]),
            stability=stability,
            point=(x + left, y + top),
            crop=crop.box,
        )
        if not near_crop_edge(proposal.box, crop.box, size):
            yield proposal


def stability_of(logits: Tensor, offset: float) -> float:
    """The IoU of the outlines at +offset and -offset."""
    inner, outer = (logits > offset).sum(), (logits > -offset).sum()
    return float(inner / outer) if outer else 0.0


def best(found: list[Proposal], worth: list[float], threshold: float) -> list[Proposal]:
    """Non-maximum suppression by boxes; what stays, most worth first."""
    if not found:
        return []
    return [found[index] for index in suppress([one.box for one in found], worth, threshold)]


def tidy(found: list[Proposal], settings: Everything) -> list[Proposal]:
    """Without small holes and specks; where that made two alike, an untouched one stays."""
    tidied, worth = [], []
    for one in found:
        inside = one.region_mask.numpy()
        cleaned = fill_holes(inside, settings.min_mask_region_area)
        cleaned = drop_specks(cleaned, settings.min_mask_region_area)
        worth.append(float(cleaned is inside))
        if cleaned is not inside:
            anew = Proposal.of(torch.from_numpy(cleaned), one.score)
            one = replace(one, runs=anew.runs, box=anew.box, area=anew.area)
        tidied.append(one)
    return best(tidied, worth, max(settings.box_nms_thresh, settings.crop_nms_thresh))


def area(box: Box | None) -> float:
    """1 for no box."""
    return 1.0 if box is None else float((box[2] - box[0]) * (box[3] - box[1]))
