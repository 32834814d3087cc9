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

from qformer.contracts import RegionError


def decode_rle(rle: dict[str, Any]) -> Tensor:
    """A region_mask, bool (height, width). Raises RegionError if the code is damaged."""
    try:
        height, width = (int(side) for side in rle["size"])
        packed = rle["counts"]
        counts = unpack(packed) if isinstance(packed, str | bytes) else [int(n) for n in packed]
    except (KeyError, TypeError, ValueError, IndexError):
        raise RegionError(
            'a run-length code needs "size": [height, width] and "counts": write it again'
        ) from None
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise RegionError(
            f"a run-length code counts {sum(counts)} pixels of {height} x {width}: write it again"
        )
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return torch.from_numpy(np.ascontiguousarray(values.reshape(width, height).T))


def encode_rle(region_mask: Tensor) -> dict[str, Any]:
    """bool (height, width) -> {"size", "counts"}, the counts packed into COCO's string."""
    height, width = region_mask.shape
    flat = region_mask.cpu().numpy().T.reshape(-1).astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": [height, width], "counts": pack(counts)}


def unpack(text: str | bytes) -> list[int]:
    """COCO's string -> counts."""
    codes = text.encode("ascii") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
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
