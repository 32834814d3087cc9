"""How a region enters the Q-Former: its coverage of the patch grid, geometry, focal crop, upgrade.

The same query_tokens read the picture a second time with log(patch_coverage) added to their
cross-attention: what lies outside is invisible. Prior art: RegionBLIP (2023), Osprey, Alpha-CLIP,
Describe Anything, Segment and Caption Anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import QFormerConfig
from .contracts import LoupeError, RegionError
from .proposals import box_around

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 lie just outside

FREQUENCIES = (1.0, 2.0, 4.0, 8.0)  # times pi, for each of the five geometry numbers
BLUR_CELLS = 12  # a side of the grid to which a focal crop's surroundings are reduced
GEOMETRY_FEATURES = 5 * (1 + 2 * len(FREQUENCIES))


@dataclass(frozen=True)
class RegionConfig:
    """How regions are read.

    focal_patches: a region that touches fewer patches also reads a focal crop; 0 never crops.
    focal_crop: "blurred" cuts one box size more on each side and blurs what lies outside; "square"
    cuts a square with a quarter of the longer side around, where the picture has room, as it is:
    what an encoder of whole photos knows best.
    hide_leading: region rows do not see the class token, which knows the whole picture.
    trainable: the bridge owns a RegionUpgrade.
    """

    focal_patches: int = 12
    focal_crop: Literal["blurred", "square"] = "blurred"
    hide_leading: bool = True
    trainable: bool = False

    def __post_init__(self) -> None:
        if self.focal_patches < 0:
            raise LoupeError(f"focal_patches={self.focal_patches} must be 0 (never crop) or more")


@dataclass(frozen=True, eq=False)
class Region:
    """A named area of one picture. region_mask: bool (height, width) of that picture."""

    region_mask: Tensor
    name: str
    score: float | None = None  # the segmenter's own estimate of its quality

    def __post_init__(self) -> None:
        if self.region_mask.dtype != torch.bool or self.region_mask.dim() != 2:
            raise RegionError(
                f"the region_mask is {self.region_mask.dtype} {tuple(self.region_mask.shape)}:"
                " give a bool tensor (height, width)"
            )
        if not torch.count_nonzero(self.region_mask):
            raise RegionError("the region covers no pixel: click again, or ask without a region")

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) in pixels; x1 and y1 lie just outside."""
        return box_around(self.region_mask)

    @cached_property
    def area(self) -> int:
        """Pixels covered."""
        return int(torch.count_nonzero(self.region_mask))


def check_pointed(
    size: tuple[int, int],
    points: Sequence[tuple[float, float, int]],
    box: Box | None,
    logits: Tensor | None,
) -> None:
    """Raises RegionError for a prompt outside the picture (height, width) or without an area.

    points: (x, y, 1 add | 0 exclude). logits: of an earlier Segmentation.
    """
    height, width = size
    for x, y, label in points:
        if not (0 <= x < width and 0 <= y < height):
            raise RegionError(
                f"the click ({x:g}, {y:g}) is outside the picture, which is {width} x {height}"
                " pixels: click inside it"
            )
        if label not in (0, 1):
            raise RegionError(f"a point's label is 1 (add) or 0 (exclude), not {label!r}")
    if box is not None:
        x0, y0, x1, y1 = box
        shown = f"({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if not (x0 < x1 and y0 < y1):
            raise RegionError(f"the box {shown} has no area: give x0 < x1 and y0 < y1")
        if min(x0, y0) < 0 or x1 > width or y1 > height:
            raise RegionError(
                f"the box {shown} leaves the picture, which is {width} x {height} pixels:"
                " draw it inside"
            )
    if box is None and logits is None and not any(label for _, _, label in points):
        raise RegionError("nothing is pointed at: click on it, or draw a box around it")


def overlaps(pixels: int, patches: int, device: torch.device | None = None) -> Tensor:
    """(patches, pixels): the share of each patch that each pixel of a stretched side fills.

    Counted in whole numbers, so a patch that merely touches a pixel's edge gets exactly 0.
    """
    pixel = torch.arange(pixels, device=device) * patches
    patch = torch.arange(patches, device=device)[:, None] * pixels
    shared = torch.minimum(pixel + patches, patch + pixels) - torch.maximum(pixel, patch)
    return shared.clamp(min=0).float() / pixels


def patch_coverage(region_mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of every patch that the region fills, the picture being stretched over the grid.

    region_mask: (..., height, width), bool or float in [0, 1]. Returns float (..., rows * columns)
    in [0, 1]; positive exactly where the region reaches into the patch.
    """
    height, width = region_mask.shape[-2:]
    rows = overlaps(height, grid[0], region_mask.device)
    columns = overlaps(width, grid[1], region_mask.device)
    # A one-pixel dot on a huge picture must stay above zero, hence the exact sums, not pooling.
    return (rows @ region_mask.float() @ columns.T).flatten(-2).clamp(max=1.0)


def patch_bias(coverage: Tensor, leading: int, hide_leading: Tensor | bool) -> Tensor:
    """Cross-attention bias of each row: log(coverage), -inf outside.

    coverage: (N, patches). leading: tokens before the patches, bias 0 unless hide_leading (a bool,
    or bool (N,) by row) says -inf. Returns float (N, leading + patches).
    """
    log = coverage.clamp(min=torch.finfo(coverage.dtype).tiny).log()
    log = log.masked_fill(coverage <= 0, -math.inf)
    hidden = torch.as_tensor(hide_leading, device=coverage.device).expand(len(coverage))
    head = coverage.new_zeros(len(coverage), leading).masked_fill(hidden[:, None], -math.inf)
    return torch.cat([head, log], dim=1)


def box_geometry(box: Sequence[float] | Tensor, area: float, size: tuple[int, int]) -> Tensor:
    """(5,): centre x, centre y, width, height, area, relative to a picture of (height, width)."""
    height, width = size
    x0, y0, x1, y1 = (float(value) for value in box)
    relative = (
        (x0 + x1) / 2 / width,
        (y0 + y1) / 2 / height,
        (x1 - x0) / width,
        (y1 - y0) / height,
    )
    return torch.tensor([*relative, area / (height * width)])


def geometry(region: Region) -> Tensor:
    """`box_geometry` of a region, (5,)."""
    height, width = region.region_mask.shape
    return box_geometry(region.box, region.area, (height, width))


def geometry_features(geometry: Tensor) -> Tensor:
    """(..., 5) -> (..., 45): the numbers themselves, and sin and cos at four frequencies."""
    scale = math.pi * torch.tensor(FREQUENCIES, device=geometry.device)
    angles = (geometry[..., None] * scale).flatten(-2)
    return torch.cat([geometry, angles.sin(), angles.cos()], dim=-1)


def focal_box(
    box: Box, size: tuple[int, int], how: Literal["blurred", "square"] = "blurred"
) -> tuple[int, int, int, int]:
    """The focal crop of a region's box inside the picture; how: see RegionConfig.focal_crop."""
    height, width = size
    x0, y0, x1, y1 = box
    if how == "square":
        side = math.ceil(1.5 * max(x1 - x0, y1 - y0))
        left, right = _span((x0 + x1) / 2, side, width)
        top, bottom = _span((y0 + y1) / 2, side, height)
        return left, top, right, bottom
    across, down = x1 - x0, y1 - y0
    return (
        max(0, math.floor(x0 - across)),
        max(0, math.floor(y0 - down)),
        min(width, math.ceil(x1 + across)),
        min(height, math.ceil(y1 + down)),
    )


def _span(middle: float, side: int, pixels: int) -> tuple[int, int]:
    """(start, stop) of `side` pixels around `middle`, moved inside; all where there are fewer."""
    side = min(side, pixels)
    start = min(max(0, round(middle - side / 2)), pixels - side)
    return start, start + side


def focal_crop(
    image: Tensor,
    region_mask: Tensor,
    box: Box,
    how: Literal["blurred", "square"] = "blurred",
) -> tuple[Tensor, Tensor]:
    """Cut out a small region with some margin; how: see RegionConfig.focal_crop.

    image: uint8 (H, W, 3). region_mask: bool (H, W) whose box is `box`. Returns the crop, uint8
    (h, w, 3), ready for `vision.preprocess`, and its region_mask, bool (h, w).
    """
    height, width = region_mask.shape
    x0, y0, x1, y1 = focal_box(box, (height, width), how)
    crop, inside = image[y0:y1, x0:x1], region_mask[y0:y1, x0:x1]
    if how == "square":
        return crop, inside
    colours = crop.permute(2, 0, 1).float()[None]
    # Means of a coarse grid, smoothed: shapes outside dissolve, their colour stays. Costs the same
    # for a crop of any size, which a blur of so wide a radius does not.
    cells = min(crop.shape[0], BLUR_CELLS), min(crop.shape[1], BLUR_CELLS)
    coarse = F.adaptive_avg_pool2d(colours, cells)
    blurred = F.interpolate(coarse, crop.shape[:2], mode="bilinear", align_corners=False)
    blurred = blurred[0].permute(1, 2, 0).round().to(torch.uint8)
    return torch.where(inside[..., None], crop, blurred), inside


def placed(start: float, stop: float, pixels: int, patches: int) -> Tensor:
    """(patches, patches): the share of each patch of a crop that lies in each of the picture's.

    One side of both: the crop spans start to stop of the picture's pixels.
    """
    edges = torch.arange(patches + 1, dtype=torch.float64) / patches
    picture, crop = edges * pixels, start + edges * (stop - start)
    shared = torch.minimum(picture[1:, None], crop[1:]) - torch.maximum(
        picture[:-1, None], crop[:-1]
    )
    return (shared.clamp(min=0) * patches / (stop - start)).float()


class RegionUpgrade(nn.Module):
    """What training adds to region rows; as initialised it changes nothing, bit for bit.

    delta: added to the query_tokens of region rows. geometry: box and area as an embedding, added
    to those queries and to the tokens of a region's name in the instruction. bias_scale: how
    strictly each cross-attention layer keeps to the coverage. focal_gate: each layer's preference
    for the focal crop over the picture.
    """

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        layers = len(config.cross_attention_layers)
        self.delta = nn.Parameter(torch.zeros(1, config.num_queries, config.hidden_size))
        self.geometry = nn.Linear(GEOMETRY_FEATURES, config.hidden_size)
        self.bias_scale = nn.Parameter(torch.ones(layers))
        self.focal_gate = nn.Parameter(torch.zeros(layers))
        nn.init.zeros_(self.geometry.weight)
        nn.init.zeros_(self.geometry.bias)

    def embed_geometry(self, geometry: Tensor) -> Tensor:
        """(..., 5) -> (..., width)."""
        return self.geometry(geometry_features(geometry).to(self.geometry.weight.dtype))

    def scaled(self, bias: Tensor) -> Tensor:
        """(N, tokens) -> (layers, N, tokens): log coverage times bias_scale, -inf kept."""
        hidden = bias.isneginf()
        # -inf times the scale would put nan into the scale's gradient
        finite = bias.masked_fill(hidden, 0.0)
        return (self.bias_scale[:, None, None] * finite).masked_fill(hidden, -math.inf)
