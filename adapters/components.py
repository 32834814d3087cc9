"""Connected parts of a region_mask, and the removal of small ones: holes and specks.

Works on the runs of each row rather than on pixels, on the CPU, with numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qformer.contracts import LoupeError


@dataclass(frozen=True)
class Cleanup:
    """holes, specks: those of fewer pixels of the picture are filled, or removed; 0 keeps all."""

    holes: int = 32
    specks: int = 32

    def __post_init__(self) -> None:
        if self.holes < 0 or self.specks < 0:
            raise LoupeError(f"holes={self.holes} and specks={self.specks} must not be negative")


def clean(region_mask: Tensor, cleanup: Cleanup) -> Tensor:
    """bool (H, W) -> the same without small holes, then without small specks. The largest part
    stays, however small. SAM's `remove_small_regions`: parts also touch at corners."""
    if not cleanup.holes and not cleanup.specks:
        return region_mask
    whole = region_mask.cpu().numpy()
    ys, xs = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    if not len(ys):
        return region_mask
    # Only around the region: with this margin a part that goes on outside is never a small hole.
    margin = max(cleanup.holes, cleanup.specks)
    down = slice(max(0, ys[0] - margin), ys[-1] + 1 + margin)
    across = slice(max(0, xs[0] - margin), xs[-1] + 1 + margin)
    inside = whole[down, across]
    cleaned = fill_holes(inside, cleanup.holes)
    cleaned = drop_specks(cleaned, cleanup.specks)
    if cleaned is inside:
        return region_mask
    result = whole.copy()
    result[down, across] = cleaned
    return torch.from_numpy(result).to(region_mask.device)


def fill_holes(inside: np.ndarray, smallest: int) -> np.ndarray:
    """bool (H, W) with the parts of the outside that have fewer than `smallest` pixels filled."""
    if smallest < 2 or not inside.any() or inside.all():
        return inside
    parts = Parts(~inside)
    small = parts.areas < smallest
    return parts.repainted(inside, small) if small.any() else inside


def drop_specks(inside: np.ndarray, smallest: int) -> np.ndarray:
    """bool (H, W) without its parts of fewer than `smallest` pixels; the largest one stays."""
    if smallest < 2 or not inside.any():
        return inside
    parts = Parts(inside)
    small = parts.areas < smallest
    small[parts.areas.argmax()] = False
    return parts.repainted(inside, small) if small.any() else inside


def part_at(inside: np.ndarray, x: float, y: float, reach: float) -> np.ndarray | None:
    """The connected part of bool (H, W) that covers a point or comes within `reach` of it, bool
    (H, W); of several the nearest. None where none does. In pixels, down and across alike."""
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return None
    # From the point to the pixel's square.
    away = np.maximum(np.abs(rows + 0.5 - y), np.abs(columns + 0.5 - x)) - 0.5
    nearest = away.argmin()
    if away[nearest] > reach:
        return None
    parts = Parts(inside)
    return parts.pixels(parts.chosen(int(rows[nearest]), int(columns[nearest])))


class Parts:
    """The connected parts (8 neighbours) of bool (H, W): `areas` in pixels, by part."""

    def __init__(self, inside: np.ndarray) -> None:
        height, width = inside.shape
        self.shape = (height, width)
        padded = np.zeros(height * (width + 1) + 1, bool)
        padded[1:].reshape(height, width + 1)[:, :width] = inside
        # A run starts where the value rises and stops where it falls; the last column is empty.
        change = np.flatnonzero(padded[1:] != padded[:-1]).astype(np.int32)
        self.starts, self.stops = change[::2], change[1::2]
        self.labels = connect(self.starts, self.stops, width + 1)
        self.areas = np.bincount(self.labels, weights=self.stops - self.starts).astype(np.int64)

    def chosen(self, row: int, column: int) -> np.ndarray:
        """bool (parts,): the one that holds a pixel of the inside."""
        place = row * (self.shape[1] + 1) + column
        run = np.searchsorted(self.starts, place, side="right") - 1
        return np.arange(len(self.areas)) == self.labels[run]

    def repainted(self, inside: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """bool (H, W) with the pixels of the chosen parts turned over, pixel by pixel: for small
        parts. chosen: bool (parts,)."""
        runs = chosen[self.labels]
        starts, lengths = self.starts[runs], (self.stops - self.starts)[runs]
        before = np.repeat(lengths.cumsum() - lengths, lengths)
        places = np.repeat(starts, lengths) + np.arange(len(before)) - before
        result = inside.copy()
        result[np.divmod(places, self.shape[1] + 1)] ^= True
        return result

    def pixels(self, chosen: np.ndarray) -> np.ndarray:
        """bool (H, W) of the chosen parts; chosen: bool (parts,)."""
        height, width = self.shape
        runs = chosen[self.labels]
        edges = np.zeros(height * (width + 1) + 1, np.int8)
        edges[self.starts[runs]] = 1
        edges[self.stops[runs]] = -1
        flat = np.cumsum(edges[:-1], dtype=np.int8).view(bool)
        return flat.reshape(height, width + 1)[:, :width]


def connect(starts: np.ndarray, stops: np.ndarray, stride: int) -> np.ndarray:
    """The part of each run, 0, 1, ...; runs are pixels start to stop - 1 of rows `stride` long."""
    # Runs are sorted, so those of the row above that touch run i lie between two searches.
    first = np.searchsorted(stops, starts - stride, side="left")  # stop >= start: corners touch
    last = np.searchsorted(starts, stops - stride, side="right")
    counts = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    upper = np.repeat(first, counts) + within
    # Each run points at the smallest run it is known to be joined with, until nothing changes.
    root = np.arange(len(starts))
    while True:
        a, b = root[lower], root[upper]
        apart = a != b
        if not apart.any():
            break
        lower, upper = lower[apart], upper[apart]
        low, high = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
        np.minimum.at(root, high, low)
        while (root != (nearer := root[root])).any():
            root = nearer
    number = np.cumsum(root == np.arange(len(root))) - 1
    return number[root]
