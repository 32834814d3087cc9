"""Paint a scene: an RGB picture and the visible mask of every item, in a few milliseconds."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from train.scenes.scene import Item, Scene
from train.scenes.shapes import parts_of

# hue in degrees, saturation, value: wide enough to hold what other painters call by the name
COLOUR_RANGES = {
    "red": ((350, 366), (0.72, 1.0), (0.65, 1.0)),
    "orange": ((22, 39), (0.8, 1.0), (0.88, 1.0)),
    "yellow": ((48, 61), (0.6, 1.0), (0.88, 1.0)),
    "green": ((92, 150), (0.5, 1.0), (0.4, 1.0)),
    "blue": ((210, 243), (0.6, 1.0), (0.5, 1.0)),
    "cyan": ((174, 193), (0.5, 1.0), (0.75, 1.0)),
    "purple": ((266, 302), (0.45, 1.0), (0.4, 0.85)),
    "pink": ((320, 351), (0.22, 0.6), (0.92, 1.0)),
}


def paint(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (height, width, 3), and the visible region masks, bool (items, height,
    width). The same scene is always painted the same way."""
    rng = np.random.default_rng(scene.seed)
    if scene.width < 300:  # painted larger and scaled down: smooth edges
        fine = int(rng.choice((1, 2, 3), p=(0.2, 0.5, 0.3)))
    else:
        fine = 1 + int(rng.random() < 0.6)
    size = (scene.width * fine, scene.height * fine)
    canvas = _background(rng, *size)
    outline = rng.random() < 0.3
    covers = []
    for item in scene.items:
        corner, cover = _paint_item(canvas, item, rng, outline, fine)
        full = Image.new("L", size)
        full.paste(cover, corner)
        covers.append(np.asarray(full.reduce(fine)) >= 128)
    picture = _weather(canvas.reduce(fine), rng)
    masks = np.zeros((len(covers), scene.height, scene.width), bool)
    hidden = np.zeros((scene.height, scene.width), bool)
    for i in range(len(covers) - 1, -1, -1):  # painted later lies on top
        masks[i] = covers[i] & ~hidden
        hidden |= covers[i]
    return np.array(picture), masks


def _rgb(hue, saturation, value):
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))


def _paint_item(canvas: Image.Image, item: Item, rng, outline: bool, fine: int):
    """Paint one item in place. Returns its corner on the canvas and its cover there ("L")."""
    width, height = canvas.size
    unit = math.sqrt(width * height)
    radius = item.half * unit
    pad = 3 * fine
    x0, y0 = int(item.x * width - radius) - pad, int(item.y * height - radius) - pad
    side = int(2 * radius) + 2 * pad + 2
    centre = np.array([item.x * width - x0, item.y * height - y0])
    base = _rgb(*(rng.uniform(*span) for span in COLOUR_RANGES[item.colour]))
    line = max(1, round(rng.uniform(0.006, 0.016) * unit))
    line_colour = (20, 20, 25) if rng.random() < 0.6 else _mix(base, (0, 0, 0), 0.55)
    body = _textured(base, item.texture, side, unit, rng)
    tile = canvas.crop((x0, y0, x0 + side, y0 + side))
    behind, cover = tile.copy(), Image.new("L", (side, side))
    parts = parts_of(item.kind, rng)
    if outline:  # strokes first, so that a body of several parts has one outer line
        pen = ImageDraw.Draw(tile)
        for role, polygon in parts:
            if role != "hole":
                points = _close(polygon * radius + centre)
                pen.line(points, fill=line_colour, width=2 * line, joint="curve")
                ImageDraw.Draw(cover).line(points, fill=255, width=2 * line, joint="curve")
    for role, polygon in parts:
        stencil = Image.new("L", (side, side))
        points = [tuple(p) for p in polygon * radius + centre]
        ImageDraw.Draw(stencil).polygon(points, fill=255)
        if role == "hole":
            tile.paste(behind, (0, 0), stencil)
            cover = ImageChops.subtract(cover, stencil)
            continue
        fill = body if role == "body" else _mix(base, (0, 0, 0), 0.35) if role == "shade" else role
        tile.paste(fill, (0, 0) if isinstance(fill, Image.Image) else (0, 0, side, side), stencil)
        cover = ImageChops.lighter(cover, stencil)
    canvas.paste(tile, (x0, y0))
    return (x0, y0), cover


def _close(polygon):
    return [tuple(p) for p in polygon] + [tuple(polygon[0]), tuple(polygon[1])]


def _mix(colour, other, share):
    return tuple(round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))


def _textured(base, texture: str, side: int, unit: float, rng) -> Image.Image:
    tile = Image.new("RGB", (side, side), base)
    if texture == "solid":
        return tile
    light = sum(base) / 3
    options = [_mix(base, (0, 0, 0), rng.uniform(0.4, 0.6)), (20, 20, 25)] if light > 80 else []
    if light < 200:
        white = (255, 255, 255)
        options += [white, white, _mix(base, white, rng.uniform(0.55, 0.75))]
    second = options[int(rng.integers(len(options)))]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle = float(rng.choice((0.0, np.pi / 2, np.pi / 4, -np.pi / 4, rng.uniform(0, np.pi))))
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if texture == "striped":
        period = max(2.0, unit * rng.uniform(0.032, 0.062))
        pattern = (u / period + rng.random()) % 1 < rng.uniform(0.38, 0.55)
    else:
        period = max(3.0, unit * rng.uniform(0.04, 0.068))
        row = np.floor(v / period)
        shift = 0.5 * (row % 2) if rng.random() < 0.5 else 0.0
        du, dv = (u / period + shift) % 1 - 0.5, (v / period) % 1 - 0.5
        pattern = du**2 + dv**2 < rng.uniform(0.24, 0.34) ** 2
    tile.paste(second, (0, 0, side, side), Image.fromarray((pattern * 255).astype(np.uint8)))
    return tile


def _background(rng, width: int, height: int) -> Image.Image:
    def quiet():
        if rng.random() < 0.12:
            return (255, 255, 255)
        if rng.random() < 0.2:
            return _rgb(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.0, 0.3))
        return _rgb(rng.uniform(0, 360), rng.uniform(0, 0.35), rng.uniform(0.72, 1.0))

    first = quiet()
    style = rng.random()
    if style < 0.4:
        return Image.new("RGB", (width, height), first)
    second = _mix(quiet(), first, rng.uniform(0.2, 0.8))
    if style < 0.65:
        ramp = Image.linear_gradient("L") if rng.random() < 0.75 else Image.radial_gradient("L")
        ramp = ramp.rotate(float(rng.choice((0, 90, 180, 270, 45)))).resize((width, height))
    elif style < 0.8:
        cells = max(2, int(rng.integers(2, 9)))
        ramp = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        ramp = ramp.resize((width, height), Image.Resampling.BICUBIC)
    elif style < 0.9:
        cells = int(rng.integers(3, 12))
        checks = (np.indices((cells, cells)).sum(0) % 2 * 90).astype(np.uint8)
        ramp = Image.fromarray(checks).resize((width, height), Image.Resampling.NEAREST)
    else:
        cells = (max(2, height // 3), max(2, width // 3))
        ramp = Image.fromarray(rng.integers(0, 110, cells, dtype=np.uint8)).resize((width, height))
    grounds = [Image.new("RGB", (width, height), colour) for colour in (second, first)]
    return Image.composite(*grounds, ramp)


def _weather(picture: Image.Image, rng) -> Image.Image:
    """What happens to pictures on their way: blur, noise, JPEG."""
    if rng.random() < 0.1:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.1:
        grain = rng.normal(0, rng.uniform(2, 9), (picture.height, picture.width, 1))
        pixels = np.asarray(picture, np.float32) + grain
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.35:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(rng.integers(45, 95)))
        picture = Image.open(buffer).convert("RGB")
    return picture
