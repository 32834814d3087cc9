"""RoIAlign (He et al. 2017, arXiv 1703.06870) in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def roi_align(features: Tensor, boxes: Sequence[Tensor], size: int) -> Tensor:
    """The mean of bilinear samples in each of size x size cells of each box.

    features: (batch, channels, h, w). boxes: (n_i, 4) for each, x0 y0 x1 y1 in feature cells.
    Returns (sum of n_i, channels, size, size). As torchvision's with its defaults: not aligned,
    boxes at least one cell wide, as many samples a cell as it is wide, zero beyond the edge.
    """
    pooled = []
    for image, own in zip(features, boxes, strict=True):
        for x0, y0, x1, y1 in own.tolist():
            down = weights(y0, y1, image.shape[1], size).to(image)
            across = weights(x0, x1, image.shape[2], size).to(image)
            pooled.append(down @ image @ across.T)
    return torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], size, size)


def weights(start: float, stop: float, length: int, size: int) -> Tensor:
    """(size, length): how much each cell of a side takes of each feature. Sampling is bilinear and
    means are linear, so a matrix for each side says all of it."""
    extent = max(stop - start, 1.0)
    samples = math.ceil(extent / size)
    steps = (torch.arange(size * samples, dtype=torch.float64) + 0.5) / samples
    places = start + steps * extent / size
    inside = (places >= -1) & (places <= length)
    places = places.clamp(0, length - 1)
    low = places.floor().long().clamp(max=max(0, length - 2))
    share = places - low
    matrix = torch.zeros(len(places), length, dtype=torch.float64)
    rows = torch.arange(len(places))
    matrix[rows, low] += (1 - share) * inside
    matrix[rows, (low + 1).clamp(max=length - 1)] += share * inside
    return matrix.unflatten(0, (size, samples)).mean(1)
