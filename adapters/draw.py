"""Regions made visible: numbered colours and overlays."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's palette, told apart with any colour vision; its black gives way to a light grey.
PALETTE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (187, 187, 187),
)
DISPLAY_LIMIT = 1600  # pixels of the longest side sent to a browser
LOSSLESS_AREA = 512 * 512  # a picture up to this many pixels is sent as PNG


def colour(number: int) -> tuple[int, int, int]:
    """RGB of region `number` (from 1); the palette starts again after its last colour."""
    return PALETTE[(number - 1) % len(PALETTE)]


def ink(number: int) -> tuple[int, int, int]:
    """Black or white, whichever reads better on the region's colour."""
    red, green, blue = colour(number)
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def css(rgb: tuple[int, int, int]) -> str:
    """A colour as a page writes it: #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def overlay(image: np.ndarray, regions: Iterable[tuple[int, np.ndarray]]) -> Image.Image:
    """Tint, outline and number the regions on a copy of the image; the tint lets colours through.

    image: uint8 (height, width, 3). regions: (number, bool (height, width)) each.
    """
    canvas = np.asarray(image, dtype=np.float32).copy()
    line = max(1, round(min(image.shape[:2]) / 130))
    labels = []
    for number, region_mask in regions:
        tint = np.array(colour(number), dtype=np.float32)
        edge = _outline(region_mask, line)
        canvas[region_mask] += 0.2 * (tint - canvas[region_mask])
        canvas[_outline(edge | region_mask, line, outside=True)] = 255
        canvas[edge] = tint
        rows, columns = np.nonzero(region_mask)
        if len(rows):
            labels.append((number, (columns.min() + columns.max()) / 2, float(rows.min())))
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    for label in labels:
        _badge(picture, *label)
    return picture


def _outline(region_mask: np.ndarray, width: int, outside: bool = False) -> np.ndarray:
    """The band of `width` pixels along the inner (or outer) side of the edge."""
    area = ~region_mask if outside else region_mask
    core = np.pad(area, 1, constant_values=True)
    for _ in range(width):
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    return area & ~core[1:-1, 1:-1]


def _badge(picture: Image.Image, number: int, x: float, y: float) -> None:
    """A disc with the region's number, kept inside the picture."""
    radius = max(6, round(min(picture.size) / 28))
    x = min(max(x, radius), max(radius, picture.width - radius - 1))
    y = min(max(y, radius), max(radius, picture.height - radius - 1))
    pen = ImageDraw.Draw(picture)
    disc = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(disc, fill=colour(number), outline=(255, 255, 255), width=max(1, radius // 6))
    font = ImageFont.load_default(size=radius * 1.3)
    pen.text((x, y), str(number), fill=ink(number), font=font, anchor="mm")


def displayed_size(size: tuple[int, int], limit: int = DISPLAY_LIMIT) -> tuple[int, int]:
    """(width, height), shrunk until the longest side is at most `limit` pixels."""
    scale = min(1.0, limit / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def displayed(image: np.ndarray, limit: int = DISPLAY_LIMIT) -> Image.Image:
    """The image at its displayed size."""
    picture = Image.fromarray(image)
    size = displayed_size(picture.size, limit)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def snapshot(image: np.ndarray, regions: Iterable[tuple[int, np.ndarray]], limit: int = 360) -> str:
    """A small overlay as a data URI, for the chat."""
    small = displayed(image, limit)
    resized = [(number, resize_region_mask(mask, small.size)) for number, mask in regions]
    return data_uri(overlay(np.asarray(small), resized))


def data_uri(picture: Image.Image) -> str:
    """A picture as text a page can show without another request: PNG where small, else JPEG."""
    buffer = io.BytesIO()
    if picture.width * picture.height <= LOSSLESS_AREA:
        picture.save(buffer, "PNG")
        kind = "png"
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=92, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def resize_region_mask(region_mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A region_mask at another (width, height); the smallest region keeps at least a pixel."""
    if size == region_mask.shape[::-1]:
        return region_mask
    rows, columns = np.flatnonzero(region_mask.any(1)), np.flatnonzero(region_mask.any(0))
    result = np.zeros(size[::-1], dtype=bool)
    if not len(rows):
        return result
    # Only where there is something: most regions are small beside their picture.
    across = _scaled(int(columns[0]), int(columns[-1]) + 1, region_mask.shape[1], size[0])
    down = _scaled(int(rows[0]), int(rows[-1]) + 1, region_mask.shape[0], size[1])
    (x0, x1, left, right), (y0, y1, top, bottom) = across, down
    x, y = int(left), int(top)  # the window in whole pixels, and the rest of a pixel
    window = region_mask[y : math.ceil(bottom), x : math.ceil(right)].astype(np.uint8) * 255
    shares = Image.fromarray(window).resize(
        (x1 - x0, y1 - y0), Image.Resampling.BOX, (left - x, top - y, right - x, bottom - y)
    )
    area = np.asarray(shares)
    result[y0:y1, x0:x1] = area >= 128 if (area >= 128).any() else area > 0
    return result


def _scaled(start: int, stop: int, full: int, small: int) -> tuple[int, int, float, float]:
    """The pixels of a resized side that start to stop reach, and where they lie in the full one."""
    first, last = start * small // full, -(-stop * small // full)
    return first, last, first * full / small, min(last * full / small, full)
