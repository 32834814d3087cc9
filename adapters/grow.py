"""From a decoder's low resolution to the picture's own: only where a mask can be, and exactly.

A resize is linear and works on each side alone, where every pixel is a weighted sum of a few
neighbours: a bag of embeddings, for which torch has a kernel several times faster than a resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """One side of the way: what each of the picture's pixels reads, and how much of it."""

    index: Tensor  # (full, taps)
    weights: Tensor  # (full, taps)
    mean: bool  # no weight is negative: nothing rises above all that it reads

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, pixels: slice) -> Side:
        return Side(self.index[pixels], self.weights[pixels], self.mean)

    def reached(self, marked: Tensor) -> slice | None:
        """The stretch of pixels that read any place marked in bool (low,)."""
        hit = (marked[self.index] & (self.weights != 0)).any(1).nonzero()
        return slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else None

    def of(self, values: Tensor) -> Tensor:
        """(low, n) -> (full, n)."""
        weights = self.weights.to(values.dtype)
        return F.embedding_bag(self.index, values, mode="sum", per_sample_weights=weights)


@lru_cache(maxsize=16)
def side(low: int, padded: int, kept: int, full: int, mode: str, device: torch.device) -> Side:
    """`low` values grow to `padded`, of which the first `kept` are resized to `full`."""

    def resized(matrix: Tensor, length: int) -> Tensor:
        if length == len(matrix):
            return matrix
        shape = (length, low)
        return F.interpolate(matrix[None, None], shape, mode=mode, align_corners=False)[0, 0]

    matrix = resized(resized(torch.eye(low), padded)[:kept], full)
    used = (matrix != 0).float()
    first = used.argmax(1)
    taps = int((low - used.flip(1).argmax(1) - first).max())
    index = first.clamp(max=low - taps)[:, None] + torch.arange(taps)
    weights = matrix.gather(1, index)
    return Side(index.to(device), weights.to(device), bool((weights >= 0).all()))


def grow(logits: Tensor, rows: Side, columns: Side) -> Tensor:
    """(h, w) -> (H, W)."""
    across = columns.of(logits.T.contiguous())
    return rows.of(across.T.contiguous())


def window(
    logits: Tensor, rows: Side, columns: Side, above: float = 0.0
) -> tuple[slice, slice] | None:
    """The part of the picture, down and across, where `grow` may be above a value."""
    if not (rows.mean and columns.mean):
        return slice(0, len(rows)), slice(0, len(columns))
    high = logits > above
    down, across = rows.reached(high.any(1)), columns.reached(high.any(0))
    return None if down is None or across is None else (down, across)


def inside(logits: Tensor, rows: Side, columns: Side) -> Tensor:
    """Where `grow` of (h, w) is above 0, bool (H, W)."""
    region_mask = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=logits.device)
    part = window(logits, rows, columns)
    if part is not None:
        down, across = part
        region_mask[part] = grow(logits, rows[down], columns[across]) > 0
    return region_mask
