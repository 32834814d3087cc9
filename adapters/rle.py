"""COCO's ways to write a region mask down, run-length codes and polygons.

A run-length code is {"size": [height, width], "counts": ...}: lengths of runs of 0, 1, 0, ... down
the columns, as a list or packed into COCO's string (six bits a character, every count after the
third less the one two before it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.images import MEGAPIXELS
from qformer.contracts import RegionError
from qformer.proposals import run_lengths

MOST_COUNTS = 2_000_000  # of a code, or characters where they are packed
MOST_CORNERS = 500_000  # of a region's polygons
MOST_PIXELS = 1_000_000  # a corner's distance from the picture's
MOST_OUTLINE = 4_000_000  # pixels around a polygon, which take 40 bytes each; five such a region


def decode_rle(rle: dict[str, Any], size: tuple[int, int] | None = None) -> Tensor:
    """A region_mask, bool (height, width). size: the picture's, which the code must have.

    Raises RegionError for a code that is damaged or of another size, before anything of the size
    it states is made.
    """
    try:
        stated, packed = rle["size"], rle["counts"]
        height, width = stated
        if type(height) is not int or type(width) is not int or min(height, width) < 1:
            raise TypeError("a side is a number of pixels")
        if len(packed) > MOST_COUNTS:
            raise RegionError(f"a run-length code of {len(packed)} counts: {MOST_COUNTS} at most")
        counts = unpack(packed) if isinstance(packed, str | bytes) else [whole(n) for n in packed]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        if isinstance(error, RegionError):
            raise
        raise RegionError(
            'a run-length code needs "size": [height, width] and "counts": write it again'
        ) from None
    if size is not None and (height, width) != tuple(size):
        raise RegionError(
            f"a region was drawn on {width} x {height} pixels, not on {size[1]} x {size[0]}"
        )
    if height * width > MEGAPIXELS * 10**6:
        raise RegionError(
            f"a region of {width} x {height} pixels: {MEGAPIXELS} million are the most"
        )
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise RegionError(
            f"a run-length code does not add up to {width} x {height} pixels: write it again"
        )
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return torch.from_numpy(np.ascontiguousarray(values.reshape(width, height).T))


def encode_rle(region_mask: Tensor) -> dict[str, Any]:
    """bool (height, width) -> {"size", "counts"}, the counts packed into COCO's string."""
    counts = run_lengths(region_mask).tolist()
    return {"size": list(region_mask.shape), "counts": pack(counts)}


def whole(count: Any) -> int:
    if isinstance(count, bool) or count != int(count):
        raise ValueError("a count is a number of pixels")
    return int(count)


def unpack(text: str | bytes) -> list[int]:
    """COCO's string -> counts."""
    codes = text.encode("ascii") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("no such code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the code is cut short")
    return counts


def pack(counts: Sequence[int]) -> str:
    """Counts -> COCO's string."""
    letters = bytearray()
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(bits + 48 + (32 if more else 0))
    return letters.decode("ascii")


def check_polygons(held: Any) -> list[list[float]]:
    """Polygons [x0, y0, x1, y1, ...] of one region, or a single one, as lists of floats.

    Raises RegionError for what would end the process: pycocotools walks an outline in fifths of a
    pixel, wherever it leads, and checks nothing.
    """
    if isinstance(held, Sequence) and held and isinstance(held[0], int | float):
        held = [held]
    if not isinstance(held, Sequence) or not held or isinstance(held, str | bytes):
        raise RegionError("a region's polygons are [[x0, y0, x1, y1, ...], ...]: write them again")
    polygons = [_corners(one) for one in held]
    if (count := sum(map(len, polygons))) > MOST_CORNERS:
        raise RegionError(f"a region's polygons have {count} corners: {MOST_CORNERS} at most")
    outlines = [_outline(one) for one in polygons]
    for length, most in ((max(outlines), MOST_OUTLINE), (sum(outlines), 5 * MOST_OUTLINE)):
        if length > most:
            raise RegionError(
                f"a region's outline runs {length:.0f} pixels: {most} at most; give a run-length"
                " code"
            )
    return [one.ravel().tolist() for one in polygons]


def _corners(held: Any) -> np.ndarray:
    """A polygon as float64 (corners, 2)."""
    try:
        corners = np.array(held)
        plain = corners.ndim == 1 and corners.dtype.kind in "iuf"
    except (TypeError, ValueError, OverflowError):
        plain = False
    if not plain:
        raise RegionError("a polygon is [x0, y0, x1, y1, ...], all numbers: write it again")
    if len(corners) < 6 or len(corners) % 2:
        raise RegionError(
            f"a polygon has {len(corners)} numbers: give x and y of three corners or more"
        )
    corners = corners.astype(np.float64)
    inside = np.abs(corners) <= MOST_PIXELS  # nor is NaN
    if not inside.all():
        raise RegionError(
            f"a region lies outside its picture: a polygon has a corner at {corners[~inside][0]:g},"
            f" {MOST_PIXELS} pixels at most"
        )
    return corners.reshape(-1, 2)


def _outline(corners: np.ndarray) -> float:
    """Steps that pycocotools takes along a polygon, in pixels."""
    steps = np.abs(np.diff(corners, axis=0, append=corners[:1]))
    return float(np.maximum(steps[:, 0], steps[:, 1]).sum())


def fill_polygons(polygons: Any, size: tuple[int, int]) -> Tensor:
    """Polygons of one region -> bool (height, width), as COCO fills them. Raises RegionError."""
    from pycocotools import mask as coco

    return torch.from_numpy(coco.decode(_filled(polygons, size)).astype(bool))


def filled_area(polygons: Any, size: tuple[int, int]) -> int:
    """The pixels of polygons as they are filled."""
    from pycocotools import mask as coco

    return int(coco.area(_filled(polygons, size)))


def _filled(polygons: Any, size: tuple[int, int]) -> dict[str, Any]:
    """All polygons in one packed code. The only place where pycocotools is given anything."""
    from pycocotools import mask as coco

    height, width = size
    if min(size) < 1 or height * width > MEGAPIXELS * 10**6:
        raise RegionError(
            f"a region of {width} x {height} pixels: {MEGAPIXELS} million are the most"
        )
    codes = coco.frPyObjects(check_polygons(polygons), height, width)
    while len(codes) > 1:  # by sixteens: one after another takes the square of their number
        codes = [coco.merge(codes[i : i + 16]) for i in range(0, len(codes), 16)]
    return codes[0]
