"""What a segmenter finds by itself: everything in a picture, or all that fits a text.

A `Proposal` keeps its area as run lengths, a few kilobytes instead of the picture's megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .contracts import LoupeError, RegionError


@dataclass(frozen=True)
class Everything:
    """The settings of SAM's automatic mask generator, under its own names (arXiv 2304.02643, B).
    None: what suits the segmenter (`Segmenter.settings` says what that is).

    points_per_side: of the grid of clicks, 16 on a CPU, 32 on a GPU. points_per_batch: clicks
    decoded at once, which sets the memory; 8 or 64. A mask stays if its predicted IoU is
    above pred_iou_thresh and its stability (the IoU of its outlines at +- stability_score_offset)
    above stability_score_thresh. box_nms_thresh: above this IoU of boxes the better one stays.
    crop_n_layers: layer i looks again at (2^i)^2 crops, which overlap by crop_overlap_ratio, with
    points_per_side / crop_n_points_downscale_factor^i; crop_nms_thresh: as box_nms_thresh, between
    crops. min_mask_region_area: smaller holes and specks are cleaned, in pixels of the picture.
    """

    points_per_side: int | None = None
    points_per_batch: int | None = None
    pred_iou_thresh: float | None = None  # SAM's: 0.88
    stability_score_thresh: float | None = None  # SAM's: 0.95
    stability_score_offset: float | None = None  # SAM's: 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LoupeError(f"{name}={value} must be at least 1")
        if self.points_per_side is not None and self.points_per_side > 256:
            raise LoupeError(f"points_per_side={self.points_per_side} is beyond 256: use crops")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise LoupeError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        if not 0 <= self.crop_nms_thresh <= 1 or not 0 <= self.crop_overlap_ratio < 1:
            raise LoupeError("crop_nms_thresh and crop_overlap_ratio must lie between 0 and 1")
        if not 0 <= self.crop_n_layers <= 4:
            raise LoupeError(f"crop_n_layers={self.crop_n_layers} must lie between 0 and 4")
        if (self.stability_score_offset or 0) < 0 or self.min_mask_region_area < 0:
            raise LoupeError("stability_score_offset and min_mask_region_area must not be negative")

    def over(self, usual: Everything) -> Everything:
        """Take the settings of `usual` where these say nothing."""
        left = [name for name in self.names() if getattr(self, name) is None]
        return replace(self, **{name: getattr(usual, name) for name in left})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True, eq=False)
class Proposal:
    """An area that a segmenter found by itself."""

    runs: Tensor  # int32, COCO's run lengths: down the columns, the outside first
    size: tuple[int, int]  # (height, width) of the picture
    box: tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels; x1 and y1 lie just outside
    area: int  # pixels
    score: float  # the segmenter's estimate of its quality: predicted IoU, or fit to the text
    stability: float | None = None
    point: tuple[float, float] | None = None  # the click that found it, (x, y)
    crop: tuple[int, int, int, int] | None = None  # the part of the picture that was looked at

    @property
    def region_mask(self) -> Tensor:
        """bool (height, width)."""
        return from_runs(self.runs, self.size)

    @classmethod
    def of(cls, region_mask: Tensor, score: float, **known: Any) -> Proposal:
        """Make one from bool (height, width) with at least one pixel; known: the further fields."""
        size = region_mask.shape[0], region_mask.shape[1]
        return cls.within(region_mask, (0, 0), size, score, **known)

    @classmethod
    def within(
        cls,
        window: Tensor,
        corner: tuple[int, int],
        size: tuple[int, int],
        score: float,
        **known: Any,
    ) -> Proposal:
        """Make one from a part of a picture of (height, width) `size`: bool (h, w) at `corner`
        (x, y), outside of which there is nothing."""
        x0, y0, x1, y1 = box_around(window)
        x, y = corner
        runs = run_lengths(window[y0:y1, x0:x1], (x + x0, y + y0), size)
        box = (x + x0, y + y0, x + x1, y + y1)
        return cls(runs, size, box, int(runs[1::2].sum()), score, **known)


def box_around(region_mask: Tensor) -> tuple[int, int, int, int]:
    """Find the box (x0, y0, x1, y1) of bool (H, W) in pixels; x1 and y1 lie just outside.

    Raises RegionError where it is empty.
    """
    pixels = region_mask.view(torch.uint8)  # whose maximum is ten times as quick as `any`
    if not pixels.numel() or not pixels.any():
        raise RegionError("the region covers no pixel: click again, or ask without a region")
    ys, xs = (pixels.amax(axis).nonzero().flatten() for axis in (1, 0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def run_lengths(
    window: Tensor, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> Tensor:
    """bool (h, w) -> int32 run lengths of a picture with `window` at `corner` (x, y), else empty.

    size: (height, width) of that picture, by default the window's. Costs the window's columns only.
    """
    height, width = size or (window.shape[0], window.shape[1])
    left, top = corner
    columns = window.new_zeros(window.shape[1], height)
    columns[:, top : top + window.shape[0]] = window.T
    flat = columns.flatten()
    changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    if len(flat) and flat[0]:
        changes = torch.cat([changes.new_zeros(1), changes])
    ends = torch.tensor([0]), torch.tensor([height * width])
    last = changes + left * height
    if len(flat) and flat[-1] and left + window.shape[1] < width:
        end = last.new_tensor([(left + window.shape[1]) * height])
        last = torch.cat([last, end])
    edges = torch.cat([ends[0], last.cpu(), ends[1]])
    return edges.diff().to(torch.int32)


def from_runs(runs: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `run_lengths`: bool (height, width)."""
    height, width = size
    inside = torch.arange(len(runs)) % 2 == 1
    flat = inside.repeat_interleave(runs.long(), output_size=height * width)
    return flat.view(width, height).T.contiguous()
