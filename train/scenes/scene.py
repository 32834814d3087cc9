"""Painted scenes as data: what stands where. Rendering is in render.py, language in questions.py.

Lengths are relative: positions to the picture's width and height, `half` (half the larger side of
an object's box) to the square root of the picture's area, so that a stretched picture keeps its
sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

KINDS = (
    *("circle", "square", "triangle", "star", "heart", "ring"),
    *("house", "tree", "car", "fish", "flower", "cat"),
)
COLOURS = ("red", "orange", "yellow", "green", "blue", "cyan", "purple", "pink")
TEXTURES = ("solid", "striped", "dotted")
SIZES = ("small", "medium", "large")
SIZE_BANDS = ((0.068, 0.086), (0.112, 0.136), (0.172, 0.208))
SIZE_LIMITS = (0.098, 0.152)

# One colour of every kind is never shown in any phase of training: what the model says about these
# pairs is composed, not remembered.
HELD_OUT = frozenset((kind, COLOURS[(3 * i + 1) % len(COLOURS)]) for i, kind in enumerate(KINDS))


@dataclass(frozen=True)
class Item:
    """One object. `clear_size` is False between two size bands, where no size is asked about."""

    kind: str
    colour: str
    texture: str
    x: float
    y: float
    half: float

    @property
    def size(self) -> str:
        return SIZES[sum(self.half > limit for limit in SIZE_LIMITS)]

    @property
    def clear_size(self) -> bool:
        return any(low <= self.half <= high for low, high in SIZE_BANDS)

    @property
    def pair(self) -> tuple[str, str]:
        return self.kind, self.colour


@dataclass(frozen=True)
class Scene:
    """Items on a canvas of `width` x `height` pixels; `seed` fixes every stroke of its painting."""

    items: tuple[Item, ...]
    width: int
    height: int
    seed: int
    areas: tuple[int, ...] = field(default=())  # visible pixels of each item, known once painted


def sample_scene(rng: np.random.Generator, pairs: str = "seen", most: int = 6) -> Scene:
    """Draw one scene of 1 to `most` items. pairs: "seen" leaves the held-out colour-kind pairs out;
    "held_out" puts at least one in; evaluation uses both."""
    side = rng.uniform(112, 240) if rng.random() < 0.85 else rng.uniform(240, 440)
    aspect = math.exp(rng.uniform(-0.5, 0.5)) if rng.random() < 0.6 else 1.0
    width, height = round(side * math.sqrt(aspect)), round(side / math.sqrt(aspect))
    kinds, colours = _palette(rng)
    count = int(rng.integers(1, most + 1))
    items: list[Item] = []
    for attempt in range(60):
        if len(items) == count:
            break
        kind, colour = str(rng.choice(kinds)), str(rng.choice(colours))
        if pairs == "held_out" and not items:
            kind, colour = sorted(HELD_OUT)[int(rng.integers(len(HELD_OUT)))]
        elif (kind, colour) in HELD_OUT and pairs == "seen":
            continue
        item = _place(rng, kind, colour, items, width, height, crowded=attempt > 20)
        if item is not None:
            items.append(item)
    order = rng.permutation(len(items))
    return Scene(tuple(items[i] for i in order), width, height, int(rng.integers(2**31)))


def _palette(rng):
    """Some scenes repeat few colours or few kinds, so that counts above one are common."""
    style = rng.random()
    colours = (
        rng.choice(COLOURS, int(rng.integers(1, 4)), replace=False) if style < 0.35 else COLOURS
    )
    kinds = rng.choice(KINDS, int(rng.integers(1, 4)), replace=False) if style > 0.65 else KINDS
    return kinds, colours


def _place(rng, kind, colour, items, width, height, crowded) -> Item | None:
    band = int(rng.choice(3, p=(0.45, 0.4, 0.15) if crowded else (0.34, 0.33, 0.33)))
    half = rng.uniform(*SIZE_BANDS[band]) if rng.random() < 0.85 else rng.uniform(0.06, 0.24)
    unit = math.sqrt(width * height)
    margin_x, margin_y = 0.92 * half * unit / width, 0.92 * half * unit / height
    if margin_x >= 0.5 or margin_y >= 0.5:
        return None
    for _ in range(12):
        x, y = rng.uniform(margin_x, 1 - margin_x), rng.uniform(margin_y, 1 - margin_y)
        gaps = (
            math.hypot((x - o.x) * width, (y - o.y) * height) / unit - 0.95 * (half + o.half)
            for o in items
        )
        if all(gap > 0 for gap in gaps):
            texture = str(rng.choice(TEXTURES, p=(0.4, 0.3, 0.3)))
            return Item(kind, colour, texture, float(x), float(y), float(half))
    return None
