"""Colours as a browser shows them: from a picture's embedded profile to sRGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SRGB = 0.45455  # the gamma that PNG states of it
SAME = 2  # levels of 255: a profile that changes less is sRGB under another name
STEPS = (0, 36, 73, 109, 146, 182, 219, 255)  # of each channel, to see what a profile changes


def to_srgb(picture: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """What makes sRGB of parts of a picture, in mode L, RGB or CMYK; None where they are that.

    A profile that is damaged, or of other channels than the picture's, counts for nothing, as in
    browsers.
    """
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return _from_gamma(picture)
    mode = "CMYK" if picture.mode == "CMYK" else "L" if _is_grey(picture) else "RGB"
    try:
        from PIL import ImageCms

        change = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
            mode, "RGB", ImageCms.Intent.PERCEPTUAL,
        )  # fmt: skip
        if mode != "CMYK" and _changes(change, mode) <= SAME:
            return None
    except Exception:  # lcms says what is wrong with it, which nobody can act on
        return None

    def shown(part: Image.Image) -> Image.Image:
        result = ImageCms.applyTransform(part.convert(mode), change)
        return result if result is not None else part.convert("RGB")

    return shown


def _from_gamma(picture: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """What makes sRGB of a PNG that states another gamma, and no profile."""
    gamma = picture.info.get("gamma")
    if picture.format != "PNG" or "srgb" in picture.info or not gamma or abs(gamma - SRGB) < 0.01:
        return None
    light = np.linspace(0, 1, 256) ** (1 / gamma)
    stored = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    levels = np.round(255 * stored).astype(int).tolist()
    return lambda part: part.convert("RGB").point(3 * levels)


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")


def _changes(change: Any, mode: str) -> int:
    """The most that any level of a few colours changes by."""
    from PIL import ImageCms

    if mode == "L":
        colours = np.arange(256, dtype=np.uint8)[None]
    else:
        grid = np.stack(np.meshgrid(STEPS, STEPS, STEPS), -1)
        colours = grid.reshape(1, -1, 3).astype(np.uint8)
    before = Image.fromarray(colours)
    after = ImageCms.applyTransform(before, change) or before
    rows = [np.asarray(one.convert("RGB")).astype(int) for one in (before, after)]
    return int(np.abs(rows[0] - rows[1]).max())
