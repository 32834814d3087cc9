"""How a picture is turned to be shown: EXIF's orientation, whatever else is wrong in the EXIF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, TiffImagePlugin

ORIENTATION = 0x0112
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF's, as a picture is shown
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: rows[::-1].swapaxes(0, 1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: lambda rows: rows[:, ::-1].swapaxes(0, 1),
}
BACK = {6: 8, 8: 6}  # the others are their own


def orientation_of(picture: Image.Image) -> int:
    """A key of TURNS; 1, as it is stored, where nothing readable is said."""
    try:
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            value = picture.tag_v2.get(ORIENTATION)
        else:
            value = _orientation(picture.info.get("exif") or b"")
    except Exception:  # browsers, too, show it as it is stored
        value = None
    return value if isinstance(value, int) and value in TURNS else 1


def _orientation(exif: bytes) -> int | None:
    """The one tag, read by itself: Pillow reads none after one whose value is not there."""
    data = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "big" if data[:2] == b"MM" else "little"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    first = number(4, 4)
    for place in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        kind = number(place + 2, 2)
        if number(place, 2) == ORIENTATION and kind in (3, 4):  # SHORT, as it should be, or LONG
            return number(place + 8, 2 if kind == 3 else 4)
    return None
