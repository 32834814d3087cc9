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
        counts = unpack(packed) if isinstance(packed, str | bytes) else [int(n) for n in packed]
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


def fill_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Tensor:
    """Polygons [x0, y0, x1, y1, ...] of one region -> bool (height, width), as COCO fills them."""
    from pycocotools import mask as coco

    for corners in polygons:
        if len(corners) < 6 or len(corners) % 2:
            raise RegionError(
                f"a polygon has {len(corners)} numbers: give x and y of three corners or more"
            )
    codes = coco.frPyObjects([[float(v) for v in corners] for corners in polygons], *size)
    return torch.from_numpy(coco.decode(coco.merge(codes)).astype(bool))
