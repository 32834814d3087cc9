"""The colour of what lies under a mask, in the eleven basic colour terms, where one is clear.

Pixels are named in Oklab (B. Ottosson, 2020), whose lightness and hue agree with the eye's, also
among blues. Between the terms lie gaps: what people name differently (tan, teal, salmon) has none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
)  # fmt: skip
SPELLINGS = {"gray": "grey", "violet": "purple"}
SHARE = 0.6  # of the pixels that one colour must have
LEAST = 100  # pixels
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklch(pixels: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Lightness 0..1, chroma, and hue in degrees of uint8 sRGB (..., 3)."""
    srgb = np.asarray(pixels, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    return lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), hue


def colour_index(pixels: NDArray) -> NDArray:
    """int (...) index into COLOURS of each uint8 pixel (..., 3); -1 in the gaps between them."""
    light, chroma, hue = oklch(pixels)

    def between(low: float, high: float) -> NDArray:
        return (hue >= low) & (hue < high)

    rules = {
        "black": (light < 0.2) | ((light < 0.32) & (chroma < 0.04)),
        "white": (light > 0.87) & (chroma < 0.03),
        "grey": (light > 0.4) & (light < 0.76) & (chroma < 0.02),
        "red": between(8, 38) & (chroma > 0.11) & (light < 0.68),
        "orange": between(45, 74) & (chroma > 0.12) & (light > 0.62),
        "yellow": between(84, 116) & (chroma > 0.1) & (light > 0.72),
        "green": between(118, 172) & (chroma > 0.05),
        "blue": between(225, 282) & (chroma > 0.05),
        "purple": between(292, 334) & (chroma > 0.06) & (light < 0.75),
        "pink": (between(340, 360) | between(0, 18)) & (chroma > 0.05) & (light > 0.68),
        "brown": between(38, 88) & (chroma > 0.04) & (chroma < 0.125) & (light < 0.56),
    }
    index = np.full(light.shape, -1)
    for name, holds in reversed(rules.items()):  # the first rule that holds
        index[holds] = COLOURS.index(name)
    return index


def colour_of(picture: NDArray, region_mask: NDArray | None = None) -> str | None:
    """The colour that clearly dominates a region, None where none does.

    picture: uint8 (height, width, 3). region_mask: bool (height, width); its rim is left out,
    since edges mix two things. None for the whole picture.
    """
    pixels = picture.reshape(-1, 3) if region_mask is None else picture[inner(region_mask)]
    if len(pixels) < LEAST:
        return None
    named = colour_index(pixels)
    counts = np.bincount(named[named >= 0], minlength=len(COLOURS))
    best = int(counts.argmax())
    return COLOURS[best] if counts[best] >= SHARE * len(pixels) else None


def inner(region_mask: NDArray) -> NDArray:
    """A mask without its rim of two pixels."""
    for _ in range(2):
        padded = np.pad(region_mask, 1)
        region_mask = (
            region_mask
            & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        )  # fmt: skip
    return region_mask
